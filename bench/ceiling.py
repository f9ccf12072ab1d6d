"""The ceiling: AES rounds on registers, with no memory and no mode around them."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache

import numpy as np

from mktme.crypto import aes, backend
from mktme.crypto.kernel import kernel
from mktme.crypto.native import address
from mktme.crypto.simd import Pack, count, peek, size, store, zero


@cache
def rounds_kernel(bits: int) -> Callable[[int, int, int], None]:
    """A kernel that encrypts so many bytes of registers, the output of each pass its next input."""
    wide, one = Pack(bits, 8), Pack(bits, 1)

    @kernel(("ceiling", bits))
    def run(schedule: int, length: int, to: int) -> None:
        rounds = peek(schedule)
        x = count(wide, 1, 2)
        for _ in range(0, length, size(wide)):
            x = aes.encrypt(x, zero(wide), zero(wide), one, schedule + aes.ENCRYPT, rounds)
        store(to, x)

    return run


class Ceiling:
    """Pure AES of a key size (128 or 256 bits) on the registers of a native backend."""

    def __init__(self, bits: int, engine: str = backend.chosen) -> None:
        self._room = np.zeros(aes.SCHEDULE_BYTES + 1024, np.uint8)
        self._schedule = address(self._room)
        key = np.arange(bits // 8, dtype=np.uint8)
        aes.build()(address(key), address(key), key.size, self._schedule)
        self._run = rounds_kernel(backend.WIDTH[engine])

    def __call__(self, length: int) -> int:
        """Encrypt `length` bytes, a multiple of 512; returns it."""
        self._run(self._schedule, length, self._schedule + aes.SCHEDULE_BYTES)
        return length
