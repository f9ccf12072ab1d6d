"""The arithmetic of an interleave set: system physical addresses and DIMMs' own addresses.

Stripe s of the system's range lies on DIMM s mod n, as its stripe s div n.
"""

from __future__ import annotations

import operator
from dataclasses import dataclass
from typing import Any, overload

import numpy as np
import numpy.typing as npt

from pmem.errors import RangeError

Words = npt.NDArray[np.uint64]
Number = int | np.integer[Any]


@dataclass(frozen=True)
class Interleaving:
    """`ways` DIMMs of `size` bytes each, taking turns every `granularity` bytes."""

    ways: int
    granularity: int
    size: int

    @overload
    def to_dimm(self, address: Words) -> tuple[Words, Words]: ...
    @overload
    def to_dimm(self, address: Number) -> tuple[int, int]: ...
    def to_dimm(self, address: Number | Words) -> tuple[int, int] | tuple[Words, Words]:
        """The DIMM's index and the address on it, of a system address or of an array of them (uint64).

        Raises RangeError for one outside of the set.
        """
        limit = self.ways * self.size
        if isinstance(address, np.ndarray):
            where = _numbers(address, limit, "address")
            stripe, within = np.divmod(where, np.uint64(self.granularity))
            row, dimm = np.divmod(stripe, np.uint64(self.ways))
            return dimm, row * np.uint64(self.granularity) + within
        lone, rest = divmod(_number(address, limit, "address"), self.granularity)
        return lone % self.ways, lone // self.ways * self.granularity + rest

    @overload
    def to_system(self, dimm: Number | Words, address: Words) -> Words: ...
    @overload
    def to_system(self, dimm: Words, address: Number | Words) -> Words: ...
    @overload
    def to_system(self, dimm: Number, address: Number) -> int: ...
    def to_system(self, dimm: Number | Words, address: Number | Words) -> int | Words:
        """The system address of a DIMM's address; of arrays (uint64) that broadcast, one or both.

        Raises RangeError for a DIMM that isn't there, or an address outside of it.
        """
        if isinstance(dimm, np.ndarray) or isinstance(address, np.ndarray):
            index = _numbers(np.asarray(dimm), self.ways, "DIMM")
            where = _numbers(np.asarray(address), self.size, "device address")
            row, within = np.divmod(where, np.uint64(self.granularity))
            made: Words = (row * np.uint64(self.ways) + index) * np.uint64(self.granularity) + within
            return made
        lone, rest = divmod(_number(address, self.size, "device address"), self.granularity)
        return (lone * self.ways + _number(dimm, self.ways, "DIMM")) * self.granularity + rest

    def parts(self, offset: int, length: int) -> list[tuple[int, int, int]]:
        """What a system range (not empty) touches: (DIMM, address on it, bytes), one each DIMM."""
        size, first, last = (
            self.granularity,
            offset // self.granularity,
            (offset + length - 1) // self.granularity,
        )
        made = []
        for low in range(first, min(last + 1, first + self.ways)):  # each DIMM's first stripe of the range
            high = last - (last - low) % self.ways  # and its last one
            begin = low // self.ways * size + (offset % size if low == first else 0)
            end = high // self.ways * size + ((offset + length - 1) % size + 1 if high == last else size)
            made.append((low % self.ways, begin, end - begin))
        return made


def _number(value: Number, limit: int, what: str) -> int:
    try:
        number = operator.index(value)
    except TypeError:
        raise RangeError(f"{what} {value!r} is to be an integer, or an array of them (uint64)") from None
    if not 0 <= number < limit:
        raise RangeError(f"{what} {number} is outside of the interleave set: 0 to {limit - 1}")
    return number


def _numbers(values: npt.NDArray[Any], limit: int, what: str) -> Words:
    if values.dtype.kind not in "iu":
        raise RangeError(f"{what}: an array of integers (uint64) is wanted, not of {values.dtype}")
    outside = (values < 0) | (values >= limit)
    if outside.any():
        raise RangeError(
            f"{what} {values[outside].flat[0]} is outside of the interleave set: 0 to {limit - 1}"
        )
    return values.astype(np.uint64, copy=False)
