"""Topology: interleave sets, several DIMMs' image files as one device.

The processor's address decoder spreads consecutive stripes (4 KiB on real parts: Izraelevitz et
al. 2019, section 2) over the DIMMs of a set. Here each stripe is mapped from its DIMM's file into
one range of this process's addresses, so all that works on a device works on a set, unchanged, at
the same speed; an image file has just the bytes that somebody who pulls its DIMM sees. The system
limits how many mappings a process has (``vm.max_map_count``): sets of more stripes are refused.
"""

from __future__ import annotations

import mmap
import os
import weakref
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, Literal, overload

import numpy as np
import numpy.typing as npt

from pmem import device as devices
from pmem import labels, sidecar, stripes
from pmem.buffers import Bytes
from pmem.device import Device
from pmem.domain import Domain
from pmem.errors import (
    DeviceExists,
    DeviceNotFound,
    DimmMissing,
    LabelInvalid,
    PmemError,
    RangeError,
    SizeError,
)
from pmem.geometry import LINE, PAGE, Size, check_range, format_size, parse_size
from pmem.granularity import StoreGranularity
from pmem.interleaving import Interleaving, Number, Words
from pmem.labels import Label
from pmem.poison import Poison, Ranges
from pmem.tracked import Tracked

FilePath = str | os.PathLike[str]


