"""AES-HCTR2 (Crowley, Huckleberry, Biggers: Length-preserving encryption with HCTR2, 2021).

A wide-block cipher: every bit of a data unit depends on every other. Of a unit M || N, M its
first block, under the tweak T:

    MM = M ^ H(T, N)      UU = AES(MM)      S = MM ^ UU ^ L
    V = N ^ XCTR(S)       U = UU ^ H(T, V)                      the ciphertext is U || V

where XCTR's i-th block is AES(S ^ i) and H is POLYVAL. Decryption swaps (M, N) with (U, V) and
the one AES of MM with its inverse.

Three units are on their way at once, in one loop: a unit is hashed while an earlier one goes
through XCTR and a still earlier one, complete, is hashed again. Per register that is 10 or 14 AES
rounds and 8 carry-less products, all independent but for the rounds of one block, and both hashes
take the same factors from the table. Both hashes see a unit whole, from its first byte on, so its
registers lie as the unit does; what they add for M instead of the state of H after T is taken
back at the start of the sum.

All addresses are integers and nothing is checked here. State of a key, as `prepare` makes it:

    offset    0   the key schedule (see `mktme.crypto.aes`)
            832   L = AES(1)
            896   POLYVAL's table of H = AES(0)
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any, NamedTuple

import numpy as np

from mktme.crypto.aes import DECRYPT, ENCRYPT, ONE_BLOCK, SCHEDULE_BYTES, Vector, decrypt, encrypt
from mktme.crypto.cipher import LINE, Bytes
from mktme.crypto.kernel import inline, kernel, part
from mktme.crypto.native import address, schedule
from mktme.crypto.polyval import (
    POWERS,
    SPAN,
    TABLE_BYTES,
    absorb,
    begin,
    dot,
    factors,
    fill,
    reduce,
)
from mktme.crypto.simd import (
    Pack,
    aesenc,
    aesenclast,
    broadcast,
    copy,
    count,
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

WHITEN = SCHEDULE_BYTES
TABLE = WHITEN + LINE
STATE_BYTES = TABLE + TABLE_BYTES
SEGMENT = 16 * POWERS  # bytes hashed without a reduction

# What units on their way leave between their first hash and their second is in a ring of SLOTS:
# H's state after T, MM, UU, S and the second hash. Units are AHEAD from their first hash to their
# XCTR, which hides the latency of the one AES, done for a GROUP at once: 4 blocks cost what 1 does.
# Units longer than a segment have less to hide, and the cache holds fewer of them.
GROUP, AHEAD, AHEAD_LARGE, SLOTS = 4, 5, 2, 16
TWEAKED, FIRST, SECOND, SEED, SUM, ROOMS = (16 * SLOTS * i for i in range(6))
ROOM = 128  # bytes for a unit's last register, with what padding may write behind it
RING = Pack(128, (ROOMS + 3 * ROOM) // 16)


class Kernels(NamedTuple):
    """What `build` makes; all of the first arguments are addresses of the state of a key."""

    prepare: Callable[[int], None]
    units: Callable[..., None]


@inline
def state_after(key: int, tweak: int, row: int, odd: bool) -> Vector:
    """H's state between T and N: what is added to the first block of N before its product."""
    one = factors(key + TABLE, 1)
    state = count(ONE_BLOCK, 16 * row + (3 if odd else 2), 0)
    for i in range(0, row - 15, 16):
        state = xor(dot(state, one), load(ONE_BLOCK, tweak + i))
    if row & 15:
        room = scratch(ONE_BLOCK)
        store(room, zero(ONE_BLOCK))
        copy(room, tweak + (row & -16), row & 15)
        state = xor(dot(state, one), load(ONE_BLOCK, room))
    return state


@inline
def slot(ring: int, i: int) -> int:
    """The slot of the i-th unit."""
    return ring + 16 * (i & SLOTS - 1)


