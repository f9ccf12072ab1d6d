"""Chunks of records that come one by one."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import NamedTuple

import numpy as np

from mktme.timing.access import RECORDS, Chunk


class Record(NamedTuple):
    """An access; see `access.Chunk`. None: the trace hasn't got it, in any of its records."""

    kind: int
    address: int
    size: int
    thread: int | None = None
    time: int | None = None
    data: bytes | None = None


def chunks(records: Iterable[Record]) -> Iterator[Chunk]:
    """Chunks of records."""
    first, pending = 0, list[Record]()
    for record in records:
        pending.append(record)
        if len(pending) == RECORDS:
            yield _chunk(pending, first)
            first += len(pending)
            pending = []
    if pending:
        yield _chunk(pending, first)


def _chunk(records: list[Record], first: int) -> Chunk:
    kind, address, size, thread, time, data = zip(*records, strict=True)
    offsets = None
    if data[0] is not None:
        offsets = np.concatenate([[0], np.cumsum([len(one) for one in data])]).astype(np.int64)
    return Chunk(
        np.array(kind, np.uint8),
        np.array(address, np.uint64),
        np.array(size, np.uint32),
        None if thread[0] is None else np.array(thread, np.uint8),
        None if time[0] is None else np.array(time, np.int64),
        None if data[0] is None else np.frombuffer(b"".join(data), np.uint8),
        offsets,
        first,
    )