class InterleaveSet(Device):
    """Several DIMMs of one size as one device; made by `InterleaveSet.create` and `.open`.

    Attributes, besides a device's: `dimms` (the images' paths in the set's order, None for one that
    is missing), `missing` (indices of those), `granularity` (bytes of a stripe). `path` is the
    first DIMM's.
    """

    def __init__(self, members: Sequence[Device | None], interleaving: Interleaving) -> None:
        """Take over the open devices of a set, in order; None is a DIMM that is missing."""
        present = [member for member in members if member is not None]
        self._members, self._present, self._interleaving = members, present, interleaving
        self.dimms = tuple(None if member is None else member.path for member in members)
        self.missing = tuple(i for i, member in enumerate(members) if member is None)
        self.granularity = interleaving.granularity
        self.path, self.mode = present[0].path, present[0].mode
        self.size = interleaving.ways * interleaving.size
        stripes.check(interleaving)
        files = [None if member is None else (member._fd, member.store_granularity) for member in members]
        self._map = stripes.map_files(files, interleaving, self.mode)
        self._bytes: Bytes | None = np.frombuffer(self._map, np.uint8)
        self.base = int(self._bytes.ctypes.data)
        order = [StoreGranularity.PAGE, StoreGranularity.CACHE_LINE, StoreGranularity.BYTE]
        self.store_granularity = min((member.store_granularity for member in present), key=order.index)
        self.poison = Poison(self._lines_of(self.missing)) if self.missing else None
        self.faults = None
        self.mounted: weakref.WeakSet[Any] = weakref.WeakSet()
        # A set that is dropped without being closed gives up its DIMMs, which give up their locks.
        self._close_files = weakref.finalize(self, _close, present)

    @classmethod
    def create(
        cls,
        paths: Sequence[FilePath],
        size: Size,
        *,
        granularity: Size = PAGE,
        domain: str | Domain | None = None,
    ) -> InterleaveSet:
        """Make sparse image files of `size` bytes each, label them as one set, open it "r+".

        `granularity` is the bytes of a stripe: a power of two, whole pages, and a divisor of `size`.
        `domain` as for `pmem.open`.

        Raises DomainError; SizeError, RangeError (fewer than two paths, or one twice), DeviceExists
        (of an image or a label), as `pmem.create`; no file is left behind.
        """
        found = _paths(paths)
        stripe, count = parse_size(granularity), parse_size(size)
        model = devices.domain_of(domain)
        stripes.check(_interleaving(len(found), stripe, count))
        for path in found:
            if sidecar.beside(path, labels.KIND).exists():
                raise DeviceExists(
                    f"{sidecar.beside(path, labels.KIND)} is there already, the label of another set's DIMM: "
                    "remove it if that DIMM is gone, or choose another path"
                )
        made: list[Device] = []
        try:
            for path in found:
                made.append(devices.create(path, count))
            for path, label in zip(found, labels.make(found, stripe, count), strict=True):
                labels.write(path, label)
            kind = cls if model is None else TrackedSet
            return _followed(kind(made, _interleaving(len(made), stripe, count)), model)
        except BaseException:
            _close(made)
            for device in made:
                with suppress(OSError):
                    device.path.unlink()
                with suppress(OSError):
                    sidecar.beside(device.path, labels.KIND).unlink()
            raise

    @classmethod
    def open(
        cls,
        paths: Sequence[FilePath],
        mode: Literal["r+", "r"] = "r+",
        *,
        verify: bool = True,
        degraded: bool = False,
        granularity: Size = PAGE,
        domain: str | Domain | None = None,
    ) -> InterleaveSet:
        """Open the DIMMs of a set: "r+" to read and write, "r" to read.

        The labels say each DIMM's place, so the paths may be in any order. With `verify` False the
        labels aren't looked at: the DIMMs are taken in the order of the paths, `granularity` bytes
        a stripe, as if somebody had swapped them and their labels. `degraded` opens a set of which
        DIMMs are missing: to read or write their lines raises PoisonError. `domain` as for `pmem.open`.

        Raises DomainError; DimmMissing, naming the DIMM; LabelInvalid for DIMMs of different sets, two
        for one place, a label that is damaged or doesn't fit its image; SizeError for a set of too many
        stripes, or DIMMs of different sizes; RangeError for `verify` False with `degraded`; as
        `pmem.open`.
        """
        if degraded and not verify:
            raise RangeError("a degraded set needs the labels to say which DIMM is missing: verify=True")
        model = devices.domain_of(domain)
        kind = cls if model is None or mode == "r" else TrackedSet
        opened: list[Device] = []
        try:
            for path in _paths(paths, least=1 if degraded else 2 - verify):
                try:
                    opened.append(devices.open(path, mode))
                except DeviceNotFound:
                    if not degraded:
                        raise DimmMissing(
                            f"there is no DIMM {path}: put it back, or open what is left of the set with "
                            "degraded=True"
                        ) from None
            if not verify:
                sizes = {device.size for device in opened}
                if len(sizes) > 1:
                    raise SizeError(f"DIMMs of a set have one size, not {sorted(sizes)} bytes")
                made = kind(opened, _interleaving(len(opened), parse_size(granularity), sizes.pop()))
                return _followed(made, model)
            if not opened:
                raise DimmMissing("no DIMM of the set is there, and a degraded set has one at least")
            members, label = _in_order(opened)
            if None in members and not degraded:
                absent = members.index(None)
                raise DimmMissing(
                    f"DIMM {absent} of {label.ways} is missing ({label.members[absent]!r} when the set was "
                    "made): give its path too, or open what is left with degraded=True"
                )
            return _followed(kind(members, _interleaving(label.ways, label.granularity, label.size)), model)
        except BaseException:
            _close(opened)
            raise

    def map_privately(self) -> tuple[mmap.mmap, list[tuple[int, int]]]:
        """As `Device.map_privately`, in as many mappings again as there are stripes. Raises SizeError."""
        stripes.check(self._interleaving)
        shared = [None if m is None else (m._fd, StoreGranularity.PAGE) for m in self._members]
        made = stripes.map_files(shared, self._interleaving, "r+", private=True)
        return made, [(os.dup(member._fd), member.size) for member in self._present]

    def _release_space(self, start: int, length: int) -> None:
        """Its files keep their space."""
        self.reserve(start, length)
        self.mapping()[start : start + length] = 0

    def __repr__(self) -> str:
        state = "closed" if self.closed else f"mode={self.mode!r}"
        names = [str(path) if path else None for path in self.dimms]
        return f"<pmem.InterleaveSet {names} {format_size(self.size)} {state}>"

    @overload
    def to_dimm(self, address: Words) -> tuple[Words, Words]: ...
    @overload
    def to_dimm(self, address: Number) -> tuple[int, int]: ...
    def to_dimm(self, address: Number | Words) -> tuple[int, int] | tuple[Words, Words]:
        """The DIMM's index and the device address on it, of a system address.

        Of an array of addresses (uint64) two arrays of its shape. Raises RangeError.
        """
        return self._interleaving.to_dimm(address)

    @overload
    def to_system(self, dimm: Number | Words, device_address: Words) -> Words: ...
    @overload
    def to_system(self, dimm: Words, device_address: Number | Words) -> Words: ...
    @overload
    def to_system(self, dimm: Number, device_address: Number) -> int: ...
    def to_system(self, dimm: Number | Words, device_address: Number | Words) -> int | Words:
        """The system address of a device address on a DIMM; of arrays (uint64) that broadcast.

        Raises RangeError.
        """
        return self._interleaving.to_system(dimm, device_address)

    def _lines_of(self, dimms: Sequence[int]) -> Ranges:
        """The numbers of the lines on some DIMMs."""
        stripe = self.granularity // LINE
        numbers = np.arange(self.size // self.granularity, dtype=np.uint64)
        firsts = numbers[np.isin(numbers % np.uint64(len(self.dimms)), dimms)] * np.uint64(stripe)
        return Ranges.of(firsts, firsts + np.uint64(stripe))

    def mapping(self) -> Bytes:
        """As `Device.mapping`; all of the images are looked at."""
        view = self._bytes
        if view is None:
            raise self._has_been_closed()
        try:
            for member in self._present:
                member.mapping()
        except PmemError:
            del view
            raise
        return view

    def reserve(self, offset: int, length: int) -> None:
        """As `Device.reserve`, and PoisonError for a range with lines of a DIMM that is missing."""
        self._check_writable()
        if self.missing and self.poison is not None:
            self.poison.check_missing(offset, length)
        if length:
            for dimm, start, count in self._interleaving.parts(offset, length):
                member = self._members[dimm]
                assert member is not None
                member.reserve(start, count)

    def reserve_lines(self, addresses: npt.NDArray[np.uint64]) -> None:
        """As `Device.reserve_lines`, and PoisonError for a line of a DIMM that is missing."""
        self._check_writable()
        if self.missing and self.poison is not None:
            self.poison.check_write_lines(addresses.reshape(-1) // np.uint64(LINE))
        dimms, starts = self.to_dimm(addresses.reshape(-1))
        for i, member in enumerate(self._members):
            mine = starts[dimms == i]
            if member is not None and mine.size:
                member.reserve_lines(mine)

    def flush(self, offset: int = 0, length: int | None = None) -> None:
        """As `Device.flush`; a DIMM that is missing has nothing to flush."""
        offset, count = check_range(offset, 0 if length is None else length, self.size, "device")
        count = self.size - offset if length is None else count
        view = self.mapping()  # held, so that nobody closes the DIMMs meanwhile
        try:
            for dimm, start, part in self._interleaving.parts(offset, count) if count else ():
                member = self._members[dimm]
                if member is not None:
                    # A page is dirty in its file, whichever mapping it was written through; a system
                    # call for each stripe would wait for the disk as often.
                    member.flush(start, part)
        finally:
            del view

    def _release(self) -> None:
        self._close_files()


class TrackedSet(Tracked, InterleaveSet):
    """An interleave set with a persistence domain; made by `InterleaveSet.create` and `.open`."""


def _followed(made: InterleaveSet, model: Domain | None) -> InterleaveSet:
    if isinstance(made, TrackedSet) and model is not None:
        made.follow(model)
    return made


def _close(members: Sequence[Device]) -> None:
    for member in members:
        member.close()


def _paths(paths: Sequence[FilePath], least: int = 2) -> list[Path]:
    if isinstance(paths, str | os.PathLike):
        raise RangeError(f"{paths!r} is one path: an interleave set takes a list of its DIMMs' paths")
    found = [Path(path) for path in paths]
    if len(found) < least:
        raise RangeError(f"{len(found)} paths are too few for an interleave set: give {least} or more")
    real = [os.path.realpath(path) for path in found]
    for i, path in enumerate(real):
        if path in real[:i]:
            raise RangeError(f"{found[i]} is given twice: a DIMM has one place in a set")
    return found


def _interleaving(ways: int, granularity: int, size: int) -> Interleaving:
    """The arithmetic of a set. Raises SizeError if its stripes aren't whole."""
    least = max(PAGE, mmap.PAGESIZE)
    if granularity < least or granularity & (granularity - 1):
        raise SizeError(f"{granularity} bytes are no stripe: a power of two, {least} at least")
    if size == 0 or size % granularity:
        raise SizeError(
            f"{size} bytes are not a size for a DIMM: a positive multiple of the stripe, {granularity}"
        )
    return Interleaving(ways, granularity, size)


def _in_order(opened: Sequence[Device]) -> tuple[list[Device | None], Label]:
    """DIMMs at the places that their labels say, None where there is none. Raises LabelInvalid."""
    first = labels.read(opened[0].path)
    members: list[Device | None] = [None] * first.ways
    for device in opened:
        label = labels.read(device.path)
        if not label.fits(first):
            raise LabelInvalid(
                f"{device.path} is of the interleave set {label.set}, and {opened[0].path} of {first.set}: "
                "give the DIMMs of one set, or pass verify=False to take them as they are"
            )
        if label.size != device.size:
            raise LabelInvalid(
                f"{device.path} has {device.size} bytes, and its label says {label.size}: it is not that DIMM"
            )
        other = members[label.position]
        if other is not None:
            raise LabelInvalid(
                f"{other.path} and {device.path} are both labelled DIMM {label.position}: one is a copy"
            )
        members[label.position] = device
    return members, first
