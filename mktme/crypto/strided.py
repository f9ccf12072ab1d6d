"""Packs whose blocks lie apart in memory, as chaining and counting modes need them."""

from __future__ import annotations

from typing import Any

from llvmlite import ir
from numba.core import types

from mktme.crypto.simd import (
    BLOCK,
    I64,
    Pack,
    block_at,
    elementwise,
    intrinsic,
    join,
    lanes,
    pointer,
    shuffle,
    split,
    spread,
)


@intrinsic
def load_strided(typing: Any, pack: Any, address: Any, stride: Any) -> Any:
    """The pack whose i-th block lies at address + i * stride."""
    want = pack.instance_type

    def codegen(context: Any, b: Any, signature: Any, args: Any) -> Any:
        def at(i: int) -> Any:
            return block_at(b, b.add(args[1], b.mul(args[2], ir.Constant(I64, i))), 0)

        registers = [[at(i * want.per + lane) for lane in range(want.per)] for i in range(want.regs)]
        return join(b, want, [spread(b, register) for register in registers])

    return want(pack, types.intp, types.intp), codegen


@intrinsic
def load_pairs(typing: Any, pack: Any, lows: Any, highs: Any) -> Any:
    """The pack whose i-th block is the i-th 64-bit words at two places."""
    want = pack.instance_type

    def codegen(context: Any, b: Any, signature: Any, args: Any) -> Any:
        words = ir.VectorType(I64, want.per)
        order = [w for lane in range(want.per) for w in (lane, want.per + lane)]
        registers = []
        for i in range(want.regs):
            low, high = (
                b.load(pointer(b, at, words, 8 * want.per * i), typ=words, align=1) for at in args[1:]
            )
            registers.append(shuffle(b, low, high, order))
        return join(b, want, registers)

    return want(pack, types.intp, types.intp), codegen


@intrinsic
def store_strided(typing: Any, address: Any, stride: Any, x: Any) -> Any:
    """Store the i-th block of a pack at address + i * stride."""

    def codegen(context: Any, b: Any, signature: Any, args: Any) -> Any:
        ty = signature.args[2]
        for i, register in enumerate(split(b, ty, args[2])):
            for lane in range(ty.per):
                block = shuffle(b, register, register, [2 * lane, 2 * lane + 1])
                to = b.add(args[0], b.mul(args[1], ir.Constant(I64, i * ty.per + lane)))
                b.store(block, pointer(b, to, BLOCK), align=1)
        return context.get_dummy_value()

    return types.void(types.intp, types.intp, x), codegen


@intrinsic
def load_behind(typing: Any, pack: Any, address: Any, before: Any) -> Any:
    """The pack of the block at `before`, then the blocks from `address` on, all but the last."""
    want = pack.instance_type

    def codegen(context: Any, b: Any, signature: Any, args: Any) -> Any:
        rest = [block_at(b, args[1], 16 * lane) for lane in range(want.per - 1)]
        registers = [spread(b, [block_at(b, args[2], 0), *rest])]
        for i in range(1, want.regs):
            place = pointer(b, args[1], want.reg, want.bits // 8 * i - 16)
            registers.append(b.load(place, typ=want.reg, align=1))
        return join(b, want, registers)

    return want(pack, types.intp, types.intp), codegen


add = elementwise(lambda b, ty, x, y: b.add(x, y))  # of 64-bit lanes, wrapping


@intrinsic
def swap64(typing: Any, x: Any) -> Any:
    """A 64-bit integer with its bytes in the other order."""

    def codegen(context: Any, b: Any, signature: Any, args: Any) -> Any:
        return b.bswap(args[0])

    return types.int64(types.int64), codegen


def counted_blocks(name: str, number: Any, lone: bool = False) -> Any:
    """An intrinsic name(P): blocks whose last byte is number(P, i), the others zero; or one register."""

    def typer(typing: Any, pack: Any) -> Any:
        want = pack.instance_type
        made = Pack(want.bits, 1) if lone else want

        def codegen(context: Any, b: Any, signature: Any, args: Any) -> Any:
            registers = []
            for i in range(made.regs):
                places = range(i * made.per, (i + 1) * made.per)
                words = [w for place in places for w in (0, number(want, place) % 256 << 56)]
                registers.append(lanes(made, words))
            return join(b, made, registers)

        return made(pack), codegen

    typer.__name__ = name
    return intrinsic(typer)


block_numbers = counted_blocks("block_numbers", lambda pack, i: i)  # 0, 1, 2, ...
line_block_numbers = counted_blocks("line_block_numbers", lambda pack, i: i % 4)  # 0, 1, 2, 3, 0, ...
block_step = counted_blocks("block_step", lambda pack, i: pack.blocks, True)  # on to the next pack
