"""Lines kept by their numbers: what a persistence domain remembers of lines that may be lost."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import numpy.typing as npt

from pmem.buffers import Bytes
from pmem.geometry import LINE

LEAST = 64  # rows of an empty table


class LineTable:
    """64-byte rows by line number, in the order in which they came; memory by the lines held.

    A bulk call costs about 0.1 us a line. Not thread-safe: whoever holds a table takes turns.
    """

    def __init__(self) -> None:
        self.at: dict[int, int] = {}  # from a line's number to its row
        self._rows: Bytes = np.empty((LEAST, LINE), np.uint8)
        self._used = 0  # rows handed out so far
        self._free: list[int] = []  # those of them that were given back

    def __len__(self) -> int:
        return len(self.at)

    @property
    def nbytes(self) -> int:
        """Bytes of the rows."""
        return self._rows.nbytes

    def missing(self, numbers: Iterable[int]) -> list[int]:
        """Those of some lines that aren't here."""
        at = self.at
        return [number for number in numbers if number not in at]

    def put(self, numbers: list[int], rows: npt.ArrayLike) -> None:
        """Keep lines, (n, 64) uint8, in place of what was kept of them. Each number once."""
        at = self.at
        places = list(map(at.get, numbers))
        if None in places:
            new = [i for i, place in enumerate(places) if place is None]
            given = self._take(len(new))
            for i, place in zip(new, given, strict=True):
                places[i] = place
            at.update(zip([numbers[i] for i in new], given, strict=True))
        self._rows[np.array(places, np.intp)] = rows

    def get(self, numbers: list[int]) -> Bytes:
        """Lines that are here: (n, 64) uint8, a copy."""
        at = self.at
        rows: Bytes = self._rows[np.array([at[number] for number in numbers], np.intp)]
        return rows

    def row(self, number: int) -> Bytes:
        """A line that is here, itself."""
        row: Bytes = self._rows[self.at[number]]
        return row

    def drop(self, numbers: Iterable[int]) -> None:
        """Forget lines; those that aren't here, too."""
        pop, free = self.at.pop, self._free
        for number in numbers:
            place = pop(number, None)
            if place is not None:
                free.append(place)
        if not self.at:
            self.clear()

    def clear(self) -> None:
        """Forget all lines, and give their memory back."""
        self.at.clear()
        self._free.clear()
        self._used = 0
        if self._rows.shape[0] > LEAST:
            self._rows = np.empty((LEAST, LINE), np.uint8)

    def inside(self, first: int, last: int) -> list[int]:
        """The lines from number `first` to before `last` that are here, in the order in which they came
        or of their numbers; costs by the shorter of the range and the table.
        """
        if last - first < len(self.at):
            return [number for number in range(first, last) if number in self.at]
        return [number for number in self.at if first <= number < last]

    def _take(self, count: int) -> list[int]:
        reused = self._free[len(self._free) - min(count, len(self._free)) :]
        del self._free[len(self._free) - len(reused) :]
        more = count - len(reused)
        if self._used + more > self._rows.shape[0]:
            rows = np.empty((max(2 * self._rows.shape[0], self._used + more), LINE), np.uint8)
            rows[: self._used] = self._rows[: self._used]
            self._rows = rows
        first, self._used = self._used, self._used + more
        return reused + list(range(first, first + more))
