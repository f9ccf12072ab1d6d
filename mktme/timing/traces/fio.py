"""fio's iolog, versions 2 and 3 (fio's HOWTO, "Trace file format").

    fio version 2 iolog              the first line; version 3 has a time in ms before each action
    name add | open | close
    name read | write offset length
    name sync | datasync | trim ...  trims are left out
    name wait microseconds           version 2 alone: time passes

Requests become system calls (PREAD, PWRITE, FSYNC); files lie one behind the other in the order of their
names' appearance, each with room for what is done to it, in pages.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from mktme.errors import TraceError
from mktme.timing.access import FSYNC, PREAD, PWRITE, Chunk
from mktme.timing.traces.build import Record, chunks
from mktme.timing.traces.source import BLOCK, Problems, lines
from pmem.geometry import PAGE

MOVES = {"read": PREAD, "write": PWRITE}
SYNCS = ("sync", "datasync")
FILES = ("add", "open", "close")


class Fio:
    """A trace of fio's. `files`: where each begins, in bytes. `trims`: how many were left out.

    `problems`: malformed lines of the last reading.
    """

    def __init__(self, path: Path, malformed: str = "refuse", block: int = BLOCK) -> None:
        if str(path) == "-":
            raise TraceError("an iolog is read twice, to see how large its files are: save it first")
        self.path, self.name, self._block = path, path.name, block
        self.problems, self.trims = Problems(malformed, self.name), 0
        self.files: dict[str, int] = {}

    def chunks(self) -> Iterator[Chunk]:
        """Its requests. Raises TraceError, OSError."""
        ends: dict[str, int] = {}
        self.problems.clear()
        for name, record in self._parsed():
            ends[name] = max(ends.get(name, 0), record.address + record.size)
        base = 0
        for name, end in ends.items():
            self.files[name] = base
            base += -(-end // PAGE) * PAGE
        self.problems.clear()
        return chunks(
            record if record.kind == FSYNC else record._replace(address=record.address + self.files[name])
            for name, record in self._parsed()
        )

    def _parsed(self) -> Iterator[tuple[str, Record]]:
        texts = lines(self.path, size=self._block)
        _, head = next(texts, (0, ""))
        version = {"fio version 2 iolog": 2, "fio version 3 iolog": 3}.get(head.strip())
        if version is None:
            raise TraceError(f"{self.name}, line 1: {head[:80]!r} is not 'fio version 2 iolog' or 3")
        self.trims, now = 0, 0  # ns
        for number, text in texts:
            if not text.strip():
                continue
            try:
                fields = text.split()
                if version == 3:
                    now = int(fields.pop(0)) * 1_000_000
                    if now < 0:
                        raise ValueError("the time is below 0")
                name, action, *numbers = fields
                offset, length = _numbers(action, numbers)
                if action == "wait":
                    if version == 3:
                        raise ValueError("version 3 has no wait")
                    now += offset * 1000
            except ValueError as error:
                self.problems.report(number, text, f"can't be read: {error}")
                continue
            if action in MOVES:
                yield name, Record(MOVES[action], offset, length, None, now)
            elif action in SYNCS:
                yield name, Record(FSYNC, 0, 0, None, now)
            elif action == "trim":
                self.trims += 1


def _numbers(action: str, numbers: list[str]) -> tuple[int, int]:
    """Offset and length of an action, as far as it has them. Raises ValueError."""
    if action in FILES:
        wanted: tuple[int, ...] = (0,)
    elif action in SYNCS:
        wanted = (0, 2)
    elif action == "wait":
        wanted = (1, 2)
    elif action in MOVES or action == "trim":
        wanted = (2,)
    else:
        raise ValueError(f"there is no action {action!r}")
    if len(numbers) not in wanted:
        raise ValueError(f"{action} has {len(numbers)} numbers")
    offset, length = ([int(number) for number in numbers] + [0, 0])[:2]
    if not 0 <= offset < 1 << 62 or not 0 <= length < 1 << 32:
        raise ValueError("an offset or a length is out of range")
    return offset, length
