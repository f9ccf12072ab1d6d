"""Where a kernel gets the IVs of its data units from: memory, or a compiled IV scheme.

A compiled scheme is a function ``fill(table, first, n, to)`` at an address: it writes the IVs of
the n units from `first` on (`mktme.iv.compiled` makes it). A kernel calls it for a batch of units
at a time, into scratch that stays in the first-level cache.

A sealed IV is AES-encrypted before its use (ESSIV, EBOIV): `seal` is the address of a schedule.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from llvmlite import ir
from numba.core import types

from mktme.crypto.aes import ENCRYPT, blocks
from mktme.crypto.kernel import inline
from mktme.crypto.simd import I64, intrinsic, peek

UNITS = 128  # units whose IVs are made at a time


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
    encrypt_blocks = blocks(bits)

    @inline
    def take(ivs: int, fill: int, table: int, first: int, u: int, m: int, seal: int, room: int) -> int:
        """The address of the 16-byte IVs of m units from number u of a request on.

        They lie at `ivs`, or if that is 0 the scheme `fill` makes them, the request's first unit
        being its unit `first`.
        """
        at = ivs + 16 * u
        if not ivs:
            call_fill(fill, table, first + u, m, room)
            at = room
        if seal:
            encrypt_blocks(seal + ENCRYPT, peek(seal), at, m, room)
            at = room
        return at

    return take
