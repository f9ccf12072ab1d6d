"""POLYVAL (RFC 8452, section 3) on packs of blocks, with one reduction per 4096 bytes.

The RFC's product is dot(X, P) = X P x^-128 in GF(2)[x] / (x^128 + x^127 + x^126 + x^121 + 1), and
the hash of X_1 ... X_n is the sum of dot(X_i, H^(n + 1 - i)). With X = a + b x^64 in halves,

    dot(X, P) = (a Q + b P) x^-64        Q = P x^-64

so a table of both P and Q for each power of H leaves sums of products of 64 by 64 bits at two
places only: `low` at x^0 and `high` at x^64. A block costs four carry-less products, without a
shuffle, and the sums over any number of blocks are reduced once, by one product more: adding
the polynomial times the lowest word (Montgomery's way) clears that word and so divides by x^64.

A table has the powers H^POWERS ... H^1, then zeros: read from H^m on, it has the factors of the
last m blocks of a message, whatever the width of a register.
"""

from __future__ import annotations

from typing import Any

from llvmlite import ir

from mktme.crypto.aes import ONE_BLOCK, Vector
from mktme.crypto.kernel import inline
from mktme.crypto.simd import (
    BYTES,
    I8,
    I32,
    Pack,
    call,
    clmul_hi,
    clmul_lo,
    elementwise,
    intrinsic,
    join,
    lanes,
    load,
    on_arm,
    shuffle,
    split,
    store,
    xor3,
    zero,
)

POWERS = 256  # the powers of the key in a table: a reduction each 4096 bytes
SPAN = 16 * POWERS + 64  # bytes of one table, with zeros for a register behind it
TABLE_BYTES = 2 * SPAN  # the table of P, then that of Q


def _clmul_high(half: int) -> Any:
    """Carry-less product of one 64-bit half of each block of x with the high half of y's block."""

    def emit(b: Any, ty: Pack, x: Any, y: Any) -> Any:
        if on_arm(b):
            words = [b.extract_element(v, ir.Constant(I32, i)) for v, i in ((x, half), (y, 1))]
            return b.bitcast(call(b, "llvm.aarch64.neon.pmull64", BYTES, *words), ty.reg)
        suffix = {128: "", 256: ".256", 512: ".512"}[ty.bits]
        return call(b, f"llvm.x86.pclmulqdq{suffix}", ty.reg, x, y, ir.Constant(I8, 16 + half))

    return elementwise(emit)


clmul_lo_hi, clmul_hi_hi = _clmul_high(0), _clmul_high(1)
swap64 = elementwise(lambda b, ty, x: shuffle(b, x, x, [i ^ 1 for i in range(2 * ty.per)]), 1)


@intrinsic
def reducer(typing: Any, pack: Any) -> Any:
    """A pack of x^63 + x^62 + x^57, the middle of the polynomial divided by x^64."""
    want = pack.instance_type

    def codegen(context: Any, b: Any, signature: Any, args: Any) -> Any:
        return join(b, want, [lanes(want, [0xC2 << 56, 0] * want.per)] * want.regs)

    return want(pack), codegen


@intrinsic
def lone(typing: Any, pack: Any, block: Any) -> Any:
    """A register whose first block is `block`, and whose others are zero."""
    want = pack.instance_type

    def codegen(context: Any, b: Any, signature: Any, args: Any) -> Any:
        (x,) = split(b, block, args[1])
        rest = [2, 3] * (want.per - 1)
        return join(b, want, [shuffle(b, x, lanes(block, [0, 0]), [0, 1, *rest])])

    return want(pack, block), codegen


@intrinsic
def total(typing: Any, register: Any) -> Any:
    """The sum of a register's blocks, as one block."""

    def codegen(context: Any, b: Any, signature: Any, args: Any) -> Any:
        (x,) = split(b, register, args[0])
        words = 2 * register.per
        while words > 2:
            words //= 2
            x = b.xor(shuffle(b, x, x, range(words)), shuffle(b, x, x, range(words, 2 * words)))
        return join(b, ONE_BLOCK, [x])

    return ONE_BLOCK(register), codegen


@inline
def absorb(low: Vector, high: Vector, x: Vector, p: Vector, q: Vector) -> tuple[Vector, Vector]:
    """The sums with the products of one more register of blocks; p and q are its factors."""
    low = xor3(low, clmul_lo(x, q), clmul_hi(x, p))
    high = xor3(high, clmul_lo_hi(x, q), clmul_hi_hi(x, p))
    return low, high


@inline
def begin(one: Any, block: Vector, table: int) -> tuple[Vector, Vector]:
    """The sums that add `block` to the first block of the message, whose factors are at `table`."""
    none = zero(ONE_BLOCK)
    p, q = load(ONE_BLOCK, table), load(ONE_BLOCK, table + SPAN)
    low, high = absorb(none, none, block, p, q)
    return lone(one, low), lone(one, high)


@inline
def reduce(low: Vector, high: Vector) -> Vector:
    """The block that the sums in a register's blocks come to."""
    low, high = total(low), total(high)
    return xor3(high, swap64(low), clmul_lo(low, reducer(ONE_BLOCK)))


@inline
def dot(x: Vector, table: int) -> Vector:
    """dot of one block and the power of the key that is at `table`."""
    none = zero(ONE_BLOCK)
    low, high = absorb(none, none, x, load(ONE_BLOCK, table), load(ONE_BLOCK, table + SPAN))
    return reduce(low, high)


@inline
def factors(table: int, blocks: int) -> int:
    """Where the factors of the last blocks of a message begin."""
    return table + 16 * (POWERS - blocks)


@inline
def fill(key: Vector, table: int) -> None:
    """Make the table of a key H; the memory behind its powers is zero already."""
    power = key
    for i in range(1, POWERS + 1):
        at = factors(table, i)
        store(at, power)
        store(at + SPAN, reduce(power, zero(ONE_BLOCK)))
        power = dot(power, factors(table, 1))
