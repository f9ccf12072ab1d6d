"""A persistent hash map: chains of entries, changed by one 8-byte store each.

    python examples/crash/hash_map.py
    mktme crash examples/crash/hash_map.py
    mktme crash examples/crash/hash_map.py --program wrong_order

    line 0      magic (8 bytes), number of buckets (8)
    from 64 on  the buckets: each the offset of its first entry (8), or 0
    then        entries of a line: next (8), lengths of key and value (2 each), key, value

The order that it lives by: an entry is durable before the link is stored that makes it part of its
chain, and the link is durable before the operation returns. Putting a key anew swings the link from the
old entry to one that has the new value; deleting swings it past the entry. So each operation is one
aligned store of 8 bytes, there or not. Which entries are free is not kept: opening the map finds those
that no chain reaches, so a power failure loses none of them. An entry is free once the link away from it
is durable, not before.

It relies on power-fail atomicity of 64 bytes: a line reaches the medium whole, with what a scheme keeps
beside it. Unencrypted, 8 bytes would do. Under a cipher of 16-byte blocks a line torn between two words
of a block loses the block: a link with its neighbour, or with the beginning of its entry.
"""

from __future__ import annotations

import os
import struct
import tempfile
import zlib
from collections.abc import Iterator
from pathlib import Path

import mktme
import pmem

SIZE = "4KiB"

MAGIC = int.from_bytes(b"mktmehsh", "little")
AT_MAGIC, AT_BUCKETS, HEADS = 0, 8, 64
WORD = struct.Struct("<Q")
ENTRY = struct.Struct("<QHH")  # next, length of the key, length of the value
LINE = 64
ROOM = LINE - ENTRY.size  # bytes of a key and its value


class HashMap:
    """A map of bytes to bytes on a region that `format` has prepared.

    Raises ValueError if there is none (another key makes noise of it, too), or if it is damaged.
    """

    def __init__(self, region: mktme.Region) -> None:
        if not formatted(region):
            raise ValueError("there is no map in the region, or it is under another key: format makes one")
        self.region = region
        self.buckets = load(region, AT_BUCKETS)
        self._entries = entries_from(self.buckets)
        if not self.buckets or self._entries > region.size:
            raise ValueError(f"{self.buckets} buckets don't fit in {region.size} bytes")
        used = self._reached()
        self._free = [at for at in range(self._entries, region.size, LINE) if at not in used]
        self._free.reverse()  # the lowest is taken first

    def get(self, key: bytes) -> bytes | None:
        """The value of a key, or None."""
        link = self._find(key)
        at = load(self.region, link)
        return self._entry(at)[2] if at else None

    def put(self, key: bytes, value: bytes) -> None:
        """Give a key a value; durable on return. Raises ValueError if there is no room."""
        if len(key) + len(value) > ROOM:
            raise ValueError(f"a key of {len(key)} bytes and a value of {len(value)} exceed {ROOM} together")
        if not self._free:
            raise ValueError(f"all {(self.region.size - self._entries) // LINE} entries are taken")
        link = self._find(key)
        old = load(self.region, link)
        following = self._entry(old)[0] if old else 0
        entry = ENTRY.pack(following, len(key), len(value)) + key + value
        self._insert(link, self._free.pop(), entry.ljust(LINE, b"\0"))
        if old:
            self._free.append(old)

    def delete(self, key: bytes) -> None:
        """Take a key out; durable on return. Raises KeyError."""
        link = self._find(key)
        at = load(self.region, link)
        if not at:
            raise KeyError(key)
        self._publish(link, self._entry(at)[0])
        self._free.append(at)

    def items(self) -> dict[bytes, bytes]:
        """All keys with their values."""
        return {key: value for _, key, value in map(self._entry, self._reached())}

    def _insert(self, link: int, at: int, entry: bytes) -> None:
        """Write an entry where no chain is, then have a link point there."""
        self.region.write(at, entry)
        self.region.persist(at, LINE)
        self._publish(link, at)

    def _publish(self, link: int, at: int) -> None:
        store(self.region, link, at)
        self.region.persist(link, WORD.size)

    def _find(self, key: bytes) -> int:
        """Where the link to a key's entry lies, or the link that ends its chain."""
        link = HEADS + zlib.crc32(key) % self.buckets * WORD.size
        while at := load(self.region, link):
            if self._entry(at)[1] == key:
                break
            link = at  # an entry begins with its link
        return link

    def _entry(self, at: int) -> tuple[int, bytes, bytes]:
        """The link onward, the key and the value. Raises ValueError if they don't fit an entry."""
        line = self.region.read(at, LINE)
        following, key, value = ENTRY.unpack_from(line)
        if key + value > ROOM:
            raise ValueError(f"the entry at {at} has a key of {key} bytes and a value of {value}")
        middle = ENTRY.size + key
        return following, line[ENTRY.size : middle], line[middle : middle + value]

    def _reached(self) -> set[int]:
        """The entries of all chains. Raises ValueError if a link leads nowhere or twice to one entry."""
        found: set[int] = set()
        heads = self.region.read(HEADS, self.buckets * WORD.size)
        for (at,) in WORD.iter_unpack(heads):
            while at:
                if at in found or not self._entries <= at < self.region.size or at % LINE:
                    raise ValueError(f"a link leads to {at}, " + ("again" if at in found else "not an entry"))
                found.add(at)
                at = self._entry(at)[0]
        return found


