"""What a figure was measured on: processor, versions, backend. Plain data for results files."""

from __future__ import annotations

import os
import platform
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import mktme
from mktme.crypto import backend, kernel

PACKAGES = ("numpy", "numba", "llvmlite", "cryptography")
# The features that decide which backend runs, by LLVM's names.
TELLING = ("aes", "pclmul", "avx2", "vaes", "vpclmulqdq", "avx512f", "avx512bw", "sha")


def processor() -> str:
    """The processor's name as the system tells it."""
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith(("model name", "Model")):
                return line.split(":", 1)[1].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()


def describe() -> dict[str, Any]:
    """The machine and the versions: text, numbers and lists of text."""
    found = {}
    for name in PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = "unknown"
    cache = kernel.cache_directory()
    return {
        "processor": processor(),
        "architecture": platform.machine(),
        "cpus": len(os.sched_getaffinity(0)),
        "features": [name for name in TELLING if name in backend.features()],
        "backend": backend.chosen,
        "backends": list(backend.available()),
        "kernel_cache": str(cache) if cache else None,
        "system": f"{platform.system()} {platform.release()}",
        "python": platform.python_version(),
        "mktme": mktme.__version__,
        **found,
    }
