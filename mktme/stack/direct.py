"""Paths on which a file can be mapped: its extents become ranges of the memory controller."""

from __future__ import annotations

import bisect
import threading
from abc import ABC, abstractmethod
from collections.abc import Mapping
from types import TracebackType
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt

from mktme.controller import Controller
from mktme.crypto.cipher import Bytes
from mktme.errors import MappingError, RegionError, RegionUnmapped, SchemeError
from mktme.iv.scheme import Scheme
from mktme.region import Region
from mktme.stack.path import FileKey, FilePath
from pmem.buffers import buffer_bytes
from pmem.dax import File


class Mapped:
    """The ranges of a file that is mapped, shared by its maps.

    `regions` are (offset in the file, region) in order, without gaps from the file's first byte on.
    """

    def __init__(self, file: File, keyid: int) -> None:
        self.file, self.keyid = file, keyid
        self.regions: list[tuple[int, Region]] = []
        self.starts: list[int] = []
        self.users = 0  # maps that are open

    @property
    def end(self) -> int:
        """Bytes of the file that lie in regions."""
        return self.starts[-1] + self.regions[-1][1].size if self.regions else 0

    def add(self, region: Region) -> None:
        """Append a region."""
        self.starts.append(self.end)
        self.regions.append((self.starts[-1], region))


class Mappable(ABC):
    """What such a path knows of a file; `mapped` are its ranges while it is mapped."""

    def __init__(self) -> None:
        self.mapped: Mapped | None = None

    @abstractmethod
    def range(self, offset: int, address: int) -> dict[str, Any]:
        """What `Controller.map` is told of an extent, beside its place and KeyID."""


How = TypeVar("How", bound=Mappable)


class Direct(FilePath[How]):
    """A path with a memory controller."""

    mappable = True

    def __init__(self, controller: Controller) -> None:
        super().__init__(controller.device)
        self.controller = controller
        self._mapping = threading.RLock()

    @abstractmethod
    def count(self, write: bool, first: int, end: int) -> None:
        """Count what a map's request for bytes `first` to before `end` of a file costs."""

    @abstractmethod
    def take(self, how: How) -> int:
        """The file's KeyID, which stays its own until `leave`."""

    @abstractmethod
    def leave(self, how: How) -> None:
        """Let the KeyID go."""

    def evict(self, keyid: int | None, address: int, length: int) -> None:
        """Have what a map stored to some blocks on the medium, before requests go there past the cache."""
        controller = self.controller
        if controller.cache is not None and keyid is not None:
            controller.cache.evict(controller.bus.address(keyid, address), length)

    def map(self, file: File, how: How) -> FileMap:
        """The file's contents for direct access, its KeyID pinned until its last map is closed.

        Holes are filled with zeros. Raises MappingError for an empty file; KeyTableFull if every
        KeyID is pinned; pmem.dax.FileBusy if blocks are shared, or the volume is a log.
        """
        if not file.size:
            raise MappingError("an empty file has nothing to map: write to it first, or truncate it up")
        with file.alone():  # nobody is moving its blocks just now
            file.hold()
        try:
            with self._mapping:
                return self._map(file, how)
        finally:
            file.release()

    def _map(self, file: File, how: How) -> FileMap:
        mapped = how.mapped or self._begin(file, how)
        try:
            size = file.size  # it can only grow, as its blocks are held
            self._fill(file, how, size)
            self._extend(file, how, mapped, size)
        except BaseException:
            if not mapped.users:
                self.revoke(how)
            raise
        mapped.users += 1
        return FileMap(self, how, mapped, size)

    def release(self, how: How, mapped: Mapped) -> None:
        """One of a file's maps has been closed; with the last one its ranges and its KeyID go."""
        with self._mapping:
            mapped.users -= 1
            if not mapped.users and how.mapped is mapped:
                self.revoke(how)

    def revoke(self, how: How) -> None:
        """End all maps of a file. What they left in the CPU cache is written back first: the blocks
        may come under another KeyID, or be moved.
        """
        with self._mapping:
            mapped, how.mapped = how.mapped, None
            if mapped is not None:
                for _, region in mapped.regions:
                    if region.mapped:
                        self.evict(mapped.keyid, region.address, region.size)
                        self.controller.unmap(region)
                mapped.file.release()
                self.leave(how)

    def _begin(self, file: File, how: How) -> Mapped:
        keyid = self.take(how)
        try:
            file.hold()
        except BaseException:
            self.leave(how)
            raise
        how.mapped = Mapped(file, keyid)
        return how.mapped

    def _extend(self, file: File, how: How, mapped: Mapped, size: int) -> None:
        """Map what the file has behind the last region."""
        for extent in file.map(mapped.end, max(0, size - mapped.end)):
            told = how.range(extent.offset, extent.address)
            mapped.add(self.controller.map(extent.address, extent.length, mapped.keyid, **told))

    def _fill(self, file: File, how: How, end: int) -> None:
        """Write zeros where the file has nothing on the medium."""
        at, written = 0, [(e.offset, e.offset + e.length) for e in file.map(0, end) if e.written]
        for first, last in [*written, (end, end)]:
            if at < first:
                with file.begin_write(at, min(first, end) - at) as writing, self.using(how):
                    for piece in writing.pieces:
                        if piece.source is None:  # nobody has written there meanwhile
                            self._zero(how, piece.offset, piece.address, piece.length)
            at = last


