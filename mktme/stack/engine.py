"""A block device with an inline crypto engine, and the software that does its work where it can't.

The engine encrypts on the way between the request's memory and the medium, so nothing is copied.
blk-crypto-fallback (block/blk-crypto-fallback.c) encrypts writes into bounce pages, which are
copied to the medium, and decrypts reads in place once they are copied in; the media bytes are the
same.
"""

from __future__ import annotations

import threading
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from mktme.crypto.cipher import Bytes
from mktme.errors import BioError
from mktme.stack.bio import SECTOR, Bio
from mktme.stack.keyslots import MOST_DUN, SOFTWARE, BlockKey, CryptoProfile, Keyslot
from mktme.stack.traffic import Traffic
from pmem.device import Device
from pmem.geometry import PAGE

BOUNCE = 64 * PAGE  # bytes of bounce pages at once
FALLBACK_SLOTS = 100  # blk-crypto-fallback's (its num_keyslots)
CHUNK = 4096  # units whose IVs are made at once, where DUNs are longer than 63 bits


@dataclass
class RequestCounts:
    """What a block device did since it was made; failed requests are not counted."""

    bios: int = 0
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
        self.fallback = CryptoProfile(FALLBACK_SLOTS, SOFTWARE, dun_bytes=MOST_DUN)
        self._lock = threading.Lock()
        self._local = threading.local()

    def submit(self, bio: Bio) -> None:
        """Do a request.

        Raises, with nothing done, BioError, DeviceFull, ReadOnlyDevice; PoisonError of the medium; as
        `BlockKey.make`.
        """
        self._check(bio)
        self._dispatch(bio, 1)

    def submit_all(self, bios: Iterable[Bio]) -> None:
        """Do requests of a plug: those that go on where the last one ended are one request.

        Raises BioError with none done; else as `submit`, with those before it done.
        """
        plug = list(bios)
        for bio in plug:
            self._check(bio)
        first = 0
        for end in range(1, len(plug) + 1):
            if end == len(plug) or not plug[end - 1].mergeable(plug[end]):
                self._dispatch(plug[first].merged(*plug[first + 1 : end]), end - first)
                first = end

    def _check(self, bio: Bio) -> None:
        bio.check(self.device.size)
        key = bio.key
        if key is not None and key.wrapped and self._engine_for(key) is None:
            raise BioError(
                "only hardware has the keys inside hardware-wrapped ones, and this device has no engine "
                f"that takes them with {key.algorithm} and data units of {key.unit} bytes"
            )

    def _engine_for(self, key: BlockKey) -> CryptoProfile | None:
        """The engine, if it does requests under a key."""
        profile = self.profile
        return profile if profile is not None and profile.supports(key) else None

    def _dispatch(self, bio: Bio, bios: int) -> None:
        """Do a request that so many bios were merged to."""
        size, key, software, poison = bio.size, bio.key, False, self.device.poison
        if poison is not None and not bio.write:
            poison.check_read(bio.sector * SECTOR, size)
        if bio.write and size:
            self.device.reserve(bio.sector * SECTOR, size)
            self.device.storing(bio.sector * SECTOR, size)
            bio = self._apart(bio)
        if key is None:
            self._plain(bio)
        else:
            engine = self._engine_for(key)
            profile, software = engine or self.fallback, engine is None
            slot = profile.get(key)
            try:
                if software:
                    self._in_software(bio, key, slot)
                else:
                    self._inline(bio, key, slot)
            finally:
                profile.put(slot)
            copied = size if software else 0
            if bio.write:
                self.traffic.add(copied=copied, encrypted=size)
            else:
                self.traffic.add(copied=copied, decrypted=size)
        if poison is not None and bio.write:
            poison.written(bio.sector * SECTOR, size)
        with self._lock:
            self.counts.bios += bios
            self.counts.merged += bios - 1
            self.counts.requests += 1
            self.counts.fallbacks += software

    def _apart(self, bio: Bio) -> Bio:
        """A write, copied if segments lie on the medium: it could change them before it reads them."""
        for segment in bio.segments:
            if np.may_share_memory(self.device.mapping(), segment):
                return Bio(True, bio.sector, [each.copy() for each in bio.segments], bio.key, bio.dun)
        return bio

    def _plain(self, bio: Bio) -> None:
        media, at = self.device.mapping(), bio.sector * SECTOR
        for segment in bio.segments:
            there = media[at : at + segment.size]
            if bio.write:
                there[:] = segment
            else:
                segment[:] = there
            at += segment.size

    def _inline(self, bio: Bio, key: BlockKey, slot: Keyslot) -> None:
        media, at, dun = self.device.mapping(), bio.sector * SECTOR, bio.dun
        for segment in bio.segments:
            there = media[at : at + segment.size]
            if bio.write:
                _crypt(slot, False, dun, key.unit, segment, there)
            else:
                _crypt(slot, True, dun, key.unit, there, segment)
            at += segment.size
            dun += segment.size // key.unit

    def _in_software(self, bio: Bio, key: BlockKey, slot: Keyslot) -> None:
        media, at, dun = self.device.mapping(), bio.sector * SECTOR, bio.dun
        for segment in bio.segments:
            there = media[at : at + segment.size]
            if bio.write:
                for done in range(0, segment.size, BOUNCE):
                    part = segment[done : done + BOUNCE]
                    bounce = self._bounce(part.size)
                    _crypt(slot, False, dun + done // key.unit, key.unit, part, bounce)
                    there[done : done + part.size] = bounce
            else:
                segment[:] = there
                _crypt(slot, True, dun, key.unit, segment, segment)
            at += segment.size
            dun += segment.size // key.unit

    def _bounce(self, size: int) -> Bytes:
        room: Bytes | None = getattr(self._local, "bounce", None)
        if room is None:
            room = self._local.bounce = np.empty(BOUNCE, np.uint8)
        return room[:size]


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
