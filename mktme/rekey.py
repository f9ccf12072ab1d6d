"""A range under a new key, in place: flush, re-encrypt, switch; to be taken up again after a power failure.

A chunk at a time. What its lines will be, ciphertext and metadata, is put into a journal first and
copied from there, so that no moment leaves a line of which nobody knows the key. The journal is
two header lines, which take turns, and a page further on the entries:

    header   magic (8 bytes), turn, number of entries (4 each), address, length (8 each), pages done, pages
             done once the entries are in place (4 each), whose it is, digest of the entries, digest of
             the header (8 each)
    entry    address of a line (8 bytes), the line (64 bytes)

All numbers are little-endian. Digests are the first 8 bytes of SHA-256; "whose it is" is that of the
fingerprints of the old and the new key, so that nobody takes it up with others.
"""

from __future__ import annotations

import hashlib
import mmap
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

MAP_NORESERVE = 0x4000  # Linux uapi, mman.h
MAGIC = b"MKTMERKY"
CHUNK = 1 << 16  # bytes that are re-encrypted at once
JOURNAL = 36 * PAGE  # bytes of a journal: a chunk's lines and metadata, each with its address
_HEADER = struct.Struct("<8s2I2Q2I8s8s8s")
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
        self._owner = _short(old.fingerprint() + new.fingerprint())
        self._new = new
        self._keyid = keyid
        self._turn, self.done, self._next, self._entries = self._newest()

    def _newest(self) -> tuple[int, int, int, int]:
        """The turn, bytes done, bytes done next and entries of the header that counts; zeros without one."""
        valid = []
        for place in range(2):
            line = self._device.read(self._journal + place * LINE, LINE)
            fields = _HEADER.unpack(line)
            if fields[0] == MAGIC and fields[-1] == _short(line[:-8]):
                valid.append(fields[1:])
        if not valid:
            return 0, 0, 0, 0
        turn, entries, address, length, done, following, owner, _, _ = max(valid)
        if (address, length, owner) == (self._region.address, self._region.size, self._owner):
            return turn, done * PAGE, following * PAGE, entries
        if done * PAGE < length:
            raise RekeyError(
                f"the journal at {self._journal} is that of the range at {address} ({length} bytes), under "
                "other keys, which isn't done: finish it first, with its keys, or pass another journal"
            )
        return turn, 0, 0, 0

    def run(self) -> None:
        """Re-encrypt what is left."""
        if self._entries:
            self._apply(self._read_entries())
            self._advance()
        if self.done >= self._region.size:
            return
        old = self._region.path()
        place = self._region.metadata[0] if self._region.metadata else 0
        new = self._mapping.path(self._new, place, self._keyid)
        room = mmap.mmap(-1, self._device.size, flags=mmap.MAP_PRIVATE | MAP_NORESERVE)
        scratch = np.frombuffer(room, np.uint8)  # a medium where the next lines are made
        while self.done < self._region.size:
            entries = self._chunk(old, new, scratch)
            room.madvise(mmap.MADV_DONTNEED)
            self._write_entries(entries)
            self._apply(entries)
            self._advance()

    def _advance(self) -> None:
        self._write_header(self._next, self._next, 0, bytes(8))

    def _chunk(self, old: Lines, new: Lines, scratch: Bytes) -> np.ndarray[tuple[int], np.dtype[np.void]]:
        """What the next chunk's lines, and what is kept beside them, will be."""
        device, start = self._device, self._region.address + self.done
        plain = np.empty(min(CHUNK, self._region.size - self.done), np.uint8)
        media = device.mapping()
        old.read(media, device.base, start, plain)
        lines = np.arange(start, start + plain.size, LINE, dtype=np.uint64)
        changed = self._region.touched(lines)
        numbers = changed // np.uint64(LINE)
        rows = scratch.reshape(-1, LINE)
        rows[numbers] = media.reshape(-1, LINE)[numbers]
        self._fresh(lines, scratch)
        new.write(scratch, int(scratch.ctypes.data), start, plain)
        entries = np.empty(changed.size, _ENTRY)
        entries["address"], entries["line"] = changed, rows[numbers]
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
        following = min(self._region.size, self.done + CHUNK)
        self._write_header(self.done, following, entries.size, _short(data))

    def _read_entries(self) -> np.ndarray[tuple[int], np.dtype[np.void]]:
        data = self._device.read(self._journal + PAGE, self._entries * _ENTRY.itemsize)
        return np.frombuffer(data, _ENTRY)

    def _apply(self, entries: np.ndarray[tuple[int], np.dtype[np.void]]) -> None:
        device, addresses = self._device, entries["address"].astype(np.uint64)
        device.write_lines(addresses, np.ascontiguousarray(entries["line"]))
        for at, end in _runs(addresses):
            device.flush(at, end - at)
        device.drain()

    def _write_header(self, done: int, following: int, entries: int, digest: bytes) -> None:
        self._turn += 1
        region, pages = self._region, (done // PAGE, following // PAGE)
        fields = MAGIC, self._turn, entries, region.address, region.size, *pages, self._owner, digest
        body = _HEADER.pack(*fields, bytes(8))[:-8]
        at = self._journal + self._turn % 2 * LINE
        self._device.write(at, body + _short(body))
        self._device.persist(at, LINE)
        self.done, self._next, self._entries = done, following, entries


def _short(data: bytes) -> bytes:
    return hashlib.sha256(data).digest()[:8]


def _runs(addresses: Words) -> list[tuple[int, int]]:
    """Runs of lines, as (begin, end), of ascending addresses."""
    edges = np.flatnonzero(np.diff(addresses) != LINE) + 1
    parts = np.split(addresses, edges)
    return [(int(part[0]), int(part[-1]) + LINE) for part in parts if part.size]
