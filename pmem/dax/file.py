"""An open file: bytes in and out, and the extents under them for direct access."""

from __future__ import annotations

import io
import operator
import time
from bisect import bisect_right
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any, NamedTuple, SupportsIndex

from pmem.buffers import Bytes, buffer_bytes
from pmem.dax.core import EVER, Core
from pmem.dax.errors import FileBusy, FileClosed
from pmem.dax.inode import SHARED, Gate, Inode
from pmem.dax.layout import BLOCK
from pmem.dax.writing import Writing
from pmem.errors import PmemError, RangeError

SHORT = 1 << 14  # bytes that are copied without releasing the GIL
LARGEST = 1 << 62  # bytes of a file


class Extent(NamedTuple):
    """A run of a file's blocks on the device, in bytes."""

    offset: int  # in the file
    address: int  # on the device
    length: int
    written: bool  # if not, it reads as zeros, whatever lies there


class Stat(NamedTuple):
    """What is known of a file or a directory."""

    number: int  # of the inode
    generation: int  # with the number: a handle
    mode: int  # type and permissions, as in `stat`
    links: int
    size: int  # bytes; of a directory: entries
    modified: int  # ns since 1970, as the next two
    changed: int
    born: int


def stat_of(inode: Inode) -> Stat:
    """What an inode says."""
    return Stat(
        *(inode.number, inode.generation, inode.mode, inode.links, inode.size),
        *(inode.modified, inode.changed, inode.born),
    )


