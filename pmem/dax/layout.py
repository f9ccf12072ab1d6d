"""Where things lie on the medium: the superblock and the fixed areas that follow from it.

In blocks of 4096 bytes: superblock, state, journal, free counts of the groups, reference counts,
owners (log-structured volumes only), inodes, data, and a copy of the superblock in the last block.
"""

from __future__ import annotations

import struct
import zlib
from dataclasses import dataclass, field

from pmem.dax.errors import NotAVolume, VolumeCorrupt
from pmem.errors import SizeError

BLOCK = 4096  # bytes
INODE = 256  # bytes
GROUP = 1 << 15  # blocks of an allocation group: 128 MiB
SEGMENT = 512  # blocks of a segment of the log: 2 MiB
OWNER = 16  # bytes of an owner: inode number and file block, u64 each

MAGIC = b"pmem-dax"
VERSION = 1
_SUPER = struct.Struct("<8sII16sQQ")  # magic, version, log-structured, uuid, blocks, inodes; then the crc32
_CRC = struct.Struct("<I")


def checksum(data: bytes | memoryview, seed: int = 0) -> int:
    """The CRC-32 of zlib (IEEE 802.3), as an unsigned 32-bit integer."""
    return zlib.crc32(data, seed)


def _blocks(count: int, size: int) -> int:
    return -(-count * size // BLOCK)


@dataclass(frozen=True)
class Layout:
    """The geometry of a volume; all addresses in bytes on the device."""

    uuid: bytes
    blocks: int
    inodes: int
    log_structured: bool

    groups: int = field(init=False)
    state: int = field(init=False)  # address of the state line
    epoch: int = field(init=False)  # address of the journal's epoch
    journal: int = field(init=False)  # address of the journal's records
    journal_size: int = field(init=False)  # bytes
    counts: int = field(init=False)  # address of a u64 a group: its free blocks
    refs: int = field(init=False)  # address of a u16 a block: how many references it has
    owners: int = field(init=False)  # address of an OWNER a block
    inode_table: int = field(init=False)
    first: int = field(init=False)  # first data block
    last: int = field(init=False)  # the block after the last data block

    def __post_init__(self) -> None:
        """Lay out the areas."""
        places: dict[str, int] = {"groups": -(-self.blocks // GROUP), "state": BLOCK, "epoch": 2 * BLOCK}
        journal = min(max(self.blocks // 64, 32), 1024)
        at = 3
        for name, blocks in (
            ("journal", journal),
            ("counts", _blocks(places["groups"], 8)),
            ("refs", _blocks(self.blocks, 2)),
            ("owners", _blocks(self.blocks, OWNER) if self.log_structured else 0),
            ("inode_table", _blocks(self.inodes, INODE)),
        ):
            places[name] = at * BLOCK
            at += blocks
        places |= {"journal_size": journal * BLOCK, "first": at, "last": self.blocks - 1}
        for name, value in places.items():
            object.__setattr__(self, name, value)

    def check(self) -> None:
        """Raise SizeError unless there is room for the areas and at least 16 data blocks."""
        if self.inodes < 2 or self.inodes >= 1 << 48:
            raise SizeError(f"{self.inodes} inodes: a volume has at least 2 (the first is unused)")
        if self.last - self.first < 16:
            raise SizeError(
                f"a device of {self.blocks * BLOCK} bytes has no room for a volume of {self.inodes} inodes: "
                f"{self.first + 17} blocks of {BLOCK} are needed; take a larger device or fewer inodes"
            )

    def encode(self) -> bytes:
        """The superblock, one block."""
        body = _SUPER.pack(MAGIC, VERSION, self.log_structured, self.uuid, self.blocks, self.inodes)
        return (body + _CRC.pack(checksum(body))).ljust(BLOCK, b"\0")


def decode(block: bytes, number: int, blocks: int) -> Layout:
    """The layout that a superblock describes; `number` is its block, `blocks` the device's.

    Raises NotAVolume, VolumeCorrupt.
    """
    body, crc = block[: _SUPER.size], _CRC.unpack_from(block, _SUPER.size)[0]
    magic, version, log_structured, uuid, size, inodes = _SUPER.unpack(body)
    if magic != MAGIC:
        raise NotAVolume(f"block {number} is no superblock: make a volume with pmem.dax.make")
    if crc != checksum(body):
        raise VolumeCorrupt(f"block {number}: the superblock's checksum is wrong")
    if version != VERSION:
        raise VolumeCorrupt(f"block {number}: a volume of version {version}; this software reads {VERSION}")
    if size != blocks:
        raise VolumeCorrupt(
            f"block {number}: the volume has {size} blocks, the device {blocks}: "
            "give the image its length back"
        )
    return Layout(uuid, size, inodes, bool(log_structured))
