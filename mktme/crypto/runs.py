"""Ranges, runs and scattered lines on top of a few calls that a plain numpy backend can offer.

A request is taken as the lines that it touches, a chunk at a time: read them whole, take out or
put in the bytes that were asked for, write them back.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator

import numpy as np
import numpy.typing as npt

from mktme.crypto.cipher import LINE, Bytes, Words

CHUNK = 4096  # lines of scratch: 256 KiB


class LineAccess(ABC):
    """The calls of `mktme.crypto.cipher.Lines`, made from one on whole lines."""

    @abstractmethod
    def numbered(self, back: bool, numbers: Words, source: Bytes, to: Bytes) -> None:
        """Encrypt (or, back, decrypt) (n, 64) lines, given their numbers (address / 64)."""

    def read(self, media: Bytes, base: int, start: int, out: Bytes) -> None:
        for first, last in _chunks(start, start + out.size):
            got = self._get(media, np.arange(first // LINE, -(-last // LINE), dtype=np.uint64))
            skip = first % LINE
            out[first - start : last - start] = got.reshape(-1)[skip : skip + last - first]

    def write(self, media: Bytes, base: int, start: int, data: Bytes) -> None:
        if np.may_share_memory(media, data):  # ciphertext as plaintext, from under our own hands
            data = data.copy()
        for first, last in _chunks(start, start + data.size):
            numbers = np.arange(first // LINE, -(-last // LINE), dtype=np.uint64)
            skip, size = first % LINE, last - first
            if skip or size % LINE:
                whole = self._get(media, numbers)
                whole.reshape(-1)[skip : skip + size] = data[first - start : last - start]
            else:
                whole = data[first - start : last - start].reshape(-1, LINE)
            self._put(media, numbers, whole)

    def read_runs(self, media: Bytes, base: int, starts: Words, length: int, out: Bytes) -> None:
        rows = out.reshape(-1, length)
        if length >= LINE * CHUNK:
            for start, row in zip(starts.tolist(), rows, strict=True):
                self.read(media, base, start, row)
            return
        for part, places, numbers in run_chunks(starts, length):
            rows[part] = self._get(media, numbers).reshape(-1)[places]

    def write_runs(self, media: Bytes, base: int, starts: Words, length: int, data: Bytes) -> None:
        rows = data.reshape(-1, length)
        if length >= LINE * CHUNK:
            for start, row in zip(starts.tolist(), rows, strict=True):
                self.write(media, base, start, row)
            return
        for part, places, numbers in run_chunks(starts, length):
            partly = partly_covered(places, numbers.size)
            whole = np.empty((numbers.size, LINE), np.uint8)
            if partly.any():
                whole[partly] = self._get(media, numbers[partly])
            whole.reshape(-1)[places] = rows[part]
            self._put(media, numbers, whole)

    def read_lines(self, media: Bytes, base: int, addresses: Words, order: Words | None, out: Bytes) -> None:
        for rows in row_chunks(addresses, order):
            out[rows] = self._get(media, addresses[rows] // np.uint64(LINE))

    def write_lines(
        self, media: Bytes, base: int, addresses: Words, order: Words | None, lines: Bytes
    ) -> None:
        for rows in row_chunks(addresses, order):
            self._put(media, addresses[rows] // np.uint64(LINE), lines[rows])

    def _get(self, media: Bytes, numbers: Words) -> Bytes:
        lines = media.reshape(-1, LINE)[numbers]
        self.numbered(True, numbers, lines, lines)
        return lines

    def _put(self, media: Bytes, numbers: Words, lines: Bytes) -> None:
        made = np.empty((numbers.size, LINE), np.uint8)
        self.numbered(False, numbers, lines, made)
        media.reshape(-1, LINE)[numbers] = made


def _chunks(start: int, end: int) -> Iterator[tuple[int, int]]:
    """Byte ranges that make up [start, end), broken at multiples of the chunk."""
    while start < end:
        stop = min(end, (start // (LINE * CHUNK) + 1) * LINE * CHUNK)
        yield start, stop
        start = stop


def partly_covered(places: npt.NDArray[np.int64], lines: int) -> npt.NDArray[np.bool_]:
    """Which of some lines, one after another, are covered in part, given the places of the bytes."""
    covered = np.zeros(lines * LINE, bool)
    covered[places] = True
    return np.logical_not(covered.reshape(-1, LINE).all(axis=1))


def run_chunks(starts: Words, length: int) -> Iterator[tuple[slice, npt.NDArray[np.int64], Words]]:
    """Runs, a chunk at a time: which, where their bytes lie in the lines they touch, those lines."""
    count = max(1, CHUNK // (length // LINE + 2))
    for first in range(0, starts.size, count):
        part = slice(first, min(first + count, starts.size))
        bytes_ = starts[part, None] + np.arange(length, dtype=np.uint64)
        numbers, place = np.unique(bytes_.astype(np.uint64) // np.uint64(LINE), return_inverse=True)
        within = (bytes_ % np.uint64(LINE)).astype(np.int64)
        yield part, place.reshape(bytes_.shape) * LINE + within, numbers


def row_chunks(addresses: Words, order: Words | None) -> Iterator[slice | Words]:
    n = addresses.size if order is None else order.size
    for first in range(0, n, CHUNK):
        part = slice(first, min(first + CHUNK, n))
        yield part if order is None else order[part]
