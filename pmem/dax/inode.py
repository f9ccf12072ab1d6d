"""Inodes: 256 bytes in a fixed table, with a checksum and a generation; free ones and orphans listed.

A few extents and the extended attributes lie in the inode itself as long as they fit. An orphan is
an inode with work left to do at the next mount: no name (it is freed), or blocks beyond its size.
"""

from __future__ import annotations

import stat
import struct
import threading
import time
from typing import NamedTuple

from pmem.dax.errors import AttributesTooLarge, StaleHandle, VolumeCorrupt, VolumeFull
from pmem.dax.layout import BLOCK, INODE, checksum
from pmem.dax.store import Store, Transaction

# crc, generation, mode, links, size (directories: entries), times modified, changed, born (ns), root of
# the tree, block of attributes, next and previous in a list, parent directory, flags, bytes of
# attributes, number of extents, 0
_HEAD = struct.Struct("<IIIIQqqqQQQQQHHHH")
ROOM = INODE - _HEAD.size  # bytes for attributes and extents
EXTENT = struct.Struct("<QQII")  # file block, block, count, written
EXTENT_VALUE = struct.Struct("<QII")  # the same without its key
ATTRIBUTES_INLINE = ROOM - 2 * EXTENT.size  # bytes of attributes that may lie in the inode
_ATTRIBUTE = struct.Struct("<BH")  # bytes of the name, of the value
_BLOB = struct.Struct("<IIQ")  # of a block of attributes: crc, bytes, inode number
BLOB_ROOM = BLOCK - _BLOB.size
ROOT = 1  # the root directory
SHARED, ORPHAN = 1, 2  # flags: some blocks may be shared; in the list of orphans
KEPT = 8192  # inodes kept in memory
FILE, DIRECTORY = stat.S_IFREG, stat.S_IFDIR


class Segment(NamedTuple):
    """A run of file blocks and the blocks that it lies in."""

    start: int  # file block
    block: int
    blocks: int
    written: bool


