"""AES-XTS on this processor's AES instructions: the kernels of `mktme.crypto.xts` as a cipher."""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np

from mktme.crypto import aes, xts
from mktme.crypto.cipher import LINE, Bytes, Words
from mktme.crypto.kernel import kernel

STREAM_FROM = 4 << 20  # bytes from which on a request is stored around the cache


@kernel()
def address(array: Any) -> int:
    """The address of an array's first byte, four times as fast as numpy's own ways to it."""
    return array.ctypes.data  # type: ignore[no-any-return]


kernels = cache(xts.build)
schedule = cache(aes.build)


class NativeXts:
    """AES-XTS with registers of `bits` bits; see `mktme.crypto.cipher.Cipher`."""

    def __init__(self, bits: int, data_key: Any, tweak_key: Any) -> None:
        self._kernels = kernels(bits)
        room = np.zeros(aes.SCHEDULE_BYTES + LINE, np.uint8)
        skip = -address(room) % LINE
        self._room = room[skip : skip + aes.SCHEDULE_BYTES]
        self._schedule = address(self._room)
        data, tweak = (np.array(memoryview(key), np.uint8) for key in (data_key, tweak_key))
        schedule()(address(data), address(tweak), data.size, self._schedule)
        data[:] = tweak[:] = 0

    def units(self, back: bool, unit: int, ivs: Words, source: Bytes, to: Bytes) -> None:
        stream = to.size >= STREAM_FROM
        n = to.size // unit
        self._kernels.units(
            self._schedule, back, unit, n, address(ivs), 0, 0, address(source), address(to), stream
        )

    def read(self, media: Bytes, base: int, start: int, out: Bytes) -> None:
        size = out.size
        self._kernels.read(self._schedule, base, 0, start, 1, size, address(out), size >= STREAM_FROM)

    def write(self, media: Bytes, base: int, start: int, data: Bytes) -> None:
        size, source = data.size, address(data)
        if base <= source < base + media.size:  # ciphertext as plaintext, from under our own hands
            data = data.copy()
            source = address(data)
        self._kernels.write(self._schedule, base, 0, start, 1, size, source, size >= STREAM_FROM)

    def read_runs(self, media: Bytes, base: int, starts: Words, length: int, out: Bytes) -> None:
        self._kernels.read(self._schedule, base, address(starts), 0, starts.size, length, address(out), False)

    def write_runs(self, media: Bytes, base: int, starts: Words, length: int, data: Bytes) -> None:
        self._kernels.write(
            self._schedule, base, address(starts), 0, starts.size, length, address(data), False
        )

    def read_lines(self, media: Bytes, base: int, addresses: Words, order: Words | None, out: Bytes) -> None:
        self._scatter(True, base, addresses, order, out)

    def write_lines(
        self, media: Bytes, base: int, addresses: Words, order: Words | None, lines: Bytes
    ) -> None:
        self._scatter(False, base, addresses, order, lines)

    def _scatter(self, back: bool, base: int, addresses: Words, order: Words | None, lines: Bytes) -> None:
        taken = addresses if order is None else order
        index = 0 if order is None else address(order)
        self._kernels.scatter(
            self._schedule, back, address(addresses), index, taken.size, base, address(lines)
        )

    def wipe(self) -> None:
        self._room[8:] = 0  # the number of rounds stays, so that a late request is only garbage