class PlainContents(Mappable):
    """A file without encryption."""

    def range(self, offset: int, address: int) -> dict[str, Any]:
        return {}


class Plain(Direct[PlainContents]):
    """`none`: the file's bytes as they are, under KeyID 0."""

    name = "none"

    def bind(self, key: FileKey, scheme: Scheme, unit: int, given: Mapping[str, Any]) -> PlainContents:
        raise SchemeError("the path none doesn't encrypt, and this file is encrypted: take another path")

    def count(self, write: bool, first: int, end: int) -> None:
        self.traffic.add(asked=end - first, copied=end - first)

    def take(self, how: PlainContents) -> int:
        return 0

    def leave(self, how: PlainContents) -> None:
        """KeyID 0 is everybody's."""

    def grain(self, how: PlainContents) -> int:
        return 1

    def fetch(self, how: PlainContents, offset: int, address: int, page: Bytes) -> None:
        self.evict(0, address, page.size)
        if self.device.poison is not None:
            self.device.poison.check_read(address, page.size)
        page[:] = self.device.mapping()[address : address + page.size]
        self.traffic.add(copied=page.size)

    def put(self, how: PlainContents, offset: int, address: int, page: Bytes) -> None:
        self.evict(0, address, page.size)
        if self.device.poison is not None:
            self.device.poison.check_write(address, page.size)
        self.device.storing(address, page.size)
        self.device.mapping()[address : address + page.size] = page
        if self.device.poison is not None:
            self.device.poison.written(address, page.size)
        self.traffic.add(copied=page.size)


class FileMap:
    """A file that is mapped: bytes and arrays straight from its ranges.

    Offsets and lengths are bytes of the file, which has `size` of them: as many as when it was
    mapped. A context manager. Thread-safe as regions are. The path's traffic counts reads and
    writes, but not those of arrays.
    """

    def __init__(self, path: Direct[Any], how: Mappable, mapped: Mapped, size: int) -> None:
        self._path, self._how, self._mapped, self.size = path, how, mapped, size
        self._closed = False

    def __enter__(self) -> FileMap:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    @property
    def closed(self) -> bool:
        """Whether it has been closed, or its key was taken away."""
        return self._closed or self._how.mapped is not self._mapped

    @property
    def regions(self) -> list[tuple[int, Region]]:
        """(offset in the file, region), one an extent or part of one."""
        return [*self._mapped.regions]

    def close(self) -> None:
        """End the map; closing it again does nothing."""
        if not self._closed:
            self._closed = True
            self._path.release(self._how, self._mapped)

    def read(self, offset: int, length: int) -> bytes:
        """Plaintext of a range. Raises RegionError outside of the file, RegionUnmapped."""
        self._parts(offset, length)
        out = np.empty(length, np.uint8)
        self.read_into(out, offset)
        return out.tobytes()

    def read_into(self, buffer: Any, offset: int = 0) -> None:
        """Fill a writable contiguous buffer. Raises as `read`."""
        out = buffer_bytes(buffer, writable=True)
        for region, at, first, last in self._parts(offset, out.size):
            region.read_into(out[first:last], at)
        self._path.count(False, offset, offset + out.size)

    def write(self, offset: int, data: Any) -> None:
        """Write a contiguous buffer within the file. Raises as `read`, and as `Region.write`."""
        source = buffer_bytes(data)
        for region, at, first, last in self._parts(offset, source.size):
            region.write(at, source[first:last])
        self._path.count(True, offset, offset + source.size)

    def persist(self, offset: int = 0, length: int | None = None) -> None:
        """Make a range durable, by default to the end."""
        count = self.size - offset if length is None else length
        for region, at, first, last in self._parts(offset, count):
            region.persist(at, last - first)

    def array(self, dtype: npt.DTypeLike, shape: Any = None, offset: int = 0) -> Any:
        """An array as of `Region.array`, over bytes that lie in one extent. Raises RegionError."""
        region, start = self._at(offset)
        return region.array(dtype, shape, offset - start)

    def _at(self, offset: int) -> tuple[Region, int]:
        """The region of an offset, and where in the file it begins."""
        if self.closed:
            raise RegionUnmapped("the file's map has been closed: map the file again")
        if not 0 <= offset < self.size:
            raise RegionError(f"offset {offset} is outside of the file, which has {self.size} bytes")
        start, region = self._mapped.regions[bisect.bisect_right(self._mapped.starts, offset) - 1]
        return region, start

    def _parts(self, offset: int, length: int) -> list[tuple[Region, int, int, int]]:
        """(region, offset in it, first and last byte of the buffer) of a range."""
        if offset < 0 or length < 0 or offset + length > self.size:
            raise RegionError(
                f"{length} bytes at offset {offset} are outside of the file, which has {self.size} bytes"
            )
        parts, done = [], 0
        while done < length:
            region, start = self._at(offset + done)
            at = offset + done - start
            count = min(length - done, region.size - at)
            parts.append((region, at, done, done + count))
            done += count
        return parts
