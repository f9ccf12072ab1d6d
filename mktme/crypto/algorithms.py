"""Every cipher of the project by its name: its keys, its IV, the data units that it takes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

from mktme.crypto import backend as backends
from mktme.crypto.cipher import Cipher

Make = Callable[[str, list[Any]], Cipher]


@dataclass(frozen=True)
class Algorithm:
    """A cipher of data units.

    `name`; `parts`: bytes of its keys (two where there is a tweak key); `iv_bytes`: 16 or 32;
    `units`: bytes of the smallest and the largest data unit, and what a unit is a multiple of;
    `alone`: whether a line of a larger unit can be encrypted without the rest of it; `source`:
    where it is defined. `iv_xored`: what of a unit's first block the IV, as it is given, is xored
    onto: nothing, the "plaintext" before it is encrypted, the "ciphertext" after it was.
    """

    name: str
    parts: tuple[int, ...]
    make: Make
    source: str
    iv_bytes: int = 16
    units: tuple[int, int, int] = (64, 4096, 64)
    alone: bool = False
    iv_xored: tuple[str, ...] = ()

    @property
    def family(self) -> str:
        """The name without the size of the key."""
        head, _, tail = self.name.rpartition("-")
        return head if tail in ("128", "256") else self.name

    def takes(self, unit: int) -> bool:
        """Whether a data unit may have that many bytes."""
        least, most, multiple = self.units
        return least <= unit <= most and unit % multiple == 0


def _xts(backend: str, keys: list[Any]) -> Cipher:
    return backends.aes_xts(keys[0], keys[1], backend)


def _sm4(backend: str, keys: list[Any]) -> Cipher:
    from mktme.crypto.sm4 import Sm4Xts, supported

    if backend == "portable" or not supported():
        from mktme.crypto.portable_sm4 import PortableSm4Xts

        return PortableSm4Xts(*keys)
    return Sm4Xts(backends.WIDTH[backend], *keys)


def _ctr(backend: str, keys: list[Any]) -> Cipher:
    if backend == "portable":
        from mktme.crypto.portable_modes import PortableCtr

        return PortableCtr(*keys)
    from mktme.crypto.native import NativeParts, ctr_kernels

    return NativeParts(*ctr_kernels(backends.WIDTH[backend]), *keys)


def _xex(outer: bool, backend: str, keys: list[Any]) -> Cipher:
    if backend == "portable":
        from mktme.crypto.portable_modes import PortableXex

        return PortableXex(keys[0], outer)
    from mktme.crypto.native import NativeAes, xex_kernel

    return NativeAes(xex_kernel(backends.WIDTH[backend], outer), *keys)


def _cbc(seal: str, backend: str, keys: list[Any]) -> Cipher:
    if backend == "portable":
        from mktme.crypto.portable_modes import PortableCbc

        portable = PortableCbc(*keys)
        return portable.sealed(seal) if seal else portable
    from mktme.crypto.native import NativeCbc

    native = NativeCbc(backends.WIDTH[backend], *keys)
    return native.sealed(seal) if seal else native


def _cts(backend: str, keys: list[Any]) -> Cipher:
    from mktme.crypto.cts import CbcCts

    return CbcCts(*keys)


def _sm4_cts(backend: str, keys: list[Any]) -> Cipher:
    from mktme.crypto.cts import Sm4CbcCts

    return Sm4CbcCts(*keys)


def _adiantum(backend: str, keys: list[Any]) -> Cipher:
    if backend == "portable":
        from mktme.crypto.portable_adiantum import PortableAdiantum

        return PortableAdiantum(*keys)
    from mktme.crypto.adiantum import Adiantum

    return Adiantum(backends.WIDTH[backend], *keys)


def _hctr2(backend: str, keys: list[Any]) -> Cipher:
    if backend == "portable":
        from mktme.crypto.portable_hctr2 import PortableHctr2

        return PortableHctr2(*keys)
    from mktme.crypto.hctr2 import Hctr2

    return Hctr2(backends.WIDTH[backend], *keys)


BLOCK = (16, 16, 16)
IN, BOTH = ("plaintext",), ("plaintext", "ciphertext")
_table = [
    Algorithm("aes-xts-128", (16, 16), _xts, "IEEE 1619-2018; NIST SP 800-38E", alone=True),
    Algorithm("aes-xts-256", (32, 32), _xts, "IEEE 1619-2018; NIST SP 800-38E", alone=True),
    Algorithm("sm4-xts", (16, 16), _sm4, "GB/T 32907-2016 under IEEE 1619-2018; fscrypt mode 7", alone=True),
    Algorithm("aes-xe-128", (16,), partial(_xex, False), "AMD SME; Du et al. 2017", 16, BLOCK, iv_xored=IN),
    Algorithm(
        "aes-xex-128", (16,), partial(_xex, True), "AMD SME; Wilke et al. 2020", 16, BLOCK, iv_xored=BOTH
    ),
    Algorithm("aes-ctr-128", (16,), _ctr, "NIST SP 800-38A, 6.5", alone=True),
    Algorithm("aes-ctr-256", (32,), _ctr, "NIST SP 800-38A, 6.5", alone=True),
    Algorithm("aes-cbc-128", (16,), partial(_cbc, ""), "NIST SP 800-38A, 6.2", iv_xored=IN),
    Algorithm("aes-cbc-256", (32,), partial(_cbc, ""), "NIST SP 800-38A, 6.2", iv_xored=IN),
    Algorithm("aes-cbc-essiv-128", (16,), partial(_cbc, "essiv"), "fscrypt contents mode 5"),
    Algorithm("aes-cbc-essiv-256", (32,), partial(_cbc, "essiv"), "dm-crypt aes-cbc-essiv:sha256"),
    Algorithm("adiantum", (32,), _adiantum, "Crowley, Biggers 2018; XChaCha12", 32, (16, 4096, 1)),
    Algorithm("aes-hctr2-128", (16,), _hctr2, "Crowley, Huckleberry, Biggers 2021", 32, (16, 4096, 1)),
    Algorithm("aes-hctr2-256", (32,), _hctr2, "fscrypt names mode 10", 32, (16, 4096, 1)),
    Algorithm("aes-cts-128", (16,), _cts, "fscrypt names mode 6; CS3", units=(16, 255, 1), iv_xored=IN),
    Algorithm("aes-cts-256", (32,), _cts, "fscrypt names mode 4; CS3", units=(16, 255, 1), iv_xored=IN),
    Algorithm("sm4-cts", (16,), _sm4_cts, "fscrypt names mode 8; CS3", units=(16, 255, 1), iv_xored=IN),
]
ALGORITHMS = {algorithm.name: algorithm for algorithm in _table}


def make(name: str, keys: list[Any], backend: str = "") -> Cipher:
    """The cipher of that name under its keys (buffers), on the chosen backend or a given one."""
    return ALGORITHMS[name].make(backends.check(backend) if backend else backends.chosen, keys)