def build(bits: int) -> Kernels:
    """The HCTR2 kernels for vector registers of `bits` bits."""
    wide, pair, one = Pack(bits, 8), Pack(bits, 2), Pack(bits, 1)
    group, block = Pack(bits, 128 * GROUP // bits), ONE_BLOCK

    @kernel(bits)
    def prepare(key: int) -> None:
        """Complete the state of a key from its schedule; the other bytes are zero."""
        rounds = peek(key)
        store(
            key + WHITEN, encrypt(count(block, 1, 0), zero(block), zero(block), block, key + ENCRYPT, rounds)
        )
        fill(encrypt(zero(block), zero(block), zero(block), block, key + ENCRYPT, rounds), key + TABLE)

    @inline
    def pad(room: int, source: int, length: int) -> int:
        """The last bytes of a unit as a register in the room, padded as H wants it."""
        store(room, zero(one))
        if length & 15:
            poke(room + length, 1)
        copy(room, source, length)
        return room

    @inline
    def both(sums: Any, near: int, far: int, table: int) -> Any:
        """The sums of two messages with a register more of each, by the same factors."""
        p, q = load(one, table), load(one, table + SPAN)
        a, b = absorb(sums[0], sums[1], load(one, near), p, q)
        c, d = absorb(sums[2], sums[3], load(one, far), p, q)
        return a, b, c, d

    @inline
    def stride(pack: Any, key: int, seed: Vector, index: int, at: Any, sums: Any) -> Any:
        """A pack of XCTR from the block `index` on, and as much of two messages hashed meanwhile.

        That the number of rounds bounds the first loop changes nothing, but LLVM doesn't know: it
        would gather all the rounds and all the products otherwise, too far apart to overlap.
        """
        source, to, near, far, table = at
        rounds, keys, regs = peek(key), key + ENCRYPT, size(pack) // size(one)
        x = xor(count(pack, 0, 0), xor3(seed, count(one, index, 0), count(one, 0, 0)))
        meanwhile = min(rounds, regs)
        for r in range(meanwhile):
            i = r * size(one)
            x = aesenc(x, broadcast(one, keys + 16 * r + 16))
            sums = both(sums, near + i, far + i, table + i)
        for r in range(meanwhile + 1, rounds):
            x = aesenc(x, broadcast(one, keys + 16 * r))
        store(to, aesenclast(x, xor(load(pack, source), broadcast(one, keys + 16 * rounds))))
        return sums

    @inline
    def strides(pack: Any, key: int, seed: Vector, index: int, i: int, end: int, at: Any, sums: Any) -> Any:
        """All the whole packs between the bytes i and end of a segment; i goes on."""
        source, to, near, far, table = at
        while i + size(pack) <= end:
            here = source + i, to + i, near + i, far + i, table + i
            sums = stride(pack, key, seed, index + (i >> 4), here, sums)
            i += size(pack)
        return i, sums

    @part
    def hash_unit(key: int, unit: int, at: int, entry: int, to: int, room: int) -> None:
        """H of a unit's bytes from the 16th on, where H's state before them is at `entry`."""
        state = xor(load(block, entry), load(block, at))
        for start in range(0, unit, SEGMENT):
            length = min(SEGMENT, unit - start)
            table = factors(key + TABLE, (length + 15) >> 4)
            low, high = begin(one, state, table)
            whole = length - length % size(one)
            for i in range(0, whole, size(one)):
                x = load(one, at + start + i)
                low, high = absorb(low, high, x, load(one, table + i), load(one, table + i + SPAN))
            if whole < length:
                x, table = load(one, pad(room, at + start + whole, length - whole)), table + whole
                low, high = absorb(low, high, x, load(one, table), load(one, table + SPAN))
            state = reduce(low, high)
        store(to, state)

    @part
    def three_units(
        key: int,
        unit: int,
        source: int,
        to: int,
        now: int,
        near: int,
        new: int,
        far: int,
        old: int,
        room: int,
    ) -> None:
        """XCTR of one unit, and the hashes of a new one and an old one; now, new and old are slots."""
        seed = xor(broadcast(one, now + SEED), broadcast(one, key + ENCRYPT))
        x = xor(load(block, new + TWEAKED), load(block, near))
        y = xor(load(block, old + TWEAKED), load(block, far))
        for start in range(0, unit, SEGMENT):
            length, index = min(SEGMENT, unit - start), start >> 4
            table = factors(key + TABLE, (length + 15) >> 4)
            sums = begin(one, x, table) + begin(one, y, table)
            at = source + start, to + start, near + start, far + start, table
            i, sums = strides(wide, key, seed, index, 0, length, at, sums)
            i, sums = strides(pair, key, seed, index, i, length, at, sums)
            i, sums = strides(one, key, seed, index, i, length, at, sums)
            if i < length:
                rest = length - i
                n, f = pad(room, at[2] + i, rest), pad(room + ROOM, at[3] + i, rest)
                made = pad(room + 2 * ROOM, at[0] + i, rest)
                sums = stride(one, key, seed, index + (i >> 4), (made, made, n, f, table + i), sums)
                copy(at[1] + i, made, rest)
            x, y = reduce(sums[0], sums[1]), reduce(sums[2], sums[3])
        store(new + FIRST, x)
        store(old + SUM, y)

    @inline
    def heads(key: int, back: bool, slots: int) -> None:
        """The one AES of each unit of a group, and the S that it gives."""
        rounds = peek(key)
        first = load(group, slots + FIRST)
        if back:
            second = decrypt(first, zero(group), zero(group), one, key + DECRYPT, rounds)
        else:
            second = encrypt(first, zero(group), zero(group), one, key + ENCRYPT, rounds)
        store(slots + SECOND, second)
        store(slots + SEED, xor3(first, second, broadcast(one, key + WHITEN)))

    @kernel(bits)
    def units(key: int, back: bool, unit: int, n: int, ivs: int, row: int, source: int, to: int) -> None:
        """n units from source to `to` (the same place, or places that don't overlap).

        The tweak of the i-th is the i-th `row` bytes at `ivs`. At the ends, where there is no new or
        no old unit, some other is hashed for nothing.
        """
        ring = scratch(RING)
        large = unit > SEGMENT
        ahead = AHEAD_LARGE if large else AHEAD
        for u in range(-ahead, n + 1):
            i, j = u + ahead, u - 1
            now, new, old = slot(ring, u), slot(ring, i), slot(ring, j)
            at, near, far = source + unit * u, source + unit * i, to + unit * j
            if i < n:
                store(new + TWEAKED, state_after(key, ivs + row * i, row, unit & 15 != 0))
            if 0 <= u < n:
                near, far = near if i < n else at, far if j >= 0 else at
                three_units(key, unit, at, to + unit * u, now, near, new, far, old, ring + ROOMS)
            elif u < 0 and i < n:
                hash_unit(key, unit, near, new + TWEAKED, new + FIRST, ring + ROOMS)
            elif u == n:
                hash_unit(key, unit, far, old + TWEAKED, old + SUM, ring + ROOMS)
            if i < n:
                store(new + FIRST, xor(load(block, new + FIRST), load(block, near)))
                if large or i % GROUP == GROUP - 1 or i == n - 1:
                    heads(key, back, ring + 16 * (i & SLOTS - GROUP))
            if 0 <= j < n:
                store(to + unit * j, xor(load(block, old + SECOND), load(block, old + SUM)))

    return Kernels(prepare, units)


kernels = cache(build)


class Hctr2:
    """AES-HCTR2 with registers of `bits` bits under a key of 16 or 32 bytes.

    Thread-safe but for `wipe`.
    """

    iv_bytes = 32

    def __init__(self, bits: int, key: Any) -> None:
        self._kernels = kernels(bits)
        room = np.zeros(STATE_BYTES + LINE, np.uint8)
        skip = -address(room) % LINE
        self._room = room[skip : skip + STATE_BYTES]
        self._state = address(self._room)
        data = np.array(memoryview(key), np.uint8)
        schedule()(address(data), address(data), data.size, self._state)
        data[:] = 0
        self._kernels.prepare(self._state)

    def units(
        self, back: bool, unit: int, ivs: Any, source: Bytes, to: Bytes, skip: int = 0, of: int = 0
    ) -> None:
        """Encrypt (or, back, decrypt) units of `unit` bytes, 16 or more, whose tweaks are rows."""
        n = to.size // unit
        if n:
            row = ivs.nbytes // n
            self._kernels.units(self._state, back, unit, n, address(ivs), row, address(source), address(to))

    def wipe(self) -> None:
        """Overwrite what the key made; a late request is only garbage."""
        self._room[8:] = 0  # the number of rounds stays
