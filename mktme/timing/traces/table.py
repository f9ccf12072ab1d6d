"""CSV: a head that names columns, then a record a line.

Columns: kind (by name: read, write, flush, fence, nontemporal, work, pread, pwrite, fsync, dependent; or
r, w), address and size (decimal, or hexadecimal with 0x), and if wanted thread, time (ns) and data
(hexadecimal).
"""

from __future__ import annotations

import csv
from collections.abc import Iterator
from pathlib import Path

from mktme.errors import TraceError
from mktme.timing.access import KINDS, THREADS, Chunk
from mktme.timing.traces.build import Record, chunks
from mktme.timing.traces.source import BLOCK, Problems, lines

NEEDED, OPTIONAL = ("kind", "address", "size"), ("thread", "time", "data")
BY_NAME = {name: code for code, name in enumerate(KINDS)} | {"r": 0, "w": 1, "load": 0, "store": 1}


class Table:
    """A trace as CSV. `problems`: malformed lines of the last reading."""

    def __init__(self, path: Path, malformed: str = "refuse", block: int = BLOCK) -> None:
        self.path, self.name, self._block = path, path.name, block
        self.problems = Problems(malformed, self.name)

    def chunks(self) -> Iterator[Chunk]:
        """Its accesses. Raises TraceError, OSError."""
        self.problems.clear()
        return chunks(self._records())

    def _records(self) -> Iterator[Record]:
        texts = lines(self.path, ended=False, size=self._block)
        _, head = next(texts, (0, ""))
        names = [name.strip().lower() for name in head.split(",")]
        unknown = [name for name in names if name not in (*NEEDED, *OPTIONAL)]
        missing = [name for name in NEEDED if name not in names]
        if unknown or missing or len(set(names)) < len(names):
            raise TraceError(
                f"{self.name}, line 1: the head is {head[:80]!r}: it must name {', '.join(NEEDED)}, and may "
                f"name {', '.join(OPTIONAL)}, each once"
            )
        for number, text in texts:
            if not text.strip():
                continue
            try:
                fields = next(csv.reader([text], skipinitialspace=True))
                yield _record(dict(zip(names, fields, strict=True)))
            except (ValueError, csv.Error) as error:
                self.problems.report(number, text, f"can't be read: {error}")


def _record(fields: dict[str, str]) -> Record:
    """A record of its fields. Raises ValueError."""
    kind = BY_NAME.get(fields["kind"].strip().lower())
    if kind is None:
        raise ValueError(f"there is no kind {fields['kind']!r}")
    address, size = (int(fields[name] or "0", 0) for name in ("address", "size"))
    thread = int(fields["thread"], 0) if "thread" in fields else None
    time = int(fields["time"], 0) if "time" in fields else None
    if not 0 <= address < 1 << 64 or not 0 <= size < 1 << 32:
        raise ValueError("the address has at most 64 bits, the size 32")
    if not 0 <= (thread or 0) < THREADS or not 0 <= (time or 0) < 1 << 52:
        raise ValueError(f"a thread is below {THREADS}, a time between 0 and 52 days")
    data = bytes.fromhex(fields["data"]) if "data" in fields else None
    if data and len(data) != size:
        raise ValueError(f"{len(data)} bytes of data, and a size of {size}")
    return Record(kind, address, size, thread, time, data)
