"""A B+tree of 4 KiB nodes: 64-bit keys to short values, both sorted in the node, with a CRC-32.

Nodes are kept decoded in memory while they are in use. A child holds the keys from its own key in
the parent up to the next one's; the first child of a node also what is below.
"""

from __future__ import annotations

import struct
from bisect import bisect_left, bisect_right
from collections.abc import Iterator
from typing import Protocol

from pmem.dax.errors import VolumeCorrupt
from pmem.dax.layout import BLOCK, checksum
from pmem.dax.store import Store, Transaction

_HEAD = struct.Struct("<IHHQQQ")  # crc, level, count, block, owner's inode number, 0
ROOM = BLOCK - _HEAD.size  # bytes for keys, lengths and values
LEAF_ENTRY, CHILD_ENTRY = 10, 16  # bytes of a key and a length, of a key and a child
LARGEST = (ROOM - 4 * LEAF_ENTRY) // 4  # bytes of a value: four fit into a leaf
KEPT = 4096  # decoded nodes kept in memory
_SIMPLE = [struct.Struct(f"<{count}Q{count}H") for count in range(ROOM // LEAF_ENTRY + 1)]


class Owner(Protocol):
    """What a tree hangs from: an inode."""

    number: int
    root: int


class Node:
    """A node in memory: sorted keys, and beside them values (bytes) or, above leaves, children (blocks)."""

    __slots__ = ("block", "children", "keys", "level", "nodes", "owner", "used", "values")

    def __init__(self, nodes: Nodes, block: int, owner: int, level: int) -> None:
        self.nodes, self.block, self.owner, self.level = nodes, block, owner, level
        self.keys: list[int] = []
        self.values: list[bytes] = []
        self.children: list[int] = []
        self.used = 0  # bytes of ROOM

    @property
    def address(self) -> int:
        """Where it lies on the medium."""
        return self.block * BLOCK

    def encode(self) -> bytes:
        """As it lies on the medium."""
        count = len(self.keys)
        if self.level:
            body = struct.pack(f"<{2 * count}Q", *self.keys, *self.children)
        else:
            lengths = map(len, self.values)
            body = b"".join((_SIMPLE[count].pack(*self.keys, *lengths), *self.values))
        head = _HEAD.pack(0, self.level, count, self.block, self.owner, 0)[4:]
        data = (head + body).ljust(BLOCK - 4, b"\0")
        return checksum(data).to_bytes(4, "little") + data

    def reload(self) -> None:
        """Forget it: it is read again when it is needed."""
        self.nodes.forget(self.block)


class Nodes:
    """The decoded nodes of a volume, least recently used first."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._kept: dict[int, Node] = {}

    def get(self, block: int, owner: int) -> Node:
        """A node. Raises VolumeCorrupt."""
        node = self._kept.pop(block, None)
        if node is None:
            node = self._decode(block, owner)
            if len(self._kept) >= KEPT:
                self._trim()
        self._kept[block] = node
        return node

    def new(self, transaction: Transaction, owner: int, level: int) -> Node:
        """A new, empty node. Raises VolumeFull."""
        node = Node(self, transaction.new_node(), owner, level)
        self._kept[node.block] = node
        transaction.join(node)
        return node

    def drop(self, transaction: Transaction, node: Node) -> None:
        """A node is no longer needed."""
        self.forget(node.block)
        transaction.leave(node)
        transaction.drop_node(node.block)

    def forget(self, block: int) -> None:
        """Read a node from the medium the next time."""
        self._kept.pop(block, None)

    def clear(self) -> None:
        """Read all nodes from the medium the next time; no transaction may be running."""
        self._kept.clear()

    def _trim(self) -> None:
        running = self._store.transaction
        for block in list(self._kept)[: KEPT // 2]:
            if running is None or self._kept[block] not in running:
                del self._kept[block]

    def _decode(self, block: int, owner: int) -> Node:
        layout = self._store.layout
        if not layout.first <= block < layout.last:
            raise VolumeCorrupt(f"a tree of inode {owner} points to block {block}, which isn't a data block")
        data = self._store.medium.load(block * BLOCK, BLOCK)
        crc, level, count, place, whose, _ = _HEAD.unpack_from(data)
        if crc != checksum(memoryview(data)[4:]):
            raise VolumeCorrupt(f"block {block}: the checksum of a tree node of inode {owner} is wrong")
        if place != block or whose != owner:
            raise VolumeCorrupt(
                f"block {block}: a tree node of inode {owner} was expected, "
                f"this is one of inode {whose} for block {place}"
            )
        node = Node(self, block, owner, level)
        if level:
            words = struct.unpack_from(f"<{2 * count}Q", data, _HEAD.size)
            node.keys, node.children = list(words[:count]), list(words[count:])
            node.used = count * CHILD_ENTRY
        else:
            words = _SIMPLE[count].unpack_from(data, _HEAD.size)
            node.keys = list(words[:count])
            at = _HEAD.size + count * LEAF_ENTRY
            append = node.values.append
            for length in words[count:]:
                append(data[at : at + length])
                at += length
            node.used = at - _HEAD.size
        return node


Path = list[tuple[Node, int]]  # from the root: a node and the index of the child taken


class Tree:
    """The tree of an inode, whose `root` is 0 while it is empty. The caller holds the lock."""

    def __init__(self, nodes: Nodes, owner: Owner) -> None:
        self._nodes, self._owner = nodes, owner

    def get(self, key: int) -> bytes | None:
        """The value of a key. Raises VolumeCorrupt, as all calls do."""
        if not self._owner.root:
            return None
        leaf, _ = self._descend(key)
        at = bisect_left(leaf.keys, key)
        return leaf.values[at] if at < len(leaf.keys) and leaf.keys[at] == key else None

    def items(self, first: int = 0) -> Iterator[tuple[int, bytes]]:
        """Keys from `first` on with their values, in order; the tree may change between leaves."""
        at: int | None = first
        while at is not None and self._owner.root:
            leaf, path = self._descend(at)
            entries = list(zip(leaf.keys, leaf.values, strict=True))[bisect_left(leaf.keys, at) :]
            uppers = (node.keys[index + 1] for node, index in reversed(path) if index + 1 < len(node.keys))
            at = next(uppers, None)
            yield from entries

    def set(self, transaction: Transaction, key: int, value: bytes) -> None:
        """Insert or replace. `transaction` must have joined the owner. Raises VolumeFull."""
        if not self._owner.root:
            self._owner.root = self._nodes.new(transaction, self._owner.number, 0).block
        leaf, path = self._descend(key)
        transaction.join(leaf)
        at = bisect_left(leaf.keys, key)
        if at < len(leaf.keys) and leaf.keys[at] == key:
            leaf.used += len(value) - len(leaf.values[at])
            leaf.values[at] = value
        else:
            leaf.keys.insert(at, key)
            leaf.values.insert(at, value)
            leaf.used += LEAF_ENTRY + len(value)
        while leaf.used > ROOM:
            right = self._split(transaction, leaf, path)
            leaf = right if right.used > ROOM else leaf

    def delete(self, transaction: Transaction, key: int) -> None:
        """Remove a key that is there. `transaction` must have joined the owner."""
        leaf, path = self._descend(key)
        at = bisect_left(leaf.keys, key)
        if at == len(leaf.keys) or leaf.keys[at] != key:
            raise VolumeCorrupt(f"block {leaf.block}: key {key} of inode {self._owner.number} is missing")
        transaction.join(leaf)
        leaf.used -= LEAF_ENTRY + len(leaf.values[at])
        del leaf.keys[at], leaf.values[at]
        self._shrink(transaction, leaf, path)

    def _descend(self, key: int) -> tuple[Node, Path]:
        number, get = self._owner.number, self._nodes.get
        node = get(self._owner.root, number)
        path: Path = []
        while node.level:
            at = bisect_right(node.keys, key) - 1
            at = max(at, 0)
            path.append((node, at))
            child = get(node.children[at], number)
            if child.level != node.level - 1:
                raise VolumeCorrupt(
                    f"block {child.block}: a tree node of level {child.level} under one of {node.level}"
                )
            node = child
        return node, path

    def _split(self, transaction: Transaction, node: Node, path: Path) -> Node:
        """Move the upper half of a node into a new one, which is returned; `path` leads to the node."""
        if not path:
            root = self._nodes.new(transaction, self._owner.number, node.level + 1)
            root.keys, root.children, root.used = [0], [node.block], CHILD_ENTRY
            self._owner.root = root.block
            path.append((root, 0))
        right = self._nodes.new(transaction, self._owner.number, node.level)
        at = _middle(node)
        right.keys, node.keys = node.keys[at:], node.keys[:at]
        right.values, node.values = node.values[at:], node.values[:at]
        right.children, node.children = node.children[at:], node.children[:at]
        _measure(node)
        _measure(right)
        parent, index = path[-1]
        transaction.join(parent)
        parent.keys.insert(index + 1, right.keys[0])
        parent.children.insert(index + 1, right.block)
        parent.used += CHILD_ENTRY
        if parent.used > ROOM:
            above = path[:-1]
            sibling = self._split(transaction, parent, above)
            if index >= len(parent.keys):
                path[-1] = (sibling, index - len(parent.keys))
            path[:-1] = above
        return right

    def _shrink(self, transaction: Transaction, node: Node, path: Path) -> None:
        """After a removal: join a node that is nearly empty with a neighbour, up to the root."""
        while path:
            if node.used > ROOM // 4:
                return
            parent, index = path.pop()
            if not node.keys:
                self._cut(transaction, parent, index)
                self._nodes.drop(transaction, node)
            elif len(parent.keys) > 1:
                left = max(index - 1, 0)
                pair = [self._nodes.get(parent.children[i], node.owner) for i in (left, left + 1)]
                if sum(each.used for each in pair) > ROOM * 3 // 4:
                    return
                self._join(transaction, parent, left, pair[0], pair[1])
            node = parent
        if not node.level and not node.keys:
            self._owner.root = 0
            self._nodes.drop(transaction, node)
        while node.level and len(node.keys) <= 1:
            self._owner.root = node.children[0] if node.keys else 0
            self._nodes.drop(transaction, node)
            if not self._owner.root:
                return
            node = self._nodes.get(self._owner.root, self._owner.number)

    def _cut(self, transaction: Transaction, parent: Node, index: int) -> None:
        transaction.join(parent)
        del parent.keys[index], parent.children[index]
        parent.used -= CHILD_ENTRY

    def _join(self, transaction: Transaction, parent: Node, index: int, left: Node, right: Node) -> None:
        """Move all of `right` to `left`; what its first child holds begins at its key in the parent."""
        transaction.join(left)
        if right.level:
            right.keys[0] = parent.keys[index + 1]
        left.keys += right.keys
        left.values += right.values
        left.children += right.children
        left.used += right.used
        self._cut(transaction, parent, index + 1)
        self._nodes.drop(transaction, right)


def _middle(node: Node) -> int:
    """Where to split: in half by bytes, and at least one entry on each side."""
    if node.level:
        return len(node.keys) // 2
    half, at = node.used // 2, 0
    while half > 0:
        half -= LEAF_ENTRY + len(node.values[at])
        at += 1
    return min(max(at, 1), len(node.keys) - 1)


def _measure(node: Node) -> None:
    if node.level:
        node.used = len(node.keys) * CHILD_ENTRY
    else:
        node.used = len(node.keys) * LEAF_ENTRY + sum(map(len, node.values))
