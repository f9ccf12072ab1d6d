"""What a trace consists of: accesses, in columns, a chunk at a time."""

from __future__ import annotations

import ctypes
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

# Kinds of an access. Loads and stores of a mapped range, and what makes stores durable:
READ = 0  # a load
WRITE = 1  # a store, which stays in the caches
FLUSH = 2  # write the range's lines back (CLWB)
FENCE = 3  # wait until what was flushed is durable (SFENCE)
NONTEMPORAL = 4  # a store past the caches
WORK = 5  # `size` instructions that touch no memory of the trace
# System calls on a file:
PREAD = 6
PWRITE = 7
FSYNC = 8
DEPENDENT = 9  # a load whose address the preceding load gave: a step along a chain of pointers

KINDS = ("read", "write", "flush", "fence", "nontemporal", "work", "pread", "pwrite", "fsync", "dependent")
RECORDS = 1 << 16  # of a chunk
THREADS = 256

Column = npt.NDArray[Any]


@dataclass(frozen=True, slots=True)
class Chunk:
    """Accesses in columns of one length; immutable by convention, so threads may share it.

    kind (uint8, one of the kinds), address (uint64, bytes from the beginning of the device), size
    (uint32, bytes; for WORK instructions), and where the trace has them: thread (uint8), time (int64, ns
    from the beginning of the trace, when the access is made at the earliest), data (uint8, the stored
    bytes one after another) with offsets (int64, one more than there are accesses: where each begins).
    `first` is the number of the first record in the trace, from 0.
    """

    kind: Column
    address: Column
    size: Column
    thread: Column | None = None
    time: Column | None = None
    data: Column | None = None
    offsets: Column | None = None
    first: int = 0

    def __len__(self) -> int:
        return len(self.kind)


def for_kernels(column: Column) -> Column:
    """The same memory as kernels take it: read-only arrays (as Parquet gives them) are another type to Numba.

    It would compile each kernel again for them, the largest for a minute. Kernels don't write to columns. The
    column must live as long as what this returns.
    """
    if column.flags.writeable or not column.flags.c_contiguous or not column.size:
        return np.require(column, requirements=["C", "W"])
    memory: Any = (ctypes.c_char * column.nbytes).from_address(column.ctypes.data)
    return np.frombuffer(memory, column.dtype)


class Trace(Protocol):
    """A source of accesses. `name` for people; each `chunks()` reads it from the beginning."""

    @property
    def name(self) -> str: ...

    def chunks(self) -> Iterator[Chunk]: ...


def chunk(
    kind: Any, address: Any, size: Any, *, thread: Any = None, time: Any = None, first: int = 0
) -> Chunk:
    """A chunk of anything that numpy makes columns of; a single kind, size or thread is repeated."""
    addresses = np.ascontiguousarray(address, np.uint64)

    def column(values: Any, dtype: Any) -> Column:
        made = np.asarray(values, dtype)
        return np.full(addresses.size, made) if made.ndim == 0 else np.ascontiguousarray(made)

    return Chunk(
        column(kind, np.uint8),
        addresses,
        column(size, np.uint32),
        None if thread is None else column(thread, np.uint8),
        None if time is None else column(time, np.int64),
        first=first,
    )
