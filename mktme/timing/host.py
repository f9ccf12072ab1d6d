"""What this machine takes for what the model assumes of software: measured, and plugged in."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from statistics import median

import numpy as np

from mktme.crypto.backend import aes_xts
from pmem.geometry import PAGE

SIZE = 4 << 20  # bytes that are encrypted and copied
ROUNDS = 15
CALLS = 10_000


def measure() -> dict[str, float]:
    """Values for a machine: AES-256-XTS in data units of a page and memcpy on one core, and a system call.

    Medians of some rounds, by this package's kernels; takes a second. Others' kernels are slower: that of
    Linux takes a call for each data unit.
    """
    data, out = np.zeros(SIZE, np.uint8), np.empty(SIZE, np.uint8)
    ivs = np.zeros((SIZE // PAGE, 2), np.uint64)
    cipher = aes_xts(os.urandom(32), os.urandom(32))
    units = _seconds(lambda: cipher.units(False, PAGE, ivs, data, out))
    cipher.wipe()
    copies = _seconds(lambda: np.copyto(out, data))
    calls = _seconds(lambda: [os.getppid() for _ in range(CALLS)]) - _seconds(
        lambda: [None for _ in range(CALLS)]
    )
    return {
        "pages.aes_gb_per_s": SIZE / units / 1e9,
        "pages.copy_gb_per_s": SIZE / copies / 1e9,
        "core.call_ns": max(0.0, calls) / CALLS * 1e9,
    }


def _seconds(work: Callable[[], object]) -> float:
    work()
    took = []
    for _ in range(ROUNDS):
        begin = time.perf_counter()
        work()
        took.append(time.perf_counter() - begin)
    return median(took)
