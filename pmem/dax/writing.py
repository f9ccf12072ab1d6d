"""Writing to a file in two steps: blocks are given first, the mapping changes once they hold the data.

So a layer above can put its own bytes (encrypted, say) at the blocks, and what a power failure
leaves is the file before or the file after.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from enum import Enum
from itertools import pairwise
from types import TracebackType
from typing import TYPE_CHECKING, NamedTuple

from pmem.buffers import Bytes
from pmem.dax.extents import first_batch
from pmem.dax.inode import ORPHAN, SHARED, Inode, Segment
from pmem.dax.layout import BLOCK
from pmem.dax.space import Run
from pmem.errors import RangeError

if TYPE_CHECKING:
    from pmem.dax.core import Core

Range = tuple[int, int]  # bytes of a file: from, to


class Piece(NamedTuple):
    """Whole blocks of a file that a writing covers, in bytes."""

    offset: int  # in the file
    address: int  # on the device: where the bytes are to be put
    length: int
    source: int | None  # where the old content lies: the same address, another one, or None for zeros


class Kind(Enum):
    """Where the bytes of a part come from."""

    DATA = "data"  # the caller's request
    KEEP = "keep"  # the old content, at `source`
    ZERO = "zero"


class Part(NamedTuple):
    """Bytes to put at an address, and where they come from."""

    kind: Kind
    offset: int  # in the file
    address: int
    length: int
    source: int | None  # of KEEP: where the bytes lie now


class Writing:
    """A change of a file's bytes, as a context; nobody else reads or writes the file meanwhile.

    Inside of it `pieces` are the blocks; the caller puts the bytes of all `parts()`, then leaves.
    On an error the new blocks are given back and nothing has changed (but for what was put in
    place, where `source` is `address`). Other calls on the same file wait until it has ended, those
    of the same thread for ever.

    Attributes: `offset`, `length` (the range asked for), `size` (bytes of the file before),
    `pieces` (list of Piece).
    """

    def __init__(
        self,
        core: Core,
        opened: Callable[[], Inode],
        offset: int,
        length: int,
        size: int | None = None,
        *,
        zeros: tuple[Range, ...] = (),
        drop: Range = (0, 0),
        grow: int = 0,
        allocate: Range = (0, 0),
    ) -> None:
        """`opened` gives the inode while the file is open, or raises FileClosed.

        `size` is the new one, by default at least `grow` and the end of the range. `drop` and
        `allocate` are file blocks to unmap, or to allocate unwritten.
        """
        self._core, self._opened, self._inode = core, opened, opened()
        self.offset, self.length, self._new_size = offset, length, size
        self._grow = max(grow, offset + length if length else 0)
        self.size = self._inode.size
        self.pieces: list[Piece] = []
        self._zeros, self._drop, self._allocate = zeros, drop, allocate
        self._changes: list[tuple[Segment, bool]] = []  # what to map, and whether it is only reserved

    def __enter__(self) -> Writing:
        gate = self._core.gate(self._inode)
        gate.lock()
        try:
            with self._core.store.lock:
                self._plan()
        except BaseException:
            self._give_back()
            gate.unlock()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        core = self._core
        try:
            if error is None:
                if self.pieces or self._changes:
                    self._flush()
                with core.store.lock:
                    self._commit()
        finally:
            self._give_back()
            core.gate(self._inode).unlock()

    def _give_back(self) -> None:
        with self._core.store.lock:
            for segment, new in self._changes:
                if new:
                    self._core.store.space.release(segment.block, segment.blocks, reserved=True)
            self._changes.clear()

    def parts(self) -> Iterator[Part]:
        """Everything that is to be put: the request, zeros, and old bytes where blocks are new."""
        asked = (self.offset, self.offset + self.length)
        for offset, address, length, source in self.pieces:
            end = offset + length
            cuts = {offset, end, asked[0], asked[1], self.size}
            for low, high in self._zeros:
                cuts |= {low, high}
            places = sorted(cut for cut in cuts if offset <= cut <= end)
            for low, high in pairwise(places):
                at = address + low - offset
                if asked[0] <= low < asked[1]:
                    yield Part(Kind.DATA, low, at, high - low, None)
                elif any(a <= low < b for a, b in self._zeros):
                    yield Part(Kind.ZERO, low, at, high - low, None)
                elif source == address:
                    continue
                elif source is None or low >= self.size:
                    yield Part(Kind.ZERO, low, at, high - low, None)
                else:
                    yield Part(Kind.KEEP, low, at, high - low, source + low - offset)

    def put(self, data: Bytes) -> None:
        """Put everything, `data` (uint8, `length` bytes) as it is. Raises RangeError."""
        if data.size != self.length:
            raise RangeError(f"{data.size} bytes were given for a writing of {self.length}")
        medium = self._core.medium
        for kind, offset, address, length, source in self.parts():
            if kind is Kind.DATA:
                at = offset - self.offset
                medium.store(address, data[at : at + length])
            elif source is not None:
                medium.store(address, medium.array[source : source + length])
            else:
                medium.zero(address, length)

    def _plan(self) -> None:
        core, inode = self._core, self._opened()
        end = self.offset + self.length
        self.size = inode.size
        if self._new_size is None:
            self._new_size = max(self.size, self._grow)
        first, last = self._drop
        if self._new_size < self.size or first * BLOCK < min(last * BLOCK, self.size):
            core.check_free(inode)  # blocks would be freed
        tail = min(-(-self.size // BLOCK) * BLOCK, self.offset)
        if self.size < tail and self._new_size > self.size:  # bytes behind the end were never cleared
            self._zeros = (*self._zeros, (self.size, tail))
        first, last = _blocks((self.offset, end)) if self.length else (0, 0)
        covered: list[Segment] = []
        for low, high in sorted({_blocks(zero) for zero in self._zeros}):
            for start, stop in ((low, min(high, first)), (max(low, last), high)):
                found = core.mapping(inode).within(start, max(stop - start, 0))
                covered += [segment for segment in found if segment.written]
        if first < last:
            covered += core.with_holes(inode, first, last)
        self._place(sorted(set(covered)))
        self._preallocate()
        self._changes.sort()
        for piece in self.pieces:
            core.medium.reserve(piece.address, piece.length)

    def _place(self, covered: list[Segment]) -> None:
        """Pieces for segments (block 0: a hole): where they are, or in new blocks."""
        core, space = self._core, self._core.store.space
        wanted: list[Segment] = []
        for segment in covered:
            start, block, count, written = segment
            if not block or core.log:
                wanted.append(segment)
                continue
            runs = space.shared(block, count) if self._inode.flags & SHARED else [(block, count, False)]
            for at, n, shared in runs:
                part = Segment(start + at - block, at, n, written)
                if shared:
                    wanted.append(part)
                    continue
                if not written:
                    self._changes.append((part._replace(written=True), False))
                self._add(part, at)
        if wanted:
            self._provide(wanted)
        self.pieces.sort()

    def _provide(self, wanted: list[Segment]) -> None:
        """New blocks for segments, one after the other."""
        runs = self._allocate_for(wanted)
        for segment, block, count in split(wanted, runs):
            self._changes.append((Segment(segment.start, block, count, True), True))
            self._add(segment, block)

    def _allocate_for(self, wanted: list[Segment]) -> list[Run]:
        """Reserve blocks for segments, if possible behind what is before them in the file."""
        first = wanted[0].start
        before = list(self._core.mapping(self._inode).within(first - 1, 1)) if first else []
        goal = before[0].block + 1 if before else None
        return self._core.allocate(sum(segment.blocks for segment in wanted), goal)

    def _add(self, segment: Segment, block: int) -> None:
        source = segment.block * BLOCK if segment.written else None
        self.pieces.append(Piece(segment.start * BLOCK, block * BLOCK, segment.blocks * BLOCK, source))

    def _preallocate(self) -> None:
        core, (first, last) = self._core, self._allocate
        holes = [] if first == last else core.with_holes(self._inode, first, last)
        holes = [segment for segment in holes if not segment.block]
        if holes:
            runs = self._allocate_for(holes)
            for segment, block, count in split(holes, runs):
                self._changes.append((Segment(segment.start, block, count, False), True))

    def _flush(self) -> None:
        core = self._core
        for part in self.parts():
            core.medium.flush(part.address, part.length)
        if core.log:
            for segment, new in self._changes:
                if new:
                    core.own(self._inode.number, segment)
        core.medium.fence()

    def _commit(self) -> None:
        core, inode, size = self._core, self._inode, self._new_size
        assert size is not None
        inode.modified, inode.touched = time.time_ns(), True
        if size < self.size:
            core.shrink(inode, size)
        core.unmap(inode, *self._drop)
        try:
            while self._changes:
                self._map_batch(inode, size)
        except BaseException:
            if inode.links and inode.flags & ORPHAN:
                core.finish(inode)
            raise
        if inode.size != size:
            with core.store.begin() as transaction:
                transaction.join(inode)
                self._finish(inode, size)

    def _map_batch(self, inode: Inode, size: int) -> None:
        """Map as many new blocks as one transaction can; with the last ones the file has its size.

        Before, it grows with what is written. Where blocks are only allocated, they lie behind its end
        for a while; so that a power failure leaves none there, it is an orphan meanwhile.
        """
        core, shared = self._core, bool(inode.flags & SHARED)
        batch = first_batch((segment for segment, _ in self._changes), core.store.batch, by_block=shared)
        whole, new = self._changes[len(batch) - 1]
        at = batch[-1].blocks
        rest = [(Segment(whole.start + at, whole.block + at, whole.blocks - at, whole.written), new)]
        rest = (rest if at < whole.blocks else []) + self._changes[len(batch) :]
        with core.store.begin() as transaction:
            transaction.join(inode)
            for segment, (_, new) in zip(batch, self._changes, strict=False):
                core.map(transaction, inode, segment, new)
            if not rest:
                self._finish(inode, size)
                if inode.links and inode.flags & ORPHAN:
                    core.inodes.adopt(transaction, inode)
            elif self._allocate == (0, 0):
                inode.size = max(inode.size, min(size, (batch[-1].start + at) * BLOCK))
            else:
                core.inodes.orphan(transaction, inode)
        self._changes = rest

    def _finish(self, inode: Inode, size: int) -> None:
        inode.size = size
        inode.changed = inode.modified


def _blocks(part: Range) -> Range:
    return part[0] // BLOCK, -(-part[1] // BLOCK)


def split(wanted: list[Segment], runs: list[Run]) -> Iterator[tuple[Segment, int, int]]:
    """Parts of segments beside blocks for them: (part, block, count)."""
    waiting = iter(runs)
    block = left = 0
    for start, old, count, written in wanted:
        done = 0
        while done < count:
            if not left:
                block, left = next(waiting)
            n = min(left, count - done)
            yield Segment(start + done, old + done if old else 0, n, written), block, n
            block, left, done = block + n, left - n, done + n
