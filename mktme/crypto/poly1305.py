"""Poly1305 (Bernstein 2005, RFC 8439 section 2.5) of many messages at once, one in each lane.

A message here is short (a tweak, or the digests that NH makes of a data unit), and there are many
of equal length: lane i of every register belongs to message i. Words of the messages and of the
results lie in rows of `UNITS` 64-bit words, one for each message. The accumulator is five limbs of 26
bits, whose products fit in 64-bit lanes without a carry. There is no final addend: the hash is
the polynomial modulo 2^130 - 5, then modulo 2^128.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

from mktme.crypto.kernel import inline, part
from mktme.crypto.lanes import add64, both, either, mul32, same64, shl64, shr64
from mktme.crypto.simd import Pack, broadcast, load, peek, poke, size, store, zero

UNITS = 16  # messages at once
ROW = 8 * UNITS  # bytes of a row
STATE_BYTES = 5 * ROW
KEY_BYTES = 9 * 16  # limbs r0 ... r4, then 5 r1 ... 5 r4, each twice

LIMB = (1 << 26) - 1
TOP = 1 << 24  # 2^128 in the highest limb: what follows a whole block

Vector = Any  # a value of some Pack type
Limbs = tuple[Vector, Vector, Vector, Vector, Vector]

down26, down52, down12, down14, down40 = (shr64(k) for k in (26, 52, 12, 14, 40))
up2, up12, up14, up26, up40, up52 = (shl64(k) for k in (2, 12, 14, 26, 40, 52))


class Pieces(NamedTuple):
    """What `build` makes, each a part of kernels."""

    absorb: Callable[[int, int, int, bool, int, int], None]
    finish: Callable[[int, int, int], None]


@inline
def prepare(r: int, to: int) -> None:
    """A key from its 16 bytes, clamped (RFC 8439 section 2.5)."""
    low, high = peek(r) & 0x0FFFFFFC0FFFFFFF, peek(r + 8) & 0x0FFFFFFC0FFFFFFC
    for i in range(5):
        at = 26 * i  # bits of r below this limb
        limb = 0
        if at < 64:
            limb = low >> at
        if at + 26 > 64:
            limb |= high << 64 - at if at < 64 else high >> at - 64
        limb &= LIMB
        poke(to + 16 * i, limb)
        poke(to + 16 * i + 8, limb)
        if i:
            poke(to + 64 + 16 * i, 5 * limb)
            poke(to + 64 + 16 * i + 8, 5 * limb)


@inline
def times5(x: Vector) -> Vector:
    return add64(x, up2(x))


@inline
def dot(h: Limbs, v: Vector, w: Vector, x: Vector, y: Vector, z: Vector) -> Vector:
    low = add64(add64(mul32(h[0], v), mul32(h[1], w)), mul32(h[2], x))
    return add64(low, add64(mul32(h[3], y), mul32(h[4], z)))


@inline
def carried(h0: Vector, h1: Vector, h2: Vector, h3: Vector, h4: Vector, limb: Vector) -> Limbs:
    """The same number modulo 2^130 - 5 with limbs of 26 bits, but for h0.

    That takes what is carried around from h4, five times. After a product it is below 2^32 - 2^27
    still, r4 having 20 bits and r0 ... r3 26, so that the next block fits into its 32 bits.
    """
    h1 = add64(h1, down26(h0))
    h2 = add64(h2, down26(h1))
    h3 = add64(h3, down26(h2))
    h4 = add64(h4, down26(h3))
    h0 = add64(both(h0, limb), times5(down26(h4)))
    return h0, both(h1, limb), both(h2, limb), both(h3, limb), both(h4, limb)


@inline
def plus(h: Limbs, low: Vector, high: Vector, top: Vector, limb: Vector) -> Limbs:
    """h plus a block of two words, and 2^128 if top."""
    return (
        add64(h[0], both(low, limb)),
        add64(h[1], both(down26(low), limb)),
        add64(h[2], both(either(down52(low), up12(high)), limb)),
        add64(h[3], both(down14(high), limb)),
        add64(h[4], add64(down40(high), top)),
    )


def build(bits: int) -> Pieces:
    """The pieces for vector registers of `bits` bits."""
    one, many = Pack(bits, 1), Pack(bits, 2)  # constants; the messages in flight

    @inline
    def limbs(state: int) -> Limbs:
        return (
            load(many, state),
            load(many, state + ROW),
            load(many, state + 2 * ROW),
            load(many, state + 3 * ROW),
            load(many, state + 4 * ROW),
        )

    @inline
    def times(h: Limbs, key: int, limb: Vector) -> Limbs:
        r0, r1, r2 = broadcast(one, key), broadcast(one, key + 16), broadcast(one, key + 32)
        r3, r4, s1 = broadcast(one, key + 48), broadcast(one, key + 64), broadcast(one, key + 80)
        s2, s3, s4 = broadcast(one, key + 96), broadcast(one, key + 112), broadcast(one, key + 128)
        d0, d1 = dot(h, r0, s4, s3, s2, s1), dot(h, r1, r0, s4, s3, s2)
        d2, d3 = dot(h, r2, r1, r0, s4, s3), dot(h, r3, r2, r1, r0, s4)
        return carried(d0, d1, d2, d3, dot(h, r4, r3, r2, r1, r0), limb)

    @part
    def absorb(key: int, words: int, blocks: int, whole: bool, units: int, state: int) -> None:
        """Take blocks, each two rows from `words` on, into the states of `units` messages.

        Not whole: the messages' last bytes, and after them the byte 1 in the rows already.
        """
        limb, top = same64(one, LIMB), same64(one, TOP if whole else 0)
        for s in range(0, 8 * units, size(many)):
            h = limbs(state + s)
            for at in range(words + s, words + s + 2 * ROW * blocks, 2 * ROW):
                h = times(plus(h, load(many, at), load(many, at + ROW), top, limb), key, limb)
            store(state + s, h[0])
            store(state + s + ROW, h[1])
            store(state + s + 2 * ROW, h[2])
            store(state + s + 3 * ROW, h[3])
            store(state + s + 4 * ROW, h[4])

    @inline
    def reduced(h: Limbs, limb: Vector) -> Limbs:
        """The number below 2^130 - 5: h + 5 reaches 2^130 exactly if it has to be subtracted."""
        h = carried(h[0], h[1], h[2], h[3], h[4], limb)
        h0, h1, h2, h3, h4 = carried(h[0], h[1], h[2], h[3], h[4], limb)
        over = down26(add64(h0, same64(one, 5)))
        over = down26(add64(h1, over))
        over = down26(add64(h2, over))
        over = down26(add64(h3, over))
        over = down26(add64(h4, over))
        h0 = add64(h0, times5(over))
        h1 = add64(h1, down26(h0))
        h2 = add64(h2, down26(h1))
        h3 = add64(h3, down26(h2))
        h4 = add64(h4, down26(h3))
        return both(h0, limb), both(h1, limb), both(h2, limb), both(h3, limb), both(h4, limb)

    @part
    def finish(state: int, units: int, to: int) -> None:
        """The hashes of the messages, in two rows; their states begin anew."""
        limb = same64(one, LIMB)
        for s in range(0, 8 * units, size(many)):
            h0, h1, h2, h3, h4 = reduced(limbs(state + s), limb)
            store(to + s, either(either(h0, up26(h1)), up52(h2)))
            store(to + s + ROW, either(either(down12(h2), up14(h3)), up40(h4)))
            for i in range(5):
                store(state + s + ROW * i, zero(many))

    return Pieces(absorb, finish)
