"""The CPU cache, as far as power failures go: lines that were stored to and aren't on the medium.

A cache stands in front of a memory, a controller's bus or a device. Stores stay in it, plaintext as
the program wrote them, each line under the address that is on the bus: with the KeyID in its upper
bits. So one physical line under two KeyIDs is two lines here, as in the hardware, and neither knows
of the other. A flush sends lines on their way, a fence puts them through the memory behind.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import TYPE_CHECKING, Protocol

import numpy as np
import numpy.typing as npt

from pmem.buffers import Bytes
from pmem.geometry import LINE
from pmem.linetable import LineTable

if TYPE_CHECKING:
    from pmem.device import Device
    from pmem.domain import Domain

Words = npt.NDArray[np.uint64]
CHUNK = 1 << 18  # bytes that are worked on at once, at most


class Memory(Protocol):
    """What a cache stands in front of. Addresses are those on the bus."""

    @property
    def device(self) -> Device:
        """The device at the end of the chain."""

    def read_into(self, buffer: Bytes, address: int) -> None:
        """Fill an array from an address on; it doesn't cross from one KeyID's addresses to another's."""

    def read_lines(self, addresses: Words) -> Bytes:
        """(n,) line-aligned addresses to (n, 64) uint8."""

    def write_lines(self, addresses: Words, lines: Bytes, into: Device | None = None) -> None:
        """Write lines, each address once, to the device or to another with the same contents."""

    def split(self, addresses: Words) -> tuple[Words, Words]:
        """Addresses on the device, and KeyIDs."""

    def check_write(self, address: int, length: int) -> None:
        """Refuse to write a range of lines, and have the file space for it. Raises as the memory's writes."""


