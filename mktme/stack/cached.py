"""A CPU cache in front of the controller, as the lines of one KeyID."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from mktme.crypto.cipher import Bytes, Words
from mktme.crypto.runs import run_chunks
from pmem.geometry import LINE

if TYPE_CHECKING:
    from pmem.cache import CpuCache

LONG = 1 << 12  # bytes from which runs go one by one


class CachedLines:
    """Lines under a KeyID as the program sees them: stores stay in the cache until it flushes them.

    In place of a cipher's `Lines`; the medium's bytes are the business of the bus behind the cache.
    """

    def __init__(self, cache: CpuCache, above: int) -> None:
        self._cache, self._above, self._word = cache, above, np.uint64(above)

    def read(self, media: Bytes, base: int, start: int, out: Bytes) -> None:
        self._cache.read_into(out, self._above | start)

    def write(self, media: Bytes, base: int, start: int, data: Bytes) -> None:
        self._cache.write(self._above | start, data)

    def read_lines(self, media: Bytes, base: int, addresses: Words, order: Words | None, out: Bytes) -> None:
        if order is None:
            out[:] = self._cache.read_lines(addresses | self._word)
        else:
            out[order] = self._cache.read_lines(addresses[order] | self._word)

    def write_lines(
        self, media: Bytes, base: int, addresses: Words, order: Words | None, lines: Bytes
    ) -> None:
        if order is None:
            self._cache.write_lines(addresses | self._word, lines)
        else:
            self._cache.write_lines(addresses[order] | self._word, lines[order])

    def read_runs(self, media: Bytes, base: int, starts: Words, length: int, out: Bytes) -> None:
        if length >= LONG:
            for i, start in enumerate(starts.tolist()):
                self.read(media, base, start, out[i * length : (i + 1) * length])
            return
        made = out.reshape(starts.size, length)
        for part, places, numbers in run_chunks(starts, length):
            lines = self._cache.read_lines(numbers * np.uint64(LINE) | self._word)
            made[part] = lines.reshape(-1)[places]

    def write_runs(self, media: Bytes, base: int, starts: Words, length: int, data: Bytes) -> None:
        if length >= LONG:
            for i, start in enumerate(starts.tolist()):
                self.write(media, base, start, data[i * length : (i + 1) * length])
            return
        given = data.reshape(starts.size, length)
        with self._cache.lock:
            for part, places, numbers in run_chunks(starts, length):
                addresses = numbers * np.uint64(LINE) | self._word
                lines = self._cache.read_lines(addresses)
                lines.reshape(-1)[places] = given[part]
                self._cache.write_lines(addresses, lines)
