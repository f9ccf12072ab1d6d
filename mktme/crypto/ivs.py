"""Where a kernel gets the IVs of its data units from: memory, or a compiled IV scheme.

A compiled scheme is a function ``fill(table, first, n, to)`` at an address: it writes the words of
the IVs of the n units from `first` on, first all their first words, then all their second ones
(`mktme.iv.compiled` makes it; a compiler vectorises that). A kernel calls it for a batch of units at
a time, into scratch that stays in the first-level cache.

A sealed IV is AES-encrypted before its use (ESSIV, EBOIV): `seal` is the address of a schedule.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from llvmlite import ir
from numba.core import types

from mktme.crypto.aes import ENCRYPT, blocks
from mktme.crypto.kernel import inline, part
from mktme.crypto.simd import I64, Pack, intrinsic, peek, poke, scratch, size, store
from mktme.crypto.strided import load_pairs

UNITS = 128  # units whose IVs are made at a time
ROOM = Pack(512, UNITS // 4)


@intrinsic
def call_fill(typing: Any, function: Any, table: Any, first: Any, n: Any, to: Any) -> Any:
    """Call the compiled scheme at an address."""

    def codegen(context: Any, b: Any, signature: Any, args: Any) -> Any:
        kind = ir.FunctionType(ir.VoidType(), [I64] * 4)
        b.call(b.inttoptr(args[0], kind.as_pointer()), args[1:])
        return context.get_dummy_value()

    return types.void(*[types.intp] * 5), codegen


def build(bits: int) -> Callable[..., int]:
    """The piece take(...), with registers of `bits` bits."""
    encrypt_blocks, wide = blocks(bits), Pack(bits, 8)

    @part
    def made(fill: int, table: int, first: int, n: int, to: int) -> None:
        """The IVs of n units, UNITS at most at a time."""
        room = scratch(ROOM)
        for u in range(0, n, UNITS):
            m = min(UNITS, n - u)
            call_fill(fill, table, first + u, m, room)
            lows, highs, at = room, room + 8 * m, to + 16 * u
            whole = m - m % (size(wide) // 16)
            for i in range(0, whole, size(wide) // 16):
                store(at + 16 * i, load_pairs(wide, lows + 8 * i, highs + 8 * i))
            for i in range(whole, m):
                poke(at + 16 * i, peek(lows + 8 * i))
                poke(at + 16 * i + 8, peek(highs + 8 * i))

    @inline
    def take(ivs: int, fill: int, table: int, first: int, u: int, m: int, seal: int, room: int) -> int:
        """The address of the 16-byte IVs of m units from number u of a request on.

        They lie at `ivs`, or if that is 0 the scheme `fill` makes them, the request's first unit
        being its unit `first`.
        """
        at = ivs + 16 * u
        if not ivs:
            made(fill, table, first + u, m, room)
            at = room
        if seal:
            encrypt_blocks(seal + ENCRYPT, peek(seal), at, m, room)
            at = room
        return at

    return take
