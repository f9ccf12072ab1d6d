"""The bus between the CPU caches and the controller: lines by address, with the KeyID in the upper bits."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from mktme.crypto.cipher import Bytes, Lines, Words
from mktme.region import Region
from mktme.stack.poison import check_write
from pmem.device import Device
from pmem.geometry import LINE

if TYPE_CHECKING:
    from mktme.controller import Controller


@dataclass(frozen=True, eq=False)
class Way:
    """How some lines go: what encrypts them and their region (None: what is mapped nowhere).

    `addresses`: uint64, on the device; `order`: which of them go this way. `alone`: whether writing one
    of them changes nothing but itself and its MAC.
    """

    lines: Lines
    region: Region | None
    addresses: Words
    order: Words
    alone: bool

    def touched(self, addresses: Words) -> Words:
        """The lines of the device that may change when some are written, each once."""
        return addresses if self.region is None else self.region.touched(addresses)

    def write(self, device: Device, addresses: Words, order: Words, lines: Bytes) -> None:
        """Encrypt the rows of `lines` in `order` to their addresses on a device."""
        some = addresses[order]
        device.reserve_lines(some)
        device.storing_lines(self.touched(some))
        self.lines.write_lines(device.mapping(), device.base, addresses, order, lines)


class Bus:
    """A controller as a CPU cache sees it: a memory (`pmem.cache.Memory`).

    A line goes the way of the region that is mapped there under its KeyID. Where there is none any
    more (the page was mapped to another KeyID and the line was not flushed before) it goes under the
    key that its own KeyID has now, the way it was mapped last.
    """

    def __init__(self, controller: Controller) -> None:
        self._controller = controller
        self.shift = 63 - controller.keyid_bits
        self._mask = (1 << self.shift) - 1
        self._gone: list[Region] = []  # unmapped with lines in the cache, the last one first

    @property
    def device(self) -> Device:
        """The controller's device."""
        return self._controller.device

    def address(self, keyid: int, address: int) -> int:
        """What is on the bus for a line's address under a KeyID."""
        return keyid << self.shift | address

    def split(self, addresses: Words) -> tuple[Words, Words]:
        return addresses & np.uint64(self._mask), addresses >> np.uint64(self.shift)

    def unmapped(self, region: Region) -> None:
        """Remember how a region's lines went, for those that are still in the cache."""
        self._gone.insert(0, region)

    def forget(self) -> None:
        """No lines of unmapped regions are left."""
        self._gone.clear()

    def read_into(self, buffer: Bytes, address: int) -> None:
        start, keyid = address & self._mask, address >> self.shift
        device = self.device
        device.mapping()
        for first, last, lines, _ in self._ways(keyid, start, start + buffer.size):
            lines.read(device.mapping(), device.base, first, buffer[first - start : last - start])

    def check_write(self, address: int, length: int) -> None:
        start, keyid = address & self._mask, address >> self.shift
        device = self.device
        device.reserve(start, length)
        for first, last, lines, region in self._ways(keyid, start, start + length):
            if region is not None:
                region.reserve(first, last - first)
            check_write(lines, device.mapping(), first, last - first)

    def read_lines(self, addresses: Words) -> Bytes:
        device = self.device
        out = np.empty((addresses.size, LINE), np.uint8)
        for way in self.ways(addresses):
            way.lines.read_lines(device.mapping(), device.base, way.addresses, way.order, out)
        return out

    def write_lines(self, addresses: Words, lines: Bytes, into: Device | None = None) -> None:
        device = self.device if into is None else into
        for way in self.ways(addresses):
            way.write(device, way.addresses, way.order, lines)

    def ways(self, addresses: Words) -> Iterator[Way]:
        """How lines go, by their addresses on the bus."""
        at, keyids = self.split(addresses)
        for keyid in np.unique(keyids).tolist():
            order = np.flatnonzero(keyids == keyid).astype(np.uint64)
            some = at[order]
            for first, last, lines, region in self._ways(keyid, int(some.min()), int(some.max()) + LINE):
                chosen = order[(some >= np.uint64(first)) & (some < np.uint64(last))]
                if chosen.size:
                    yield Way(lines, region, at, chosen, region is None or region.alone)

    def _ways(self, keyid: int, start: int, end: int) -> Iterator[tuple[int, int, Lines, Region | None]]:
        """The pieces of a range under one KeyID."""
        for region in self._controller.near(start, end - start):
            if region.keyid != keyid or region.end <= start or region.address >= end:
                continue
            if start < region.address:
                yield from self._stale(keyid, start, region.address)
            last = min(end, region.end)
            yield max(start, region.address), last, region.path(), region
            start = last
        if start < end:
            yield from self._stale(keyid, start, end)

    def _stale(self, keyid: int, start: int, end: int) -> Iterator[tuple[int, int, Lines, Region | None]]:
        """The pieces of a range in which nothing is mapped under the KeyID."""
        for region in self._gone:
            first, last = max(start, region.address), min(end, region.end)
            if region.keyid == keyid and first < last:
                if start < first:
                    yield from self._stale(keyid, start, first)
                yield first, last, region.path(), region
                if last < end:
                    yield from self._stale(keyid, last, end)
                return
        yield start, end, self._controller.lines(keyid), None
