"""Poisoned lines of the medium on the way of the bytes: refused before anything is read or written.

A memory controller consumes a line whenever it decrypts it: to read it, to write a part of it, or
of the larger data unit that it is in; to read or write a line whose counter or MAC it holds. Only
a write of all that is encrypted together needs nothing of it, and clears it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Protocol, runtime_checkable

import numpy as np
import numpy.typing as npt

from mktme.crypto.cipher import LINE, Bytes, Lines, Words
from mktme.crypto.runs import CHUNK, partly_covered, run_chunks
from mktme.stack.units import UnitPath
from pmem.poison import Poison

Beside = Callable[[Words], Iterable[Words]]  # addresses of data to those of what is kept beside it


@runtime_checkable
class Checked(Protocol):
    """What can say beforehand whether a request will be refused."""

    def check_write(self, media: Bytes, start: int, size: int) -> None:
        """Refuse to write some bytes, before anything is written."""


class Watched:
    """`mktme.crypto.cipher.Lines` of a device with poisoned lines, each call raising pmem.PoisonError
    before it reads or writes a byte.

    `beside` says where the path keeps what belongs to some lines. Thread-safe as the path is.
    """

    def __init__(self, lines: Lines, poison: Poison, beside: Beside | None) -> None:
        self._lines, self._poison, self._beside = lines, poison, beside
        self._origin, self._grain, self._takes_old = 0, LINE, False
        if isinstance(lines, UnitPath):
            self._grain, self._takes_old = lines.grain, lines.takes_old
            self._origin = (
                lines.origin if self._grain > LINE else 0
            )  # a multiple of the line, if lower than 0

    def check_read(self, start: int, size: int) -> None:
        """Refuse to read some bytes."""
        if size:
            low = start - (start - self._origin) % self._grain
            self._poison.check_read(low, start + size + -(start + size - self._origin) % self._grain - low)
            self._check_beside(start, size)

    def check_write(self, media: Bytes, start: int, size: int) -> None:
        """Refuse to write some bytes, for poison or as the path does."""
        if size:
            self._poison.check_write(start, size, self._grain, self._origin)
            if self._takes_old:
                self.check_read(start, size)
            self._check_beside(start, size)
            check_write(self._lines, media, start, size)

    def read(self, media: Bytes, base: int, start: int, out: Bytes) -> None:
        self.check_read(start, out.size)
        self._lines.read(media, base, start, out)

    def write(self, media: Bytes, base: int, start: int, data: Bytes) -> None:
        self.check_write(media, start, data.size)
        self._lines.write(media, base, start, data)
        self._poison.written(start, data.size)

    def read_runs(self, media: Bytes, base: int, starts: Words, length: int, out: Bytes) -> None:
        if length >= LINE * CHUNK:
            for start in starts.tolist():
                self.check_read(start, length)
        else:
            for _, _, numbers in run_chunks(starts, length):
                self._check_lines(numbers)
        self._lines.read_runs(media, base, starts, length, out)

    def write_runs(self, media: Bytes, base: int, starts: Words, length: int, data: Bytes) -> None:
        covered: list[Words] = []
        if length >= LINE * CHUNK:
            for start in starts.tolist():
                self.check_write(media, start, length)
        else:
            for _, places, numbers in run_chunks(starts, length):
                whole = np.logical_not(partly_covered(places, numbers.size))
                self._check_put(numbers, whole)
                covered.append(numbers[whole])
        self._lines.write_runs(media, base, starts, length, data)
        for numbers in covered:
            self._poison.written_lines(numbers)
        if length >= LINE * CHUNK:
            for start in starts.tolist():
                self._poison.written(start, length)

    def read_lines(self, media: Bytes, base: int, addresses: Words, order: Words | None, out: Bytes) -> None:
        self._check_lines((addresses if order is None else addresses[order]) // np.uint64(LINE))
        self._lines.read_lines(media, base, addresses, order, out)

    def write_lines(
        self, media: Bytes, base: int, addresses: Words, order: Words | None, lines: Bytes
    ) -> None:
        numbers = np.unique(addresses if order is None else addresses[order]) // np.uint64(LINE)
        self._check_put(numbers, np.ones(numbers.size, bool))
        self._lines.write_lines(media, base, addresses, order, lines)
        self._poison.written_lines(numbers)

    def _check_beside(self, start: int, size: int) -> None:
        if self._beside is not None:
            for places in self._beside(np.array([start, start + size - 1], np.uint64)):
                first, last = int(places[0]), int(places[-1])
                self._poison.check_read(first, last - first + 1)

    def _check_lines(self, numbers: Words) -> None:
        """Refuse to read lines, and what is encrypted with them."""
        self._poison.check_lines(self._together(np.unique(self._units(numbers))))
        if self._beside is not None:
            for places in self._beside(numbers * np.uint64(LINE)):
                self._poison.check_lines(places // np.uint64(LINE))

    def _check_put(self, numbers: Words, whole: npt.NDArray[np.bool_]) -> None:
        """Refuse to write different lines, of which some are covered by what is written."""
        if self._takes_old:
            self._check_lines(numbers)
        units, place = np.unique(self._units(numbers), return_inverse=True)
        covered = np.bincount(place[whole], minlength=units.size)
        self._poison.check_lines(self._together(units[covered < self._grain // LINE]))
        self._poison.check_write_lines(numbers)
        if self._beside is not None:
            for places in self._beside(numbers * np.uint64(LINE)):
                self._poison.check_lines(places // np.uint64(LINE))

    def _units(self, numbers: Words) -> Words:
        """Which unit of what is encrypted together each of some lines is in."""
        found: Words = (numbers * np.uint64(LINE) - np.uint64(self._origin)) // np.uint64(self._grain)
        return found

    def _together(self, units: Words) -> Words:
        """The lines of some such units."""
        first = (units * np.uint64(self._grain) + np.uint64(self._origin)) // np.uint64(LINE)
        return (first[:, None] + np.arange(self._grain // LINE).astype(np.uint64)).reshape(-1)


def watched(lines: Lines, poison: Poison | None, beside: Beside | None = None) -> Lines:
    """The lines of a device, watched if it has poisoned ones."""
    return lines if poison is None else Watched(lines, poison, beside)


def check_read(lines: Lines, start: int, size: int) -> None:
    """Refuse a request whole that would be refused in the middle of it. Raises pmem.PoisonError."""
    if isinstance(lines, Watched):
        lines.check_read(start, size)


def check_write(lines: Lines, media: Bytes, start: int, size: int) -> None:
    """The same for a write. Raises PoisonError, CountersExhausted."""
    if size and isinstance(lines, Checked):
        lines.check_write(media, start, size)
