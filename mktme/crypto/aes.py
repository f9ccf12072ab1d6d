"""AES (FIPS 197) on packs of blocks, and its key schedules.

A schedule of XTS is one piece of memory, so that a kernel takes one argument for it:

    offset    0   the number of rounds, 10 or 14 (64 bits)
             64   data key, encryption: rounds + 1 round keys of 16 bytes
            320   data key, decryption (equivalent inverse cipher, FIPS 197 section 5.3.5)
            576   tweak key, encryption
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

from mktme.crypto.kernel import inline, kernel, part
from mktme.crypto.simd import (
    Pack,
    aesdec,
    aesdeclast,
    aesenc,
    aesenclast,
    aesimc,
    broadcast,
    load,
    peek,
    poke,
    scratch,
    size,
    store,
    xor,
    xor3,
    zero,
)

ENCRYPT, DECRYPT, TWEAK, SCHEDULE_BYTES = 64, 320, 576, 832
ONE_BLOCK = Pack(128, 1)
Vector = Any  # a value of some Pack type


@inline
def encrypt(x: Vector, before: Vector, after: Vector, one: Any, keys: int, rounds: int) -> Vector:
    """AES(x ^ before) ^ after: the first and the last round key take the masks with them."""
    x = xor3(x, before, broadcast(one, keys))
    for r in range(1, rounds):
        x = aesenc(x, broadcast(one, keys + 16 * r))
    return aesenclast(x, xor(after, broadcast(one, keys + 16 * rounds)))


@inline
def decrypt(x: Vector, before: Vector, after: Vector, one: Any, keys: int, rounds: int) -> Vector:
    """AES^-1(x ^ before) ^ after, with the keys of the equivalent inverse cipher."""
    x = xor3(x, before, broadcast(one, keys))
    for r in range(1, rounds):
        x = aesdec(x, broadcast(one, keys + 16 * r))
    return aesdeclast(x, xor(after, broadcast(one, keys + 16 * rounds)))


@cache
def blocks(bits: int) -> Callable[[int, int, int, int, int], None]:
    """AES of n blocks in registers of `bits` bits: a part of (keys, rounds, source, n, to).

    The places are the same or don't overlap.
    """
    wide, one, block = Pack(bits, 8), Pack(bits, 1), Pack(128, 1)

    @part
    def encrypt_blocks(keys: int, rounds: int, source: int, n: int, to: int) -> None:
        whole = n - n % (size(wide) // 16)
        for i in range(0, 16 * whole, size(wide)):
            store(to + i, encrypt(load(wide, source + i), zero(wide), zero(wide), one, keys, rounds))
        for i in range(16 * whole, 16 * n, 16):
            store(to + i, encrypt(load(block, source + i), zero(block), zero(block), block, keys, rounds))

    return encrypt_blocks


@inline
def substitute(word: int, room: int) -> int:
    """SubWord: a last round on four equal columns, which ShiftRows leaves as they are."""
    pair = word | word << 32
    poke(room, pair)
    poke(room + 8, pair)
    store(room, aesenclast(load(ONE_BLOCK, room), zero(ONE_BLOCK)))
    return int(peek(room) & 0xFFFFFFFF)


@inline
def half(address: int) -> int:
    return int(peek(address) & 0xFFFFFFFF)


@inline
def expand(key: int, words: int, to: int) -> None:
    """KeyExpansion (FIPS 197 section 5.2) of `words` 32-bit words: 4 or 8."""
    room = scratch(ONE_BLOCK)
    previous = 0
    constant = 1
    for i in range(4 * (words + 7)):
        if i < words:
            word = half(key + 4 * i) if i < words - 1 else peek(key + 4 * i - 4) >> 32 & 0xFFFFFFFF
        else:
            word = previous
            if i % words == 0:
                word = substitute((word >> 8 | word << 24) & 0xFFFFFFFF, room) ^ constant
                constant = constant << 1 ^ (0x11B if constant & 0x80 else 0)
            elif words == 8 and i % words == 4:
                word = substitute(word, room)
            word ^= half(to + 4 * (i - words))
        previous = word
        if i % 2:
            poke(to + 4 * i - 4, half(to + 4 * i - 4) | word << 32)
        else:
            poke(to + 4 * i, word)
    poke(room, 0)
    poke(room + 8, 0)


def build(variant: object = None) -> Callable[[int, int, int, int], None]:
    """The kernel schedule(data key, tweak key, key bytes, to), all but the third addresses."""

    @kernel(variant)
    def schedule(data: int, tweak: int, size: int, to: int) -> None:
        rounds = size // 4 + 6
        poke(to, rounds)
        expand(data, size // 4, to + ENCRYPT)
        expand(tweak, size // 4, to + TWEAK)
        for r in range(rounds + 1):
            key = load(ONE_BLOCK, to + ENCRYPT + 16 * (rounds - r))
            if 0 < r < rounds:
                key = aesimc(key)
            store(to + DECRYPT + 16 * r, key)

    return schedule
