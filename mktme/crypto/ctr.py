"""AES-CTR (NIST SP 800-38A, 6.5): block j of a unit is xored with AES(K, IV + j).

The IV is the first counter block, a 128-bit big-endian number (SP 800-38A, B.1). Where its last
byte can count the blocks of a unit without a carry, as with every scheme here, counter blocks
are made in registers; else one by one in scratch.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from mktme.crypto import ivs as iv_sources
from mktme.crypto.aes import ENCRYPT, Vector, encrypt
from mktme.crypto.flow import around, ask, put
from mktme.crypto.ivs import UNITS
from mktme.crypto.kernel import inline, kernel, part
from mktme.crypto.simd import (
    Pack,
    broadcast,
    fence,
    load,
    load_each4,
    peek,
    poke,
    scratch,
    size,
    zero,
)
from mktme.crypto.strided import add, block_numbers, block_step, line_block_numbers, swap64

ROOM = Pack(512, UNITS // 4)
LINE_ROOM = Pack(512, 1)


@inline
def below(x: int, y: int) -> bool:
    """x < y of unsigned 64-bit numbers."""
    return (x ^ (1 << 63)) < (y ^ (1 << 63))


@inline
def count_up(counter: int, blocks: int, to: int) -> None:
    """The counter block at `counter` plus a number of blocks, big-endian with carry."""
    low = swap64(peek(counter + 8))
    made = low + blocks
    carry = 1 if below(made, low) else 0
    poke(to, swap64(swap64(peek(counter)) + carry))
    poke(to + 8, swap64(made))


def build(bits: int) -> tuple[Callable[..., None], Callable[..., None]]:
    """The kernels `units` and `lines` of AES-CTR for registers of `bits` bits; see `xts.build`."""
    wide, one, line = Pack(bits, 8), Pack(bits, 1), Pack(bits, 512 // bits)
    take = iv_sources.build(bits)

    @inline
    def crypt(x: Vector, counters: Vector, schedule: int, rounds: int, pack: Any) -> Vector:
        return encrypt(counters, zero(pack), x, one, schedule + ENCRYPT, rounds)

    @inline
    def fits(counters: int, n: int, blocks: int) -> bool:
        """Whether the last byte of each of n counter blocks can count that far."""
        most = 0
        for i in range(n):
            most = max(most, peek(counters + 16 * i + 8) >> 56 & 255)
        return most + blocks <= 256

    @part
    def small_units(schedule: int, n: int, counters: int, source: int, to: int, how: int) -> None:
        """n units of 64 bytes without carries."""
        rounds = peek(schedule)
        whole = n - n % (size(wide) // 64)
        for i in range(0, 64 * whole, size(wide)):
            c = add(load_each4(wide, counters + i // 4), line_block_numbers(wide))
            put(to + i, crypt(load(wide, source + i), c, schedule, rounds, wide), how)
            ask(source + i, size(wide), how)
        for i in range(64 * whole, 64 * n, 64):
            c1 = add(load_each4(line, counters + i // 4), line_block_numbers(line))
            put(to + i, crypt(load(line, source + i), c1, schedule, rounds, line), how)

    @part
    def large_unit(schedule: int, length: int, counter: int, source: int, to: int, how: int) -> None:
        """`length` bytes of a unit, from the counter block at `counter` on, without carries."""
        rounds = peek(schedule)
        whole = length - length % size(wide)
        c = add(broadcast(wide, counter), block_numbers(wide))
        for at in range(0, whole, size(wide)):
            put(to + at, crypt(load(wide, source + at), c, schedule, rounds, wide), how)
            ask(source + at, size(wide), how)
            c = add(c, block_step(wide))
        c1 = add(broadcast(line, counter), block_numbers(line))
        for _ in range(whole // 64):
            c1 = add(c1, block_step(line))
        for at in range(whole, length, 64):
            put(to + at, crypt(load(line, source + at), c1, schedule, rounds, line), how)
            c1 = add(c1, block_step(line))

    @part
    def carrying(schedule: int, length: int, counter: int, source: int, to: int, how: int) -> None:
        """The same for a counter whose last byte overflows on the way."""
        rounds, room = peek(schedule), scratch(LINE_ROOM)
        for at in range(0, length, 64):
            for j in range(4):
                count_up(counter, at // 16 + j, room + 16 * j)
            put(to + at, crypt(load(line, source + at), load(line, room), schedule, rounds, line), how)

    @kernel(bits)
    def units(
        schedule: int,
        seal: int,
        back: bool,
        unit: int,
        skip: int,
        length: int,
        ivs: int,
        fill: int,
        table: int,
        first: int,
        source: int,
        to: int,
        stream: bool,
    ) -> None:
        room = scratch(ROOM)
        how = around(to, stream)
        u = 0
        while length > 0:
            if skip or length < unit:
                part, m = min(unit - skip, length), 1
            else:
                part, m = unit, min(UNITS, length // unit)
            counters = take(ivs, fill, table, first, u, m, seal, room)
            short = fits(counters, m, (skip + part) // 16)
            if skip:
                count_up(counters, skip // 16, room)
                counters = room
            if part == 64 and short:
                small_units(schedule, m, counters, source, to, how)
            else:
                for i in range(m):
                    at, counter = part * i, counters + 16 * i
                    if short:
                        large_unit(schedule, part, counter, source + at, to + at, how)
                    else:
                        carrying(schedule, part, counter, source + at, to + at, how)
            u, skip, length = u + m, 0, length - m * part
            source, to = source + m * part, to + m * part
        if stream:
            fence()

    @kernel(bits)
    def lines_of_units(
        schedule: int, seal: int, back: bool, n: int, ivs: int, skips: int, source: int, to: int
    ) -> None:
        """n lines, line i lying as many bytes into its unit as the i-th 64-bit number at `skips`."""
        room = scratch(ROOM)
        for u in range(0, n, UNITS):
            m = min(UNITS, n - u)
            counters = take(ivs, 0, 0, 0, u, m, seal, room)
            for i in range(m):
                count_up(counters + 16 * i, peek(skips + 8 * (u + i)) >> 4, room + 16 * i)
            if fits(room, m, 4):
                small_units(schedule, m, room, source + 64 * u, to + 64 * u, 0)
            else:
                for i in range(m):
                    at = 64 * (u + i)
                    carrying(schedule, 64, room + 16 * i, source + at, to + at, 0)

    return units, lines_of_units
