"""A range under a new key, in place: flush, re-encrypt, switch; to be taken up again after a power failure.

A chunk at a time. What its lines will be, ciphertext and metadata, is put into a journal first and
copied from there, so that no moment leaves a line of which nobody knows the key. The journal is
two header lines, which take turns, and a page further on the entries:

    header   8 bytes each: magic, turn, address, length, bytes done, entries, their digest, digest of all
    entry    address of a line (8 bytes), the line (64 bytes)

All numbers are little-endian. Digests are the first 8 bytes of SHA-256; a header's is keyed by what is
made from the old and the new key, so that nobody takes it up with others.
"""

from __future__ import annotations

import hashlib
import hmac
import struct
from typing import TYPE_CHECKING

import numpy as np

from mktme.crypto.cipher import Bytes, Lines, Words
from mktme.errors import RekeyError
from mktme.mapping import Mapping
from mktme.stack.slot import Slot
from pmem.device import Device
from pmem.geometry import LINE, PAGE

if TYPE_CHECKING:
    from mktme.region import Region

MAGIC = b"MKTMERKY"
CHUNK = 1 << 16  # bytes that are re-encrypted at once
JOURNAL = 36 * PAGE  # bytes of a journal: a chunk's lines and metadata, each with its address
_HEADER = struct.Struct("<8s5Q8s8s")
_ENTRY = np.dtype([("address", "<u8"), ("line", "u1", LINE)])


class Rekeying:
    """A range on its way from one key to another; `done` bytes of it have arrived.

    Raises RekeyError if the journal holds another one that has not come to its end.
    """

    def __init__(
        self, region: Region, mapping: Mapping, journal: int, old: Slot, new: Slot, keyid: int
    ) -> None:
        self._region, self._mapping, self._journal = region, mapping, journal
        self._device: Device = region.device
        self._secret = old.fingerprint() + new.fingerprint()
        self._new = new
        self._keyid = keyid
        self.done, self._turn, self._entries = 0, 0, 0
        found = self._newest()
        if found is not None:
            self._turn, self.done, self._entries = found

    def _newest(self) -> tuple[int, int, int] | None:
        """The turn, bytes done and entries of the header that counts; None if the journal is free."""
        ours, foreign = [], None
        for place in range(2):
            line = self._device.read(self._journal + place * LINE, LINE)
            magic, turn, address, length, done, entries, _, digest = _HEADER.unpack(line)
            if magic != MAGIC:
                continue
            if hmac.compare_digest(digest, self._digest(line[:-8])):
                if (address, length) == (self._region.address, self._region.size):
                    ours.append((turn, done, entries))
            elif done < length:
                foreign = address, length
        if ours:
            return max(ours)
        if foreign is not None:
            raise RekeyError(
                f"the journal at {self._journal} is that of the range at {foreign[0]} ({foreign[1]} bytes), "
                "under other keys, which isn't done: finish it first, with its keys, or pass another journal"
            )
        return None

    def run(self) -> None:
        """Re-encrypt what is left."""
        if self._entries:
            self._apply(self._read_entries())
            self._advance()
        if self.done >= self._region.size:
            return
        old = self._region.path()
        place = self._region.metadata[0] if self._region.metadata else 0
        with self._device.snapshot() as scratch:
            new = self._mapping.path(self._new, place, self._keyid)
            while self.done < self._region.size:
                entries = self._chunk(old, new, scratch)
                self._write_entries(entries)
                self._apply(entries)
                self._advance()

    def _advance(self) -> None:
        self._write_header(min(self._region.size, self.done + CHUNK), 0, bytes(8))

    def _chunk(self, old: Lines, new: Lines, scratch: Device) -> np.ndarray[tuple[int], np.dtype[np.void]]:
        """What the next chunk's lines, and what is kept beside them, will be."""
        device, start = self._device, self._region.address + self.done
        plain = np.empty(min(CHUNK, self._region.size - self.done), np.uint8)
        old.read(device.mapping(), device.base, start, plain)
        lines = np.arange(start, start + plain.size, LINE, dtype=np.uint64)
        changed = self._region.touched(lines)
        media = scratch.mapping()
        self._fresh(lines, media)
        new.write(media, scratch.base, start, plain)
        entries = np.empty(changed.size, _ENTRY)
        entries["address"] = changed
        entries["line"] = media.reshape(-1, LINE)[changed // np.uint64(LINE)]
        return entries

    def _fresh(self, lines: Words, media: Bytes) -> None:
        """Under a new key nothing was written yet: no counters, no MACs."""
        if self._region.metadata:
            for places, width in self._mapping.kept_beside(lines):
                first = np.unique(places) + np.uint64(self._region.metadata[0])
                media[(first[:, None] + np.arange(width, dtype=np.uint64)).astype(np.intp)] = 0

    def _write_entries(self, entries: np.ndarray[tuple[int], np.dtype[np.void]]) -> None:
        data = entries.tobytes()
        self._device.write(self._journal + PAGE, data)
        self._device.persist(self._journal + PAGE, len(data))
        self._write_header(self.done, entries.size, _short(data))

    def _read_entries(self) -> np.ndarray[tuple[int], np.dtype[np.void]]:
        data = self._device.read(self._journal + PAGE, self._entries * _ENTRY.itemsize)
        return np.frombuffer(data, _ENTRY)

    def _apply(self, entries: np.ndarray[tuple[int], np.dtype[np.void]]) -> None:
        device, addresses = self._device, entries["address"].astype(np.uint64)
        device.write_lines(addresses, np.ascontiguousarray(entries["line"]))
        for at, end in _runs(addresses):
            device.flush(at, end - at)
        device.drain()

    def _write_header(self, done: int, entries: int, digest: bytes) -> None:
        self._turn += 1
        region = self._region
        body = _HEADER.pack(MAGIC, self._turn, region.address, region.size, done, entries, digest, bytes(8))[
            :-8
        ]
        at = self._journal + self._turn % 2 * LINE
        self._device.write(at, body + self._digest(body))
        self._device.persist(at, LINE)
        self.done, self._entries = done, entries

    def _digest(self, body: bytes) -> bytes:
        return hmac.digest(self._secret, body, "sha256")[:8]


def _short(data: bytes) -> bytes:
    return hashlib.sha256(data).digest()[:8]


def _runs(addresses: Words) -> list[tuple[int, int]]:
    """Runs of lines, as (begin, end), of ascending addresses."""
    edges = np.flatnonzero(np.diff(addresses) != LINE) + 1
    parts = np.split(addresses, edges)
    return [(int(part[0]), int(part[-1]) + LINE) for part in parts if part.size]
