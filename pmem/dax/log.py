"""The log of a log-structured volume: data is appended at a head that goes from segment to segment."""

from __future__ import annotations

from pmem.dax.layout import SEGMENT
from pmem.dax.space import Run, Space


class Log:
    """The head of the log; the caller holds the volume's lock.

    Where no segment is wholly free, blocks between others are used, and `short` says so: the
    cleaner has something to do.
    """

    def __init__(self, space: Space) -> None:
        self._space = space
        self._head = self._end = 0  # reserved blocks that are next
        self.short = False
        self._tried = -1  # blocks that were free when cleaning was asked for

    @property
    def left(self) -> int:
        """Blocks at the head, reserved for data to come."""
        return self._end - self._head

    @property
    def segment(self) -> int:
        """The number of the segment that the head is in."""
        return max(self._end - 1, 0) // SEGMENT

    def allocate(self, count: int) -> list[Run]:
        """Reserve blocks at the head. Raises VolumeFull, with nothing reserved."""
        self._space.need(count - self.left)
        runs: list[Run] = []
        while count:
            if self._head == self._end and not self._advance():
                self.short = True
                return runs + self._space.allocate(count)
            n = min(count, self.left)
            if runs and sum(runs[-1]) == self._head:
                runs[-1] = (runs[-1][0], runs[-1][1] + n)
            else:
                runs.append((self._head, n))
            self._head += n
            count -= n
        return runs

    def wants_cleaning(self) -> bool:
        """Whether segments are short, and cleaning hasn't just been tried; asking counts as a try."""
        free = self._space.total
        if not self.short or abs(free - self._tried) < SEGMENT // 4:
            return False
        self.short, self._tried = False, free
        return True

    def _advance(self) -> bool:
        found = self._space.segment()
        if found is None:
            return False
        self._head, self._end = found, found + SEGMENT
        return True
