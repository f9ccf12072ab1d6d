"""pmemcheck's store log as a trace: stores with their data, flushes, fences; see `mktme.storelog`."""

from __future__ import annotations

import gzip
import io
from collections.abc import Iterator
from pathlib import Path

from mktme import storelog
from mktme.errors import StoreLogError, TraceError
from mktme.timing.access import FENCE, FLUSH, WRITE, Chunk
from mktme.timing.traces.build import Record, chunks
from mktme.timing.traces.source import Problems, opened
from pmem.geometry import PAGE


class StoreLog:
    """A trace of pmemcheck's. Registered files lie one behind the other; without any, addresses are taken
    as they are, less `base`. `problems`: stores outside of registered files, by event, of the last reading.
    """

    def __init__(self, path: Path, malformed: str = "refuse", base: int = 0) -> None:
        self.path, self.name, self.base = path, path.name, base
        self.problems = Problems(malformed, self.name)

    def chunks(self) -> Iterator[Chunk]:
        """Its stores, flushes and fences. Raises TraceError, OSError."""
        self.problems.clear()
        return chunks(self._records())

    def _records(self) -> Iterator[Record]:
        maps: list[tuple[int, int, int]] = []  # where a file is mapped, its size, where it lies on the device
        end = 0
        with opened(self.path) as file, io.TextIOWrapper(file, errors="replace") as text:
            try:
                for number, event in enumerate(storelog.read(text)):
                    if isinstance(event, storelog.RegisterFile):
                        maps.append((event.address, event.size, end))
                        end += -(-event.size // PAGE) * PAGE
                    elif isinstance(event, storelog.Fence):
                        yield Record(FENCE, 0, 0, data=b"")
                    elif isinstance(event, storelog.Store):
                        place = self._place(maps, event.address, len(event.data), number)
                        if place is not None:
                            yield Record(WRITE, place, len(event.data), data=event.data)
                    elif isinstance(event, storelog.Flush):
                        place = self._place(maps, event.address, event.length, number)
                        if place is not None:
                            yield Record(FLUSH, place, event.length, data=b"")
            except (StoreLogError, EOFError, gzip.BadGzipFile) as error:
                raise TraceError(f"{self.name}: {error}") from None

    def _place(self, maps: list[tuple[int, int, int]], address: int, size: int, number: int) -> int | None:
        for start, length, base in maps:
            if start <= address and address + size <= start + length:
                return base + address - start
        if not maps and address >= self.base:
            return address - self.base
        what = "is outside of every registered file" if maps else f"lies below the base, {self.base:#x}"
        self.problems.report(number, f"{size} bytes at {address:#x}", what, "event")
        return None
