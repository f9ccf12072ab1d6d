"""A mapped region: what a script holds. Bytes, buffers and arrays; plaintext on this side."""

from __future__ import annotations

import io
import operator
import threading
from typing import TYPE_CHECKING, Any, NoReturn, SupportsIndex, overload

import numpy as np
import numpy.typing as npt

from mktme import parallel
from mktme.errors import REFUSALS, RegionError, RegionUnmapped, release
from mktme.rekey import Rekeying
from mktme.stack.poison import check_write, watched
from pmem.buffers import Bytes, buffer_bytes
from pmem.geometry import LINE

if TYPE_CHECKING:
    from mktme.array import EncryptedArray
    from mktme.controller import Controller
    from mktme.crypto.cipher import Lines
    from mktme.mapping import Mapping
    from mktme.pages import Pages
    from mktme.stack.slot import Slot

SMALL = 1 << 16  # bytes of a read that is cheaper to copy once more
_making_pages = threading.Lock()
FILL = 1 << 18  # bytes of a pattern that are written at once


class Region:
    """A range of pages under one KeyID, from `Controller.map`.

    Offsets count from the region's first byte; any offset and length will do (a line that is
    written in part is read, changed and written back). `region[a:b]` is bytes, as of an mmap.
    Thread-safe as the controller is.

    Attributes: `address` and `size` (bytes), `keyid`, `scheme` (the IV scheme), `unit` (bytes of a
    data unit), `metadata` (where what is kept beside the data
    begins and ends on the device, or None), `device`, `mapped`.
    """

    def __init__(
        self,
        controller: Controller,
        address: int,
        size: int,
        keyid: int,
        mapping: Mapping,
        metadata: tuple[int, int] | None,
    ) -> None:
        self.address, self.size, self.keyid = address, size, keyid
        self.scheme, self.unit, self.metadata = mapping.scheme, mapping.unit, metadata
        self._controller: Controller | None = controller
        self._mapping = mapping
        self._keys = controller  # for lines that are written back when the region is unmapped
        self._cached = controller.through_cache(keyid)
        self._path: tuple[Slot | None, Lines] | None = None  # under the slot as it was
        self.device = controller.device
        self._pages: Pages | None = None

    def __repr__(self) -> str:
        state = f"KeyID {self.keyid}, {self.scheme.name}" if self.mapped else "unmapped"
        return f"<mktme.Region {self.address:#x} to {self.address + self.size - 1:#x}: {state}>"

    def __reduce__(self) -> NoReturn:
        raise TypeError("a region is its controller's own and can't be pickled or copied")

    def __len__(self) -> int:
        return self.size

    @property
    def end(self) -> int:
        """The address past the last byte."""
        return self.address + self.size

    @property
    def mapped(self) -> bool:
        """Whether the region is still mapped."""
        return self._controller is not None

    def retire(self) -> None:
        """End the region; for its controller, which calls this when the mapping is gone."""
        self._controller = None

    def mapping(self) -> Controller:
        """The controller. Raises RegionUnmapped if the region is no longer mapped."""
        if self._controller is None:
            raise RegionUnmapped(f"the region at {self.address} has been unmapped: map it again")
        return self._controller

    def lines(self) -> Lines:
        """What scripts read and write: what encrypts the region, or a CPU cache in front of it.

        Raises RegionUnmapped.
        """
        if self._controller is None:
            self.mapping()
        return self._cached or self.path()

    def path(self) -> Lines:
        """What encrypts the region: its scheme under the key that its KeyID holds now."""
        slot, path = self._keys.slots[self.keyid], self._path
        if path is None or path[0] is not slot:
            if slot is None:  # a KeyID that was cleared behaves as KeyID 0
                path = slot, self._keys.lines(0)
            else:
                place = self.metadata[0] if self.metadata else 0
                path = slot, self._mapping.path(slot, place, self.keyid)
            self._path = path
        poison = self.device.poison
        return path[1] if poison is None else watched(path[1], poison, self._places_beside)

    @property
    def kept(self) -> tuple[int, int] | None:
        """Where the counters or drawn IVs begin and end on the device; None without any."""
        if not self.metadata or not self.scheme.state:
            return None
        return self.metadata[0], self.metadata[0] + self._mapping.store_bytes

    @property
    def alone(self) -> bool:
        """Whether writing a line changes nothing but the line and its MAC."""
        span = self._mapping.span(self._keys.slot(self.keyid))
        return span == LINE and not self.scheme.state

    def touched(self, addresses: npt.NDArray[np.uint64]) -> npt.NDArray[np.uint64]:
        """The lines of the device that may change when some of its lines are written, each once."""
        slot = self._keys.slot(self.keyid)
        span = self._mapping.span(slot)
        first = np.unique((addresses - np.uint64(self.address)) // np.uint64(span)) * np.uint64(span)
        some = first[:, None] + np.arange(0, span, LINE, dtype=np.uint64) + np.uint64(self.address)
        lines = some.reshape(-1).astype(np.uint64)
        if not self.metadata:
            return lines
        beside = [places + np.uint64(self.metadata[0]) for places in self._mapping.beside(lines)]
        there = np.concatenate([lines, *beside]).astype(np.uint64) & ~np.uint64(LINE - 1)
        return np.unique(there)

    def rekeying(self, journal: int, slot: Slot, keyid: int) -> Rekeying:
        """What re-encrypts the region under another key. Raises RekeyError."""
        return Rekeying(self, self._mapping, journal, self._keys.slot(self.keyid), slot, keyid)

    def under(self, controller: Controller, keyid: int) -> Region:
        """The same range under another KeyID."""
        return Region(controller, self.address, self.size, keyid, self._mapping, self.metadata)

    def reserve(self, address: int, length: int) -> None:
        """Make sure that a range of device addresses can be written, and what is kept beside it.

        Raises as `pmem.Device.reserve`; nothing is written then.
        """
        self.device.reserve(address, length)
        self._reserve_beside(address, length)

    def _reserve_beside(self, address: int, length: int) -> None:
        if self.metadata:
            for places in self._places_beside(np.array([address, address + length - 1], np.uint64)):
                low, high = int(places[0]), int(places[-1])
                self.device.reserve(low, high - low + 1)

    def _places_beside(self, addresses: npt.NDArray[np.uint64]) -> list[npt.NDArray[np.uint64]]:
        """Device addresses of what is kept beside some of the region's, each kind apart."""
        if not self.metadata:
            return []
        first = np.uint64(self.metadata[0])
        return [places + first for places in self._mapping.beside(addresses)]

    def reserve_lines(self, addresses: npt.NDArray[np.uint64]) -> None:
        """The same for scattered device addresses of this region."""
        self.device.reserve_lines(addresses)
        if self.metadata:
            for places in self._places_beside(addresses.reshape(-1)):
                self.device.reserve_lines(places)

    def fits(self, slot: Slot) -> None:
        """Refuse a key that the region can't be encrypted with. Raises SchemeError."""
        self._mapping.check(slot)

    def check(self, offset: SupportsIndex, length: SupportsIndex) -> tuple[int, int]:
        """A range as Python integers (numpy's wrap around). Raises RegionError if it is not in the region."""
        try:
            start, count = operator.index(offset), operator.index(length)
        except TypeError:
            raise RegionError(
                f"offset {offset!r} and length {length!r} are to be integers, in bytes"
            ) from None
        if start < 0 or count < 0 or start + count > self.size:
            raise RegionError(
                f"{count} bytes at offset {start} are outside of the region, which has {self.size} bytes"
            )
        return start, count

    def _to_end(self, offset: SupportsIndex, length: SupportsIndex | None) -> tuple[int, int]:
        """The same for a length that is by default what is left."""
        start, _ = self.check(offset, 0)
        return self.check(start, self.size - start if length is None else length)

    def read(self, offset: int, length: int) -> bytes:
        """Plaintext of a range.

        Raises RegionError, RegionUnmapped, PoisonError (MACs), pmem.PoisonError (the medium),
        pmem.DeviceClosed, pmem.DeviceChanged.
        """
        offset, length = self.check(offset, length)
        if length <= SMALL:
            out = np.empty(length, np.uint8)
            self._read(offset, out)
            return out.tobytes()
        # The bytes object is filled in place, through the one buffer that may: BytesIO's.
        room = io.BytesIO(bytes(length))
        view = room.getbuffer()
        self._read(offset, np.frombuffer(view, np.uint8))
        view.release()
        return room.getvalue()

    def read_into(self, buffer: Any, offset: int = 0) -> None:
        """Fill a writable contiguous buffer (bytearray, array, memoryview ...) from an offset on.

        Raises as `read`; pmem.RangeError if the buffer is not writable and contiguous.
        """
        out = buffer_bytes(buffer, writable=True)
        offset, _ = self.check(offset, out.size)
        self._read(offset, out)

    def write(self, offset: int, data: Any, *, nontemporal: bool = False) -> None:
        """Write a contiguous buffer (bytes, array, memoryview ...) at an offset.

        In a persistence domain `nontemporal` stores don't wait for a flush, only for a fence.

        Raises as `read`, and pmem.ReadOnlyDevice, pmem.DeviceFull; nothing is written then.
        """
        source = buffer_bytes(data)
        offset, _ = self.check(offset, source.size)
        self._write(offset, source)
        if nontemporal and self.mapping().cache is not None:
            self.flush(offset, source.size)

    def fill(self, value: int = 0, offset: int = 0, length: int | None = None) -> None:
        """Set every byte of a range, by default from the offset to the end, to one value.

        Raises as `write`, and RegionError for a value outside of 0 to 255.
        """
        offset, length = self._to_end(offset, length)
        if not 0 <= operator.index(value) <= 255:
            raise RegionError(f"{value} is not the value of a byte: 0 to 255")
        self.mapping()
        if length:
            self.reserve(self.address + offset, length)
            self._check_write(offset, length)
        pattern = np.full(min(FILL, length), value, np.uint8)
        at, end = offset, offset + length
        while at < end:  # broken between data units, so that none is written in part
            count = min(end, (at // FILL + 1) * FILL) - at
            self._write(at, pattern[:count])
            at += count

    def _check_write(self, offset: int, length: int) -> None:
        try:
            check_write(self.lines(), self.device.mapping(), self.address + offset, length)
        except REFUSALS as error:
            release(error)
            raise

    def _read(self, offset: int, out: Bytes) -> None:
        device, lines = self.device, self.lines()
        try:
            if out.size >= parallel.SPLIT_FROM:
                self.mapping().decrypt(lines, device.mapping(), self.address + offset, out)
            elif out.size:  # without a detour: this is what a short request costs
                lines.read(device.mapping(), device.base, self.address + offset, out)
        except REFUSALS as error:
            release(error)
            raise

    def _write(self, offset: int, data: Bytes) -> None:
        device, lines = self.device, self.lines()
        start, media = self.address + offset, device.mapping()
        if not data.size:
            return
        try:
            device.reserve(start, data.size)
            if self.metadata:
                self._reserve_beside(start, data.size)
            if data.size >= parallel.SPLIT_FROM:
                self.mapping().encrypt(lines, media, start, data)
            else:
                lines.write(media, device.base, start, data)
        except REFUSALS as error:
            del media
            release(error)
            raise

    def flush(self, offset: int = 0, length: int | None = None) -> None:
        """Make a range durable, by default to the end. Raises RegionError, pmem.DeviceFailed ..."""
        offset, length = self._to_end(offset, length)
        if self._pages is not None:
            self._pages.write_back(offset, length)
        self.mapping().flush(self.address + offset, length)

    def drain(self) -> None:
        """Wait until what was flushed is durable."""
        self.mapping().drain()

    def persist(self, offset: int = 0, length: int | None = None) -> None:
        """`flush` and `drain`: when it returns, the range is durable. Raises as `flush`."""
        self.flush(offset, length)
        self.drain()

    def deep_flush(self, offset: int = 0, length: int | None = None) -> None:
        """Make a range durable in the image file itself, whatever the persistence domain covers.

        Raises as `flush`.
        """
        offset, length = self._to_end(offset, length)
        self.mapping().deep_flush(self.address + offset, length)

    def view(
        self, dtype: Any, shape: SupportsIndex | tuple[SupportsIndex, ...] | None = None, offset: int = 0
    ) -> npt.NDArray[Any]:
        """An ordinary np.ndarray over the region: pages are decrypted when they are touched first, and those
        that were written to are encrypted by `flush` and `persist`, or when the region is unmapped.

        dtype, shape and offset as for `array`. All views of a region are over the same pages. A page that was
        touched takes memory, and doesn't see what is written to the region by other ways; what wasn't
        flushed is lost when the process dies. One that can't be read (poison, a wrong MAC) ends the
        process by SIGBUS, as failing memory does. It needs Linux 6.7 and userfaultfd.

        Raises ViewError where the system can't, or the device has a persistence domain; RegionError as
        `array`.
        """
        from mktme.pages import Pages  # imports the system's calls

        whole = self.array(dtype, shape, offset)  # refuses what can't be
        with _making_pages:
            if self._pages is None:
                self._pages = Pages(self)
        flat = np.frombuffer(
            self._pages.memory, np.uint8
        )  # which np.ndarray would not keep from being closed
        return flat[offset : offset + whole.nbytes].view(whole.dtype).reshape(whole.shape)

    def close_view(self) -> None:
        """Encrypt what was written to the view, and give its pages up, as unmapping does.

        Raises ViewError while arrays over it are alive.
        """
        if self._pages is not None:
            self._pages.close()
            self._pages = None

    def array(
        self, dtype: Any, shape: SupportsIndex | tuple[SupportsIndex, ...] | None = None, offset: int = 0
    ) -> EncryptedArray:
        """An array over the region's bytes, with numpy's semantics; nothing is read yet.

        C order, from `offset` on; by default one dimension, as long as fits. Basic indexing gives
        a view that writes through, advanced indexing a copy (an np.ndarray).

        Raises RegionError if it doesn't fit, or if the dtype holds Python objects.
        """
        from mktme.array import EncryptedArray

        lone = np.empty((), dtype)
        kind, inner = lone.dtype, lone.shape  # a dtype of several elements each adds its dimensions
        if kind.hasobject or kind.itemsize == 0:
            raise RegionError(
                f"an array of {kind} can't lie in memory: choose a dtype of a fixed size without objects"
            )
        offset, room = self._to_end(offset, None)
        if shape is None:
            dimensions: tuple[int, ...] = (room // max(1, lone.nbytes),)
        else:
            listed = shape if isinstance(shape, tuple | list) else (shape,)
            dimensions = tuple(operator.index(n) for n in listed)
        dimensions += inner
        if any(n < 0 for n in dimensions):
            raise RegionError(f"the shape {dimensions} has a negative dimension")
        count = 1
        for n in dimensions:
            count *= n
        self.check(offset, count * kind.itemsize)
        strides = [kind.itemsize] * len(dimensions)
        for i in range(len(dimensions) - 1, 0, -1):
            strides[i - 1] = strides[i] * dimensions[i]
        return EncryptedArray(self, kind, dimensions, tuple(strides), offset)

    @overload
    def __getitem__(self, index: slice) -> bytes: ...
    @overload
    def __getitem__(self, index: SupportsIndex) -> int: ...
    def __getitem__(self, index: slice | SupportsIndex) -> bytes | int:
        """`region[a:b]` as bytes, `region[i]` as an integer. Raises as `read`."""
        if isinstance(index, slice):
            start, length = self._range(index)
            return self.read(start, length)
        return self.read(self._place(index), 1)[0]

    def __setitem__(self, index: slice | SupportsIndex, value: Any) -> None:
        """`region[a:b] = buffer` of the same length, `region[i] = integer`. Raises as `write`."""
        if isinstance(index, slice):
            start, length = self._range(index)
            source = buffer_bytes(value)
            if source.size != length:
                raise RegionError(
                    f"{source.size} bytes can't be assigned to a slice of {length}: a region keeps its size"
                )
            self._write(start, source)
        else:
            place, byte = self._place(index), operator.index(value)
            if not 0 <= byte <= 255:
                raise RegionError(f"{byte} is not the value of a byte: 0 to 255")
            self._write(place, np.array([byte], np.uint8))

    def _range(self, index: slice) -> tuple[int, int]:
        start, stop, step = index.indices(self.size)
        if step != 1:
            raise RegionError(f"a region has no slices of step {step}: use region.array(np.uint8)[...]")
        return start, max(0, stop - start)

    def _place(self, index: SupportsIndex) -> int:
        try:
            place = operator.index(index)
        except TypeError:
            raise RegionError(
                f"a region is indexed by integers and slices, not {type(index).__name__}"
            ) from None
        if not -self.size <= place < self.size:
            raise RegionError(f"index {place} is outside of the region, which has {self.size} bytes")
        return place % self.size
