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
from pmem.geometry import PAGE

ZEROS = 64 * PAGE  # bytes of zeros written at once


class Mappable(ABC):
    """What such a path knows of a file; `map` is its map while there is one."""

    def __init__(self) -> None:
        self.map: FileMap | None = None

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

    def map(self, file: File, how: How) -> FileMap:
        """The file's contents for direct access, its KeyID pinned until the map is closed.

        Holes are filled with zeros. A file that is mapped already gives the same map once more, as
        long as it was when it was mapped first. Raises MappingError for an empty file; KeyTableFull
        if every KeyID is pinned; pmem.dax.FileBusy if blocks are shared, or the volume is a log.
        """
        with self._mapping:
            if how.map is not None:
                return how.map.again()
            if not file.size:
                raise MappingError("an empty file has nothing to map: write to it first, or truncate it up")
            self._fill(file, how)
            keyid = self.take(how)
            regions: list[tuple[int, Region]] = []
            held = False
            try:
                file.hold()
                held = True
                for extent in file.map():
                    told = how.range(extent.offset, extent.address)
                    region = self.controller.map(extent.address, extent.length, keyid, **told)
                    regions.append((extent.offset, region))
            except BaseException:
                for _, region in regions:
                    self.controller.unmap(region)
                if held:
                    file.release()
                self.leave(how)
                raise
            how.map = FileMap(self, how, regions, file)
            return how.map

    def release(self, how: How) -> None:
        """Remove a file's ranges from the page map and let its KeyID go; for its map."""
        with self._mapping:
            if how.map is not None:
                for _, region in how.map.regions:
                    if region.mapped:
                        self.controller.unmap(region)
                how.map.file.release()
                how.map = None
                self.leave(how)

    def _fill(self, file: File, how: How) -> None:
        """Write zeros where the file has nothing on the medium."""
        at, end, zeros = 0, file.size, np.zeros(ZEROS, np.uint8)
        written = [(e.offset, min(e.offset + e.length, end)) for e in file.map() if e.written]
        for first, last in [*written, (end, end)]:
            while at < first:
                count = min(ZEROS, first - at)
                self.write(file, how, at, zeros[:count])
                at += count
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
        page[:] = self.device.mapping()[address : address + page.size]
        self.traffic.add(copied=page.size)

    def put(self, how: PlainContents, offset: int, address: int, page: Bytes) -> None:
        self.device.mapping()[address : address + page.size] = page
        self.traffic.add(copied=page.size)


class FileMap:
    """A file that is mapped: bytes and arrays straight from its ranges.

    `regions` are (offset in the file, region), one an extent. Offsets and lengths are bytes of the
    file. A context manager; as often as the file was mapped it is to be closed. Thread-safe as
    regions are. The path's traffic counts reads and writes, but not those of arrays.
    """

    def __init__(
        self, path: Direct[Any], how: Mappable, regions: list[tuple[int, Region]], file: File
    ) -> None:
        self._path, self._how, self.regions, self.file, self.size = path, how, regions, file, file.size
        self._starts = [offset for offset, _ in regions]
        self._open = 1

    def again(self) -> FileMap:
        """The same map for one more user."""
        self._open += 1
        return self

    def __enter__(self) -> FileMap:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """End the map, when its last user closes it; closing once more does nothing."""
        if self._open:
            self._open -= 1
            if not self._open:
                self._path.release(self._how)

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
        if not self._open:
            raise RegionUnmapped("the file's map has been closed: map the file again")
        if not 0 <= offset < self.size:
            raise RegionError(f"offset {offset} is outside of the file, which has {self.size} bytes")
        start, region = self.regions[bisect.bisect_right(self._starts, offset) - 1]
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
