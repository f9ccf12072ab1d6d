"""A B-tree of integers with undo logging: operations that change many lines, each there whole or not at all.

    python examples/crash/btree.py
    mktme crash examples/crash/btree.py
    mktme crash examples/crash/btree.py --program missing_undo_flush

    line 0      magic (8 bytes), offset of the root (8)
    from 64 on  the undo log: in a line how many lines it has (8), then where each belongs (8 each), then
                the lines as they were
    then        nodes of two lines: level (4; 0 is a leaf), number of keys (4), 7 keys, 8 children or values

Values lie in the leaves; key i of an inner node is at most the least key below child i + 1.

The order that it lives by, with a fence (flush, drain) after each step:
1. the lines that an operation is about to change, and where they belong, are copied into the undo log;
2. their number is stored, one aligned store of 8 bytes: from here on a restart undoes;
3. the lines are changed in place, and new nodes are written;
4. the number is set to 0: the operation is done, and a restart leaves it.
Opening the tree puts back what the undo log has, then sets its number to 0; interrupted, it does so again.
New nodes need no undoing, as nothing in place leads to them before step 3. Which nodes are free is not
kept: opening finds those that the root doesn't reach. A node that an operation frees is used again by the
next one at the earliest, since undoing may need it.

It relies on power-fail atomicity of 64 bytes: a line reaches the medium whole, with what a scheme keeps
beside it. Unencrypted, 8 bytes would do: changed lines may be torn, as undoing replaces them. Under a
cipher of 16-byte blocks a number torn from the other half of its block is lost, and with it the undo log.
Where a scheme's counters aren't persisted together with their line, no order of stores helps.
"""

from __future__ import annotations

import os
import struct
import tempfile
from bisect import bisect_left, bisect_right
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import mktme
import pmem

SIZE = "8KiB"

MAGIC = int.from_bytes(b"mktmebtr", "little")
AT_MAGIC, AT_ROOT, AT_UNDO = 0, 8, 64
WORD = struct.Struct("<Q")
LINE = 64
NODE = struct.Struct("<II7Q8Q")
KEYS = 7  # of a node at most
FEWEST = 3  # keys of a node but the root
LIMIT = 1 << 64


class Undo:
    """An undo log of `ENTRIES` lines at an offset of a region. `recover` comes first.

    An operation changes at most 4 n + 3 lines of a tree whose root is of level n: the root, two nodes of
    each level below, and the line that says where the root is.
    """

    ENTRIES = 48
    SIZE = LINE + ENTRIES * WORD.size + ENTRIES * LINE

    def __init__(self, region: mktme.Region, offset: int) -> None:
        self.region = region
        self._count = offset
        self._places = offset + LINE
        self._lines = self._places + self.ENTRIES * WORD.size

    def format(self) -> None:
        """Make it empty; durable on return."""
        self._set_count(0)

    def recover(self) -> int:
        """Undo an operation that was interrupted; returns how many lines were put back.

        Raises ValueError if the log is damaged; nothing is changed then.
        """
        count = load(self.region, self._count)
        if count > self.ENTRIES:
            raise ValueError(f"the undo log says {count} lines, and has room for {self.ENTRIES}")
        places = [load(self.region, self._places + i * WORD.size) for i in range(count)]
        for place in places:
            if place % LINE or place >= self.region.size or self._count <= place < self._count + self.SIZE:
                raise ValueError(f"the undo log has a line for {place}, where none of the tree lies")
        for i, place in enumerate(places):
            self._put(place, self._line(i))
        self.region.drain()
        if count:
            self._set_count(0)
        return count

    def change(self, lines: dict[int, bytes], fresh: set[int]) -> None:
        """Have lines change together, by their offsets; durable on return. Those in `fresh` aren't kept.

        Raises ValueError if there are too many; nothing is changed then.
        """
        kept = [place for place in lines if place not in fresh]
        if len(kept) > self.ENTRIES:
            raise ValueError(f"{len(kept)} lines change at once; the undo log has room for {self.ENTRIES}")
        self.region.write(self._places, b"".join(map(WORD.pack, kept)))
        self.region.write(self._lines, b"".join(self.region.read(place, LINE) for place in kept))
        self._make_durable(len(kept))
        self._set_count(len(kept))
        for place, line in lines.items():
            self._put(place, line)
        self.region.drain()
        self._set_count(0)

    def _make_durable(self, count: int) -> None:
        """What the log keeps is durable on return."""
        self.region.flush(self._places, count * WORD.size)
        self.region.flush(self._lines, count * LINE)
        self.region.drain()

    def _set_count(self, count: int) -> None:
        store(self.region, self._count, count)
        self.region.persist(self._count, WORD.size)

    def _line(self, i: int) -> bytes:
        return self.region.read(self._lines + i * LINE, LINE)

    def _put(self, place: int, line: bytes) -> None:
        self.region.write(place, line)
        self.region.flush(place, LINE)


