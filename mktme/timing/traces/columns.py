"""Our own files: Parquet, a column each for what an access has (the extra `trace`).

Columns kind (uint8), address (uint64), size (uint32), and where the trace has them thread (uint8), time
(int64, ns) and data (binary); compressed, in groups of a million rows, so that they are read in a stream.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from mktme.errors import TraceError
from mktme.timing.access import RECORDS, Chunk
from mktme.timing.traces.source import arrow

VERSION = b"1"
ROWS = 1 << 20  # of a group
HELD = 32 << 20  # bytes that a writer holds at most, until they are a group
MAGIC = b"PAR1"
DTYPES = {"kind": np.uint8, "address": np.uint64, "size": np.uint32, "thread": np.uint8, "time": np.int64}


class Columns:
    """A trace in a Parquet file, of `records`, in `groups` of rows. Raises TraceError if it isn't whole."""

    def __init__(self, path: Path) -> None:
        self.path, self.name = path, path.name
        with self._opened() as file:
            self.records = int(file.metadata.num_rows)
            self.groups = int(file.metadata.num_row_groups)

    def _opened(self) -> Any:
        pa = arrow()
        try:
            file = pa.parquet.ParquetFile(self.path)
        except (pa.ArrowException, OSError) as error:
            if isinstance(error, FileNotFoundError):
                raise
            raise TraceError(f"{self.path} is no whole Parquet file: {error}") from None
        schema = file.schema_arrow
        told = (schema.metadata or {}).get(b"mktme.trace")
        wrong = [name for name in ("kind", "address", "size") if name not in schema.names]
        if told != VERSION or wrong:
            file.close()
            raise TraceError(
                f"{self.path} is no trace of this format, version 1: write one with mktme trace convert"
            )
        return file

    def chunks(self, begin: int = 0, end: int | None = None, rows: int = RECORDS) -> Iterator[Chunk]:
        """Its accesses, or those of some groups of rows, [begin, end); `rows` at a time.

        Raises TraceError, with the record that was reached, if the file is damaged.
        """
        first = 0
        with self._opened() as file:
            groups = range(begin, self.groups if end is None else end)
            batches = file.iter_batches(batch_size=rows, use_threads=False, row_groups=list(groups))
            while True:
                try:
                    batch = next(batches, None)
                except (arrow().ArrowException, OSError) as error:
                    raise TraceError(f"{self.path} is damaged behind record {first}: {error}") from None
                if batch is None:
                    return
                made = _chunk(batch, first)
                first += len(made)
                yield made


def _chunk(batch: Any, first: int) -> Chunk:
    found: dict[str, Any] = {}
    for name, dtype in DTYPES.items():
        if name in batch.schema.names:
            column = batch.column(name).to_numpy(zero_copy_only=False)
            found[name] = np.ascontiguousarray(column, dtype)
    if "data" in batch.schema.names:
        array = batch.column("data")
        _, offsets, data = array.buffers()
        places = np.frombuffer(offsets, np.int32)[array.offset : array.offset + len(array) + 1]
        found["offsets"] = places.astype(np.int64) - int(places[0])
        held = np.frombuffer(data, np.uint8) if data is not None else np.empty(0, np.uint8)
        found["data"] = held[int(places[0]) : int(places[-1])]
    return Chunk(**found, first=first)


class Writer:
    """Writes a trace, a chunk after another; the file takes its name when it is whole. A context manager.

    Not thread-safe. `records`: how many so far. `held`: bytes that it holds at most, before they are a
    group of rows in the file. Raises TraceError without pyarrow, OSError.
    """

    def __init__(self, path: Path, held: int = HELD) -> None:
        self._pa, self._path, self._room = arrow(), path, held
        self._held: list[Any] = []
        self._rows = self._bytes = 0
        self._temporary = path.with_name(f"{path.name}.{os.urandom(6).hex()}.part")
        os.close(os.open(self._temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666))
        self._writer: Any = None
        self._names: list[str] = []
        self.records = 0

    def add(self, chunk: Chunk) -> None:
        """The next records. Raises TraceError if they haven't the columns of those before."""
        batch = _batch(self._pa, chunk)
        if self._writer is None:
            self._names = batch.schema.names
            self._writer = _writer(self._pa, self._temporary, batch.schema)
        elif batch.schema.names != self._names:
            raise TraceError(
                f"from record {self.records} on the trace has {', '.join(batch.schema.names)}, and before "
                f"{', '.join(self._names)}"
            )
        self._held.append(batch)
        self._rows, self._bytes = self._rows + len(chunk), self._bytes + batch.nbytes
        self.records += len(chunk)
        if self._rows >= ROWS or self._bytes >= self._room:
            self._flush()

    def _flush(self) -> None:
        self._writer.write_table(self._pa.Table.from_batches(self._held), row_group_size=ROWS)
        self._held.clear()
        self._rows = self._bytes = 0

    def __enter__(self) -> Writer:
        return self

    def __exit__(self, kind: object, *_: object) -> None:
        if kind is None and self._writer is None:
            empty = np.empty(0)
            self.add(Chunk(empty, empty, empty))
        if self._writer is not None:
            if kind is None and self._held:
                self._flush()
            self._writer.close()
        if kind is not None:
            self._temporary.unlink()
            return
        self._temporary.replace(self._path)


def write(path: Path, chunks: Iterable[Chunk]) -> int:
    """Write a whole trace. Returns the number of records. Raises as `Writer`, and what the chunks raise."""
    with Writer(path) as writer:
        for chunk in chunks:
            writer.add(chunk)
    return writer.records


def _writer(pa: Any, path: Path, schema: Any) -> Any:
    return pa.parquet.ParquetWriter(
        path,
        schema.with_metadata({b"mktme.trace": VERSION}),
        compression="zstd",
        use_dictionary=[name for name in ("kind", "size", "thread") if name in schema.names],
        column_encoding={name: "DELTA_BINARY_PACKED" for name in ("address", "time") if name in schema.names},
    )


def _batch(pa: Any, chunk: Chunk) -> Any:
    columns = {
        name: pa.array(np.asarray(values, DTYPES[name]))
        for name in DTYPES
        if (values := getattr(chunk, name)) is not None
    }
    if chunk.offsets is not None and chunk.data is not None:
        offsets = pa.py_buffer(np.ascontiguousarray(chunk.offsets, np.int32))
        data = pa.py_buffer(np.ascontiguousarray(chunk.data))
        columns["data"] = pa.Array.from_buffers(pa.binary(), len(chunk), [None, offsets, data])
    return pa.RecordBatch.from_pydict(columns)
