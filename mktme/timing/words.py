"""The state of a modelled machine: one vector of 64-bit words.

A component is a place in it, a header of parameters and counts with its tables behind; a compiled piece
takes the vector and the place. So a machine is composed by laying out components one after another,
two memories are two places, and a call costs the same however many components there are. Times are
whole picoseconds: sums are exact, and a run of one thread is the same in chunks of any size.
"""

from __future__ import annotations

from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
from llvmlite.ir import Constant, FunctionType, IntType, VoidType
from numba import types
from numba.extending import intrinsic

Vector = npt.NDArray[np.int64]


class State(Protocol):
    """Words in a kernel; what is counted and compared there are integers."""

    def __getitem__(self, place: int, /) -> int: ...
    def __setitem__(self, place: int, value: int, /) -> None: ...


# What the first words say: where each component lies (0: there is none).
# SIZE: bytes of the device.
L1, L2, LLC, CORE, ENGINE, PMEM, DRAM, PAGES, LATENCIES, CELLS, SIZE = range(11)
HEAD = 16


@intrinsic  # type: ignore[untyped-decorator]
def words_at(typing: Any, address: Any) -> Any:
    """The words at an address, to be indexed like a vector: in kernels, where an array's reference count
    would be changed with every call.
    """

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return builder.inttoptr(args[0], context.get_value_type(signature.return_type))

    return types.CPointer(types.int64)(types.uintp), codegen


@intrinsic  # type: ignore[untyped-decorator]
def bytes_at(typing: Any, address: Any) -> Any:
    """The same for bytes."""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return builder.inttoptr(args[0], context.get_value_type(signature.return_type))

    return types.CPointer(types.uint8)(types.uintp), codegen


@intrinsic  # type: ignore[untyped-decorator]
def length(typing: Any, value: Any) -> Any:
    """How many bits a number of at least 0 has, as int.bit_length(): in kernels."""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        zeros = builder.ctlz(args[0], Constant(IntType(1), 0))
        return builder.sub(Constant(IntType(64), 64), zeros)

    return types.int64(types.int64), codegen


@intrinsic  # type: ignore[untyped-decorator]
def prefetch(typing: Any, words: Any, place: Any) -> Any:
    """Have the host fetch a word that will be wanted soon."""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        number = IntType(32)
        address = builder.bitcast(builder.gep(args[0], [args[1]]), IntType(8).as_pointer())
        shape = FunctionType(VoidType(), [address.type, number, number, number])
        function = builder.module.declare_intrinsic("llvm.prefetch", [address.type], shape)
        builder.call(function, [address, *(Constant(number, how) for how in (1, 3, 1))])  # to write; data
        return context.get_dummy_value()

    return types.none(words, types.int64), codegen


def ps(ns: float) -> int:
    """Nanoseconds as picoseconds."""
    return round(ns * 1000)


class Words:
    """A vector that is being laid out."""

    def __init__(self) -> None:
        self._length = HEAD
        self._values: dict[int, int] = {}
        self._fills: list[tuple[int, int, int]] = []

    def take(self, count: int, *values: int) -> int:
        """The place of as many new words, the first of which have values; the rest are 0."""
        place = self._length
        self._length += -(-count // 8) * 8  # whole lines of the host's cache
        for i, value in enumerate(values):
            self[place + i] = value
        return place

    def __setitem__(self, place: int, value: int) -> None:
        self._values[place] = int(value)

    def fill(self, place: int, count: int, value: int) -> None:
        """Give as many words a value."""
        self._fills.append((place, count, value))

    def vector(self) -> Vector:
        """The vector as laid out, from a line of the host's cache on; each call gives a new one."""
        made = np.zeros(self._length + 8, np.int64)
        made = made[-made.ctypes.data // 8 % 8 :][: self._length]
        for place, count, value in self._fills:
            made[place : place + count] = value
        for place, value in self._values.items():
            made[place] = value
        return made
