"""Adiantum (Crowley and Biggers 2018): wide-block encryption that needs AES for one block of a unit only.

    P_M = P_R + H(T, P_L)                          P = P_L || P_R, the last 16 bytes on the right
    C_M = AES(P_M)                                 AES-256, one block a unit
    C_L = P_L ^ XChaCha12(C_M || 1)
    C_R = C_M - H(T, C_L)

H is the sum of two Poly1305 hashes modulo 2^128: of the length and the tweak, which is the same on
both sides, and of the NH digests of the bulk. Every bit of the unit depends on every other; a unit
may have any length from 16 bytes on.

A kernel takes up to 16 units at a time, a step of the construction for all of them before the
next step: the one AES block, the one HChaCha12 block and the few Poly1305 blocks of a unit would
leave vector registers empty, but those of 16 units fill them. The unit's last 16 bytes are
written last, so the passes over the bulk may run up to 16 bytes past it, in whole blocks.

What a kernel takes for a key is one piece of memory (`KEY_BYTES`), after `mktme.crypto.aes`:

    offset    0   AES schedule
            832   the key itself, for XChaCha12
            864   Poly1305 key of length and tweak, then that of the digests
           1152   NH key
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any, NamedTuple

import numpy as np

from mktme.crypto import chacha, nh, poly1305
from mktme.crypto.aes import DECRYPT, ENCRYPT, ONE_BLOCK, decrypt, encrypt
from mktme.crypto.cipher import LINE, Bytes, Words
from mktme.crypto.kernel import inline, kernel, part
from mktme.crypto.native import address, schedule
from mktme.crypto.poly1305 import ROW, UNITS
from mktme.crypto.simd import Pack, copy, load, peek, poke, scratch, size, store, zero

STREAM_KEY, TWEAK_HASH = 832, 864
BULK_HASH = TWEAK_HASH + poly1305.KEY_BYTES
NH_KEY = BULK_HASH + poly1305.KEY_BYTES
KEY_BYTES = NH_KEY + nh.TABLE_BYTES

# The order of the keys in the keystream of the nonce 1, 0, 0, ...
AES_PLACE, TWEAK_PLACE, BULK_PLACE, NH_PLACE = 0, 32, 48, 64
DERIVED_BYTES = NH_PLACE + nh.KEY_BYTES

# Scratch of a kernel: for each of up to 16 units
SEGMENT = 4096  # bytes of a unit whose digests are made before Poly1305 takes them
DIGESTS = 0  # rows of digests; also of the header
STATES = DIGESTS + SEGMENT // nh.CHUNK * nh.DIGEST_WORDS * ROW
HEADERS = STATES + poly1305.STATE_BYTES  # hashes of length and tweak, two rows
HASHES = HEADERS + 2 * ROW  # hashes of the bulk, two rows
INPUT = HASHES + 2 * ROW  # the right halves: blocks before AES
OUTPUT = INPUT + 16 * UNITS  # and after it
STREAMS = OUTPUT + 16 * UNITS  # scratch of `mktme.crypto.chacha`
ROOM_BYTES = STREAMS + chacha.ROOM_BYTES
ROOM = Pack(512, ROOM_BYTES // 64)


class Kernels(NamedTuple):
    """What `build` makes; all arguments but `back` are integers, most of them addresses."""

    derive: Callable[[int, int], None]
    prepare: Callable[[int, int, int], None]
    units: Callable[..., None]


@inline
def carry(x: int, y: int, total: int) -> int:
    """The carry of x + y = total, all 64-bit words."""
    return (x & y | (x | y) & ~total) >> 63 & 1


@inline
def hash_sum(room: int, i: int) -> tuple[int, int]:
    """H of unit i: low and high word."""
    at = room + 8 * i
    x, y = peek(at + HEADERS), peek(at + HASHES)
    low = x + y
    return low, peek(at + HEADERS + ROW) + peek(at + HASHES + ROW) + carry(x, y, low)


@part
def add_hashes(room: int, units: int, right: int, unit: int, to: int) -> None:
    """The right halves plus H: blocks at `to`; right halves lie `unit` bytes apart."""
    for i in range(units):
        low, high = hash_sum(room, i)
        x = peek(right + unit * i)
        total = x + low
        poke(to + 16 * i, total)
        poke(to + 16 * i + 8, peek(right + unit * i + 8) + high + carry(x, low, total))


@part
def subtract_hashes(room: int, units: int, blocks: int, right: int, unit: int) -> None:
    """The inverse of `add_hashes`: from blocks to right halves."""
    for i in range(units):
        low, high = hash_sum(room, i)
        x = peek(blocks + 16 * i)
        less = x - low
        poke(right + unit * i, less)
        poke(right + unit * i + 8, peek(blocks + 16 * i + 8) - high - carry(less, low, x))


@part
def header_rows(tweaks: int, stride: int, at: int, length: int, units: int, to: int) -> None:
    """Two rows: 16 bytes from offset `at` on of each tweak, or its last ones and the byte 1."""
    for i in range(units):
        place, row = tweaks + stride * i + at, to + 8 * i
        if at + 16 <= length:
            poke(row, peek(place))
            poke(row + ROW, peek(place + 8))
        else:
            block = scratch(ONE_BLOCK)
            left = length - at
            poke(block, 1 << 8 * left if left < 8 else 0)
            poke(block + 8, 1 << 8 * (left - 8) if left >= 8 else 0)
            copy(block, place, left)
            poke(row, peek(block))
            poke(row + ROW, peek(block + 8))


def build(bits: int) -> Kernels:
    """The Adiantum kernels for vector registers of `bits` bits."""
    one, many = Pack(bits, 1), Pack(bits, min(8, 2048 // bits))
    blocks, lanes = Pack(bits, 16), bits // 32
    subkeys, keystream, crypt_bulks = chacha.build(bits)
    absorb, finish = poly1305.build(bits)
    prepare_nh, digests = nh.build(bits)

    @part
    def clear(place: int, length: int) -> None:
        """Zeros: scratch has held keys, and hashes begin from zero."""
        for at in range(0, length, size(one)):
            store(place + at, zero(one))

    @kernel(bits)
    def derive(key: int, to: int) -> None:
        """The keystream of the nonce 1, 0, 0, ..., all derived keys, in whole packs of blocks."""
        room = scratch(ROOM)
        for i in range(lanes):
            poke(room + INPUT + 16 * i, 1)
            poke(room + INPUT + 16 * i + 8, 0)
        subkeys(key, room + INPUT, room + STREAMS)
        for at in range(0, DERIVED_BYTES, size(blocks)):
            keystream(room + STREAMS, 4 * lanes, 0, at >> 6, to + at)
        clear(room, ROOM_BYTES)

    @kernel(bits)
    def prepare(key: int, derived: int, to: int) -> None:
        """All but the AES schedule of what `units` takes for a key."""
        copy(to + STREAM_KEY, key, 32)
        poly1305.prepare(derived + TWEAK_PLACE, to + TWEAK_HASH)
        poly1305.prepare(derived + BULK_PLACE, to + BULK_HASH)
        prepare_nh(derived + NH_PLACE, to + NH_KEY)

    @part
    def hash_headers(key: int, length: int, tweaks: int, stride: int, n: int, room: int) -> None:
        """Poly1305 of the length of the bulk, in bits, and of the tweaks."""
        for i in range(0, ROW, 8):
            poke(room + DIGESTS + i, 8 * length)
            poke(room + DIGESTS + ROW + i, 0)
        absorb(key + TWEAK_HASH, room + DIGESTS, 1, True, n, room + STATES)
        for at in range(0, stride, 16):
            header_rows(tweaks, stride, at, stride, n, room + DIGESTS)
            absorb(key + TWEAK_HASH, room + DIGESTS, 1, at + 16 <= stride, n, room + STATES)
        finish(room + STATES, n, room + HEADERS)

    @part
    def hash_bulks(key: int, place: int, unit: int, n: int, room: int) -> None:
        """Poly1305 of the NH digests of the bulks of units."""
        length = unit - 16
        for at in range(0, length, SEGMENT):
            taken = min(SEGMENT, length - at)
            for i in range(n):
                digests(key + NH_KEY, place + unit * i + at, taken, room + DIGESTS + 8 * i, ROW)
            made = 2 * ((taken + nh.CHUNK - 1) // nh.CHUNK)
            absorb(key + BULK_HASH, room + DIGESTS, made, True, n, room + STATES)
        finish(room + STATES, n, room + HASHES)

    @part
    def crypt_blocks(key: int, back: bool, n: int, room: int) -> None:
        """AES of the right halves, or its inverse."""
        rounds = peek(key)
        for at in range(0, 16 * n, size(many)):
            x = load(many, room + INPUT + at)
            if back:
                x = decrypt(x, zero(many), zero(many), one, key + DECRYPT, rounds)
            else:
                x = encrypt(x, zero(many), zero(many), one, key + ENCRYPT, rounds)
            store(room + OUTPUT + at, x)

    @kernel(bits)
    def units(
        key: int, back: bool, unit: int, n: int, tweaks: int, tweak_bytes: int, source: int, to: int
    ) -> None:
        """n units from source to `to` (the same place, or places that don't overlap)."""
        room = scratch(ROOM)
        clear(room + STATES, poly1305.STATE_BYTES)
        for u in range(0, n, UNITS):
            m = min(UNITS, n - u)
            near, far = source + unit * u, to + unit * u
            hash_headers(key, unit - 16, tweaks + tweak_bytes * u, tweak_bytes, m, room)
            hash_bulks(key, near, unit, m, room)
            add_hashes(room, m, near + unit - 16, unit, room + INPUT)
            crypt_blocks(key, back, m, room)
            nonces = room + (INPUT if back else OUTPUT)
            crypt_bulks(key + STREAM_KEY, nonces, unit, m, near, far, room + STREAMS)
            hash_bulks(key, far, unit, m, room)
            subtract_hashes(room, m, room + OUTPUT, far + unit - 16, unit)
        clear(room, ROOM_BYTES)

    return Kernels(derive, prepare, units)


kernels = cache(build)


def aligned(size: int) -> Bytes:
    """Zeroed bytes that begin at a cache line."""
    room = np.zeros(size + LINE, np.uint8)
    skip = -address(room) % LINE
    return room[skip : skip + size]


class Adiantum:
    """Adiantum with XChaCha12 and AES-256 under a 32-byte key, on registers of `bits` bits.

    Thread-safe but for `wipe`.
    """

    iv_bytes = 32  # of a tweak, where the caller is free to choose

    def __init__(self, bits: int, key: Any) -> None:
        self._kernels = kernels(bits)
        self._key = aligned(KEY_BYTES)
        self._place = address(self._key)
        given = np.array(memoryview(key), np.uint8)
        derived = aligned(-(-DERIVED_BYTES // LINE) * LINE + bits * 2)
        at = address(derived)
        self._kernels.derive(address(given), at)
        schedule()(at + AES_PLACE, at + AES_PLACE, 32, self._place)
        self._kernels.prepare(address(given), at, self._place)
        given[:] = derived[:] = 0

    def units(
        self, back: bool, unit: int, ivs: Words, source: Bytes, to: Bytes, skip: int = 0, of: int = 0
    ) -> None:
        """Encrypt (or, back, decrypt) units of `unit` bytes, at least 16; a row of `ivs` is a tweak.

        Source and `to` are the same bytes or don't overlap.
        """
        n = to.size // unit
        if n:
            tweak_bytes = ivs.nbytes // n
            self._kernels.units(
                self._place, back, unit, n, address(ivs), tweak_bytes, address(source), address(to)
            )

    def wipe(self) -> None:
        """Overwrite the keys; the number of rounds stays, so that a late request is only garbage."""
        self._key[8:] = 0