class File:
    """An open file; made by `Volume.create` and `Volume.open`, closed by `close` or as a context.

    Reads run beside each other; a write, or whatever else changes the file, runs alone. Every call
    raises FileClosed once the file or the volume is closed, and VolumeCorrupt if the mapping is
    damaged.
    """

    def __init__(self, core: Core, inode: Inode, closed: Callable[[Inode], None]) -> None:
        """The volume's lock is held; `closed` is called when the file is."""
        self._core, self._inode, self._when_closed = core, inode, closed
        inode.gate = inode.gate or Gate()
        self._gate: Gate = inode.gate
        inode.opens += 1
        self._closed = False

    def __enter__(self) -> File:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __repr__(self) -> str:
        state = "closed" if self._closed else f"{self._inode.size} bytes"
        return f"<pmem.dax.File inode {self._inode.number} {state}>"

    @property
    def closed(self) -> bool:
        """Whether the file has been closed."""
        return self._closed

    @property
    def number(self) -> int:
        """The inode number; it stays as long as the file."""
        return self._inode.number

    @property
    def generation(self) -> int:
        """With the number it is a handle: another file never has both."""
        return self._inode.generation

    @property
    def size(self) -> int:
        """Bytes."""
        return self._inode.size

    @property
    def map_version(self) -> int:
        """A count that rises with every change of the mapping while the file is open: compare it."""
        return self._inode.version

    def stat(self) -> Stat:
        """What is known of the file."""
        return stat_of(self._open())

    def close(self) -> None:
        """Close it; closing again does nothing. An unlinked file is freed with its last close.

        That waits for calls that are still running in other threads.
        """
        inode = self._inode
        with self._core.store.lock:
            if self._closed:
                return
            self._closed = True
            inode.opens -= 1
            if inode.opens or self._core.medium.closed:
                return
            if inode.links and inode.touched:
                with suppress(PmemError), self._core.store.begin(freeing=True) as transaction:
                    transaction.join(inode)
        if not inode.links:
            self._gate.lock()
            try:
                with self._core.store.lock:
                    self._when_closed(inode)
            finally:
                self._gate.unlock()

    def map(self, offset: SupportsIndex = 0, length: SupportsIndex | None = None) -> list[Extent]:
        """The extents of a byte range in order, cut to whole blocks; holes are left out.

        They hold until `map_version` changes. Raises RangeError.
        """
        offset, length = _range(offset, LARGEST - operator.index(offset) if length is None else length)
        with self._core.store.lock:
            first, last = offset // BLOCK, -(-(offset + length) // BLOCK)
            found = self._core.mapping(self._open()).within(first, last - first)
            return [Extent(s * BLOCK, b * BLOCK, n * BLOCK, written) for s, b, n, written in found]

    def hold(self) -> None:
        """Have the blocks stay where they are until `release`: they are mapped into a program.

        What would move, free or share them raises FileBusy meanwhile. Raises FileBusy if some are
        shared, since a store there would change other files, or the volume is log-structured.
        """
        with self._core.store.lock:
            inode = self._open()
            if self._core.log:
                raise FileBusy("a log-structured volume writes nothing in place, so files can't be mapped")
            if inode.flags & SHARED:
                space = self._core.store.space
                runs = (space.shared(s.block, s.blocks) for s in self._core.mapping(inode).all())
                if any(shared for run in runs for _, _, shared in run):
                    raise FileBusy(
                        f"inode {inode.number} shares blocks with another file, so a store there would "
                        "change both: copy it"
                    )
            inode.holds += 1

    def release(self) -> None:
        """End a `hold`."""
        with self._core.store.lock:
            self._inode.holds -= 1

    @contextmanager
    def reading(self, offset: SupportsIndex, length: SupportsIndex) -> Iterator[list[Extent]]:
        """The extents of a byte range, as a context in which nobody changes the file.

        For a layer above that takes the bytes from the medium itself; not cut to blocks if it is one
        extent. Raises RangeError.
        """
        offset, length = _range(offset, length)
        self._gate.enter()
        try:
            with self._core.store.lock:
                address = self._address(self._open(), offset, length)
            if address is not None:
                yield [Extent(offset, address, length, True)]
            else:
                yield self.map(offset, length)
        finally:
            self._gate.leave()

    @contextmanager
    def in_place(self, offset: SupportsIndex, length: SupportsIndex) -> Iterator[int | None]:
        """The address of a byte range, for a layer above that puts bytes there itself, as a context in
        which nobody else reads or changes the file; they are persistent at its end.

        None where more than the bytes would change: then `begin_write` is to be used. Raises
        RangeError.
        """
        offset, length = _range(offset, length)
        core = self._core
        self._gate.lock()
        try:
            with core.store.lock:
                inode = self._open()
                shared = inode.flags & SHARED or core.log
                address = None if shared else self._address(inode, offset, length)
                if address is not None:
                    inode.modified, inode.touched = time.time_ns(), True
            if address is not None:
                core.medium.reserve(address, length)
            yield address
            if address is not None:
                core.medium.flush(address, length)
                core.medium.fence()
        finally:
            self._gate.unlock()

    def read(self, offset: SupportsIndex = 0, length: SupportsIndex | None = None) -> bytes:
        """Bytes of a range, fewer where the file ends. Raises RangeError."""
        size = self._open().size
        offset, length = _range(offset, size if length is None else length)
        count = max(0, min(length, size - offset))
        if count <= SHORT:
            return self._read_short(offset, count)
        stream = io.BytesIO()
        stream.seek(count - 1)
        stream.write(b"\0")
        with stream.getbuffer() as room:
            got = self.read_into(room, offset)
        stream.truncate(got)
        return stream.getvalue()

    def _read_short(self, offset: int, count: int) -> bytes:
        """A read that lies in one extent, as most do, else `read_into`."""
        self._gate.enter()
        try:
            with self._core.store.lock:
                address = self._address(self._open(), offset, count)
            if address is not None:
                return self._core.medium.array[address : address + count].tobytes()
        finally:
            self._gate.leave()
        buffer = bytearray(count)
        return bytes(buffer[: self.read_into(buffer, offset)])

    def read_into(self, buffer: Any, offset: SupportsIndex = 0) -> int:
        """Fill a writable contiguous buffer; how many bytes, fewer where the file ends.

        Raises RangeError.
        """
        into = buffer_bytes(buffer, writable=True)
        offset, length = _range(offset, into.size)
        self._gate.enter()
        try:
            array = self._core.medium.array
            with self._core.store.lock:
                inode = self._open()
                end = min(offset + length, inode.size)
                if end <= offset:
                    return 0
                first = offset // BLOCK
                found = list(self._core.mapping(inode).within(first, -(-end // BLOCK) - first))
            into, at = into[: end - offset], offset
            for start, block, count, written in found:
                low, high = max(start * BLOCK, offset), min((start + count) * BLOCK, end)
                if at < low:
                    into[at - offset : low - offset] = 0
                if written:
                    source = block * BLOCK + low - start * BLOCK
                    into[low - offset : high - offset] = array[source : source + high - low]
                else:
                    into[low - offset : high - offset] = 0
                at = high
            into[at - offset :] = 0
            return end - offset
        finally:
            array = into[:0]  # an error keeps the locals of its frames
            self._gate.leave()

    def write(self, offset: SupportsIndex, data: Any) -> None:
        """Write bytes from a contiguous buffer; the file grows as needed. On return they are persistent.

        A power failure leaves new blocks as a whole or not at all, and bytes written in place
        (that were there, and not shared) old or new, each aligned 8-byte word of its own.

        Raises RangeError, VolumeFull, DeviceFull, with nothing changed.
        """
        source = buffer_bytes(data)
        offset, length = _range(offset, source.size)
        if length and not self._write_in_place(offset, source):
            with self.begin_write(offset, length) as writing:
                writing.put(source)

    def _write_in_place(self, offset: int, source: Bytes) -> bool:
        """A write within one written extent: nothing but the bytes changes."""
        core = self._core
        self._gate.lock()
        try:
            with core.store.lock:
                inode = self._open()
                if inode.flags & SHARED or core.log:
                    return False
                address = self._address(inode, offset, source.size)
                if address is None:
                    return False
                inode.modified, inode.touched = time.time_ns(), True
            medium = core.medium
            medium.reserve(address, source.size)
            medium.store(address, source)
            medium.flush(address, source.size)
            medium.fence()
            return True
        finally:
            self._gate.unlock()

    def _address(self, inode: Inode, offset: int, length: int) -> int | None:
        """Where a range of bytes lies on the device, if it lies within one written extent."""
        extents = inode.extents
        if extents is None:
            extents = self._core.mapping(inode).all()
        at = bisect_right(inode.starts, offset // BLOCK) - 1
        if at < 0 or offset + length > inode.size:
            return None
        start, block, count, written = extents[at]
        if not written or offset + length > (start + count) * BLOCK:
            return None
        return (block - start) * BLOCK + offset

    def begin_write(self, offset: SupportsIndex, length: SupportsIndex) -> Writing:
        """Begin a write whose bytes the caller puts himself: see `Writing`.

        Raises RangeError; entering it raises VolumeFull, DeviceFull.
        """
        offset, length = _range(offset, length)
        self._core.make_room()
        return Writing(self._core, self._open, offset, length)

    def begin_truncate(self, size: SupportsIndex) -> Writing:
        """Begin to make the file longer or shorter; the bytes behind a former end are put as zeros."""
        size, _ = _range(size, 0)
        return Writing(self._core, self._open, size, 0, size, drop=(-(-size // BLOCK), EVER))

    def begin_punch(self, offset: SupportsIndex, length: SupportsIndex) -> Writing:
        """Begin to make a hole: its whole blocks are freed, zeros are put at its edges."""
        offset, length = _range(offset, length)
        end = min(offset + length, -(-self._open().size // BLOCK) * BLOCK)
        if end <= offset:
            return Writing(self._core, self._open, offset, 0)
        first, last = -(-offset // BLOCK), end // BLOCK
        edges = ((offset, min(first * BLOCK, end)), (max(last * BLOCK, offset), end))
        if first > last:
            edges = ((offset, end), (end, end))
        zeros = tuple(edge for edge in edges if edge[0] < edge[1])
        return Writing(self._core, self._open, offset, 0, zeros=zeros, drop=(first, max(first, last)))

    def begin_fallocate(self, offset: SupportsIndex, length: SupportsIndex) -> Writing:
        """Begin to give a range blocks; what was a hole stays unwritten. The file grows as needed."""
        offset, length = _range(offset, length)
        end, blocks = offset + length, (offset // BLOCK, -(-(offset + length) // BLOCK))
        return Writing(self._core, self._open, end, 0, grow=end, allocate=blocks)

    def truncate(self, size: SupportsIndex) -> None:
        """Make the file longer (with zeros) or shorter. Raises RangeError, VolumeFull."""
        self._run(self.begin_truncate(size))

    def punch(self, offset: SupportsIndex, length: SupportsIndex) -> None:
        """Make a range read as zeros and free its blocks; the size stays. Raises RangeError, VolumeFull."""
        self._run(self.begin_punch(offset, length))

    def fallocate(self, offset: SupportsIndex, length: SupportsIndex) -> None:
        """Give a range blocks, so that writing there can't find the volume full.

        In a log-structured volume, and in a file that is shared later, writing takes new blocks
        all the same. Raises RangeError, VolumeFull, with nothing changed.
        """
        self._run(self.begin_fallocate(offset, length))

    @property
    def inode(self) -> Inode:
        """The inode, for other parts of this package. Raises FileClosed."""
        return self._open()

    @contextmanager
    def alone(self) -> Iterator[Inode]:
        """While nobody reads or writes the file, as a context with its inode."""
        self._gate.lock()
        try:
            yield self._open()
        finally:
            self._gate.unlock()

    def try_alone(self) -> bool:
        """Begin what `end_alone` ends, if nobody reads or writes the file just now."""
        return self._gate.try_lock()

    def end_alone(self) -> None:
        """Let the others at the file."""
        self._gate.unlock()

    def _run(self, writing: Writing) -> None:
        with writing:
            writing.put(_NOTHING)

    def _open(self) -> Inode:
        if self._closed or self._core.medium.closed:
            raise FileClosed("the file has been closed: open it again")
        return self._inode


_NOTHING = buffer_bytes(b"")


def _range(offset: SupportsIndex, length: SupportsIndex) -> tuple[int, int]:
    try:
        offset, length = operator.index(offset), operator.index(length)
    except TypeError:
        raise RangeError(f"offset {offset!r} and length {length!r} are to be integers, in bytes") from None
    if offset < 0 or length < 0 or offset + length > LARGEST:
        raise RangeError(f"{length} bytes at offset {offset}: a file goes from 0 to {LARGEST} bytes")
    return offset, length
