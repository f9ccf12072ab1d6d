"""Where a database's files are: in a folder of a volume, or all in one region.

SQLite needs little of a file system: a main file, a journal or write-ahead log beside it, and files
that nobody else sees.
"""

from __future__ import annotations

import struct
import threading
import zlib
from typing import Protocol

from mktme.errors import ClientError
from mktme.filesystem import EncryptedFile, FileSystem
from mktme.region import Region
from pmem import dax
from pmem.geometry import PAGE, format_size


class StoreFull(ClientError):
    """There is no room for what is written."""


class StoreFile(Protocol):
    """An open file. Offsets and lengths are bytes."""

    @property
    def size(self) -> int: ...
    def read(self, offset: int, length: int) -> bytes: ...
    def write(self, offset: int, data: bytes) -> None: ...
    def truncate(self, size: int) -> None: ...
    def sync(self) -> None:
        """All that was written is durable when it returns."""
        ...

    def close(self) -> None: ...


class Store(Protocol):
    """A place for files by name."""

    def open(self, name: str, create: bool) -> StoreFile:
        """Raises FileNotFoundError."""
        ...

    def exists(self, name: str) -> bool: ...
    def delete(self, name: str) -> None:
        """Raises FileNotFoundError. It is durable when it returns."""
        ...


class FolderStore:
    """Files of a volume, by their paths. Thread-safe as the file system is."""

    def __init__(self, system: FileSystem) -> None:
        self.system = system

    def open(self, name: str, create: bool) -> StoreFile:
        """A file. Raises FileNotFoundError, KeyUnavailable and what FileSystem.create raises."""
        if create and not self.system.exists(name):
            try:
                return _VolumeFile(self.system, self.system.create(name))
            except FileExistsError:  # another thread was faster
                pass
        return _VolumeFile(self.system, self.system.open(name))

    def exists(self, name: str) -> bool:
        return self.system.exists(name)

    def delete(self, name: str) -> None:
        self.system.unlink(name)
        _settle(self.system)


def _settle(system: FileSystem) -> None:
    """A volume's metadata is durable; with a persistence domain each change is, as it is made."""
    if system.volume.device.domain is None:
        system.volume.device.flush()


class _VolumeFile:
    def __init__(self, system: FileSystem, file: EncryptedFile) -> None:
        self._system, self._file = system, file

    @property
    def size(self) -> int:
        return self._file.size

    def read(self, offset: int, length: int) -> bytes:
        return self._file.read(offset, length)

    def write(self, offset: int, data: bytes) -> None:
        try:
            self._file.write(offset, data)
        except dax.VolumeFull as error:
            raise StoreFull(str(error)) from error

    def truncate(self, size: int) -> None:
        self._file.truncate(size)

    def sync(self) -> None:
        if self._system.volume.device.domain is not None:
            self._file.persist()
        _settle(self._system)

    def close(self) -> None:
        self._file.close()


_HEAD = struct.Struct("<8sQQQII")
_MAGIC = b"mktmesql"
_NONE, _JOURNAL, _WAL = range(3)
_SUFFIXES = {"-journal": _JOURNAL, "-wal": _WAL}
MAIN = "/main"
FIRST = 2 * PAGE  # the heads, in turns; the main file lies behind them, the other one grows down from the end


