"""Metadata of a mounted volume: transactions over the journal, and the state of the volume."""

from __future__ import annotations

import struct
import threading
from types import TracebackType
from typing import Protocol

from pmem.dax.errors import VolumeCorrupt
from pmem.dax.journal import Fill, Journal, Patch
from pmem.dax.layout import BLOCK, OWNER, Layout, checksum
from pmem.dax.medium import Medium
from pmem.dax.space import Run, Space


class Joined(Protocol):
    """A piece of metadata in memory that a transaction changes."""

    @property
    def address(self) -> int:
        """Where it lies on the medium."""

    def encode(self) -> bytes:
        """What is to lie there."""

    def reload(self) -> None:
        """Forget the changes."""


class State:
    """The counters of a volume, 64 bytes with a checksum."""

    _FORMAT = struct.Struct("<QQQQ24x")  # first free inode, inodes ever used, first orphan, inodes in use

    def __init__(self, medium: Medium, address: int) -> None:
        self._medium, self.address = medium, address
        self.free = self.high = self.orphan = self.used = 0

    def encode(self) -> bytes:
        """As it lies on the medium."""
        body = self._FORMAT.pack(self.free, self.high, self.orphan, self.used)
        return checksum(body).to_bytes(8, "little") + body

    def reload(self) -> None:
        """Read it from the medium. Raises VolumeCorrupt."""
        data = self._medium.load(self.address, 8 + self._FORMAT.size)
        if int.from_bytes(data[:8], "little") != checksum(data[8:]):
            raise VolumeCorrupt(f"block {self.address // BLOCK}: the checksum of the volume's state is wrong")
        self.free, self.high, self.orphan, self.used = self._FORMAT.unpack(data[8:])


class Transaction:
    """Changes that happen together or not at all; as a context it commits, or undoes on an error."""

    def __init__(self, store: Store, *, freeing: bool) -> None:
        """`freeing`: it is to free space, and may use the blocks kept for that."""
        self._store, self._freeing = store, freeing
        self._joined: dict[int, Joined] = {}
        self._patches: list[Patch] = []
        self._fills: list[Fill] = []
        self._changes: list[tuple[int, int, int]] = []
        self._reserved: list[Run] = []  # nodes: given back if the transaction fails
        self._adopted: list[Run] = []  # data, reserved by somebody who gives them back himself
        self._nodes: set[int] = set()

    def join(self, thing: Joined) -> None:
        """Say that a piece of metadata changes."""
        self._joined[thing.address] = thing

    def leave(self, thing: Joined) -> None:
        """A piece of metadata is gone."""
        self._joined.pop(thing.address, None)

    def patch(self, address: int, data: bytes) -> None:
        """Put bytes (multiples of 8) at an address."""
        self._patches.append((address, data))

    def fill(self, address: int, count: int, value: int) -> None:
        """Put a u16 `count` times at an address."""
        self._fills.append((address, count, value))

    def use(self, block: int, count: int) -> None:
        """Reserved data blocks get their first reference."""
        self._adopted.append((block, count))
        self._changes.append((block, count, 1))

    def share(self, block: int, count: int) -> None:
        """Data blocks get one more reference."""
        self._changes.append((block, count, 1))

    def drop(self, block: int, count: int) -> None:
        """Data blocks lose a reference."""
        self._changes.append((block, count, -1))

    def new_node(self) -> int:
        """A block for metadata. Raises VolumeFull."""
        store = self._store
        if store.space.total <= (0 if self._freeing else store.space.reserve) and store.space.delayed:
            store.journal.checkpoint()
        store.space.need(1, metadata=self._freeing)
        block = store.space.node()
        self._reserved.append((block, 1))
        self._changes.append((block, 1, 1))
        store.disown(block)
        return block

    def drop_node(self, block: int) -> None:
        """A block of metadata is free; it isn't used for data while the journal may write to it."""
        self._nodes.add(block)
        self._changes.append((block, 1, -1))

    def __enter__(self) -> Transaction:
        self._store.lock.acquire()
        assert self._store.transaction is None
        self._store.transaction = self
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            if error is None:
                try:
                    self._commit()
                except BaseException:
                    self._undo()
                    raise
            else:
                self._undo()
        finally:
            self._store.transaction = None
            self._store.lock.release()

    def _commit(self) -> None:
        space = self._store.space
        patches = [(thing.address, thing.encode()) for thing in self._joined.values()]
        patches += self._patches
        if not patches and not self._changes:
            return
        counts, fills, freed = space.settle(self._changes)
        self._store.journal.commit(patches + counts, self._fills + fills)
        self._joined.clear()
        space.settled(self._reserved + self._adopted, freed, self._nodes)

    def _undo(self) -> None:
        for thing in self._joined.values():
            thing.reload()
        for block, count in self._reserved:
            self._store.space.release(block, count, reserved=True)

    def __contains__(self, thing: Joined) -> bool:
        return thing.address in self._joined


class Store:
    """The metadata that a volume's parts share. `lock` guards all of it."""

    def __init__(self, medium: Medium, layout: Layout) -> None:
        self.medium, self.layout = medium, layout
        self.lock = threading.RLock()
        self.transaction: Transaction | None = None
        self.journal = Journal(medium, layout)
        self.replayed = self.journal.recover()
        self.state = State(medium, layout.state)
        self.state.reload()
        self.space = Space(medium, layout)
        self.journal.checkpointed = self.space.release_delayed

    def begin(self, *, freeing: bool = False) -> Transaction:
        """A transaction, one at a time; `freeing` if it is to free space."""
        return Transaction(self, freeing=freeing)

    def allocate(self, count: int, goal: int | None = None) -> list[Run]:
        """Reserve data blocks. Raises VolumeFull."""
        if count > self.space.total - self.space.reserve and self.space.delayed:
            self.journal.checkpoint()
        return self.space.allocate(count, goal)

    def disown(self, block: int) -> None:
        """In a log-structured volume: a block belongs to no file."""
        if self.layout.log_structured:
            address = self.layout.owners + OWNER * block
            self.medium.reserve(address, OWNER)
            self.medium.store(address, bytes(OWNER))
            self.medium.flush(address, OWNER)

    @property
    def batch(self) -> int:
        """How many extents one transaction can change, with room to spare in the journal."""
        return max(16, (self.journal.capacity - (64 << 10)) // 192)