class HashMapInWrongOrder(HashMap):
    """The bug: the link is durable before the entry, and leads for a moment to what lay there before."""

    def _insert(self, link: int, at: int, entry: bytes) -> None:
        self.region.write(at, entry)
        self._publish(link, at)
        self.region.persist(at, LINE)


def format(region: mktme.Region, buckets: int = 8) -> None:
    """Make an empty map. The magic goes first and comes last: what has it is a map, however the power fails.

    Raises ValueError for buckets that don't fit.
    """
    if buckets < 1 or entries_from(buckets) >= region.size:
        raise ValueError(f"{buckets} buckets and an entry don't fit in {region.size} bytes")
    length = buckets * WORD.size
    store(region, AT_MAGIC, 0)
    region.persist(AT_MAGIC, WORD.size)
    store(region, AT_BUCKETS, buckets)
    region.write(HEADS, bytes(length))
    region.persist(AT_BUCKETS, HEADS + length - AT_BUCKETS)
    store(region, AT_MAGIC, MAGIC)
    region.persist(AT_MAGIC, WORD.size)


def formatted(region: mktme.Region) -> bool:
    """Whether a region has a map."""
    return load(region, AT_MAGIC) == MAGIC


def entries_from(buckets: int) -> int:
    """The offset of the first entry: the line behind the buckets."""
    return HEADS + -(-buckets * WORD.size // LINE) * LINE


def load(region: mktme.Region, offset: int) -> int:
    """The 64-bit integer at an offset."""
    word: int = WORD.unpack(region.read(offset, WORD.size))[0]
    return word


def store(region: mktme.Region, offset: int, word: int) -> None:
    """Store 8 bytes at once, aligned."""
    assert offset % WORD.size == 0
    region.write(offset, WORD.pack(word))


# What is explored: (key, value), None deletes. Chains have several entries, keys are put anew, entries used
# again.
KEYS = [b"key %d" % i for i in range(14)]
WORK: list[tuple[bytes, bytes | None]] = [
    *((key, b"first of " + key) for key in KEYS),
    *((key, b"second of " + key) for key in KEYS[::2]),
    *((key, None) for key in KEYS[1:10]),
    *((key, b"third of " + key) for key in KEYS[3:9]),
]


def program(region: mktme.Region, kind: type[HashMap] = HashMap) -> Iterator[tuple[bytes, bytes | None]]:
    """Format, put and delete; yield each operation when it is durable."""
    format(region)
    table = kind(region)
    for key, value in WORK:
        if value is None:
            table.delete(key)
        else:
            table.put(key, value)
        yield key, value


def wrong_order(region: mktme.Region) -> Iterator[tuple[bytes, bytes | None]]:
    """The same, and an entry is linked before it is durable."""
    return program(region, HashMapInWrongOrder)


def check(region: mktme.Region, promised: list[tuple[bytes, bytes | None]]) -> None:
    """After a power failure: all promised operations are there, and at most the next one.

    Raises AssertionError.
    """
    if not formatted(region):
        assert not promised, f"the map is gone; {len(promised)} operations were promised"
        return
    try:
        found = HashMap(region).items()
    except ValueError as error:
        raise AssertionError(f"damaged after {len(promised)} promised operations: {error}") from error
    expected = after(promised)
    if found != after(WORK[: len(promised) + 1]):
        wrong = sorted(k for k in found.keys() | expected.keys() if found.get(k) != expected.get(k))
        assert not wrong, f"after {len(promised)} promised operations the map is wrong at {wrong}"


def after(work: list[tuple[bytes, bytes | None]]) -> dict[bytes, bytes]:
    """What operations leave."""
    return {key: value for key, value in dict(work).items() if value is not None}


def main() -> None:
    """A map on an image, under a key, and again after a restart."""
    key = os.urandom(64)
    with tempfile.TemporaryDirectory() as folder:
        image = Path(folder) / "map.img"
        with pmem.create(image, SIZE) as device:
            for name, value in program(mapped(device, key)):
                print("deleted" if value is None else "put", name.decode(), (value or b"").decode())
            print("Plaintext on the medium:", b"first of" in device.media.tobytes())
        with pmem.open(image) as device:
            table = HashMap(mapped(device, key))
            check(table.region, WORK)
            print(f"After a restart: {len(table.items())} keys, the first has {table.get(KEYS[0])!r}")
        with pmem.open(image) as device:
            print("A map, by another key:", formatted(mapped(device, os.urandom(64))))


def mapped(device: pmem.Device, key: bytes) -> mktme.Region:
    """The whole device under a key."""
    controller = mktme.Controller(device)
    keyid = controller.program_key(mktme.Key.from_bytes("aes-xts-256", key))
    return controller.map(0, device.size, keyid)


if __name__ == "__main__":
    main()
