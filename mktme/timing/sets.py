"""A set of up to sixteen ways: what they hold, compared at once, and the order of their last use in one word.

The order has four bits a way; the way used last is in the lowest ones.
"""

from __future__ import annotations

from typing import Any

from llvmlite.ir import Constant, IntType, Undefined, VectorType
from numba import types
from numba.extending import intrinsic

from mktme.crypto.kernel import inline
from mktme.timing.words import State

WAYS = 16
ORDER = int.from_bytes(bytes.fromhex("1032547698badcfe"), "little", signed=True)  # way 0 was used last
_ONES = 0x1111111111111111
_HIGH = -0x7777777777777778


@intrinsic  # type: ignore[untyped-decorator]
def _equal(typing: Any, words: Any, place: Any, wanted: Any) -> Any:
    """A bit for each of 16 words from a place on that is as wanted, its lowest bit aside."""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        vector, lanes = VectorType(IntType(64), WAYS), VectorType(IntType(32), WAYS)
        address = builder.bitcast(builder.gep(args[0], [args[1]]), vector.as_pointer())
        held = builder.and_(builder.load(address, align=8), Constant(vector, [-2] * WAYS))
        one = builder.insert_element(Constant(vector, Undefined), args[2], Constant(IntType(32), 0))
        all_ = builder.shuffle_vector(one, Constant(vector, Undefined), Constant(lanes, [0] * WAYS))
        same = builder.icmp_signed("==", held, all_)
        return builder.zext(builder.bitcast(same, IntType(WAYS)), IntType(64))

    return types.int64(words, types.int64, types.int64), codegen


@intrinsic  # type: ignore[untyped-decorator]
def _lowest(typing: Any, value: Any) -> Any:
    """The number of the lowest bit that is set; 64 if there is none."""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return builder.cttz(args[0], Constant(IntType(1), 0))

    return types.int64(types.int64), codegen


@inline
def find(s: State, base: int, wanted: int) -> int:
    """The way that holds something, among the 16 words at `base`; WAYS or more if none does."""
    way: int = _lowest(_equal(s, base, wanted))
    return way


@inline
def _position(order: int, way: int) -> int:
    """At which bit of the order a way is (Warren, Hacker's Delight, 6-1: the first nibble that is 0)."""
    x = order ^ (way * _ONES)
    first: int = _lowest((x - _ONES) & ~x & _HIGH)
    return first - 3


@inline
def used(order: int, way: int) -> int:
    """The order after a way has been used."""
    behind = (16 << _position(order, way)) - 1
    return (order & ~behind) | ((order << 4) & behind) | way


@inline
def oldest(order: int, ways: int) -> int:
    """The way that was used least recently, of so many."""
    return (order >> (4 * ways - 4)) & 15


@inline
def emptied(order: int, way: int, ways: int) -> int:
    """The order after a way has lost what it held: it is the next to be taken."""
    before = (1 << _position(order, way)) - 1
    last = 4 * ways - 4
    moved = (order >> 4) & ~before & ((1 << last) - 1)
    return (order & before) | moved | (way << last) | (order & ~((16 << last) - 1))
