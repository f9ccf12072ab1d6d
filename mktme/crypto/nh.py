"""NH as Adiantum uses it (Crowley and Biggers 2018), from UMAC (Black et al. 1999).

A message chunk of up to 1024 bytes is hashed to 32 bytes by four passes; pass p uses the key from
byte 16 p on. In each 16-byte block, words 0 and 1 with their key words added are multiplied by
words 2 and 3 with theirs, and the 64-bit products of all blocks are summed.

The four passes are the four registers of a pack, so that a message register is loaded once. The
middle words of each block change places, in message and key alike, which makes the factors the two
halves of a 64-bit lane: the product needs one shift.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

from mktme.crypto.kernel import inline, part
from mktme.crypto.lanes import add32, add64, below, both, fold, mul32, shr64, store_column, swap_middle
from mktme.crypto.simd import Pack, load, scratch, size, store, zero

CHUNK = 1024  # bytes of message for each digest
DIGEST_WORDS = 4
KEY_BYTES = CHUNK + 3 * 16
TABLE_BYTES = 4 * CHUNK  # the key as `prepare` lays it out

down32 = shr64(32)
Vector = Any  # a value of some Pack type


class Pieces(NamedTuple):
    """What `build` makes, each a part of kernels."""

    prepare: Callable[[int, int], None]
    digests: Callable[[int, int, int, int, int], None]


@inline
def products(x: Vector, keys: Vector) -> Vector:
    t = add32(swap_middle(x), keys)
    return mul32(t, down32(t))


def build(bits: int) -> Pieces:
    """The pieces for vector registers of `bits` bits."""
    one, passes, block = Pack(bits, 1), Pack(bits, 4), Pack(128, 1)

    @part
    def prepare(key: int, to: int) -> None:
        """Lay out a key: for each register of a chunk, what the four passes add to it."""
        for at in range(0, CHUNK, size(one)):
            for p in range(4):
                store(to + 4 * at + p * size(one), swap_middle(load(one, key + at + 16 * p)))

    @inline
    def last(data: int, length: int) -> Vector:
        """The end of a message, zeros after it; up to 16 bytes beyond it may be read."""
        if length + 16 >= size(one):
            x = load(one, data)
        else:
            room = scratch(one)
            for at in range(0, length, 16):
                store(room + at, load(block, data + at))
            x = load(one, room)
        return both(x, below(one, length))

    @part
    def digests(table: int, data: int, length: int, to: int, stride: int) -> None:
        """The digests of all chunks of a message, their words `stride` bytes apart.

        A message ends in a whole block of zeros and its bytes; at least 16 bytes that are
        readable follow it.
        """
        for begin in range(0, length, CHUNK):
            end = min(begin + CHUNK, length)
            whole = begin + ((end - begin) & -size(one))
            sums, key = zero(passes), table
            for at in range(begin, whole, size(one)):
                sums = add64(sums, products(load(one, data + at), load(passes, key)))
                key += size(passes)
            if whole < end:
                rest = end - whole
                made = products(last(data + whole, rest), load(passes, key))
                sums = add64(sums, both(made, below(one, (rest + 15) & -16)))
            store_column(to, stride, fold(sums))
            to += DIGEST_WORDS * stride

    return Pieces(prepare, digests)
