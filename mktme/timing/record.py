"""What a Python script does to its regions, as a trace.

While a recording runs, reads and writes of mapped regions (slices, arrays, scattered lines), flushes and
drains are written down, by their addresses on the device; encryption goes on as ever. Several threads
are told apart. What the script computes between, and what it does to devices, volumes and files by other
ways, isn't recorded.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from mktme.array import EncryptedArray
from mktme.controller import Controller
from mktme.errors import TraceError
from mktme.region import Region
from mktme.timing.access import FENCE, FLUSH, READ, RECORDS, THREADS, WRITE, Chunk
from mktme.timing.traces.columns import Writer
from pmem.geometry import LINE

_one = threading.Lock()  # a process has one recording at a time


class Recording:
    """Accesses on their way to a file. Thread-safe. `records`: how many so far."""

    def __init__(self, writer: Writer, data: bool) -> None:
        self._writer, self._with_data = writer, data
        self._lock = threading.Lock()
        self._local, self._threads = threading.local(), 0
        self._clear()

    def _clear(self) -> None:
        self._rows: list[tuple[int, int, int, int]] = []
        self._data: list[bytes] = []

    @property
    def records(self) -> int:
        return self._writer.records + len(self._rows)

    def add(self, kind: int, address: int, size: int, data: Any = None) -> None:
        """An access of the calling thread."""
        with self._lock:
            if not hasattr(self._local, "thread"):
                if self._threads == THREADS:
                    raise TraceError(f"the script uses more than {THREADS} threads")
                self._local.thread = self._threads
                self._threads += 1
            self._rows.append((kind, address, size, self._local.thread))
            if self._with_data:
                self._data.append(b"" if data is None else bytes(data))
            if len(self._rows) == RECORDS:
                self._write()

    def finish(self) -> None:
        """Write what is left."""
        if self._rows:
            self._write()

    def _write(self) -> None:
        kind, address, size, thread = zip(*self._rows, strict=True)
        data = offsets = None
        if self._with_data:
            offsets = np.concatenate([[0], np.cumsum([len(one) for one in self._data])]).astype(np.int64)
            data = np.frombuffer(b"".join(self._data), np.uint8)
        self._writer.add(
            Chunk(
                np.array(kind, np.uint8),
                np.array(address, np.uint64),
                np.array(size, np.uint32),
                np.array(thread, np.uint8),
                None,
                data,
                offsets,
            )
        )
        self._clear()


@contextmanager
def recording(path: Path, *, data: bool = False) -> Iterator[Recording]:
    """Record to a trace file what happens meanwhile; `data`: with the bytes that are stored.

    The file takes its name at the end, and isn't made if the block raises. Raises TraceError if another
    recording runs, or without pyarrow; OSError.
    """
    if not _one.acquire(blocking=False):
        raise TraceError("a recording is already running in this process")
    try:
        with Writer(path) as writer:
            made = Recording(writer, data)
            undo = _watch(made)
            try:
                yield made
            finally:
                undo()
            made.finish()
    finally:
        _one.release()


def _watch(made: Recording) -> Callable[[], None]:
    """Have the calls that reach regions recorded; returns what ends it."""
    kept: list[tuple[type, str, Any]] = []

    def wrap(owner: type, name: str, before: Callable[..., None]) -> None:
        inner = getattr(owner, name)
        kept.append((owner, name, inner))

        def call(self: Any, *args: Any, **kwargs: Any) -> Any:
            result = inner(self, *args, **kwargs)
            before(self, *args, **kwargs)
            return result

        setattr(owner, name, call)

    def read(region: Region, offset: int, out: Any) -> None:
        made.add(READ, region.address + offset, out.size)

    def write(region: Region, offset: int, stored: Any) -> None:
        made.add(WRITE, region.address + offset, stored.size, stored)

    def transfer(array: Any, starts: npt.NDArray[np.uint64], length: int, stored: Any, write: bool) -> None:
        for i, start in enumerate(starts.tolist()):
            made.add(
                WRITE if write else READ,
                start,
                length,
                stored[i * length : (i + 1) * length] if write else None,
            )

    def read_lines(controller: Controller, addresses: Any) -> None:
        for address in np.asarray(addresses).reshape(-1).tolist():
            made.add(READ, address, LINE)

    def write_lines(controller: Controller, addresses: Any, lines: Any) -> None:
        rows = np.asarray(lines).reshape(-1, LINE)
        for address, row in zip(np.asarray(addresses).reshape(-1).tolist(), rows, strict=True):
            made.add(WRITE, address, LINE, row)

    def flush(controller: Controller, address: int = 0, length: int | None = None) -> None:
        made.add(FLUSH, address, controller.size - address if length is None else length)

    def drain(controller: Controller) -> None:
        made.add(FENCE, 0, 0)

    wrap(Region, "_read", read)
    wrap(Region, "_write", write)
    wrap(EncryptedArray, "_transfer", transfer)
    wrap(Controller, "read_lines", read_lines)
    wrap(Controller, "write_lines", write_lines)
    wrap(Controller, "flush", flush)
    wrap(Controller, "drain", drain)

    def undo() -> None:
        for owner, name, inner in kept:
            setattr(owner, name, inner)

    return undo