class Inode:
    """An inode in memory. What changes it joins a transaction first."""

    def __init__(self, store: Store, number: int) -> None:
        self._store, self.number = store, number
        self.address = store.layout.inode_table + number * INODE
        self.extents: list[Segment] | None = None  # None: not read yet
        self.starts: list[int] = []  # of the extents
        self.attributes: dict[bytes, bytes] = {}
        self.opens = 0  # how many open files there are
        self.holds = 0  # how often its blocks are in use directly, and have to stay
        self.version = 0  # of the mapping
        self.gate: Gate | None = None  # made when the file is opened
        self.maker: Transaction | None = None  # the transaction that has taken it into use
        self.touched = False  # the time of modification is newer than on the medium

    def reset(self, mode: int, generation: int) -> None:
        """Make it that of a new, empty file."""
        now = time.time_ns()
        self.generation, self.mode, self.links = generation, mode, 1
        self.size = self.root = self.attribute_block = 0
        self.next = self.previous = self.parent = self.flags = 0
        self.modified = self.changed = self.born = now
        self.extents, self.starts, self.attributes = [], [], {}

    @property
    def is_directory(self) -> bool:
        """Whether it is a directory's."""
        return stat.S_ISDIR(self.mode)

    def reload(self) -> None:
        """Read it from the medium. Raises VolumeCorrupt."""
        if self.maker is not None and self.maker is self._store.transaction:
            self.mode = 0  # it never came to be
            return
        data = self._store.medium.load(self.address, INODE)
        head = _HEAD.unpack_from(data)
        if head[0] != checksum(data[4:], self.number):
            raise VolumeCorrupt(
                f"block {self.address // BLOCK}: the checksum of inode {self.number} is wrong; "
                "its file can't be reached, others can"
            )
        (self.generation, self.mode, self.links, self.size, self.modified, self.changed, self.born) = head[
            1:8
        ]
        self.root, self.attribute_block, self.next, self.previous, self.parent, self.flags = head[8:14]
        length, count = head[14:16]
        self.attributes = {}
        self.touched = False
        self.version += 1
        if self.attribute_block:
            self.attributes = _parse(self._blob())
        elif length:
            self.attributes = _parse(data[_HEAD.size : _HEAD.size + length])
        self.extents = None
        if not self.root:
            at = _HEAD.size + (0 if self.attribute_block else length)
            inline = EXTENT.iter_unpack(data[at : at + count * EXTENT.size])
            self.extents = [Segment(start, block, n, bool(w)) for start, block, n, w in inline]
            self.starts = [segment.start for segment in self.extents]

    def encode(self) -> bytes:
        """As it lies on the medium."""
        blob = b"" if self.attribute_block or not self.attributes else _pack(self.attributes)
        count = 0
        body = blob
        if not self.root and self.extents:
            count = len(self.extents)
            body += b"".join([EXTENT.pack(*segment) for segment in self.extents])
        head = _HEAD.pack(
            *(0, self.generation, self.mode, self.links, self.size, self.modified, self.changed, self.born),
            *(self.root, self.attribute_block, self.next, self.previous, self.parent, self.flags),
            *(len(blob), count, 0),
        )
        data = (head + body).ljust(INODE, b"\0")
        self.touched = False
        return checksum(data[4:], self.number).to_bytes(4, "little") + data[4:]

    @property
    def inline_extents(self) -> int:
        """How many extents fit into the inode beside its attributes."""
        taken = 0 if self.attribute_block else _size(self.attributes)
        return (ROOM - taken) // EXTENT.size

    def set_attributes(self, transaction: Transaction, attributes: dict[bytes, bytes]) -> None:
        """Replace all extended attributes. Raises AttributesTooLarge, VolumeFull."""
        size = _size(attributes)
        if size > BLOB_ROOM:
            raise AttributesTooLarge(
                f"the extended attributes would take {size} bytes; a file has room for {BLOB_ROOM}"
            )
        transaction.join(self)
        if size > ATTRIBUTES_INLINE:
            if not self.attribute_block:
                self.attribute_block = transaction.new_node()
            data = _pack(attributes)
            body = _BLOB.pack(0, len(data), self.number)[4:] + data.ljust(BLOB_ROOM, b"\0")
            blob = checksum(body).to_bytes(4, "little") + body
            transaction.patch(self.attribute_block * BLOCK, blob)
        elif self.attribute_block:
            transaction.drop_node(self.attribute_block)
            self.attribute_block = 0
        self.attributes = dict(attributes)
        self.changed = time.time_ns()

    def _blob(self) -> bytes:
        layout, block = self._store.layout, self.attribute_block
        if not layout.first <= block < layout.last:
            raise VolumeCorrupt(f"inode {self.number} has its attributes in block {block}, no data block")
        data = self._store.medium.load(block * BLOCK, BLOCK)
        crc, length, number = _BLOB.unpack_from(data)
        if crc != checksum(data[4:]) or number != self.number or length > BLOB_ROOM:
            raise VolumeCorrupt(f"block {block}: the attributes of inode {self.number} are damaged")
        return data[_BLOB.size : _BLOB.size + length]