class CpuCache:
    """The dirty lines in front of a memory, of one persistence domain; thread-safe.

    `dirty` are lines that were stored to and not flushed since; `queue` are lines that were
    flushed, as they were then, and not fenced. A line can be in both. Clean lines aren't kept:
    loads of others go to the memory.
    """

    def __init__(self, memory: Memory, domain: Domain) -> None:
        self.memory, self.domain = memory, domain
        self.dirty, self.queue = LineTable(), LineTable()
        self.lock = domain.lock  # one for all, as a cache writes back within it
        domain.caches.append(self)

    def __repr__(self) -> str:
        return f"<pmem.CpuCache: {len(self.dirty)} dirty lines, {len(self.queue)} flushed and not fenced>"

    # Loads and stores

    def read_into(self, out: Bytes, address: int) -> None:
        """Fill an array with what the program sees, its stores and the rest. Raises as the memory."""
        with self.lock:
            if not self.dirty.at and not self.queue.at:
                self.memory.read_into(out, address)
                return
            at = 0
            while at < out.size:
                skip = (address + at) % LINE
                size = min(out.size - at, CHUNK - skip)
                first = (address + at) // LINE
                lines = self._lines(list(range(first, -(-(address + at + size) // LINE))))
                out[at : at + size] = lines.reshape(-1)[skip : skip + size]
                at += size

    def read_lines(self, addresses: Words) -> Bytes:
        """(n,) line-aligned addresses to (n, 64) uint8. Raises as the memory."""
        with self.lock:
            return self._lines((addresses // np.uint64(LINE)).tolist())

    def write(self, address: int, data: Bytes) -> None:
        """Store bytes; they stay here. Lines that are stored to in part are loaded first.

        Raises as the memory, with nothing stored.
        """
        if not data.size:
            return
        with self.lock:
            begin = address // LINE * LINE
            self.memory.check_write(begin, -(-(address + data.size) // LINE) * LINE - begin)
            edges = {}
            for place in (address, address + data.size):
                if place % LINE:
                    number = place // LINE
                    edges[number] = self._lines([number])[0]
            at = 0
            while at < data.size:
                skip = (address + at) % LINE
                size = min(data.size - at, CHUNK - skip)
                first, last = (address + at) // LINE, -(-(address + at + size) // LINE)
                rows = np.empty((last - first, LINE), np.uint8)
                for number in {first, last - 1} & edges.keys():
                    rows[number - first] = edges[number]
                rows.reshape(-1)[skip : skip + size] = data[at : at + size]
                self._put(list(range(first, last)), rows)
                at += size

    def write_lines(self, addresses: Words, lines: Bytes) -> None:
        """Store whole lines; of several for one address the last stays. Raises as the memory."""
        if not addresses.size:
            return
        with self.lock:
            numbers, last = np.unique(addresses[::-1] // np.uint64(LINE), return_index=True)
            order = np.sort(addresses.size - 1 - last)  # as the program stored them
            numbers = addresses[order] // np.uint64(LINE)
            self._put(numbers.tolist(), lines[order])

    def _lines(self, numbers: list[int]) -> Bytes:
        """Lines as the program sees them."""
        rows = np.empty((len(numbers), LINE), np.uint8)
        absent = list(range(len(numbers)))
        for table in (self.queue, self.dirty):  # what is dirty is newer
            here = [i for i, number in enumerate(numbers) if number in table.at] if table.at else []
            if here:
                rows[here] = table.get([numbers[i] for i in here])
                gone = set(here)
                absent = [i for i in absent if i not in gone]
        if absent:
            rows[absent] = self.memory.read_lines(
                np.array([numbers[i] for i in absent], np.uint64) * np.uint64(LINE)
            )
        return rows

    def _put(self, numbers: list[int], rows: Bytes) -> None:
        self.dirty.put(numbers, rows)
        domain = self.domain
        if domain.observer is not None:
            domain.observer.stored(self, numbers, rows)
        if domain.capacity is not None and len(self.dirty) > domain.capacity:
            self._evict(len(self.dirty) - domain.capacity)

    # Flushes and fences

    def flush(self, address: int, length: int) -> None:
        """Send the dirty lines of a range on their way: what they hold now is durable after the next fence.

        In a page cache (`page`) that waits, and they are durable.
        """
        if not length:
            return
        with self.lock:
            grain = self.domain.grain
            first = address // grain * grain // LINE
            numbers = self.dirty.inside(first, -(-(address + length) // grain) * grain // LINE)
            self._send(numbers)
            if self.domain.observer is not None:
                self.domain.observer.flushed(self, address, length)

    def _send(self, numbers: list[int]) -> None:
        if len(numbers) == len(self.dirty) and not self.queue.at:
            self.dirty, self.queue = self.queue, self.dirty
        elif numbers:
            self.queue.put(numbers, self.dirty.get(numbers))
            self.dirty.drop(numbers)

    def send(self) -> None:
        """Flush all dirty lines."""
        with self.lock:
            self._send(list(self.dirty.at))

    def drain(self) -> None:
        """Put all that was flushed through the memory behind: it is durable now. Raises as the memory."""
        with self.lock:
            self.domain.write_back(self, list(self.queue.at), self.queue)

    def write_back(self) -> None:
        """Put everything through the memory, as happens when nothing is stored for a while."""
        with self.lock:
            self.drain()
            self.domain.write_back(self, list(self.dirty.at), self.dirty)

    def _evict(self, count: int) -> None:
        """Make room: lines that the program didn't flush go through the memory, the oldest first."""
        numbers = [number for number, _ in zip(self.dirty.at, range(count), strict=False)]
        self.domain.write_back(self, [n for n in numbers if n in self.queue.at], self.queue)
        self.domain.write_back(self, numbers, self.dirty)

    def evict(self, address: int, length: int) -> int:
        """Evict the dirty lines of a range, as a cache may at any time; returns how many there were.

        Raises as the memory.
        """
        with self.lock:
            numbers = self.dirty.inside(address // LINE, -(-(address + length) // LINE))
            self.domain.write_back(self, [n for n in numbers if n in self.queue.at], self.queue)
            self.domain.write_back(self, numbers, self.dirty)
            return len(numbers)

    def evict_some(self, share: float, seed: int) -> int:
        """Evict a random share of the dirty lines in random order; returns how many. Raises as the memory."""
        with self.lock:
            draw = random.Random(seed)
            numbers = [number for number in self.dirty.at if draw.random() < share]
            draw.shuffle(numbers)
            for number in numbers:
                self.evict(number * LINE, LINE)
            return len(numbers)

    def discard(self, wanted: Callable[[int], bool]) -> None:
        """Lose lines by their numbers, as a power failure does."""
        with self.lock:
            for table in (self.dirty, self.queue):
                table.drop([number for number in table.at if wanted(number)])
