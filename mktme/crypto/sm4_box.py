"""SM4's round on packs of words without a table of its S-box (GB/T 32907-2016, ISO/IEC 18033-3).

The S-box is S(x) = A I(A x + d) + d, with I the inverse in GF(2)[x] / 0x1F5, A the circulant bit
matrix of 0xA7 and d = 0xD3. With f an isomorphism to AES's field, 0x11B, and J the inverse there,

    S(x) = Q J(P x + p) + d        P = f A,  Q = A f^-1,  p = f(d)

and processors have J: GFNI directly, AES's last round together with an affine map. Let R turn a
word left by a byte, and write each byte of the rotation by 2 bits as U x + R D x, where U is the
shift up by 2 bits and D the shift down by 6; then the linear transform of the round is

    L = 1 + B2 + B10 + B18 + B24 = (1 + R + R^2) ((1 + U) + R (1 + D))

(Bn: rotation by n bits). So kernels hold P x for every word x, which makes the round

    w = P (1 + U) Q J(y) + R P (1 + D) Q J(y) + P B2(d)        X' = X + w + R w + R^2 w

of y, the sum of three words and of the round key k as P k + p: two affine maps after one inverse.
Every map here is a table of 256 bytes while the code is made, and none when it runs: there the
maps are GFNI's matrices, or else two lookups of nibbles within a register. Nothing that depends
on data or keys is an address or a branch.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

from llvmlite import ir
from numba.core import types

from mktme.crypto.simd import (
    I8,
    I32,
    Pack,
    call,
    elementwise,
    emit_aes,
    intrinsic,
    join,
    loader,
    on_arm,
    pointer,
    shuffle,
    split,
)

I16 = ir.IntType(16)
SM4_FIELD, AES_FIELD = 0x1F5, 0x11B
D = 0xD3  # the constant of SM4's affine map; 0x63 is AES's
Emit = Callable[[Any, Pack, Any], Any]


def table(function: Callable[[int], int]) -> bytes:
    """A map of bytes as its 256 values."""
    return bytes(function(x) & 0xFF for x in range(256))


def after(outer: bytes, *inner: bytes) -> bytes:
    """The composition of maps, the last of which is applied first."""
    for part in inner:
        outer = part.translate(outer)
    return outer


def inverse(one_to_one: bytes) -> bytes:
    """The inverse of a map (not of the field)."""
    return table(one_to_one.index)


def rotated(x: int, n: int) -> int:
    """A byte turned left by n bits."""
    return (x << n | x >> 8 - n) & 0xFF


def circulant(row: int) -> bytes:
    """The linear map whose i-th output bit is the parity of x and the row turned left i times."""
    return table(lambda x: sum(((rotated(row, i) & x).bit_count() & 1) << i for i in range(8)))


def product(x: int, y: int, field: int) -> int:
    """The product in GF(2)[x] modulo the polynomial of degree 8 with the bits of `field`."""
    made = 0
    for i in reversed(range(8)):
        made = made << 1 ^ (field if made & 0x80 else 0) ^ (x if y >> i & 1 else 0)
    return made


def polynomial(bits: int, root: int) -> int:
    """The value at `root`, in AES's field, of the polynomial over GF(2) with these coefficients."""
    value = 0
    for i in reversed(range(bits.bit_length())):
        value = product(value, root, AES_FIELD) ^ bits >> i & 1
    return value


