"""The way of a file's bytes to the medium: what the three places share.

A request is taken extent by extent. What it covers of whole grains goes straight; a grain that it
covers in part is fetched, changed and put back. Places differ in their grain, in how bytes get
from one memory to the other, and so in what is copied and encrypted for one byte asked.
"""

from __future__ import annotations

import threading
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING, Any, Generic, Protocol, TypeVar

import numpy as np

from mktme.crypto.cipher import Bytes
from mktme.errors import MappingError
from mktme.iv.scheme import Scheme
from mktme.keys import Key
from mktme.stack.slot import Slot
from mktme.stack.traffic import Traffic
from pmem.dax import File, Kind, Part, Piece, Writing
from pmem.device import Device
from pmem.geometry import PAGE

if TYPE_CHECKING:
    from mktme.stack.direct import FileMap

How = TypeVar("How")  # what a path knows of a file's encryption
NOTHING = np.empty(0, np.uint8)
NOWHERE: AbstractContextManager[object] = nullcontext()
CHUNK = 64 * PAGE  # bytes that are in pages at once: they stay in the second-level cache


class FileKey(Protocol):
    """The key of a file's contents, one object for files that share it."""

    algorithm: str

    @property
    def slot(self) -> Slot:
        """The cipher under the key."""

    def key(self) -> Key:
        """A copy to program elsewhere, which the taker clears."""

    def follow(self, wiped: Callable[[], None]) -> None:
        """Call a function when the key is wiped."""


