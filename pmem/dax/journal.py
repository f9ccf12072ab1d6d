"""The redo journal: a change of metadata is on the medium as a whole before any of it is in place.

Records follow each other in a fixed area, each with a CRC-32, the epoch, and its number in the
epoch. When the area is full, all changes in place are waited for and a new epoch begins at its
start. The epoch is one 8-byte word, so it changes atomically. Replaying records is idempotent.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator

from pmem.dax.errors import VolumeCorrupt, VolumeError, VolumeFull
from pmem.dax.layout import Layout, checksum
from pmem.dax.medium import Medium

Patch = tuple[int, bytes]  # address, bytes; both multiples of 8
Fill = tuple[int, int, int]  # address, count of u16, value

_HEAD = struct.Struct("<IIIIQQ")  # crc, epoch, number, bytes of the body, 0, 0
_ENTRY = struct.Struct("<QIHH")  # address, count, value, kind
_EPOCH = struct.Struct("<II")  # epoch, crc
_PATCH, _FILL = 1, 2
_ALIGN = 64


class Journal:
    """The journal of a mounted volume. `checkpointed` is called when an `epoch` has ended."""

    def __init__(self, medium: Medium, layout: Layout) -> None:
        self._medium, self._layout = medium, layout
        self._seed = checksum(layout.uuid)
        self.checkpointed: Callable[[], None] = lambda: None
        self.epoch = self._number = self._at = 0
        self.interrupted = False  # whether a committed change was not put in place

    @property
    def capacity(self) -> int:
        """Bytes that one record can have."""
        return self._layout.journal_size

    def make(self) -> None:
        """Begin the first epoch of a new volume."""
        self._medium.reserve(self._layout.epoch, 8)
        self._medium.reserve(self._layout.journal, self._layout.journal_size)
        self._begin(1)

    def recover(self) -> int:
        """Replay what was committed; how many records. Raises VolumeCorrupt."""
        place = self._layout.epoch
        self.epoch, crc = _EPOCH.unpack(self._medium.load(place, 8))
        if crc != self._epoch_crc(self.epoch):
            raise VolumeCorrupt(
                f"block {place >> 12}: the checksum of the journal's epoch is wrong, so committed changes "
                "can't be told from old ones; restore the block from a copy of the image"
            )
        self._medium.reserve(self._layout.journal, self._layout.journal_size)
        count = 0
        for patches, fills in self._records():
            for address, data in patches:
                self._medium.reserve(address, len(data))
            for address, number, _ in fills:
                self._medium.reserve(address, 2 * number)
            self._apply(patches, fills)
            count += 1
        if count:
            self.checkpoint()
        return count

    def commit(self, patches: list[Patch], fills: list[Fill]) -> None:
        """Make changes atomically: after this they are on the medium, whatever happens.

        Raises VolumeFull if they don't fit into the journal, DeviceFull; nothing has changed then.
        Raises VolumeError if an earlier change was interrupted (by KeyboardInterrupt, say).
        """
        parts = []
        reserve = self._medium.reserve
        for address, data in patches:
            reserve(address, len(data))
            parts.append(_ENTRY.pack(address, len(data), 0, _PATCH))
            parts.append(data)
        for address, count, value in fills:
            reserve(address, 2 * count)
            parts.append(_ENTRY.pack(address, count, value, _FILL))
        body = b"".join(parts)
        if _HEAD.size + len(body) > self.capacity:
            raise VolumeFull(
                f"a change of {len(body)} bytes of metadata doesn't fit into the journal of {self.capacity}: "
                "do it in parts, or take a larger device"
            )
        if self._at + _HEAD.size + len(body) > self.capacity:
            self.checkpoint()
        self._check()
        self.interrupted = True
        head = _HEAD.pack(0, self.epoch, self._number, len(body), 0, 0)[4:]
        crc = checksum(body, checksum(head, self._seed))
        record = b"".join((crc.to_bytes(4, "little"), head, body))
        place = self._layout.journal + self._at
        self._medium.store(place, record)
        self._medium.flush(place, len(record))
        self._medium.fence()
        self._at += -(-len(record) // _ALIGN) * _ALIGN
        self._number += 1
        self._apply(patches, fills)
        self.interrupted = False

    def checkpoint(self) -> None:
        """Wait until all changes are in place, and begin a new epoch."""
        self._check()
        self._medium.fence()
        self._begin(self.epoch + 1)
        self.checkpointed()

    def _check(self) -> None:
        if self.interrupted:
            raise VolumeError(
                "a committed change was interrupted while it was put in place: close the volume and mount it "
                "again, which completes the change"
            )

    def _begin(self, epoch: int) -> None:
        place = self._layout.epoch
        self._medium.store(place, _EPOCH.pack(epoch, self._epoch_crc(epoch)))
        self._medium.flush(place, _EPOCH.size)
        self._medium.fence()
        self.epoch, self._number, self._at = epoch, 0, 0

    def _epoch_crc(self, epoch: int) -> int:
        return checksum(epoch.to_bytes(4, "little"), self._seed)

    def _apply(self, patches: list[Patch], fills: list[Fill]) -> None:
        store, fill, flush = self._medium.store, self._medium.fill, self._medium.flush
        for address, data in patches:
            store(address, data)
            flush(address, len(data))
        for address, count, value in fills:
            fill(address, count, value)
            flush(address, 2 * count)

    def _records(self) -> Iterator[tuple[list[Patch], list[Fill]]]:
        at, number = 0, 0
        while at + _HEAD.size <= self.capacity:
            place = self._layout.journal + at
            head = self._medium.load(place, _HEAD.size)
            crc, epoch, index, length, _, _ = _HEAD.unpack(head)
            if epoch != self.epoch or index != number or at + _HEAD.size + length > self.capacity:
                return
            body = self._medium.load(place + _HEAD.size, length)
            if crc != checksum(body, checksum(head[4:], self._seed)):
                return
            yield _entries(body)
            at += -(-(_HEAD.size + length) // _ALIGN) * _ALIGN
            number += 1


def _entries(body: bytes) -> tuple[list[Patch], list[Fill]]:
    patches: list[Patch] = []
    fills: list[Fill] = []
    at = 0
    while at < len(body):
        address, count, value, kind = _ENTRY.unpack_from(body, at)
        at += _ENTRY.size
        if kind == _PATCH:
            patches.append((address, body[at : at + count]))
            at += count
        else:
            fills.append((address, count, value))
    return patches, fills