class UndoWithoutFlush(Undo):
    """The bug: a fence alone. Lines change in place while their copies are still in the cache."""

    def _make_durable(self, count: int) -> None:
        self.region.drain()


AT_NODES = AT_UNDO + Undo.SIZE


@dataclass(slots=True)
class Node:
    """A node, outside of the region: where it belongs, its keys, and its children's offsets or its values."""

    offset: int
    level: int
    keys: list[int]
    slots: list[int]

    @classmethod
    def unpack(cls, offset: int, data: bytes) -> Node:
        """A node of its 128 bytes. Raises ValueError if they can't be one."""
        level, count, *words = NODE.unpack(data)
        if count > KEYS:
            raise ValueError(f"the node at {offset} has {count} keys, and room for {KEYS}")
        keys, slots = words[:count], words[KEYS : KEYS + count + (level > 0)]
        return cls(offset, level, keys, slots)

    def pack(self) -> bytes:
        """Its 128 bytes."""
        keys = self.keys + [0] * (KEYS - len(self.keys))
        slots = self.slots + [0] * (KEYS + 1 - len(self.slots))
        return NODE.pack(self.level, len(self.keys), *keys, *slots)


class BTree:
    """A map of integers to integers, 0 to 2^64 - 1, on a region that `format` has prepared.

    Opening it undoes what was interrupted. Raises ValueError if there is no tree (another key makes
    noise of it, too), or if it is damaged.
    """

    def __init__(self, region: mktme.Region, undo: type[Undo] = Undo) -> None:
        if not formatted(region):
            raise ValueError("there is no tree in the region, or it is under another key: format makes one")
        self.region = region
        self._undo = undo(region, AT_UNDO)
        self.undone = self._undo.recover()
        self._root = load(region, AT_ROOT)
        used = self._reached()
        self._free = [at for at in range(AT_NODES, region.size - NODE.size + 1, NODE.size) if at not in used]
        self._free.reverse()  # the lowest is taken first
        self._begin()

    def get(self, key: int) -> int | None:
        """The value of a key, or None."""
        node = self._load(self._root)
        while node.level:
            node = self._load(node.slots[bisect_right(node.keys, key)])
        i = bisect_left(node.keys, key)
        return node.slots[i] if i < len(node.keys) and node.keys[i] == key else None

    def items(self) -> list[tuple[int, int]]:
        """All keys with their values, in order."""
        return list(self._items(self._load(self._root)))

    def put(self, key: int, value: int) -> None:
        """Give a key a value; durable on return.

        Raises ValueError for integers that don't fit 64 bits, and if there may be no room: a node of
        each level may split.
        """
        if not (0 <= key < LIMIT and 0 <= value < LIMIT):
            raise ValueError(f"{key} and {value} are to be from 0 to 2^64 - 1")
        self._begin()
        root = self._take(self._root)
        if len(self._free) < root.level + 2:
            raise ValueError(f"there may be no room for another key: {len(self._free)} nodes are free")
        if split := self._put(root, key, value):
            separator, right = split
            root = self._new(root.level + 1, [separator], [root.offset, right.offset])
        self._commit(root.offset)

    def delete(self, key: int) -> None:
        """Take a key out; durable on return. Raises KeyError."""
        if self.get(key) is None:
            raise KeyError(key)
        self._begin()
        root = self._take(self._root)
        self._delete(root, key)
        if root.keys or not root.level:
            self._commit(root.offset)
        else:
            self._drop(root)
            self._commit(root.slots[0])

    def _begin(self) -> None:
        self._taken: dict[int, Node] = {}
        self._fresh: list[int] = []  # of the free nodes, the last
        self._freed: list[int] = []

    def _commit(self, root: int) -> None:
        lines: dict[int, bytes] = {}
        fresh: set[int] = set()
        for offset, node in self._taken.items():
            data = node.pack()
            for at in range(0, NODE.size, LINE):
                line = data[at : at + LINE]
                if offset in self._fresh:
                    fresh.add(offset + at)
                elif line == self.region.read(offset + at, LINE):
                    continue
                lines[offset + at] = line
        if root != self._root:
            lines[AT_MAGIC] = root_line(root)
        if lines:
            self._undo.change(lines, fresh)
        self._root = root
        self._free = self._free[: len(self._free) - len(self._fresh)] + self._freed

    def _take(self, offset: int) -> Node:
        """A node that may be changed."""
        if offset not in self._taken:
            self._taken[offset] = self._load(offset)
        return self._taken[offset]

    def _new(self, level: int, keys: list[int], slots: list[int]) -> Node:
        offset = self._free[-1 - len(self._fresh)]
        node = self._taken[offset] = Node(offset, level, keys, slots)
        self._fresh.append(offset)
        return node

    def _drop(self, node: Node) -> None:
        del self._taken[node.offset]
        self._freed.append(node.offset)

    def _put(self, node: Node, key: int, value: int) -> tuple[int, Node] | None:
        """Put below a node; a node that it was split into, and the key between the two, or None."""
        if node.level:
            i = bisect_right(node.keys, key)
            if split := self._put(self._take(node.slots[i]), key, value):
                node.keys.insert(i, split[0])
                node.slots.insert(i + 1, split[1].offset)
        else:
            i = bisect_left(node.keys, key)
            if i < len(node.keys) and node.keys[i] == key:
                node.slots[i] = value
            else:
                node.keys.insert(i, key)
                node.slots.insert(i, value)
        return self._split(node) if len(node.keys) > KEYS else None

    def _split(self, node: Node) -> tuple[int, Node]:
        middle = len(node.keys) // 2
        separator = node.keys[middle]
        onward = middle + (node.level > 0)  # an inner node gives its middle key away
        right = self._new(node.level, node.keys[onward:], node.slots[onward:])
        del node.keys[middle:], node.slots[onward:]
        return separator, right

    def _delete(self, node: Node, key: int) -> None:
        """Delete below a node; it may have a key too few then."""
        if not node.level:
            i = node.keys.index(key)
            del node.keys[i], node.slots[i]
            return
        i = bisect_right(node.keys, key)
        child = self._take(node.slots[i])
        self._delete(child, key)
        if len(child.keys) < FEWEST:
            self._refill(node, i)

    def _refill(self, parent: Node, i: int) -> None:
        """Share out the keys of child i, which has one too few, and of its neighbour, or merge the two."""
        i = max(i - 1, 0)  # the two are children i and i + 1
        left, right = self._take(parent.slots[i]), self._take(parent.slots[i + 1])
        between = [parent.keys[i]] if left.level else []  # an inner node's keys run through its parent's
        keys, slots = left.keys + between + right.keys, left.slots + right.slots
        if len(keys) <= KEYS:
            left.keys, left.slots = keys, slots
            del parent.keys[i], parent.slots[i + 1]
            self._drop(right)
            return
        middle = len(keys) // 2
        onward = middle + (left.level > 0)
        parent.keys[i] = keys[middle]
        left.keys, left.slots = keys[:middle], slots[:onward]
        right.keys, right.slots = keys[onward:], slots[onward:]

    def _load(self, offset: int) -> Node:
        return Node.unpack(offset, self.region.read(offset, NODE.size))

    def _items(self, node: Node) -> Iterator[tuple[int, int]]:
        if not node.level:
            yield from zip(node.keys, node.slots, strict=True)
            return
        for offset in node.slots:
            yield from self._items(self._load(offset))

    def _reached(self) -> set[int]:
        """The nodes of the tree. Raises ValueError if it isn't one: see `_look`."""
        found: set[int] = set()
        self._look(self._root, None, 0, LIMIT, found)
        return found

    def _look(self, offset: int, level: int | None, low: int, high: int, found: set[int]) -> None:
        """Look at all nodes below one: each is there once, with its keys in order and between the two
        of its parent, none below `FEWEST`, and leaves at one level.
        """
        if offset in found or offset < AT_NODES or (offset - AT_NODES) % NODE.size:
            raise ValueError(f"a link leads to {offset}, " + ("again" if offset in found else "not a node"))
        if offset + NODE.size > self.region.size:
            raise ValueError(f"a link leads to {offset}, beyond the region of {self.region.size} bytes")
        found.add(offset)
        node = self._load(offset)
        if level not in (None, node.level):
            raise ValueError(f"the node at {offset} is of level {node.level}, where {level} is to be")
        if len(node.keys) < (FEWEST if level is not None else min(node.level, 1)):
            raise ValueError(f"the node at {offset} has {len(node.keys)} keys")
        bounds = [low, *node.keys, high]
        inside = all(low <= key < high for key in node.keys)
        if not inside or sorted(set(node.keys)) != node.keys:
            raise ValueError(f"the keys of the node at {offset} are out of order: {node.keys}")
        if node.level:
            for i, child in enumerate(node.slots):
                self._look(child, node.level - 1, bounds[i], bounds[i + 1], found)


