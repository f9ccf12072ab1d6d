"""A block device with an inline crypto engine, and the software that does its work where it can't.

The engine encrypts on the way between the request's memory and the medium, so nothing is copied.
blk-crypto-fallback (block/blk-crypto-fallback.c) encrypts writes into bounce pages, which are
copied to the medium, and decrypts reads in place once they are copied in; the media bytes are the
same.
"""

from __future__ import annotations

import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np

from mktme.crypto.cipher import Bytes
from mktme.stack.bio import SECTOR, Bio
from mktme.stack.keyslots import CryptoProfile, Keyslot
from mktme.stack.traffic import Traffic
from pmem.device import Device
from pmem.geometry import PAGE

BOUNCE = 64 * PAGE  # bytes of bounce pages at once
FALLBACK_SLOTS = 100  # blk-crypto-fallback's (its num_keyslots)
PLUGGED = 32  # bios that a plug holds at most, as BLK_MAX_REQUEST_COUNT
CHUNK = 4096  # units whose IVs are made at once, where DUNs are longer than 63 bits


@dataclass
class RequestCounts:
    """What a block device did since it was made."""

    bios: int = 0  # submitted
    merged: int = 0  # of them, into the one before
    requests: int = 0  # dispatched
    fallbacks: int = 0  # of them, in software


class BlockDevice:
    """Sectors of a device, encrypted by an engine of a profile. Thread-safe.

    Without a `profile` there is no engine, and all encryption is the fallback's. `traffic` counts
    the bytes, by default in a counter of its own.
    """

    def __init__(
        self, device: Device, profile: CryptoProfile | None = None, traffic: Traffic | None = None
    ) -> None:
        self.device, self.profile = device, profile
        self.traffic = Traffic() if traffic is None else traffic
        self.counts = RequestCounts()
        self.fallback = CryptoProfile(FALLBACK_SLOTS, _Everything(), dun_bytes=32, wrapped=True)
        self._lock = threading.Lock()
        self._local = threading.local()

    def submit(self, bio: Bio) -> None:
        """Do a request. Raises BioError with nothing done, DeviceFull, ReadOnlyDevice; as `BlockKey.make`."""
        bio.check(self.device.size)
        with self._lock:
            self.counts.bios += 1
        self._dispatch(bio)

    def submit_all(self, bios: Iterable[Bio]) -> None:
        """Do requests of a plug: those that go on where the last one ended are one request."""
        waiting: list[Bio] = []
        for bio in bios:
            bio.check(self.device.size)
            if waiting and waiting[-1].mergeable(bio):
                waiting[-1] = waiting[-1].merged(bio)
                with self._lock:
                    self.counts.bios += 1
                    self.counts.merged += 1
                continue
            if len(waiting) == PLUGGED:
                self._flush(waiting)
            waiting.append(bio)
            with self._lock:
                self.counts.bios += 1
        self._flush(waiting)

    def _flush(self, waiting: list[Bio]) -> None:
        for bio in waiting:
            self._dispatch(bio)
        waiting.clear()

    def _dispatch(self, bio: Bio) -> None:
        if bio.write and bio.size:
            self.device.reserve(bio.sector * SECTOR, bio.size)
        if bio.key is None:
            self._plain(bio)
        elif self.profile is not None and self.profile.supports(bio.key):
            with _slot(self.profile, bio) as slot:
                self._inline(bio, slot)
        else:
            with _slot(self.fallback, bio) as slot:
                self._in_software(bio, slot)
        with self._lock:
            self.counts.requests += 1

    def _plain(self, bio: Bio) -> None:
        media = self.device.mapping()
        for at, segment in _placed(bio):
            if bio.write:
                media[at : at + segment.size] = segment
            else:
                segment[:] = media[at : at + segment.size]

    def _inline(self, bio: Bio, slot: Keyslot) -> None:
        media, dun = self.device.mapping(), bio.dun
        assert bio.key is not None
        for at, segment in _placed(bio):
            there = media[at : at + segment.size]
            if bio.write:
                _crypt(slot, False, dun, bio.key.unit, segment, there)
            else:
                _crypt(slot, True, dun, bio.key.unit, there, segment)
            dun += segment.size // bio.key.unit
        self._count(bio)

    def _in_software(self, bio: Bio, slot: Keyslot) -> None:
        media, dun = self.device.mapping(), bio.dun
        assert bio.key is not None
        unit = bio.key.unit
        for at, segment in _placed(bio):
            if bio.write:
                for done in range(0, segment.size, BOUNCE):
                    part = segment[done : done + BOUNCE]
                    bounce = self._bounce(part.size)
                    _crypt(slot, False, dun + done // unit, unit, part, bounce)
                    media[at + done : at + done + part.size] = bounce
            else:
                segment[:] = media[at : at + segment.size]
                _crypt(slot, True, dun, unit, segment, segment)
            dun += segment.size // unit
        with self._lock:
            self.counts.fallbacks += 1
        self._count(bio, bio.size)

    def _count(self, bio: Bio, copied: int = 0) -> None:
        size = bio.size
        self.traffic.add(
            copied=copied, encrypted=size if bio.write else 0, decrypted=0 if bio.write else size
        )

    def _bounce(self, size: int) -> Bytes:
        room: Bytes | None = getattr(self._local, "bounce", None)
        if room is None:
            room = self._local.bounce = np.empty(BOUNCE, np.uint8)
        return room[:size]


class _Everything(dict[str, tuple[int, ...]]):
    """The modes of software: every algorithm that has the data units of blocks."""

    def __init__(self) -> None:
        from mktme.crypto.algorithms import ALGORITHMS
        from mktme.stack.keyslots import UNITS

        super().__init__({name: UNITS for name, a in ALGORITHMS.items() if a.takes(512) and a.takes(4096)})


@contextmanager
def _slot(profile: CryptoProfile, bio: Bio) -> Iterator[Keyslot]:
    assert bio.key is not None
    slot = profile.get(bio.key)
    try:
        yield slot
    finally:
        profile.put(slot)


def _placed(bio: Bio) -> Iterator[tuple[int, Bytes]]:
    """The segments, each with its address on the device."""
    at = bio.sector * SECTOR
    for segment in bio.segments:
        yield at, segment
        at += segment.size


def _crypt(slot: Keyslot, back: bool, dun: int, unit: int, source: Bytes, to: Bytes) -> None:
    assert slot.cipher is not None
    assert slot.slot is not None
    count = source.size // unit
    if dun + count < 1 << 63:
        slot.cipher.crypt(back, dun, 0, source, to)
        return
    width = slot.cipher.width
    for first in range(0, count, CHUNK):
        n = min(CHUNK, count - first)
        part = slice(first * unit, (first + n) * unit)
        slot.slot.cipher.units(back, unit, dun_ivs(dun + first, n, width), source[part], to[part])


def dun_ivs(dun: int, count: int, width: int) -> np.ndarray[tuple[int, ...], np.dtype[np.uint64]]:
    """The IVs of consecutive data unit numbers as words, least significant first: (count, width)."""
    made = np.empty((count, width), np.uint64)
    low = dun & (1 << 64) - 1
    with np.errstate(over="ignore"):
        made[:, 0] = np.uint64(low) + np.arange(count, dtype=np.uint64)
    carry = min(count, (1 << 64) - low)  # from this unit on, the words above are one more
    for part, above in ((slice(0, carry), dun >> 64), (slice(carry, count), (dun >> 64) + 1)):
        for word in range(1, width):
            made[part, word] = np.uint64(above >> 64 * (word - 1) & (1 << 64) - 1)
    return made
