"""Turns at ranges of bytes: readers share a range, a writer has it alone."""

from __future__ import annotations

import threading
from types import TracebackType


class Turns:
    """Who is at which bytes now. Thread-safe; a thread that has a turn may take more within it."""

    def __init__(self) -> None:
        self._changed = threading.Condition(threading.Lock())
        self._busy: list[Turn] = []

    def read(self, first: int, end: int) -> Turn:
        """A context in which no other thread writes bytes from `first` to before `end`."""
        return Turn(self, first, end, False)

    def write(self, first: int, end: int) -> Turn:
        """A context in which no other thread reads or writes these bytes."""
        return Turn(self, first, end, True)

    def take(self, turn: Turn) -> None:
        with self._changed:
            while any(turn.meets(other) for other in self._busy):
                self._changed.wait()
            self._busy.append(turn)

    def give(self, turn: Turn) -> None:
        with self._changed:
            self._busy.remove(turn)
            self._changed.notify_all()


class Turn:
    """One thread's turn, a context manager; made by `Turns`."""

    __slots__ = ("_alone", "_end", "_first", "_thread", "_turns")

    def __init__(self, turns: Turns, first: int, end: int, alone: bool) -> None:
        self._turns, self._first, self._end, self._alone = turns, first, end, alone
        self._thread = threading.get_ident()

    def meets(self, other: Turn) -> bool:
        """Whether the two can't be at the same time."""
        return (
            self._first < other._end
            and other._first < self._end
            and (self._alone or other._alone)
            and self._thread != other._thread
        )

    def __enter__(self) -> None:
        self._turns.take(self)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._turns.give(self)
