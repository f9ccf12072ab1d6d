"""From addresses of a process to addresses of a device."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np

from mktme.crypto.kernel import kernel
from mktme.errors import TraceError
from mktme.timing import access, growing
from mktme.timing.access import Chunk, Column, Trace
from mktme.timing.words import Vector, words_at
from pmem.geometry import PAGE

WITHOUT = np.isin(np.arange(len(access.KINDS)), (access.FENCE, access.WORK, access.FSYNC))  # kinds


class FirstTouch:
    """A trace whose pages are numbered in the order in which they are first touched.

    An access that crosses a page becomes one for each page. `pages`: how many the last reading touched.
    """

    def __init__(self, trace: Trace) -> None:
        self.trace, self.name, self.pages = trace, trace.name, 0

    def chunks(self) -> Iterator[Chunk]:
        """Its accesses. Raises as the trace."""
        table, first = growing.new(1), 0
        for chunk in self.trace.chunks():
            cut = split(chunk, PAGE)
            while growing.full(table, len(cut)):
                table = growing.grown(table)
            _number(table, cut.address, access.for_kernels(cut.kind), WITHOUT)
            self.pages = int(table[growing.COUNT])
            yield replace(cut, first=first)
            first += len(cut)


def split(chunk: Chunk, grain: int) -> Chunk:
    """The same accesses, cut where multiples of `grain` bytes begin; the chunk itself stays."""
    size = np.where(WITHOUT[np.minimum(chunk.kind, len(WITHOUT) - 1)], 0, chunk.size).astype(np.uint64)
    within = chunk.address % np.uint64(grain)
    pieces = np.maximum(1, -(-(within + size).astype(np.int64) // grain))
    if pieces.max(initial=1) == 1:
        return replace(chunk, address=chunk.address.copy())
    index = np.repeat(np.arange(len(chunk)), pieces)
    begin = np.concatenate([[0], pieces.cumsum()[:-1]])
    number = (np.arange(len(index)) - begin[index]).astype(np.uint64)  # of the piece in its record
    start = chunk.address[index]
    low = np.where(number > 0, (start // np.uint64(grain) + number) * np.uint64(grain), start)
    end = np.minimum(start + size[index], (low // np.uint64(grain) + np.uint64(1)) * np.uint64(grain))
    cut = np.where(pieces[index] > 1, end - low, chunk.size[index]).astype(np.uint32)
    offsets = None
    if chunk.offsets is not None:
        has = np.diff(chunk.offsets)[index] > 0
        offsets = np.concatenate([[0], np.where(has, cut, 0).cumsum()]).astype(np.int64)
    thread, time = (None if c is None else c[index] for c in (chunk.thread, chunk.time))
    return Chunk(chunk.kind[index], low, cut, thread, time, chunk.data, offsets)


@kernel()
def _number(table: Vector, addresses: Column, kinds: Column, without: Column) -> None:
    """Put device addresses in the place of virtual ones."""
    g = words_at(table.ctypes.data)
    for i in range(addresses.size):
        if kinds[i] < without.size and without[kinds[i]]:
            addresses[i] = 0
            continue
        page: Any = np.int64(addresses[i] // np.uint64(PAGE))
        place = growing.slot(g, page)
        if g[place] == 0:
            g[place] = g[growing.COUNT]
        addresses[i] = np.uint64(g[place] - 1) * np.uint64(PAGE) + addresses[i] % np.uint64(PAGE)


class Window:
    """A trace of a range: addresses from `base` on, `size` bytes; what is outside is refused or skipped.

    `skipped`: how many records of the last reading were.
    """

    def __init__(self, trace: Trace, base: int, size: int, outside: str = "refuse") -> None:
        if outside not in ("refuse", "skip"):
            raise TraceError(f"accesses outside of the range can't be {outside!r}: refuse or skip them")
        if base < 0 or size < 1 or base + size > 1 << 64:
            raise TraceError(f"{size} bytes from {base:#x} on are no range of 64-bit addresses")
        self.trace, self.name, self.base, self.size, self.outside = trace, trace.name, base, size, outside
        self.skipped = 0

    def chunks(self) -> Iterator[Chunk]:
        """Its accesses. Raises TraceError at an access outside, if such are refused."""
        first = self.skipped = 0
        for chunk in self.trace.chunks():
            without = WITHOUT[np.minimum(chunk.kind, len(WITHOUT) - 1)]
            moved = chunk.address - np.uint64(self.base)  # wraps around below the base
            inside = (moved < np.uint64(self.size)) & (
                chunk.size.astype(np.uint64) <= np.uint64(self.size) - np.minimum(moved, np.uint64(self.size))
            )
            kept = without | inside
            if not kept.all():
                at = int((~kept).argmax())
                if self.outside == "refuse":
                    raise TraceError(
                        f"record {chunk.first + at}, {int(chunk.size[at])} bytes at "
                        f"{int(chunk.address[at]):#x}, is outside of {self.size} bytes from {self.base:#x}: "
                        "skip such, or number pages as they are touched"
                    )
                self.skipped += int((~kept).sum())
            made = some(replace(chunk, address=np.where(without, 0, moved).astype(np.uint64)), kept)
            yield replace(made, first=first)
            first += len(made)


def some(chunk: Chunk, kept: Any) -> Chunk:
    """Some records of a chunk."""
    return chunk if kept.all() else take(chunk, np.flatnonzero(kept))


def take(chunk: Chunk, index: Any) -> Chunk:
    """The records of a chunk with these numbers, in this order."""
    thread, time = (None if column is None else column[index] for column in (chunk.thread, chunk.time))
    data = offsets = None
    if chunk.offsets is not None and chunk.data is not None:
        length = np.diff(chunk.offsets)[index]
        offsets = np.concatenate([[0], length.cumsum()]).astype(np.int64)
        data = chunk.data[np.repeat(chunk.offsets[index] - offsets[:-1], length) + np.arange(offsets[-1])]
    return Chunk(chunk.kind[index], chunk.address[index], chunk.size[index], thread, time, data, offsets)


def part_of(chunk: Chunk, first: int, end: int) -> Chunk:
    """The records of a chunk from one to another, copied: who holds them doesn't hold the chunk."""
    own = slice(first, end)
    thread, time = (None if column is None else column[own].copy() for column in (chunk.thread, chunk.time))
    data = offsets = None
    if chunk.offsets is not None and chunk.data is not None:
        offsets = chunk.offsets[first : end + 1]
        data, offsets = chunk.data[offsets[0] : offsets[-1]].copy(), offsets - offsets[0]
    kind, address, size = (column[own].copy() for column in (chunk.kind, chunk.address, chunk.size))
    return Chunk(kind, address, size, thread, time, data, offsets)
