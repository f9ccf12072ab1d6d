"""A keystream on its way to memory: xored to what is there, register by register.

Loading a pack, xoring the keystream and storing the result says the same, but then all the loads
come before the first store, since LLVM can't know the places to be distinct, and a wide pack and
its keystream together spill. Here each register is stored before the next is loaded; source and
destination are the same place or don't overlap.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from numba.core import types

from mktme.crypto.simd import I64, Pack, intrinsic, pointer, split


def xorer(name: str, place: Callable[[Any, Any, Pack, int], Any]) -> Any:
    """An intrinsic name(to, source, x): x ^ source, register by register.

    The place of register i is place(builder, address, pack type, i).
    """

    def typer(typing: Any, to: Any, source: Any, x: Any) -> Any:
        def codegen(context: Any, b: Any, signature: Any, args: Any) -> Any:
            for i, register in enumerate(split(b, x, args[2])):
                near, far = (place(b, address, x, i) for address in (args[1], args[0]))
                b.store(b.xor(b.load(near, typ=x.reg, align=1), register), far, align=1)
            return context.get_dummy_value()

        return types.void(types.intp, types.intp, x), codegen

    typer.__name__ = name
    return intrinsic(typer)


def _along(b: Any, address: Any, ty: Pack, i: int) -> Any:
    return pointer(b, address, ty.reg, ty.bits // 8 * i)


def _in_table(b: Any, address: Any, ty: Pack, i: int) -> Any:
    line, part = divmod(i, 512 // ty.bits)
    at = b.load(pointer(b, address, I64, 8 * line), typ=I64, align=8)
    return pointer(b, at, ty.reg, ty.bits // 8 * part)


xor_through = xorer("xor_through", _along)  # as they lie in memory
xor_lines = xorer("xor_lines", _in_table)  # 64-byte lines, by tables of their addresses
