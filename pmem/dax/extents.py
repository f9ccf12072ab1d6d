"""The mapping of a file: sorted extents in memory, in the inode or in a tree on the medium."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable, Iterator
from itertools import islice

from pmem.dax.errors import VolumeCorrupt
from pmem.dax.inode import EXTENT_VALUE, Inode, Segment
from pmem.dax.store import Transaction
from pmem.dax.tree import Nodes, Tree

LONGEST = (1 << 32) - 1  # blocks of an extent


class Mapping:
    """The extents of one inode; the caller holds the volume's lock."""

    def __init__(self, nodes: Nodes, inode: Inode) -> None:
        self._inode, self._tree = inode, Tree(nodes, inode)

    def all(self) -> list[Segment]:
        """Every extent, in order. Raises VolumeCorrupt."""
        inode = self._inode
        if inode.extents is None:
            found = []
            for start, value in self._tree.items():
                if len(value) != EXTENT_VALUE.size:
                    raise VolumeCorrupt(f"inode {inode.number}: an extent of {len(value)} bytes")
                block, count, written = EXTENT_VALUE.unpack(value)
                found.append(Segment(start, block, count, bool(written)))
            inode.extents, inode.starts = found, [segment.start for segment in found]
        return inode.extents

    def within(self, first: int, count: int) -> Iterator[Segment]:
        """The parts of extents in a range of file blocks; holes are left out."""
        extents, end = self.all(), first + count
        for at in range(max(bisect_right(self._inode.starts, first) - 1, 0), len(extents)):
            start, block, n, written = extents[at]
            low, high = max(start, first), min(start + n, end)
            if low < high:
                yield Segment(low, block + low - start, high - low, written)
            elif start >= end:
                return

    def end(self) -> int:
        """The file block after the last extent."""
        extents = self.all()
        return extents[-1].start + extents[-1].blocks if extents else 0

    def replace(
        self, transaction: Transaction, first: int, count: int, new: Segment | None = None
    ) -> list[Segment]:
        """Unmap a range and map `new` there, if given; what was mapped. Raises VolumeFull.

        Reference counts are the caller's.
        """
        inode, extents = self._inode, self.all()
        starts, end = inode.starts, first + count
        transaction.join(inode)
        low = max(bisect_right(starts, first) - 1, 0)
        while low < len(extents) and extents[low].start + extents[low].blocks <= first:
            low += 1
        high = low
        removed: list[Segment] = []
        made: list[Segment] = []
        tail: list[Segment] = []
        while high < len(extents) and starts[high] < end:
            start, block, n, written = extents[high]
            if start < first:
                made.append(Segment(start, block, first - start, written))
            left, right = max(start, first), min(start + n, end)
            removed.append(Segment(left, block + left - start, right - left, written))
            if start + n > end:
                tail.append(Segment(end, block + end - start, start + n - end, written))
            high += 1
        made += ([new] if new else []) + tail
        if low > 0:
            low -= 1
            made.insert(0, extents[low])
        if high < len(extents):
            made.append(extents[high])
            high += 1
        made = _joined(made)
        old = extents[low:high]
        extents[low:high] = made
        starts[low:high] = [segment.start for segment in made]
        inode.version += 1
        self._record(transaction, old, made)
        return removed

    def fit(self, transaction: Transaction) -> None:
        """Move the extents to a tree if they no longer fit into the inode. Raises VolumeFull."""
        inode = self._inode
        if not inode.root and not inode.is_directory and len(self.all()) > inode.inline_extents:
            for start, *value in self.all():
                self._tree.set(transaction, start, EXTENT_VALUE.pack(*value))

    def _record(self, transaction: Transaction, old: list[Segment], made: list[Segment]) -> None:
        inode = self._inode
        if not inode.root:
            self.fit(transaction)
            return
        now, before = {segment.start for segment in made}, set(old)
        for segment in made:
            if segment not in before:
                self._tree.set(transaction, segment.start, EXTENT_VALUE.pack(*segment[1:]))
        for segment in old:
            if segment.start not in now:
                self._tree.delete(transaction, segment.start)


def first_batch(segments: Iterable[Segment], limit: int, *, by_block: bool) -> list[Segment]:
    """The first segments, as many as one transaction can change: `limit` extents, or blocks.

    Blocks are what counts where some are shared, as each may have another reference count.
    """
    batch: list[Segment] = []
    for segment in islice(segments, limit):
        batch.append(segment._replace(blocks=min(segment.blocks, limit)) if by_block else segment)
        limit -= segment.blocks if by_block else 0
        if limit <= 0:
            break
    return batch


def _joined(segments: list[Segment]) -> list[Segment]:
    """Neighbours that continue each other made one."""
    result = segments[:1]
    for segment in segments[1:]:
        start, block, count, written = result[-1]
        if (
            segment.start == start + count
            and segment.block == block + count
            and segment.written == written
            and count + segment.blocks <= LONGEST
        ):
            result[-1] = Segment(start, block, count + segment.blocks, written)
        else:
            result.append(segment)
    return result
