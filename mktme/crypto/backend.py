"""Which backend computes: chosen once, at import, from the processor's features.

    vaes512   VAES and VPCLMULQDQ on 512-bit registers (Ice Lake, Zen 4 and later)
    vaes256   the same on 256-bit registers (Alder Lake, Zen 3)
    aesni     AES-NI and PCLMULQDQ (2010 and later)
    armv8     the Armv8 Cryptographic Extension
    portable  the `cryptography` package, anywhere

``MKTME_BACKEND`` overrides the choice with another that this processor can run. The features are
those that Numba compiles for, since code for any other kills the process.
"""

from __future__ import annotations

import os
import platform
from functools import cache
from typing import Any

from numba.core.registry import cpu_target

from mktme.crypto.cipher import LineCipher
from mktme.crypto.native import NativeXts
from mktme.crypto.portable import PortableXts
from mktme.errors import BackendError

WIDTH = {"vaes512": 512, "vaes256": 256, "aesni": 128, "armv8": 128}  # bits of a register


@cache
def features() -> frozenset[str]:
    """The processor features that Numba compiles for, by LLVM's names."""
    _, _, listed = cpu_target.target_context.codegen().magic_tuple()
    return frozenset(name[1:] for name in listed.split(",") if name.startswith("+"))


@cache
def available() -> tuple[str, ...]:
    """The backends that this processor can run, the fastest first."""
    has, found = features(), []
    if platform.machine() in ("aarch64", "arm64"):
        found += ["armv8"] if has >= {"aes"} else []
    elif has >= {"aes", "pclmul"}:
        vector = has >= {"vaes", "vpclmulqdq"}
        found += ["vaes512"] if vector and has >= {"avx512f", "avx512bw"} else []
        found += ["vaes256"] if vector and has >= {"avx2"} else []
        found += ["aesni"]
    return (*found, "portable")


def check(name: str) -> str:
    """The name of a backend that can run here. Raises BackendError."""
    if name not in available():
        reason = "this processor can't run it" if name in WIDTH else "there is no such backend"
        raise BackendError(f"backend {name!r}: {reason}; here there are {', '.join(available())}")
    return name


chosen = check(os.environ.get("MKTME_BACKEND") or available()[0])


def aes_xts(data_key: Any, tweak_key: Any, backend: str = "") -> LineCipher:
    """AES-XTS under a data key and a tweak key: buffers of 16 or of 32 bytes each."""
    backend = check(backend) if backend else chosen
    if backend == "portable":
        return PortableXts(data_key, tweak_key)
    return NativeXts(WIDTH[backend], data_key, tweak_key)
