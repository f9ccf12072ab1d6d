"""SM4-XTS: SM4 (GB/T 32907-2016, ISO/IEC 18033-3) in the XTS mode of IEEE 1619-2018.

This is the contents mode SM4-XTS of Linux's fscrypt. GB/T 17964-2021 defines another XTS for SM4,
whose multiplication by alpha is bit-reflected; the two agree on the first block of a unit only.

Kernels hold word 0 of many blocks in one pack, word 1 in the next, and so on, every byte of them
mapped as `mktme.crypto.sm4_box` says. They take 128 lines at a time: first the tweaks of all their
blocks, into an L1-resident scratch, then the data, to which the limits of units are nothing.

A schedule is one piece of memory:

    offset    0   data key, encryption: 32 round keys of 4 bytes
            128   data key, decryption: the same, last first
            256   tweak key, encryption
            384   alpha^0 ... alpha^63, 16 bytes each
           1408   zeros, the mask of IVs

All addresses are integers, and nothing is checked here.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any, NamedTuple

import numpy as np

from mktme.crypto.backend import available, features
from mktme.crypto.cipher import LINE, Bytes, Words
from mktme.crypto.kernel import inline, kernel, part
from mktme.crypto.native import address, check_unit
from mktme.crypto.simd import (
    Pack,
    alphas,
    broadcast,
    clmul_hi,
    copy,
    load,
    load_each4,
    modulus,
    peek,
    poke,
    scratch,
    size,
    store,
    up64,
    xor,
    xor3,
    zero,
)
from mktme.crypto.sm4_box import Box, blocks, box, word, words
from mktme.crypto.xts import times

ENCRYPT, DECRYPT, TWEAK, POWERS, ZEROS, SCHEDULE_BYTES = 0, 128, 256, 384, 1408, 3456
KEY_BYTES = 16
ROUND_KEYS = 128  # bytes of them
FK = (0xA3B1BAC6, 0x56AA3350, 0x677D9197, 0xB27022DC)
CHUNK = 8192  # bytes of data whose tweaks are computed ahead
BATCH = 128  # units whose IVs are encrypted together
STRIDE = 1024  # bytes of data whose tweaks are a factor of alpha^64 before those of the next
BLOCK = Pack(128, 1)
LINES = Pack(512, CHUNK // 64 + 1)  # scratch for the tweaks of a chunk, and of the line after it
FIRSTS = Pack(512, BATCH // 4)  # scratch for the first tweaks of units
Vector = Any  # a value of some Pack type


class Kernels(NamedTuple):
    """What `build` makes."""

    schedule: Callable[[int, int, int], None]
    units: Callable[..., None]
    lines: Callable[..., None]


@inline
def turned(x: int, n: int) -> int:
    """A 32-bit word turned left by n bits."""
    return (x << n | x >> (32 - n)) & 0xFFFFFFFF


@inline
def swapped(x: int) -> int:
    """The low 32 bits of x with their bytes in reverse."""
    return turned(x & 0x00FF00FF, 24) | turned(x & 0xFF00FF00, 8)


def build_schedule(with_gfni: bool, maps: Box) -> Callable[[int, int, int], None]:
    """The kernel schedule(key, to, reverse), all addresses: round keys, and last first."""
    round_key, substitute = maps.key, maps.substitute

    @inline
    def mapped(x: int, room: int) -> None:
        """Leave a word as round keys are held, P x + p, at `room`."""
        poke(room, swapped(x))
        store(room, round_key(word(BLOCK, room)))

    @kernel(("sm4 schedule", with_gfni))
    def schedule(key: int, to: int, reverse: int) -> None:
        room = scratch(BLOCK)
        k0, k1 = swapped(peek(key)) ^ FK[0], swapped(peek(key) >> 32) ^ FK[1]
        k2, k3 = swapped(peek(key + 8)) ^ FK[2], swapped(peek(key + 8) >> 32) ^ FK[3]
        for i in range(32):
            constant = 0
            for j in range(4 * i, 4 * i + 4):
                constant = constant << 8 | (7 * j & 0xFF)
            mapped(k1 ^ k2 ^ k3 ^ constant, room)
            store(room, substitute(load(BLOCK, room)))
            s = swapped(peek(room))
            k0, k1, k2, k3 = k1, k2, k3, k0 ^ s ^ turned(s, 13) ^ turned(s, 23)
            mapped(k3, room)
            copy(to + 4 * i, room, 4)
            copy(reverse + 4 * (31 - i), room, 4)
        store(room, zero(BLOCK))

    return schedule


def build_crypt(bits: int, maps: Box) -> Callable[..., None]:
    """The piece crypt(keys, mask, source, to, length): mask ^ SM4(x ^ mask) of whole blocks.

    Eight times four registers are in flight: more than there are, but a round is so long a chain
    that spilling some costs less than waiting. A rest is taken by fewer, by way of a scratch; the
    mask is read in whole packs.
    """
    wide, middle, narrow, one = Pack(bits, 32), Pack(bits, 16), Pack(bits, 4), Pack(bits, 1)
    enter, leave, turn = maps.enter, maps.leave, maps.turn

    @inline
    def rounds(data: Vector, keys: int) -> Vector:
        x0, x1, x2, x3 = words(enter(data))
        for k in range(keys, keys + ROUND_KEYS, 16):
            pair = xor(x2, x3)  # in two rounds' sums
            x0 = turn(x0, xor3(x1, pair, word(one, k)))
            x1 = turn(x1, xor3(x0, pair, word(one, k + 4)))
            pair = xor(x0, x1)
            x2 = turn(x2, xor3(x3, pair, word(one, k + 8)))
            x3 = turn(x3, xor3(x2, pair, word(one, k + 12)))
        return leave(blocks(x3, x2, x1, x0))

    @inline
    def piece(pack: Any, keys: int, mask: int, source: int, to: int, left: int, room: int) -> int:
        """One pack, or what is left if that is less; returns its length."""
        length = min(left, size(pack))
        begin, end = (source, to) if length == size(pack) else (room, room)
        if begin == room:
            copy(room, source, length)
        m = load(pack, mask)
        store(end, xor(rounds(xor(load(pack, begin), m), keys), m))
        if end == room:
            copy(to, room, length)
        return int(length)

    @part
    def crypt(keys: int, mask: int, source: int, to: int, length: int) -> None:
        room = scratch(wide)
        at = 0
        while length - at > size(wide) // 2:
            at += piece(wide, keys, mask + at, source + at, to + at, length - at, room)
        while length - at > size(middle) // 2:
            at += piece(middle, keys, mask + at, source + at, to + at, length - at, room)
        while length > at:
            at += piece(narrow, keys, mask + at, source + at, to + at, length - at, room)

    return crypt


def build_units(bits: int, with_gfni: bool, crypt: Any) -> tuple[Callable[..., None], Callable[..., None]]:
    """The kernels units(schedule, back, unit, ivs, skip, source, to, length) and lines(schedule,
    back, ivs, skips, source, to, length).

    The arguments are those of `Sm4Xts`, arrays by their addresses.
    """
    line, one = Pack(bits, 512 // bits), Pack(bits, 1)
    four = Pack(bits, 2048 // bits)  # lines

    @part
    def tweaks_from(schedule: int, first: int, count: int, to: int) -> None:
        """The tweaks of `count` lines of a unit, from that of their first block on."""
        t = broadcast(line, first)
        # A product each for one stride, after which each is the one before it times alpha^64.
        for i in range(0, 64 * min(count, STRIDE // 64), 64):
            store(to + i, times(t, load(line, schedule + POWERS + i), one))
        for i in range(STRIDE, 64 * count, 64):
            before = load(line, to + i - STRIDE)
            store(to + i, xor(up64(before), clmul_hi(before, modulus(one))))

    @part
    def forward(schedule: int, first: int, skip: int) -> None:
        """Take a unit's first tweak on by `skip` bytes."""
        t = load(BLOCK, first)
        for _ in range(skip // STRIDE):
            t = xor(up64(t), clmul_hi(t, modulus(BLOCK)))
        power = load(BLOCK, schedule + POWERS + skip % STRIDE)
        store(first, times(t, power, BLOCK))

    @part
    def small(
        schedule: int, keys: int, ivs: int, source: int, to: int, length: int, tweaks: int, firsts: int
    ) -> None:
        """Units of 64 bytes."""
        for at in range(0, length, CHUNK):
            m = min(CHUNK, length - at)
            crypt(schedule + TWEAK, schedule + ZEROS, ivs + at // 4, firsts, m // 4)
            for i in range(0, m, size(four)):
                store(tweaks + i, times(load_each4(four, firsts + i // 4), alphas(four), one))
            crypt(keys, tweaks, source + at, to + at, m)

    @kernel(("sm4 units", bits, with_gfni))
    def units(
        schedule: int, back: bool, unit: int, ivs: int, skip: int, source: int, to: int, length: int
    ) -> None:
        keys = schedule + (DECRYPT if back else ENCRYPT)
        tweaks, firsts = scratch(LINES), scratch(FIRSTS)
        if unit == 64:
            small(schedule, keys, ivs, source, to, length, tweaks, firsts)
            return
        n = (skip + length + unit - 1) // unit
        u = left = first = 0  # the next unit; lines to come of the present one, and their first tweak
        for at in range(0, length, CHUNK):
            m = min(CHUNK, length - at)
            i = 0
            while i < m:
                if left == 0:
                    if u % BATCH == 0:
                        given = 16 * min(BATCH, n - u)
                        crypt(schedule + TWEAK, schedule + ZEROS, ivs + 16 * u, firsts, given)
                    first, left = firsts + 16 * (u % BATCH), unit
                    if u == 0 and skip:
                        forward(schedule, first, skip)
                        left = unit - skip
                    u += 1
                run = min(left, m - i)
                left -= run
                further = 1 if left else 0  # a line, whose tweak is where the next chunk begins
                tweaks_from(schedule, first, run // 64 + further, tweaks + i)
                i += run
                if left:
                    store(first, load(BLOCK, tweaks + i))
            crypt(keys, tweaks, source + at, to + at, m)

    @kernel(("sm4 lines", bits, with_gfni))
    def lines(schedule: int, back: bool, ivs: int, skips: int, source: int, to: int, length: int) -> None:
        keys = schedule + (DECRYPT if back else ENCRYPT)
        tweaks, firsts = scratch(LINES), scratch(FIRSTS)
        for at in range(0, length, CHUNK):
            m = min(CHUNK, length - at)
            crypt(schedule + TWEAK, schedule + ZEROS, ivs + at // 4, firsts, m // 4)
            for i in range(0, m, 64):
                forward(schedule, firsts + i // 4, peek(skips + (at + i) // 8))
                tweaks_from(schedule, firsts + i // 4, 1, tweaks + i)
            crypt(keys, tweaks, source + at, to + at, m)

    return units, lines


@cache
def build(bits: int, with_gfni: bool) -> Kernels:
    """The kernels for registers of `bits` bits, on GFNI or on AES's instructions."""
    maps = box(with_gfni)
    crypt = build_crypt(bits, maps)
    return Kernels(build_schedule(with_gfni, maps), *build_units(bits, with_gfni, crypt))


def supported() -> bool:
    """Whether this processor can run these kernels: wherever it can run those of AES-XTS."""
    return available() != ("portable",)


class Sm4Xts:
    """SM4-XTS with registers of `bits` bits, under two keys of 16 bytes.

    `gfni` chooses the instructions of the S-box: GFNI, or AES's and byte shuffles; by default the
    former where the processor has them. Thread-safe but for `wipe`.
    """

    iv_bytes = 16

    def __init__(self, bits: int, data_key: Any, tweak_key: Any, gfni: bool | None = None) -> None:
        made = build(bits, "gfni" in features() if gfni is None else gfni)
        self._units, self._lines = made.units, made.lines
        room = np.zeros(SCHEDULE_BYTES + LINE, np.uint8)
        skip = -address(room) % LINE
        self._room = room[skip : skip + SCHEDULE_BYTES]
        self._schedule = to = address(self._room)
        keys = np.array([memoryview(data_key), memoryview(tweak_key)], np.uint8)
        data = address(keys)
        made.schedule(data + KEY_BYTES, to + TWEAK, to + ENCRYPT)  # the reverse is overwritten
        made.schedule(data, to + ENCRYPT, to + DECRYPT)
        keys[:] = 0
        self._room[POWERS:ZEROS].view(np.uint64)[::2] = np.uint64(1) << np.arange(64, dtype=np.uint64)

    def units(
        self, back: bool, unit: int, ivs: Words, source: Bytes, to: Bytes, skip: int = 0, of: int = 0
    ) -> None:
        """Encrypt consecutive data units of `unit` bytes, a multiple of 64, or decrypt them.

        `ivs` holds each unit's IV as two little-endian words, shape (n, 2). `source` and `to` are
        the same memory or don't overlap, a multiple of 64 bytes long. The first byte lies `skip`
        bytes into its unit, a multiple of 64; the last unit may be incomplete too.

        Raises SchemeError for other units.
        """
        check_unit(unit)
        self._units(self._schedule, back, unit, address(ivs), skip, address(source), address(to), to.size)

    def lines(self, back: bool, ivs: Words, skips: Words, source: Bytes, to: Bytes) -> None:
        """Encrypt or decrypt single lines of larger units; see `mktme.crypto.cipher.PartCipher`."""
        self._lines(self._schedule, back, address(ivs), address(skips), address(source), address(to), to.size)

    def wipe(self) -> None:
        """Overwrite the round keys; a later request is only garbage."""
        self._room[:POWERS] = 0
