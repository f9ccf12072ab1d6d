"""ChaCha12 and HChaCha12 (Bernstein 2008; the X form by Crowley and Biggers 2018) on packs.

The state of ChaCha is a matrix of 4 x 4 words; here a row of it is a pack of four registers, one
for each column, whose lanes are as many independent blocks. A quarter round of packs is then the
quarter round of all four columns of all blocks, and the diagonal round is the same with the
registers named anew, which costs nothing.

Lanes are either consecutive blocks of one stream (`stream`), whose key every lane repeats, or the
same block of as many streams (`across`), whose keys lie transposed as `subkeys` leaves them.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

from mktme.crypto.aes import ONE_BLOCK
from mktme.crypto.kernel import inline, part
from mktme.crypto.keystream import xor_lines, xor_through
from mktme.crypto.lanes import (
    add32,
    add64,
    block_numbers,
    in_order,
    rotl32,
    rows,
    same32,
    same64,
    splat32,
    transpose,
    turn,
)
from mktme.crypto.simd import Pack, load, poke, size, store, xor, zero

Vector = Any  # a value of some Pack type

rotl16, rotl12, rotl8, rotl7 = rotl32(16), rotl32(12), rotl32(8), rotl32(7)
turn1, turn2, turn3 = turn(1), turn(2), turn(3)

SIGMA = (0x61707865, 0x3320646E, 0x79622D32, 0x6B206574)  # "expand 32-byte k"
NONCE = 1  # the stream's nonce: the 64-bit number that follows the 16 bytes HChaCha12 took
DOUBLE_ROUNDS = 6

SLACK = 16  # bytes of a unit after those that a stream is xored to, so that it may run on over them

# Scratch for as many streams as a register has lanes, at most 16
SUBKEYS = 0  # their keys, transposed
KEYSTREAM = SUBKEYS + 16 * 32  # a block of each
NEAR = KEYSTREAM + 16 * 64  # addresses of lines: where they come from
FAR = NEAR + 16 * 8  # and where they go
ROOM_BYTES = FAR + 16 * 8


class Pieces(NamedTuple):
    """What `build` makes, each a part of kernels; everything is given by its address."""

    subkeys: Callable[[int, int, int], None]
    keystream: Callable[[int, int, int, int, int], None]
    bulks: Callable[[int, int, int, int, int, int, int], None]


@inline
def quarter(a: Vector, b: Vector, c: Vector, d: Vector) -> tuple[Vector, Vector, Vector, Vector]:
    """The quarter round of the four columns of all blocks."""
    a = add32(a, b)
    d = rotl16(xor(d, a))
    c = add32(c, d)
    b = rotl12(xor(b, c))
    a = add32(a, b)
    d = rotl8(xor(d, a))
    c = add32(c, d)
    b = rotl7(xor(b, c))
    return a, b, c, d


@inline
def permute(a: Vector, b: Vector, c: Vector, d: Vector) -> tuple[Vector, Vector, Vector, Vector]:
    """Twelve rounds: by turns of the columns and of the diagonals."""
    for _ in range(DOUBLE_ROUNDS):
        a, b, c, d = quarter(a, b, c, d)
        a, b, c, d = quarter(a, turn1(b), turn2(c), turn3(d))
        b, c, d = turn3(b), turn2(c), turn1(d)
    return a, b, c, d


def build(bits: int) -> Pieces:
    """The pieces for vector registers of `bits` bits, of bits / 32 lanes."""
    row, four, blocks = Pack(bits, 1), Pack(bits, 4), Pack(bits, 16)
    line, tables, lanes = Pack(bits, 512 // bits), Pack(bits, 2048 // bits), bits // 32
    s0, s1, s2, s3 = SIGMA

    @inline
    def constants() -> Vector:
        return rows(same32(row, s0), same32(row, s1), same32(row, s2), same32(row, s3))

    @inline
    def made(b: Vector, c: Vector, number: Vector, nonce: int) -> Vector:
        """The keystream blocks of keys (b, c) with these numbers, as they go to memory."""
        a, d = constants(), rows(number, zero(row), same32(row, nonce), zero(row))
        a1, b1, c1, d1 = permute(a, b, c, d)
        return in_order(add32(a1, a), add32(b1, b), add32(c1, c), add32(d1, d))

    @inline
    def numbers(first: int) -> Vector:
        return add32(block_numbers(row), same32(row, first))

    @part
    def subkeys(key: int, nonces: int, to: int) -> None:
        """HChaCha12 under one key of a 16-byte nonce for each lane: their keys, transposed.

        That is eight registers, one for each word of a key.
        """
        b, c = splat32(four, key, 4), splat32(four, key + 16, 4)
        a, _, _, d = permute(constants(), b, c, transpose(load(four, nonces)))
        store(to, a)
        store(to + size(four), d)

    @part
    def keystream(key: int, stride: int, nonce: int, first: int, to: int) -> None:
        """The blocks from number `first` on, one for each lane; the key's words lie stride apart."""
        b, c = splat32(four, key, stride), splat32(four, key + 4 * stride, stride)
        store(to, made(b, c, numbers(first), nonce))

    @part
    def stream(key: int, stride: int, first: int, end: int, source: int, to: int) -> None:
        """Xor the stream from `first` to `end`, in bytes, both multiples of a pack of blocks."""
        b, c = splat32(four, key, stride), splat32(four, key + 4 * stride, stride)
        for at in range(first, end, size(blocks)):
            xor_through(to + at, source + at, made(b, c, numbers(at >> 6), NONCE))

    @part
    def across(keys: int, number: int, near: int, far: int) -> None:
        """Xor block `number` of a stream for each lane, between two tables of addresses.

        With no table `near`, the keystream itself goes to `far`, as it is.
        """
        b, c = load(four, keys), load(four, keys + size(four))
        x = made(b, c, same32(row, number), NONCE)
        if near:
            xor_lines(far, near, x)
        else:
            store(far, x)

    @inline
    def xor_stream(source: int, to: int, keys: int, length: int) -> None:
        """Xor bytes, and up to 16 more of them to the end of a block."""
        at = 0
        while at + 64 <= length + SLACK:
            store(to + at, xor(load(line, source + at), load(line, keys + at)))
            at += 64
        while at < length:
            store(to + at, xor(load(ONE_BLOCK, source + at), load(ONE_BLOCK, keys + at)))
            at += 16

    @inline
    def lane(i: int) -> int:
        """Where the key of stream i lies in its registers."""
        return 4 * (i % (lanes // 4)) + i // (lanes // 4)

    @part
    def ends_across(room: int, n: int, unit: int, start: int, source: int, to: int) -> None:
        """The streams of n units from `start` on, one unit in each lane."""
        for i in range(lanes):
            poke(room + NEAR + 8 * i, source + unit * i + start)
            poke(room + FAR + 8 * i, to + unit * i + start)
        for at in range(start, unit - SLACK, 64):
            if n == lanes and at + 64 <= unit:
                across(room + SUBKEYS, at >> 6, room + NEAR, room + FAR)
                store(room + NEAR, add64(load(tables, room + NEAR), same64(row, 64)))
            else:
                across(room + SUBKEYS, at >> 6, 0, room + KEYSTREAM)
                length = min(64, unit - SLACK - at)
                for i in range(n):
                    xor_stream(source + unit * i + at, to + unit * i + at, room + KEYSTREAM + 64 * i, length)

    @part
    def ends_along(room: int, n: int, unit: int, start: int, source: int, to: int) -> None:
        """The streams of n units from `start` on, one unit after another."""
        for i in range(n):
            keystream(room + SUBKEYS + 4 * lane(i), 4 * lanes, NONCE, start >> 6, room + KEYSTREAM)
            place = unit * i + start
            xor_stream(source + place, to + place, room + KEYSTREAM, unit - SLACK - start)

    @part
    def bulks(key: int, nonces: int, unit: int, n: int, source: int, to: int, room: int) -> None:
        """Xor a stream to each of n units, all but its last 16 bytes, which come out undefined.

        Unit i of `unit` bytes has the i-th of the 16-byte nonces. Whole packs of blocks are taken
        along each stream; what remains of all streams, across them if that is fewer packs.
        """
        whole = unit - unit % size(blocks)
        blocks_left = (unit - SLACK - whole + 63) >> 6
        for g in range(0, n, lanes):
            m = min(lanes, n - g)
            near, far = source + unit * g, to + unit * g
            subkeys(key, nonces + 16 * g, room + SUBKEYS)
            if whole:
                for i in range(m):
                    keys = room + SUBKEYS + 4 * lane(i)
                    stream(keys, 4 * lanes, 0, whole, near + unit * i, far + unit * i)
            if 0 < blocks_left < m:
                ends_across(room, m, unit, whole, near, far)
            elif blocks_left > 0:
                ends_along(room, m, unit, whole, near, far)

    return Pieces(subkeys, keystream, bulks)
