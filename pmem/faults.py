"""Faults of the medium, put there on purpose: poison, bit flips, torn lines, unsafe shutdowns.

`arm(device)` gives the `Faults` of a device or an interleave set. What a DIMM keeps over a restart
(its bad lines, its unsafe-shutdown count, whether it was closed) lies beside its image
(`pmem.health`), and counts from the next time that the device is armed. All that is random comes
from a seed.
"""

from __future__ import annotations

import operator
import threading
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple, SupportsIndex

import numpy as np
import numpy.typing as npt

from pmem import health
from pmem.buffers import line_addresses, line_array
from pmem.device import Device
from pmem.errors import PmemError, RangeError
from pmem.geometry import LINE, check_range
from pmem.poison import Poison, Ranges, Words
from pmem.topology import InterleaveSet

BLOCK = 512  # bytes of the blocks in which the kernel, and so libpmem2, list bad ranges
WORD = 8  # bytes that a store writes at once, come what may: ADR's power-fail atomicity
WORDS = LINE // WORD


class BadBlock(NamedTuple):
    """A range of the medium with poison in it, whole blocks of 512 bytes (``struct pmem2_badblock``).

    `offset` and `length` are bytes.
    """

    offset: int
    length: int


class Faults:
    """The faults of a device's media, from `pmem.faults.arm`.

    While a device is armed, its readers raise PoisonError for lines that are poisoned: the device's
    own, and those of controllers and regions before it; `device.media` and `device.mapping` give
    the bytes as they lie there. Calls that change the medium raise DeviceClosed, ReadOnlyDevice,
    DeviceFull as `Device.write`, and RangeError, with nothing changed.

    Closing an armed device makes it durable first, and then clears the dirty flag.
    """

    def __init__(self, device: Device) -> None:
        """Arm a device; see `arm`."""
        self._device = device
        self._dimms: list[Path | None] = [device.path]
        self._dimm_lines = device.size // LINE
        if isinstance(device, InterleaveSet):
            self._dimms, self._dimm_lines = [*device.dimms], self._dimm_lines // len(device.dimms)
        self._health = [None if path is None else health.read(path, self._dimm_lines) for path in self._dimms]
        self._durable, self._lock = False, threading.Lock()
        if device.mode == "r+":
            for each in self._health:
                if each is not None:
                    each.unsafe_shutdowns += each.dirty  # its last holder never closed it
                    each.dirty = True
            self._write()
        bad = self._from_dimms()
        if device.poison is None and bad:
            device.poison = Poison()
        if device.poison is not None:
            self._adopt(device.poison, bad)
        device.faults = self

    # Poison

    @property
    def poisoned(self) -> Words:
        """The addresses of the poisoned lines, ascending (uint64). Those of a missing DIMM aren't listed."""
        poison = self._device.poison
        if poison is None:
            return np.empty(0, np.uint64)
        firsts, _ = poison.lines.pieces(1)
        return firsts * np.uint64(LINE)

    @property
    def bad_blocks(self) -> list[BadBlock]:
        """Where the poison is, ascending, in whole blocks of 512 bytes, as ``pmem2_badblock_next`` has it."""
        if self._device.poison is None:
            return []
        edges, per = self._device.poison.lines.edges, np.uint64(BLOCK // LINE)
        blocks = Ranges.of(edges[::2] // per, (edges[1::2] + per - np.uint64(1)) // per)
        return [BadBlock(first * BLOCK, (end - first) * BLOCK) for first, end in blocks]

    def poison(self, address: SupportsIndex, length: SupportsIndex = 1) -> None:
        """Poison every line that a byte range touches, by default the one that an address is in."""
        first, count = check_range(address, length, self._device.size, "device")
        self._device.reserve(0, 0)
        if count:
            edges = [first // LINE, -(-(first + count) // LINE)]
            self._poison(Ranges(np.array(edges, np.uint64)))

    def poison_random(self, count: SupportsIndex, seed: int) -> Words:
        """Poison so many different lines, drawn from all; returns their addresses, ascending (uint64)."""
        lines = self._device.size // LINE
        drawn = np.sort(_draw(seed, lines, count, "lines"))
        self._device.reserve(0, 0)
        self._poison(Ranges.of(drawn, drawn + np.uint64(1)))
        return drawn * np.uint64(LINE)

    def clear(self, block: BadBlock | tuple[int, int]) -> None:
        """Clear a bad block: its bytes are zeros then, what it held is lost (``pmem2_badblock_clear``).

        Raises RangeError unless it is whole blocks of 512 bytes; PoisonError on a missing DIMM.
        """
        device = self._device
        offset, length = check_range(block[0], block[1], device.size, "device")
        if offset % BLOCK or length % BLOCK:
            raise RangeError(f"{length} bytes at {offset} are not whole blocks of {BLOCK} bytes")
        if length:
            device.write(offset, bytes(length))

    # The bytes of the medium

    def flip(self, addresses: npt.ArrayLike, bits: npt.ArrayLike) -> None:
        """Flip bits of the medium: byte addresses, and which bit of each byte (0 to 7, 0 the lowest).

        Both are integers or rows of as many; a bit that is named twice is flipped back.
        """
        size = self._device.size
        where, which = np.atleast_1d(np.asarray(addresses)), np.atleast_1d(np.asarray(bits))
        if where.dtype.kind not in "iu" or which.dtype.kind not in "iu" or where.ndim != 1:
            raise RangeError("addresses and bits are rows of integers")
        if where.shape != which.shape:
            raise RangeError(f"{where.shape} addresses and {which.shape} bits are not as many")
        for values, limit, what in ((where, size, "address"), (which, 8, "bit")):
            outside = (values < 0) | (values >= limit)
            if outside.any():
                raise RangeError(f"{what} {values[outside][0]} is not from 0 to {limit - 1}")
        places = where.astype(np.uint64)
        self._device.reserve_lines(places)
        masks = np.uint8(1) << which.astype(np.uint8)
        np.bitwise_xor.at(self._device.mapping(), places, masks)

    def flip_random(
        self, count: SupportsIndex, seed: int, address: int = 0, length: int | None = None
    ) -> tuple[Words, npt.NDArray[np.uint8]]:
        """Flip so many different bits, drawn from a byte range (by default to the end).

        Returns their byte addresses (uint64) and bits (uint8), ascending.
        """
        first, size = check_range(address, 0 if length is None else length, self._device.size, "device")
        size = self._device.size - first if length is None else size
        drawn = np.sort(_draw(seed, 8 * size, count, "bits"))
        addresses, bits = np.uint64(first) + drawn // np.uint64(8), (drawn % np.uint64(8)).astype(np.uint8)
        self.flip(addresses, bits)
        return addresses, bits

    def tear(self, addresses: npt.ArrayLike, old: npt.ArrayLike, landed: npt.ArrayLike) -> None:
        """Tear lines that were just written: only some of their 8-byte words have landed.

        `addresses` are n different lines', `old` is what they held before, (n, 64) uint8, and bit i
        of `landed`, (n,) uint8, says that word i landed; the others hold `old` again. The line on
        the medium is ciphertext, so take `old` from `device.read_lines`.
        """
        device = self._device
        index = line_addresses(addresses, device.size)
        before, masks = line_array(old, index.size), np.asarray(landed)
        if masks.dtype != np.uint8 or masks.shape != index.shape:
            raise RangeError(
                f"landed is a uint8 array of shape {index.shape}, not {masks.dtype} of {masks.shape}"
            )
        if np.unique(index).size != index.size:
            raise RangeError("an address is given twice: a line is torn once")
        device.reserve_lines(index)
        lines = device.mapping().reshape(-1, LINE)
        new = lines[index // np.uint64(LINE)].reshape(-1, WORDS, WORD)
        there = (masks[:, None] >> np.arange(WORDS, dtype=np.uint8) & 1).astype(bool)
        torn = np.where(there[:, :, None], new, before.reshape(-1, WORDS, WORD))
        lines[index // np.uint64(LINE)] = torn.reshape(-1, LINE)

    def tear_random(self, addresses: npt.ArrayLike, old: npt.ArrayLike, seed: int) -> npt.NDArray[np.uint8]:
        """`tear` with drawn words; returns which landed, (n,) uint8. Of no line all did, or none."""
        count = line_addresses(addresses, self._device.size).size
        landed = np.random.default_rng(seed).integers(1, 2**WORDS - 1, count, np.uint8)
        self.tear(addresses, old, landed)
        return landed

    # Shutdowns

    @property
    def unsafe_shutdowns(self) -> int:
        """How often power failed with writes not yet on the medium, or a holder died: of a set, the sum
        over its DIMMs, as libpmem2 counts.
        """
        return sum(each.unsafe_shutdowns for each in self._health if each is not None)

    def unsafe_shutdown(self) -> int:
        """Count one: the power failed, and what was buffered didn't reach the medium. Returns the count.

        Every DIMM of a set counts it.
        """
        self._device.reserve(0, 0)
        with self._lock:
            for each in self._health:
                if each is not None:
                    each.unsafe_shutdowns += 1
            self._write()
        return self.unsafe_shutdowns

    def closing(self) -> None:
        """For the device, before it closes: make what was written durable."""
        self._durable = False
        with suppress(PmemError):  # then it isn't clean
            self._device.persist()
            self._durable = True

    def closed(self) -> None:
        """For the device, once it is closed: it is clean now."""
        if self._durable and self._device.mode == "r+":
            with self._lock:
                for each in self._health:
                    if each is not None:
                        each.dirty = False
                self._write()

    # What the DIMMs keep

    def _poison(self, lines: Ranges) -> None:
        device = self._device
        if device.poison is None:
            device.poison = Poison()
        self._adopt(device.poison, lines)
        self._save()

    def _adopt(self, poison: Poison, lines: Ranges) -> None:
        poison.add(lines)
        poison.changed = self._save

    def _save(self) -> None:
        """Record the bad lines, each with its DIMM."""
        poison = self._device.poison
        assert poison is not None
        with self._lock:
            for each, bad in zip(self._health, self._to_dimms(poison.lines), strict=True):
                if each is not None:
                    each.bad = [list(pair) for pair in bad]
            self._write()

    def _write(self) -> None:
        """Record every DIMM's health. Under the lock, as are changes of what is recorded."""
        for path, each in zip(self._dimms, self._health, strict=True):
            if path is not None and each is not None:
                health.write(path, each)

    def _to_dimms(self, bad: Ranges) -> list[Ranges]:
        """Line numbers of the device as those of each DIMM."""
        device = self._device
        if not isinstance(device, InterleaveSet):
            return [bad]
        firsts, ends = bad.pieces(device.granularity // LINE)
        dimms, places = device.to_dimm(firsts * np.uint64(LINE))
        begin = places // np.uint64(LINE)
        return [
            Ranges.of(begin[dimms == i], (begin + (ends - firsts))[dimms == i])
            for i in range(len(device.dimms))
        ]

    def _from_dimms(self) -> Ranges:
        """The recorded bad lines by their numbers on the device."""
        device, firsts, ends = self._device, [], []
        for i, each in enumerate(self._health):
            bad = Ranges(np.array(each.bad if each is not None else [], np.uint64).reshape(-1))
            if not isinstance(device, InterleaveSet):
                return bad
            begin, stop = bad.pieces(device.granularity // LINE)
            low = device.to_system(i, begin * np.uint64(LINE)) // np.uint64(LINE)
            firsts.append(low)
            ends.append(low + (stop - begin))
        return Ranges.of(np.concatenate(firsts), np.concatenate(ends))


def arm(device: Device) -> Faults:
    """The faults of an open device or interleave set: armed now, if it isn't yet.

    From now on lines that its health record lists as bad are poisoned. A device opened "r+" whose
    last armed holder didn't close it counts an unsafe shutdown. One opened "r" shows faults, and
    takes none.

    Raises DeviceClosed; HealthInvalid if the record is damaged; DeviceFailed if it can't be written.
    """
    device.mapping()
    return device.faults or Faults(device)


def _draw(seed: int, limit: int, count: SupportsIndex, what: str) -> Words:
    """So many different numbers below a limit. Raises RangeError."""
    wanted = operator.index(count)
    if not 0 <= wanted <= limit:
        raise RangeError(f"{wanted} different {what} can't be drawn from {limit}")
    return np.random.default_rng(seed).choice(limit, wanted, replace=False).astype(np.uint64)
