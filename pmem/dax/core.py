"""What the files of a volume share: blocks given to inodes and taken from them, soundly.

The caller holds the volume's lock, but for `gate` and `make_room`.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from pmem.dax.errors import FileBusy
from pmem.dax.extents import Mapping, first_batch
from pmem.dax.inode import SHARED, Gate, Inode, Inodes, Segment
from pmem.dax.layout import BLOCK, OWNER
from pmem.dax.log import Log
from pmem.dax.space import Run
from pmem.dax.store import Store, Transaction
from pmem.dax.tree import Nodes

EVER = 1 << 52  # a file block behind all others


class Core:
    """The parts of a mounted volume."""

    def __init__(self, store: Store) -> None:
        self.store, self.medium = store, store.medium
        self.nodes, self.inodes = Nodes(store), Inodes(store)
        self.log = Log(store.space) if store.layout.log_structured else None
        self.clean: Callable[[], object] = lambda: None  # what to do when the log gets short of segments

    def close(self) -> None:
        """Let go of the medium."""
        self.store.space.close()
        self.medium.close()

    def make_room(self) -> None:
        """Let the cleaner run if the log is short of segments; the caller holds no lock."""
        if self.log and self.log.wants_cleaning():
            self.clean()

    def check_free(self, inode: Inode) -> None:
        """Raise FileBusy if the inode's blocks have to stay where they are."""
        if inode.holds:
            raise FileBusy(
                f"inode {inode.number} is mapped, so its blocks can't be moved, freed or shared: end its "
                "maps first"
            )

    def gate(self, inode: Inode) -> Gate:
        """Where readers and writers of an open file wait for each other."""
        assert inode.gate is not None
        return inode.gate

    def mapping(self, inode: Inode) -> Mapping:
        """The extents of a file."""
        return Mapping(self.nodes, inode)

    def with_holes(self, inode: Inode, first: int, last: int) -> list[Segment]:
        """All of a range of file blocks in order; holes have block 0."""
        result, at = [], first
        for segment in self.mapping(inode).within(first, last - first):
            if at < segment.start:
                result.append(Segment(at, 0, segment.start - at, False))
            result.append(segment)
            at = segment.start + segment.blocks
        if at < last:
            result.append(Segment(at, 0, last - at, False))
        return result

    def allocate(self, count: int, goal: int | None = None) -> list[Run]:
        """Reserve blocks for data: at the head of the log if there is one. Raises VolumeFull."""
        if self.log:
            return self.log.allocate(count)
        return self.store.allocate(count, goal)

    def map(self, transaction: Transaction, inode: Inode, segment: Segment, new: bool) -> None:
        """Map a segment in place of what is there; `new` if its blocks have only been reserved."""
        if new:
            transaction.use(segment.block, segment.blocks)
        removed = self.mapping(inode).replace(transaction, segment.start, segment.blocks, segment)
        if new:
            for old in removed:
                transaction.drop(old.block, old.blocks)

    def unmap(self, inode: Inode, first: int, last: int) -> None:
        """Free a range of file blocks, in as many transactions as the journal asks for."""
        while found := self._batch(inode, first, last):
            with self.store.begin(freeing=True) as transaction:
                self._unmap(transaction, inode, found)

    def _batch(self, inode: Inode, first: int, last: int) -> list[Segment]:
        found = self.mapping(inode).within(first, last - first)
        return first_batch(found, self.store.batch, by_block=bool(inode.flags & SHARED))

    def _unmap(self, transaction: Transaction, inode: Inode, found: list[Segment]) -> None:
        first, last = found[0].start, found[-1].start + found[-1].blocks
        for old in self.mapping(inode).replace(transaction, first, last - first):
            transaction.drop(old.block, old.blocks)

    def shrink(self, inode: Inode, size: int) -> None:
        """Make a file shorter. From the first transaction on it is, and mounting does the rest."""
        beyond = self._batch(inode, -(-size // BLOCK), EVER)
        late = bool(beyond) and beyond[-1].start + beyond[-1].blocks < self.mapping(inode).end()
        with self.store.begin(freeing=True) as transaction:
            transaction.join(inode)
            inode.size, inode.changed = size, inode.modified
            if late:
                self.inodes.orphan(transaction, inode)
            elif beyond:
                self._unmap(transaction, inode, beyond)
        if late:
            self.unmap(inode, -(-size // BLOCK), EVER)
            if inode.links:
                with self.store.begin(freeing=True) as transaction:
                    self.inodes.adopt(transaction, inode)

    def unlinked(self, transaction: Transaction, inode: Inode) -> None:
        """An inode has lost its name: free it at once if that is quick and it isn't open."""
        transaction.join(inode)
        inode.links = 0
        found = [] if inode.is_directory else self._batch(inode, 0, EVER)
        late = bool(found) and found[-1].start + found[-1].blocks < self.mapping(inode).end()
        if inode.opens or late:
            self.inodes.orphan(transaction, inode)
            return
        if found:
            self._unmap(transaction, inode, found)
        self._free(transaction, inode)

    def finish(self, inode: Inode) -> None:
        """Do what is left to do for an orphan that isn't open."""
        self.unmap(inode, -(-inode.size // BLOCK) if inode.links else 0, EVER)
        with self.store.begin(freeing=True) as transaction:
            if inode.links:
                self.inodes.adopt(transaction, inode)
            else:
                self._free(transaction, inode)

    def _free(self, transaction: Transaction, inode: Inode) -> None:
        transaction.join(inode)
        inode.set_attributes(transaction, {})
        self.inodes.free(transaction, inode)

    def own(self, number: int, segment: Segment) -> None:
        """Note in a log-structured volume whose newly reserved blocks those will be."""
        address, count = self.store.layout.owners + OWNER * segment.block, segment.blocks
        owners = np.empty((count, 2), "<u8")
        owners[:, 0] = number
        owners[:, 1] = np.arange(segment.start, segment.start + count, dtype=np.uint64)
        self.medium.reserve(address, OWNER * count)
        self.medium.store(address, owners.reshape(-1).view(np.uint8))
        self.medium.flush(address, OWNER * count)
