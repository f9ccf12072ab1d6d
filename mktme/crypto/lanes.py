"""Packs as lanes of 32 or 64 bits: sums, products, rotations and transpositions.

`mktme.crypto.simd` sees a register as cipher blocks of 128 bits; ciphers made of additions,
rotations and xors, and universal hashes, see it as lanes. Every operation here is a plain LLVM
vector operation, which its back ends turn into the best that the processor has: a rotation is
VPROLD with AVX-512, a byte shuffle or two shifts elsewhere; `mul32` is VPMULUDQ or UMULL.

A transposed pack of four registers holds a table of 32-bit words: register w holds word w of
each lane's block. Lane 4 b + j of a register then belongs to block `per` j + b, where `per` is the
number of 128-bit blocks in a register: an order in which both transpositions stay within
128-bit blocks, and which no caller sees that takes lanes from `transpose` and gives them back
through `transpose` or `in_order`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from llvmlite import ir
from numba.core import types

from mktme.crypto.kernel import inline
from mktme.crypto.simd import (
    I8,
    I32,
    I64,
    Pack,
    call,
    elementwise,
    intrinsic,
    join,
    lanes,
    pointer,
    shuffle,
    split,
)


def as_words(bits: int, emit: Callable[..., Any]) -> Callable[..., Any]:
    """emit(builder, vector type, *registers) for registers seen as lanes of `bits` bits."""

    def emitted(b: Any, ty: Pack, *registers: Any) -> Any:
        seen = ir.VectorType(ir.IntType(bits), ty.bits // bits)
        return b.bitcast(emit(b, seen, *(b.bitcast(r, seen) for r in registers)), ty.reg)

    return emitted


def splat(seen: Any, value: int) -> Any:
    """A constant register with one value in all lanes."""
    return ir.Constant(seen, [value] * seen.count)


# Arithmetic

add32 = elementwise(as_words(32, lambda b, seen, x, y: b.add(x, y)))
add64 = elementwise(lambda b, ty, x, y: b.add(x, y))
both = elementwise(lambda b, ty, x, y: b.and_(x, y))
either = elementwise(lambda b, ty, x, y: b.or_(x, y))


def _mul32(b: Any, ty: Pack, x: Any, y: Any) -> Any:
    low = splat(ty.reg, 0xFFFFFFFF)
    return b.mul(b.and_(x, low), b.and_(y, low))


mul32 = elementwise(_mul32)  # the 64-bit products of the low halves of 64-bit lanes


def rotl32(k: int) -> Any:
    """An operation: 32-bit lanes rotated left by k bits."""

    def emit(b: Any, seen: Any, x: Any) -> Any:
        return call(b, f"llvm.fshl.v{seen.count}i32", seen, x, x, splat(seen, k))

    return elementwise(as_words(32, emit), 1)


def shl64(k: int) -> Any:
    """An operation: 64-bit lanes shifted left by k bits."""
    return elementwise(lambda b, ty, x: b.shl(x, splat(ty.reg, k)), 1)


def shr64(k: int) -> Any:
    """An operation: 64-bit lanes, unsigned, shifted right by k bits."""
    return elementwise(lambda b, ty, x: b.lshr(x, splat(ty.reg, k)), 1)


# Order of lanes and of registers


def _swap_middle(b: Any, seen: Any, x: Any) -> Any:
    return shuffle(b, x, x, [i + v for i in range(0, seen.count, 4) for v in (0, 2, 1, 3)])


swap_middle = elementwise(as_words(32, _swap_middle), 1)  # words 0, 2, 1, 3 of each block


def rearranged(name: str, emit: Callable[[Any, Pack, list[Any]], list[Any]]) -> Any:
    """An intrinsic name(x) with the registers emit(builder, pack type, registers)."""

    def typer(typing: Any, x: Any) -> Any:
        def codegen(context: Any, b: Any, signature: Any, args: Any) -> Any:
            return join(b, x, emit(b, x, split(b, x, args[0])))

        return x(x), codegen

    typer.__name__ = name
    return intrinsic(typer)


def turn(k: int) -> Any:
    """An operation: register i of the result is register i + k of the pack, cyclically."""
    return rearranged(f"turn{k}", lambda b, ty, r: r[k:] + r[:k])


def _transpose(b: Any, ty: Pack, rows: Sequence[Any]) -> list[Any]:
    words = ir.VectorType(I32, 4 * ty.per)
    r0, r1, r2, r3 = (b.bitcast(r, words) for r in rows)
    n, made = words.count, []
    for half in (0, 2):
        index = [i for q in range(half, n, 4) for i in (q, n + q, q + 1, n + q + 1)]
        low, high = (b.bitcast(shuffle(b, x, y, index), ty.reg) for x, y in ((r0, r1), (r2, r3)))
        for word in (0, 1):
            pairs = [i for q in range(word, n // 2, 2) for i in (q, n // 2 + q)]
            made.append(shuffle(b, low, high, pairs))
    return made


transpose = rearranged("transpose", _transpose)  # 4 x 4 words in each block place; its own inverse


def _weave(b: Any, ty: Pack, columns: Sequence[Any]) -> list[Any]:
    """Block 0 of each of four registers, block 1 of each, and so on."""

    def pick(x: Any, y: Any, blocks: Sequence[int]) -> Any:
        return shuffle(b, x, y, [2 * i + w for i in blocks for w in (0, 1)])

    c0, c1, c2, c3 = columns
    if ty.per == 1:
        return list(columns)
    if ty.per == 2:
        return [pick(x, y, [i, 2 + i]) for i in (0, 1) for x, y in ((c0, c1), (c2, c3))]
    made = []
    for half in (0, 2):
        pairs = [half, half + 1, 4 + half, 5 + half]
        low, high = pick(c0, c1, pairs), pick(c2, c3, pairs)
        made += [pick(low, high, [i, 2 + i, 4 + i, 6 + i]) for i in (0, 1)]
    return made


@intrinsic
def in_order(typing: Any, w: Any, x: Any, y: Any, z: Any) -> Any:
    """The 64-byte blocks whose words are the sixteen registers of four packs, as in memory."""
    want = Pack(w.bits, 16)

    def codegen(context: Any, b: Any, signature: Any, args: Any) -> Any:
        quarters = [_transpose(b, w, split(b, w, a)) for a in args]
        return join(b, want, [r for column in zip(*quarters, strict=True) for r in _weave(b, w, column)])

    return want(w, x, y, z), codegen


@intrinsic
def rows(typing: Any, w: Any, x: Any, y: Any, z: Any) -> Any:
    """A pack of four registers."""
    want = Pack(w.bits, 4)

    def codegen(context: Any, b: Any, signature: Any, args: Any) -> Any:
        return join(b, want, [split(b, w, a)[0] for a in args])

    return want(w, x, y, z), codegen


# Constants, and lanes from integers and from memory


def _spread(b: Any, ty: Pack, value: Any) -> Any:
    """A register with an integer in every lane of its size."""
    seen = ir.VectorType(value.type, ty.bits // value.type.width)
    first = b.insert_element(ir.Constant(seen, ir.Undefined), value, ir.Constant(I32, 0))
    return b.bitcast(shuffle(b, first, first, [0] * seen.count), ty.reg)


def same(name: str, lane: ir.IntType) -> Any:
    """An intrinsic name(P, value) with the low bits of an integer in every lane."""

    def typer(typing: Any, pack: Any, value: Any) -> Any:
        want = pack.instance_type

        def codegen(context: Any, b: Any, signature: Any, args: Any) -> Any:
            value = args[1] if lane is I64 else b.trunc(args[1], lane)
            return join(b, want, [_spread(b, want, value)] * want.regs)

        return want(pack, types.int64), codegen

    typer.__name__ = name
    return intrinsic(typer)


same8, same32, same64 = same("same8", I8), same("same32", I32), same("same64", I64)


@intrinsic
def splat32(typing: Any, pack: Any, address: Any, stride: Any) -> Any:
    """Register i holds, in every lane, the 32-bit word at address + i stride."""
    want = pack.instance_type

    def codegen(context: Any, b: Any, signature: Any, args: Any) -> Any:
        at, made = args[1], []
        for _ in range(want.regs):
            made.append(_spread(b, want, b.load(pointer(b, at, I32), typ=I32, align=1)))
            at = b.add(at, args[2])
        return join(b, want, made)

    return want(pack, types.intp, types.intp), codegen


@intrinsic
def block_numbers(typing: Any, pack: Any) -> Any:
    """One register: in each lane of a transposed pack the number of its block."""
    want = pack.instance_type

    def codegen(context: Any, b: Any, signature: Any, args: Any) -> Any:
        order = [want.per * (v % 4) + v // 4 for v in range(4 * want.per)]
        return join(
            b, want, [lanes(want, [x | y << 32 for x, y in zip(order[::2], order[1::2], strict=True)])]
        )

    return want(pack), codegen


def _below(b: Any, seen: Any, limit: Any) -> Any:
    return b.sext(b.icmp_unsigned("<", ir.Constant(seen, list(range(seen.count))), limit), seen)


_bytes_below = elementwise(as_words(8, _below), 1)


@inline
def below(pack: Any, count: int) -> Any:
    """Ones in the first `count` bytes of a register and zeros after them."""
    return _bytes_below(same8(pack, count))


# Sums across lanes


@intrinsic
def fold(typing: Any, x: Any) -> Any:
    """The sums of the 64-bit lanes of each of four registers: four words, 128 bits at a time."""
    want = Pack(128, 2)

    def codegen(context: Any, b: Any, signature: Any, args: Any) -> Any:
        registers = split(b, x, args[0])
        made = []
        for u, v in (registers[:2], registers[2:]):
            n = 2 * x.per
            even, odd = ([i + w for i in range(0, n, 2) for w in (k, n + k)] for k in (0, 1))
            total = b.add(shuffle(b, u, v, even), shuffle(b, u, v, odd))
            while n > 2:
                n //= 2
                total = b.add(shuffle(b, total, total, range(n)), shuffle(b, total, total, range(n, 2 * n)))
            made.append(total)
        return join(b, want, made)

    return want(x), codegen


@intrinsic
def store_column(typing: Any, address: Any, stride: Any, x: Any) -> Any:
    """Store the 64-bit words of a pack `stride` bytes apart."""

    def codegen(context: Any, b: Any, signature: Any, args: Any) -> Any:
        at = args[0]
        for register in split(b, x, args[2]):
            for i in range(2 * x.per):
                b.store(b.extract_element(register, ir.Constant(I32, i)), pointer(b, at, I64), align=1)
                at = b.add(at, args[1])
        return context.get_dummy_value()

    return types.void(types.intp, types.intp, x), codegen
