"""Devices whose power can fail, and what they are after it."""

from __future__ import annotations

import errno
import mmap
import os
import weakref
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar, overload

import numpy as np
import numpy.typing as npt

from pmem.buffers import Bytes, buffer_bytes
from pmem.device import Device
from pmem.errors import DeviceChanged
from pmem.geometry import LINE, PAGE, check_range, format_size
from pmem.granularity import StoreGranularity
from pmem.poison import Poison

if TYPE_CHECKING:
    from pmem.domain import Domain, Policy

LINES = PAGE // LINE
S = TypeVar("S", bound="Snapshot")


class Tracked(Device):
    """A device with a persistence domain; made by `pmem.create` and `pmem.open` with `domain`.

    `device.write` and whatever else stores to the mapping is seen at once by all, as stores are, and
    lost in a power failure unless it was flushed and fenced. `media` is the image with these
    stores; what the CPU caches of controllers hold is not in it.
    """

    follows_stores = True
    domain: Domain

    def follow(self, domain: Domain) -> None:
        """Begin to; for whoever has just opened the device."""
        self.domain = domain
        self.store_granularity = domain.store_granularity

    def storing(self, offset: int, length: int) -> None:
        if length:
            self.domain.touch(self.mapping(), range(offset // LINE, -(-(offset + length) // LINE)))

    def storing_lines(self, addresses: npt.NDArray[np.uint64]) -> None:
        if addresses.size:
            self.domain.touch(self.mapping(), np.unique(addresses // np.uint64(LINE)).tolist())

    def write(self, offset: int, data: Any, *, nontemporal: bool = False) -> None:
        super().write(offset, data)
        if nontemporal:
            self.domain.flush(offset, buffer_bytes(data).size)

    def flush(self, offset: int = 0, length: int | None = None) -> None:
        """Flush a range (CLWB), by default to the end: after the next fence it is durable.

        Costs by the lines that are dirty. Raises RangeError, DeviceClosed, DeviceChanged.
        """
        offset, count = check_range(offset, 0 if length is None else length, self.size, "device")
        self.mapping()
        self.domain.flush(offset, self.size - offset if length is None else count)
        if self.domain.kind == "page":
            self.domain.drain()

    def drain(self) -> None:
        """The fence (SFENCE): all that was flushed is durable, on the device and in the caches before it.

        Raises DeviceClosed, DeviceChanged, and what writing the lines back raises.
        """
        self.mapping()
        self.domain.drain()

    def deep_flush(self, offset: int = 0, length: int | None = None) -> None:
        self.persist(offset, length)
        super().flush(offset, length)

    def crash(self, policy: Policy = "random", *, seed: int = 0, encrypted: bool = True) -> Snapshot:
        snapshot = self.snapshot()
        try:
            self.domain.fail(snapshot, policy, seed, encrypted)
        except BaseException:
            snapshot.close()
            raise
        return snapshot

    @overload
    def snapshot(self) -> Snapshot: ...
    @overload
    def snapshot(self, kind: type[S]) -> S: ...
    def snapshot(self, kind: type[Snapshot] | None = None) -> Snapshot:
        """The medium as it is now, without what the CPU caches hold: a Snapshot, or a `kind` of one.

        Raises DeviceClosed.
        """
        self.mapping()
        snapshot = (kind or Snapshot)(self)
        if self.poison is not None:
            snapshot.poison = Poison(self.poison.missing)
            snapshot.poison.add(self.poison.lines)
        self.domain.snapshots.add(snapshot)
        return snapshot

    def close(self) -> None:
        """As `Device.close`; what the CPU caches hold is written back first, as it is while power lasts.

        Raises DeviceBusy; and what writing lines back raises, with the device open.
        """
        if not self.closed:
            self.domain.settle()
            super().close()
            self.domain.caches.clear()  # and with them the controllers, and their keys


class Snapshot(Device):
    """A medium at one moment: a private, copy-on-write mapping of an image, to read and write.

    It costs memory by the pages that differ from the image. The device that it was made of keeps
    it as it was; nobody else may write to the image meanwhile.
    """

    def __init__(self, source: Device) -> None:
        self.path, self.mode, self.size = source.path, "r+", source.size
        self._map, self._files = source.map_privately()
        self._bytes: Bytes | None = np.frombuffer(self._map, np.uint8)
        self.base = int(self._bytes.ctypes.data)
        self.store_granularity = StoreGranularity.PAGE
        self.poison, self.faults = None, None
        self.mounted: weakref.WeakSet[Any] = weakref.WeakSet()
        self._own = mmap.mmap(-1, self.size // PAGE)  # a byte a page: 1 where it is ours
        self._close_files = weakref.finalize(self, _close, [fd for fd, _ in self._files])

    def __repr__(self) -> str:
        return f"<pmem.Snapshot of {str(self.path)!r} {format_size(self.size)}>"

    def mapping(self) -> Bytes:
        """As `Device.mapping`."""
        view = self._bytes
        if view is None:
            raise self._has_been_closed()
        for fd, size in self._files:
            if os.lseek(fd, 0, os.SEEK_END) != size:
                del view
                raise DeviceChanged(
                    errno.EIO, "an image under this snapshot changed its length: give it back", str(self.path)
                )
        return view

    def _release(self) -> None:
        self._close_files()

    def reserve(self, offset: int, length: int) -> None:
        if self._bytes is None:
            raise self._has_been_closed()

    def reserve_lines(self, addresses: npt.NDArray[np.uint64]) -> None:
        self.reserve(0, 0)

    def flush(self, offset: int = 0, length: int | None = None) -> None:
        """A snapshot has nowhere to be flushed to: only checks. Raises RangeError, DeviceClosed."""
        check_range(offset, 0 if length is None else length, self.size, "device")
        self.mapping()

    def preserve(self, numbers: list[int]) -> None:
        """Make the pages of some lines ours, before they change in the image."""
        media, own = self._bytes, self._own
        if media is None:
            return
        pages = {number // LINES for number in numbers}
        missing = [page for page in pages if not own[page]]
        if missing:
            at = np.array(missing, np.intp) * PAGE
            media[at] = media[at]
            for page in missing:
                own[page] = 1


class TrackedDevice(Tracked):
    """One image file with a persistence domain."""

    def __init__(self, fd: int, path: Path, domain: Domain) -> None:
        super().__init__(fd, path, "r+")
        self.follow(domain)


def _close(fds: list[int]) -> None:
    for fd in fds:
        os.close(fd)