class RegionStore:
    """A database and its journal in one region, and nothing else. Thread-safe.

    The main file begins behind two heads of a page each and grows up; the journal or write-ahead log grows
    down from the end, page by page. A head has the files' sizes, a number and a checksum; heads are
    written in turns, so that a torn one costs nothing.

    Raises ClientError for a region that has no room, or holds something else than a database or zeros.
    """

    def __init__(self, region: Region) -> None:
        if region.unit > PAGE:
            raise ClientError(
                f"data units of {region.unit} bytes are longer than a page of {PAGE}: map the region with "
                "a shorter unit"
            )
        if region.size < 16 * PAGE:
            raise ClientError(
                f"a region of {format_size(region.size)} has no room for a database and its journal: "
                f"map {format_size(16 * PAGE)} at least"
            )
        self.region, self._lock = region, threading.RLock()
        self._number = 0
        self.sizes, self.kind = [0, 0], _NONE  # of the main file and of the one beside it
        heads = [found for page in (0, PAGE) if (found := self._head(page)) is not None]
        if heads:
            self._number, self.sizes[0], self.sizes[1], self.kind = max(heads)
        elif any(region.read(0, FIRST)) and region.device.media[region.address :][:FIRST].any():
            raise ClientError(
                "the region holds no database, and its first pages are neither zeros nor blank media: "
                f"clear them (region.fill(0, 0, {FIRST})), or map it under the key and scheme that the "
                "database has"
            )

    def _head(self, place: int) -> tuple[int, int, int, int] | None:
        raw = self.region.read(place, _HEAD.size)
        magic, number, main, beside, kind, checksum = _HEAD.unpack(raw)
        if magic != _MAGIC or checksum != zlib.crc32(raw[:-4]):
            return None
        return number, main, beside, kind

    def settle(self) -> None:
        """The sizes as they are now are durable."""
        with self._lock:
            self._number += 1
            body = _HEAD.pack(_MAGIC, self._number, *self.sizes, self.kind, 0)[:-4]
            place = self._number % 2 * PAGE
            self.region.write(place, body + zlib.crc32(body).to_bytes(4, "little"))
            self.region.persist(place, _HEAD.size)

    def open(self, name: str, create: bool) -> StoreFile:
        kind = _kind(name)
        with self._lock:
            if not self.exists(name):
                if not create:
                    raise FileNotFoundError(f"there is no {name!r} in the region")
                if kind != _NONE:
                    if self.kind != _NONE:
                        raise ClientError("the region has a journal already: SQLite keeps one at a time")
                    self.sizes[1], self.kind = 0, kind
            return _RegionFile(self, 0 if kind == _NONE else 1)

    def exists(self, name: str) -> bool:
        kind = _kind(name)
        return self._number > 0 or self.sizes[0] > 0 if kind == _NONE else self.kind == kind

    def delete(self, name: str) -> None:
        with self._lock:
            if not self.exists(name):
                raise FileNotFoundError(f"there is no {name!r} in the region")
            if _kind(name) == _NONE:
                self.sizes[0] = 0
            else:
                self.sizes[1], self.kind = 0, _NONE
            self.settle()

    def resize(self, which: int, size: int) -> None:
        """Give a file another size. Raises StoreFull."""
        with self._lock:
            pages = sum(-(-n // PAGE) for n in (size, self.sizes[1 - which]))
            if FIRST + pages * PAGE > self.region.size:
                raise StoreFull(
                    f"the region of {format_size(self.region.size)} is full: map a larger one, and VACUUM "
                    "INTO it"
                )
            self.sizes[which] = size

    def pieces(self, which: int, offset: int, length: int) -> list[tuple[int, int]]:
        """Where a range of a file lies in the region: places and lengths."""
        if which == 0:
            return [(FIRST + offset, length)]
        found, end = [], offset + length
        while offset < end:
            page, within = divmod(offset, PAGE)
            count = min(end - offset, PAGE - within)
            found.append((self.region.size - (page + 1) * PAGE + within, count))
            offset += count
        return found


class _RegionFile:
    def __init__(self, store: RegionStore, which: int) -> None:
        self._store, self._which = store, which
        self._lock = threading.Lock()

    @property
    def size(self) -> int:
        return self._store.sizes[self._which]

    def read(self, offset: int, length: int) -> bytes:
        length = max(0, min(length, self.size - offset))
        region = self._store.region
        return b"".join(
            region.read(place, count) for place, count in self._store.pieces(self._which, offset, length)
        )

    def write(self, offset: int, data: bytes) -> None:
        with self._lock:
            size = self.size
            if offset + len(data) > size:
                self._store.resize(self._which, offset + len(data))
            if offset > size:  # a hole reads as zeros
                self._put(size, bytes(offset - size))
            self._put(offset, data)

    def _put(self, offset: int, data: bytes) -> None:
        view = memoryview(data)
        for place, count in self._store.pieces(self._which, offset, len(data)):
            self._store.region.write(place, view[:count])
            view = view[count:]

    def truncate(self, size: int) -> None:
        with self._lock:
            before = self.size
            self._store.resize(self._which, size)
            if size > before:
                self._put(before, bytes(size - before))

    def sync(self) -> None:
        with self._lock:
            self._store.region.persist()
            self._store.settle()

    def close(self) -> None:
        """Nothing is held."""


def _kind(name: str) -> int:
    for suffix, kind in _SUFFIXES.items():
        if name == MAIN + suffix:
            return kind
    if name != MAIN:
        raise FileNotFoundError(f"a region holds one database, {MAIN}, and its journal: not {name!r}")
    return _NONE


class MemoryStore:
    """Files that nobody else sees: SQLite's temporary ones. They never reach any medium."""

    class File:
        def __init__(self) -> None:
            self._bytes = bytearray()

        @property
        def size(self) -> int:
            return len(self._bytes)

        def read(self, offset: int, length: int) -> bytes:
            return bytes(self._bytes[offset : offset + length])

        def write(self, offset: int, data: bytes) -> None:
            if offset > len(self._bytes):
                self._bytes.extend(bytes(offset - len(self._bytes)))
            self._bytes[offset : offset + len(data)] = data

        def truncate(self, size: int) -> None:
            del self._bytes[size:]
            self._bytes.extend(bytes(size - len(self._bytes)))

        def sync(self) -> None:
            """Nothing is to be kept."""

        def close(self) -> None:
            self._bytes = bytearray()