ROOT = next(root for root in range(2, 256) if polynomial(SM4_FIELD, root) == 0)
ISOMORPHISM = table(lambda x: polynomial(x, ROOT))
A = circulant(0xA7)
P, Q = after(ISOMORPHISM, A), after(A, inverse(ISOMORPHISM))
ONE_PLUS_U, ONE_PLUS_D = table(lambda x: x ^ x << 2), table(lambda x: x ^ x >> 6)
AES_MAP = circulant(0xF1)  # FIPS 197, section 5.1.1
INV_SHIFT_ROWS = [4 * ((i // 4 - i % 4) % 4) + i % 4 for i in range(16)]


# Registers as bytes


def as_bytes(b: Any, ty: Pack, x: Any) -> Any:
    """A register as a vector of bytes."""
    return b.bitcast(x, ir.VectorType(I8, ty.bits // 8))


def constant_bytes(ty: Pack, block: bytes) -> ir.Constant:
    """The same 16 bytes in every block of a register."""
    return ir.Constant(ir.VectorType(I8, ty.bits // 8), list(block) * ty.per)


def shuffled(b: Any, ty: Pack, x: Any, order: list[int]) -> Any:
    """Byte i of each block taken from byte order[i] of that block."""
    x = as_bytes(b, ty, x)
    index = [16 * block + i for block in range(ty.per) for i in order]
    return b.bitcast(shuffle(b, x, x, index), ty.reg)


def turned(b: Any, ty: Pack, x: Any, n: int) -> Any:
    """R^n of big-endian words, as they lie in memory."""
    return shuffled(b, ty, x, [4 * (i // 4) + (i + n) % 4 for i in range(16)])


def looked_up(b: Any, ty: Pack, sixteen: bytes, index: Any) -> Any:
    """An entry of a table of 16 for each byte of a register, all below 16."""
    entries = constant_bytes(ty, sixteen)
    if on_arm(b):
        return call(b, "llvm.aarch64.neon.tbl1.v16i8", index.type, entries, index)
    name = {128: "ssse3.pshuf.b.128", 256: "avx2.pshuf.b", 512: "avx512.pshuf.b.512"}[ty.bits]
    return call(b, f"llvm.x86.{name}", index.type, entries, index)


def matrix(linear: bytes) -> bytes:
    """A linear map as GFNI takes it: the row of output bit i is byte 7 - i (Intel SDM vol. 2)."""
    rows = [sum((linear[1 << j] >> i & 1) << j for j in range(8)) for i in range(8)]
    return bytes(reversed(rows))


def gfni(name: str, linear: bytes, plus: int) -> Emit:
    """An affine map of each byte, or with `affineinv` of each byte's inverse."""

    def emit(b: Any, ty: Pack, x: Any) -> Any:
        x = as_bytes(b, ty, x)
        rows = constant_bytes(ty, 2 * matrix(linear))
        made = call(b, f"llvm.x86.vgf2p8{name}qb.{ty.bits}", x.type, x, rows, ir.Constant(I8, plus))
        return b.bitcast(made, ty.reg)

    return emit


def nibbles(linear: bytes, plus: int) -> Emit:
    """An affine map of each byte, as the sum of two lookups."""
    low = bytes(y ^ plus for y in linear[:16])

    def emit(b: Any, ty: Pack, x: Any) -> Any:
        x = as_bytes(b, ty, x)
        fifteen = constant_bytes(ty, bytes([15] * 16))
        down = looked_up(b, ty, low, b.and_(x, fifteen))
        pairs = ir.VectorType(I16, ty.bits // 16)  # no processor shifts bytes
        down4 = b.lshr(b.bitcast(x, pairs), ir.Constant(pairs, [4] * pairs.count))
        up = looked_up(b, ty, linear[::16], b.and_(b.bitcast(down4, x.type), fifteen))
        return b.bitcast(b.xor(down, up), ty.reg)

    return emit


def by_aes(linear: bytes, plus: int) -> Emit:
    """An affine map of each byte's inverse: AES's last round, without its ShiftRows and affine map."""
    last = emit_aes("aesenclast", "aese", "")
    through = after(linear, inverse(AES_MAP))
    affine = nibbles(through, plus ^ through[0x63])

    def emit(b: Any, ty: Pack, x: Any) -> Any:
        substituted = last(b, ty, x, ir.Constant(ty.reg, [0] * (2 * ty.per)))
        return affine(b, ty, shuffled(b, ty, substituted, INV_SHIFT_ROWS))

    return emit


# What kernels are made of


class Box(NamedTuple):
    """SM4 on mapped bytes.

    `enter` and `leave` are P x and its inverse, `key` is P x + p, `substitute` the S-box after
    `key`, and turn(x, y) is X' above.
    """

    enter: Any
    leave: Any
    key: Any
    substitute: Any
    turn: Any


def box(with_gfni: bool) -> Box:
    """SM4 on GFNI, or on the instructions of AES and of byte shuffles."""

    def affine(linear: bytes, plus: int) -> Emit:
        return gfni("affine", linear, plus) if with_gfni else nibbles(linear, plus)

    def inverted(linear: bytes, plus: int) -> Emit:
        return gfni("affineinv", linear, plus) if with_gfni else by_aes(linear, plus)

    part0 = inverted(after(P, ONE_PLUS_U, Q), P[rotated(D, 2)])
    part1 = inverted(after(P, ONE_PLUS_D, Q), 0)

    def turn(b: Any, ty: Pack, x: Any, y: Any) -> Any:
        # All of one register before the next, so that registers drift apart: in lockstep, all
        # would want the port of the inverse, then all that of rotations, then that of neither.
        w = b.xor(part0(b, ty, y), turned(b, ty, part1(b, ty, y), 1))
        return b.xor(b.xor(b.xor(x, w), turned(b, ty, w, 1)), turned(b, ty, w, 2))

    return Box(
        enter=elementwise(affine(P, 0), 1),
        leave=elementwise(affine(inverse(P), 0), 1),
        key=elementwise(affine(P, ISOMORPHISM[D]), 1),
        substitute=elementwise(inverted(Q, D), 1),
        turn=elementwise(turn),
    )


# Blocks and words


def _word(b: Any, want: Pack, at: Any, i: int) -> Any:
    lane = b.load(pointer(b, at, I32), typ=I32, align=1)
    vector = ir.VectorType(I32, want.bits // 32)
    one = b.insert_element(ir.Constant(vector, ir.Undefined), lane, ir.Constant(I32, 0))
    return b.bitcast(shuffle(b, one, one, [0] * vector.count), want.reg)


word = loader("word", _word)  # 32 bits of memory in every lane


def transposed(b: Any, ty: Pack, rows: list[Any]) -> list[Any]:
    """Word j of block i as word i of block j, in each four blocks at one place of four registers."""
    vector = ir.VectorType(I32, ty.bits // 32)
    starts = range(0, vector.count, 4)

    def mixed(x: Any, y: Any, order: tuple[int, ...]) -> Any:
        index = [s + (i if i < 4 else i - 4 + vector.count) for s in starts for i in order]
        return shuffle(b, x, y, index)

    w, x, y, z = (b.bitcast(row, vector) for row in rows)
    low, high, even, odd = (0, 4, 1, 5), (2, 6, 3, 7), (0, 1, 4, 5), (2, 3, 6, 7)
    left, right = [(mixed(w, x, o), mixed(y, z, o)) for o in (low, high)]
    made = [mixed(*pair, o) for pair in (left, right) for o in (even, odd)]
    return [b.bitcast(r, ty.reg) for r in made]


@intrinsic
def words(typing: Any, x: Any) -> Any:
    """Blocks as four packs: their words 0, 1, 2 and 3."""
    quarter = Pack(x.bits, x.regs // 4)

    def codegen(context: Any, b: Any, signature: Any, args: Any) -> Any:
        rows = split(b, x, args[0])
        sets = [transposed(b, x, rows[i : i + 4]) for i in range(0, x.regs, 4)]
        return context.make_tuple(
            b, signature.return_type, [join(b, quarter, column) for column in zip(*sets, strict=True)]
        )

    return types.containers.UniTuple(quarter, 4)(x), codegen


@intrinsic
def blocks(typing: Any, x0: Any, x1: Any, x2: Any, x3: Any) -> Any:
    """The inverse of `words`."""
    whole = Pack(x0.bits, 4 * x0.regs)

    def codegen(context: Any, b: Any, signature: Any, args: Any) -> Any:
        sets = zip(*(split(b, x0, x) for x in args), strict=True)
        return join(b, whole, [row for rows in sets for row in transposed(b, whole, list(rows))])

    return whole(x0, x1, x2, x3), codegen
