"""Poison: lines of the medium that can't be read, because the DIMM couldn't correct them.

As on real parts, consuming such a line is an error (a machine check), and a write of the whole
line, which needs nothing of what it held, clears it.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator

import numpy as np
import numpy.typing as npt

from pmem.errors import PoisonError
from pmem.geometry import LINE

Words = npt.NDArray[np.uint64]


class Ranges:
    """A set of numbers as disjoint ranges, ascending. A value: `|` and `remove` make new ones.

    `edges` (uint64) are the ranges' first numbers and ends, in turn.
    """

    def __init__(self, edges: Words | None = None) -> None:
        self.edges: Words = np.empty(0, np.uint64) if edges is None else edges

    @classmethod
    def of(cls, firsts: Words, ends: Words) -> Ranges:
        """The set of ranges in any order, none of them empty; those that meet become one."""
        order = np.argsort(firsts)
        firsts, ends = firsts[order], np.maximum.accumulate(ends[order])
        begins = np.ones(firsts.size + 1, bool)  # which range begins one of the set
        begins[1:-1] = firsts[1:] > ends[:-1]
        edges = np.empty((int(begins[:-1].sum()), 2), np.uint64)
        edges[:, 0], edges[:, 1] = firsts[begins[:-1]], ends[begins[1:]]
        return cls(edges.reshape(-1))

    def pieces(self, length: int) -> tuple[Words, Words]:
        """The ranges cut at the multiples of a length: first numbers and ends, ascending."""
        step, firsts, ends = np.uint64(length), self.edges[::2], self.edges[1::2]
        counts = ((ends - np.uint64(1)) // step - firsts // step + np.uint64(1)).astype(np.intp)
        which = np.repeat(np.arange(counts.size), counts)
        within = np.arange(which.size) - np.repeat(np.cumsum(counts) - counts, counts)
        stripes = firsts[which] // step + within.astype(np.uint64)
        begin = np.maximum(firsts[which], stripes * step)
        return begin, np.minimum(ends[which], (stripes + np.uint64(1)) * step)

    def __iter__(self) -> Iterator[tuple[int, int]]:
        """The ranges as (first, end)."""
        ends: list[int] = self.edges.tolist()
        return zip(ends[::2], ends[1::2], strict=True)

    def __bool__(self) -> bool:
        return self.edges.size > 0

    def __or__(self, other: Ranges) -> Ranges:
        """The numbers of either."""
        edges = np.concatenate((self.edges, other.edges))
        return Ranges.of(edges[::2], edges[1::2])

    def remove(self, first: int, end: int) -> Ranges:
        """The set without the numbers from `first` to before `end`."""
        if first >= end:
            return self
        i = int(np.searchsorted(self.edges, np.uint64(first), "left"))
        j = int(np.searchsorted(self.edges, np.uint64(end), "right"))
        new = [at for at, place in ((first, i), (end, j)) if place % 2]  # a range is cut there
        return Ranges(np.concatenate((self.edges[:i], np.array(new, np.uint64), self.edges[j:])))

    def first(self, first: int, end: int) -> int | None:
        """The lowest number from `first` to before `end` that is in the set."""
        i = int(np.searchsorted(self.edges, np.uint64(first), "right"))
        if i % 2 and first < end:
            return first
        return int(self.edges[i]) if i < self.edges.size and self.edges[i] < end else None

    def holds(self, numbers: Words) -> npt.NDArray[np.bool_]:
        """Which of some numbers are in the set."""
        inside: npt.NDArray[np.bool_] = np.searchsorted(self.edges, numbers, "right") % 2 == 1
        return inside


class Poison:
    """The poisoned lines of a device, which its readers and writers ask (`Device.poison`).

    Lines are counted by their numbers, address // 64. `missing` are lines of a DIMM that isn't
    there, which no write clears. `changed` is called when a write has cleared some. Thread-safe.
    """

    def __init__(self, missing: Ranges | None = None) -> None:
        self.lines, self.missing = Ranges(), missing or Ranges()
        self.changed: Callable[[], None] | None = None
        self._lock = threading.Lock()

    def add(self, lines: Ranges) -> None:
        """Poison some lines."""
        with self._lock:
            self.lines |= lines

    def _clear(self, ranges: Iterable[tuple[int, int]]) -> None:
        with self._lock:
            before = self.lines
            for first, end in ranges:
                if self.lines.first(first, end) is not None:
                    self.lines = self.lines.remove(first, end)
            if self.lines is not before and self.changed is not None:
                self.changed()

    def check_read(self, address: int, length: int) -> None:
        """Refuse to read a byte range with a poisoned line in it. Raises PoisonError."""
        if length:
            self._check(address // LINE, -(-(address + length) // LINE))

    def check_write(self, address: int, length: int, grain: int = LINE, origin: int = 0) -> None:
        """Refuse to write a byte range that covers a poisoned line in part, or any missing one.

        `grain` is how many bytes are written together, counted from `origin`: grains that the
        range covers in part are read first. Raises PoisonError.
        """
        if not length:
            return
        for edge in (address, address + length):
            within = (edge - origin) % grain
            if within:
                self.check_read(edge - within, grain)
        self.check_missing(address, length)

    def check_missing(self, address: int, length: int) -> None:
        """Refuse a byte range with a line of a missing DIMM. Raises PoisonError."""
        self._refuse(self.missing.first(address // LINE, -(-(address + length) // LINE)), missing=True)

    def written(self, address: int, length: int) -> None:
        """A byte range has been written: clear the lines that it covers."""
        self._clear([(-(-address // LINE), (address + length) // LINE)])

    def check_lines(self, numbers: Words) -> None:
        """Refuse to read lines given by their numbers. Raises PoisonError, naming the first."""
        for missing, among in ((False, self.lines), (True, self.missing)):
            bad = numbers[among.holds(numbers)]
            self._refuse(int(bad[0]) if bad.size else None, missing)

    def check_write_lines(self, numbers: Words) -> None:
        """Refuse to write whole lines on a missing DIMM. Raises PoisonError."""
        bad = numbers[self.missing.holds(numbers)]
        self._refuse(int(bad[0]) if bad.size else None, missing=True)

    def written_lines(self, numbers: Words) -> None:
        """Lines given by their numbers have been written whole: clear them."""
        self._clear((number, number + 1) for number in numbers[self.lines.holds(numbers)].tolist())

    def _check(self, first: int, end: int) -> None:
        self._refuse(self.lines.first(first, end), missing=False)
        self._refuse(self.missing.first(first, end), missing=True)

    def _refuse(self, line: int | None, missing: bool) -> None:
        if line is None:
            return
        place = f"line {line} (address {line * LINE:#x})"
        if missing:
            raise PoisonError(
                f"{place} is on a DIMM that is missing from its interleave set: open the set with all", line
            )
        raise PoisonError(
            f"{place} is poisoned, what it held is lost: write the whole line, or clear its bad block", line
        )