class Inodes:
    """The inode table of a mounted volume; the caller holds the volume's lock."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._kept: dict[int, Inode] = {}

    def get(self, number: int) -> Inode:
        """An inode that is in use. Raises StaleHandle, VolumeCorrupt."""
        inode = self._kept.pop(number, None)
        if inode is None or not inode.mode:
            if not 0 < number < self._store.state.high:
                raise StaleHandle(f"inode {number} has never been used")
            inode = Inode(self._store, number)
            inode.reload()
            if not inode.mode:
                raise StaleHandle(f"inode {number} is not in use: its file has been removed")
            self._keep(inode)
        else:
            self._kept[number] = inode
        return inode

    def new(self, transaction: Transaction, mode: int) -> Inode:
        """A new inode, with one link. Raises VolumeFull."""
        state = self._store.state
        transaction.join(state)
        if state.free:
            inode = Inode(self._store, state.free)
            inode.reload()
            if inode.mode:
                raise VolumeCorrupt(f"inode {inode.number} is in use and in the list of free ones")
            state.free, generation = inode.next, inode.generation
        elif state.high < self._store.layout.inodes:
            inode, generation = Inode(self._store, state.high), 1
            state.high += 1
        else:
            raise VolumeFull(
                f"all {state.high - 1} inodes are in use: remove files, or make the volume with more inodes"
            )
        inode.reset(mode, generation)
        inode.maker = transaction
        state.used += 1
        transaction.join(inode)
        self._keep(inode)
        return inode

    def free(self, transaction: Transaction, inode: Inode) -> None:
        """Give an inode back; it has no blocks any more."""
        state = self._store.state
        transaction.join(state)
        transaction.join(inode)
        if inode.flags & ORPHAN:
            self.adopt(transaction, inode)
        generation = (inode.generation + 1) % (1 << 32) or 1
        inode.reset(0, generation)
        inode.links, inode.next = 0, state.free
        state.free = inode.number
        state.used -= 1

    def orphan(self, transaction: Transaction, inode: Inode) -> None:
        """Put an inode into the list of those with work to do."""
        if inode.flags & ORPHAN:
            return
        state = self._store.state
        transaction.join(state)
        transaction.join(inode)
        inode.next, inode.previous = state.orphan, 0
        if state.orphan:
            second = self.get(state.orphan)
            transaction.join(second)
            second.previous = inode.number
        state.orphan = inode.number
        inode.flags |= ORPHAN

    def adopt(self, transaction: Transaction, inode: Inode) -> None:
        """Take an inode out of the list of orphans."""
        transaction.join(inode)
        if inode.previous:
            before = self.get(inode.previous)
            transaction.join(before)
            before.next = inode.next
        else:
            transaction.join(self._store.state)
            self._store.state.orphan = inode.next
        if inode.next:
            after = self.get(inode.next)
            transaction.join(after)
            after.previous = inode.previous
        inode.next = inode.previous = 0
        inode.flags &= ~ORPHAN

    def cached(self) -> list[Inode]:
        """Those in memory."""
        return list(self._kept.values())

    def _keep(self, inode: Inode) -> None:
        if len(self._kept) >= KEPT:
            running = self._store.transaction
            for number in list(self._kept)[: KEPT // 2]:
                old = self._kept[number]
                if not (old.opens or old.touched or (running and old in running)):
                    del self._kept[number]
        self._kept[inode.number] = inode


class Gate:
    """Shared by readers, held by one writer alone; writers go first. Not reentrant."""

    __slots__ = ("_changed", "_lock", "_readers", "_waiting", "_writing")

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._changed: threading.Condition | None = None  # made when somebody has to wait
        self._readers = self._waiting = 0  # inside; writers that wait
        self._writing = False

    @property
    def used(self) -> bool:
        """Whether somebody is inside."""
        return bool(self._readers or self._writing)

    def enter(self) -> None:
        """Come in as a reader."""
        with self._lock:
            while self._writing or self._waiting:
                self._wait()
            self._readers += 1

    def leave(self) -> None:
        """Go, as a reader."""
        with self._lock:
            self._readers -= 1
            if not self._readers and self._changed:
                self._changed.notify_all()

    def lock(self) -> None:
        """Come in as the writer."""
        with self._lock:
            self._waiting += 1
            try:
                while self._writing or self._readers:
                    self._wait()
                self._writing = True
            finally:
                self._waiting -= 1

    def try_lock(self) -> bool:
        """Come in as the writer if nobody is there."""
        with self._lock:
            if self._writing or self._readers or self._waiting:
                return False
            self._writing = True
            return True

    def unlock(self) -> None:
        """Go, as the writer."""
        with self._lock:
            self._writing = False
            if self._changed:
                self._changed.notify_all()

    def _wait(self) -> None:
        self._changed = self._changed or threading.Condition(self._lock)
        self._changed.wait()


def _size(attributes: dict[bytes, bytes]) -> int:
    return sum(_ATTRIBUTE.size + len(name) + len(value) for name, value in attributes.items())


def _pack(attributes: dict[bytes, bytes]) -> bytes:
    return b"".join(
        _ATTRIBUTE.pack(len(name), len(value)) + name + value for name, value in attributes.items()
    )


def _parse(blob: bytes) -> dict[bytes, bytes]:
    attributes, at = {}, 0
    while at < len(blob):
        name, value = _ATTRIBUTE.unpack_from(blob, at)
        at += _ATTRIBUTE.size
        attributes[blob[at : at + name]] = blob[at + name : at + name + value]
        at += name + value
    return attributes