def format(region: mktme.Region) -> None:
    """Make an empty tree. The magic goes first and comes last: what has it is a tree, also after a crash.

    Raises ValueError if there is no room for a node.
    """
    if region.size < AT_NODES + NODE.size:
        raise ValueError(f"{region.size} bytes have no room for a tree: {AT_NODES + NODE.size} have")
    store(region, AT_MAGIC, 0)
    region.persist(AT_MAGIC, WORD.size)
    Undo(region, AT_UNDO).format()
    store(region, AT_ROOT, AT_NODES)
    region.write(AT_NODES, Node(AT_NODES, 0, [], []).pack())
    region.flush(AT_ROOT, WORD.size)
    region.persist(AT_NODES, NODE.size)
    store(region, AT_MAGIC, MAGIC)
    region.persist(AT_MAGIC, WORD.size)


def formatted(region: mktme.Region) -> bool:
    """Whether a region has a tree."""
    return load(region, AT_MAGIC) == MAGIC


def root_line(root: int) -> bytes:
    """The first line, for a root."""
    return (WORD.pack(MAGIC) + WORD.pack(root)).ljust(LINE, b"\0")


def load(region: mktme.Region, offset: int) -> int:
    """The 64-bit integer at an offset."""
    word: int = WORD.unpack(region.read(offset, WORD.size))[0]
    return word