class FilePath(ABC, Generic[How]):
    """One place of encryption, for the files of a volume. Thread-safe as the files are."""

    name: str
    mappable = False  # whether `map` can give a file's contents for direct access

    def __init__(self, device: Device) -> None:
        self.device, self.traffic = device, Traffic()
        self._local = threading.local()

    @abstractmethod
    def bind(self, key: FileKey, scheme: Scheme, unit: int, given: Mapping[str, Any]) -> How:
        """What encrypts a file: its key, its IV scheme and data unit, its coordinates.

        Raises SchemeError for what the path can't do.
        """

    def using(self, how: How) -> AbstractContextManager[object]:
        """A context in which the file's key is where it is needed. It may wait, but for no file: a file
        is locked before its key is taken.
        """
        return NOWHERE

    def map(self, file: File, how: How) -> FileMap:
        """The file's contents for direct access. Raises MappingError where there is none."""
        raise MappingError(
            f"the path {self.name} encrypts on the way to the medium, so what lies there "
            "can't be mapped: take the path line, or read and write"
        )

    @abstractmethod
    def grain(self, how: How) -> int:
        """Bytes that are written together: a power of two, PAGE at most."""

    @abstractmethod
    def fetch(self, how: How, offset: int, address: int, page: Bytes) -> None:
        """Plaintext of whole grains into memory of the path's own."""

    @abstractmethod
    def put(self, how: How, offset: int, address: int, page: Bytes) -> None:
        """Write whole grains whose plaintext lies in memory of the path's own."""

    def load(self, how: How, offset: int, address: int, out: Bytes) -> None:
        """Plaintext of whole grains into the caller's buffer."""
        self.fetch(how, offset, address, out)

    def store(self, how: How, offset: int, address: int, data: Bytes) -> None:
        """Write whole grains whose plaintext lies in the caller's buffer."""
        self.put(how, offset, address, data)

    def read_into(self, file: File, how: How, offset: int, out: Bytes) -> None:
        """Fill a buffer with a file's bytes from an offset on; past its end they are zeros."""
        at, end = offset, offset + out.size
        with file.reading(offset, out.size) as extents, self.using(how):
            for extent in extents:
                first, last = max(extent.offset, offset), min(extent.offset + extent.length, end)
                out[at - offset : first - offset] = 0  # a hole
                part, at = out[first - offset : last - offset], last
                if extent.written:
                    self._read(how, first, extent.address + first - extent.offset, part)
                else:
                    part[:] = 0
            out[at - offset :] = 0
        self.traffic.add(asked=out.size)

    def write(self, file: File, how: How, offset: int, data: Bytes) -> None:
        """Write a buffer at an offset, which may be past the file's end."""
        with file.in_place(offset, data.size) as address, self.using(how):
            if address is not None:
                self._write_in_place(how, offset, address, self._apart(data))
        if address is None:
            self.finish(how, file.begin_write(offset, data.size), data)
        self.traffic.add(asked=data.size)

    def finish(self, how: How, writing: Writing, data: Bytes = NOTHING) -> None:
        """Carry out a change that a file began: put the bytes of its blocks, then leave it."""
        with writing, self.using(how):
            data, parts = self._apart(data), [*writing.parts()]
            for piece in writing.pieces:
                end, count = piece.offset + piece.length, 0
                while count < len(parts) and parts[count].offset < end:
                    count += 1
                self._put_piece(how, piece, parts[:count], data, writing.offset)
                del parts[:count]

    def _apart(self, data: Bytes) -> Bytes:
        """What to write, copied if it lies on the medium: a write could change it before it is read."""
        return data.copy() if np.may_share_memory(data, self.device.mapping()) else data

    def move(self, how: How, offset: int, old: int, new: int, length: int) -> None:
        """Blocks from one address to another, encrypted anew."""
        with self.using(how):
            self._move(how, offset, old, new, length)

    def _move(self, how: How, offset: int, old: int, new: int, length: int) -> None:
        """Plaintext of whole grains from one address to another, encrypted anew."""
        for at in range(0, length, CHUNK):
            page = self.page(min(CHUNK, length - at))
            self.fetch(how, offset + at, old + at, page)
            self.put(how, offset + at, new + at, page)

    def page(self, size: int) -> Bytes:
        """Memory of the path's own, up to CHUNK bytes; a thread has one such, used again and again."""
        room: Bytes | None = getattr(self._local, "room", None)
        if room is None:
            room = self._local.room = np.empty(CHUNK, np.uint8)
        return room[:size]

    def _read(self, how: How, offset: int, address: int, out: Bytes) -> None:
        grain = self.grain(how)
        skip = offset % grain
        if skip or out.size < grain:
            taken = min(grain - skip, out.size)
            page = self.page(grain)
            self.fetch(how, offset - skip, address - skip, page)
            out[:taken] = page[skip : skip + taken]
            self.traffic.add(copied=taken)
            offset, address, out = offset + taken, address + taken, out[taken:]
        whole = out.size // grain * grain
        if whole:
            self.load(how, offset, address, out[:whole])
        if whole < out.size:
            page = self.page(grain)
            self.fetch(how, offset + whole, address + whole, page)
            out[whole:] = page[: out.size - whole]
            self.traffic.add(copied=out.size - whole)

    def _write_in_place(self, how: How, offset: int, address: int, data: Bytes) -> None:
        grain, done = self.grain(how), 0
        while done < data.size:
            skip = (offset + done) % grain
            if skip or data.size - done < grain:
                part = data[done : done + grain - skip]
                page = self.page(grain)
                at = done - skip
                self.fetch(how, offset + at, address + at, page)
                page[skip : skip + part.size] = part
                self.traffic.add(copied=part.size)
                self.put(how, offset + at, address + at, page)
            else:
                part = data[done : done + (data.size - done) // grain * grain]
                self.store(how, offset + done, address + done, part)
            done += part.size

    def _put_piece(self, how: How, piece: Piece, parts: list[Part], data: Bytes, first: int) -> None:
        """The parts of a piece; `data` is the request, from offset `first` of the file on."""
        grain, done = self.grain(how), piece.offset
        for part in parts:
            low, high = max(part.offset, done), part.offset + part.length
            while low < high:
                at = low - low % grain
                if low == at and high - low >= grain:
                    size = (high - low) // grain * grain
                    address = piece.address + low - piece.offset
                    if part.kind is Kind.DATA:
                        self.store(how, low, address, data[low - first : low - first + size])
                    elif part.source is None:
                        self._zero(how, low, address, size)
                    else:
                        self._move(how, low, part.source + low - part.offset, address, size)
                    low += size
                else:
                    self._patch(how, piece, parts, at, grain, data, first)
                    low = at + grain
            done = max(done, low)

    def _zero(self, how: How, offset: int, address: int, length: int) -> None:
        for at in range(0, length, CHUNK):
            page = self.page(min(CHUNK, length - at))
            page[:] = 0
            self.put(how, offset + at, address + at, page)

    def _patch(
        self, how: How, piece: Piece, parts: list[Part], at: int, grain: int, data: Bytes, first: int
    ) -> None:
        """One grain of which several parts have bytes, or one has some."""
        page = self.page(grain)
        if piece.source is None:
            page[:] = 0
        else:
            self.fetch(how, at, piece.source + at - piece.offset, page)
        for part in parts:
            low, high = max(part.offset, at), min(part.offset + part.length, at + grain)
            if low < high and part.kind is Kind.DATA:
                page[low - at : high - at] = data[low - first : high - first]
                self.traffic.add(copied=high - low)
            elif low < high and part.kind is Kind.ZERO:
                page[low - at : high - at] = 0
        self.put(how, at, piece.address + at - piece.offset, page)