def store(region: mktme.Region, offset: int, word: int) -> None:
    """Store 8 bytes at once, aligned."""
    assert offset % WORD.size == 0
    region.write(offset, WORD.pack(word))


# What is explored: (key, value), None deletes. Leaves split and with them the root, keys move to neighbours,
# nodes merge until a single leaf is left, and freed nodes are used again.
KEYS_PUT = [*(i * 7 % 17 for i in range(17)), 17, 18, 19]
WORK: list[tuple[int, int | None]] = [
    *((key, 100 + key) for key in KEYS_PUT[:13]),
    *((key, None) for key in (0, 4, 2, 7)),
    *((key, 100 + key) for key in KEYS_PUT[13:]),
    (5, 205),
    *((key, None) for key in (16, 1, 15, 14, 3, 13, 12, 6, 10, 11, 9)),
    *((key, 300 + key) for key in (1, 2, 3)),
]


def program(region: mktme.Region, undo: type[Undo] = Undo) -> Iterator[tuple[int, int | None]]:
    """Format, put and delete; yield each operation when it is durable."""
    format(region)
    tree = BTree(region, undo)
    for key, value in WORK:
        if value is None:
            tree.delete(key)
        else:
            tree.put(key, value)
        yield key, value


def missing_undo_flush(region: mktme.Region) -> Iterator[tuple[int, int | None]]:
    """The same, and the undo log isn't flushed before the tree changes in place."""
    return program(region, UndoWithoutFlush)


def check(region: mktme.Region, promised: list[tuple[int, int | None]]) -> None:
    """After a power failure: all promised operations are there, and at most the next one.

    Raises AssertionError.
    """
    if not formatted(region):
        assert not promised, f"the tree is gone; {len(promised)} operations were promised"
        return
    try:
        found = dict(BTree(region).items())
    except ValueError as error:
        raise AssertionError(f"damaged after {len(promised)} promised operations: {error}") from error
    expected = after(promised)
    if found != after(WORK[: len(promised) + 1]):
        wrong = sorted(k for k in found.keys() | expected.keys() if found.get(k) != expected.get(k))
        assert not wrong, f"after {len(promised)} promised operations the tree is wrong at {wrong}"


def after(work: list[tuple[int, int | None]]) -> dict[int, int]:
    """What operations leave."""
    return {key: value for key, value in dict(work).items() if value is not None}


def main() -> None:
    """A tree on an image, under a key, and again after a restart."""
    key = os.urandom(64)
    with tempfile.TemporaryDirectory() as folder:
        image = Path(folder) / "tree.img"
        with pmem.create(image, SIZE) as device:
            for number, value in program(mapped(device, key)):
                print(f"deleted {number}" if value is None else f"put {number}: {value}")
            print("Plaintext on the medium:", WORD.pack(MAGIC) in device.media.tobytes())
        with pmem.open(image) as device:
            tree = BTree(mapped(device, key))
            check(tree.region, WORK)
            print(f"After a restart: {len(tree.items())} keys, {tree.undone} lines undone")
        with pmem.open(image) as device:
            print("A tree, by another key:", formatted(mapped(device, os.urandom(64))))


def mapped(device: pmem.Device, key: bytes) -> mktme.Region:
    """The whole device under a key."""
    controller = mktme.Controller(device)
    keyid = controller.program_key(mktme.Key.from_bytes("aes-xts-256", key))
    return controller.map(0, device.size, keyid)


if __name__ == "__main__":
    main()
