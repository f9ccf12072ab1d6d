"""AES-XTS (IEEE 1619-2018, NIST SP 800-38E) at the speed of the processor's AES units.

    T = AES(K2, IV) * alpha^j       C = AES(K1, P ^ T) ^ T        block j of its data unit

A kernel takes the units 128 at a time: first all their tweaks, into an L1-resident scratch, then
the data. Within each pass every block is independent of every other, eight registers of them are
in flight, and out-of-order execution keeps the AES unit full. Multiplication by alpha^j is three
carry-less products. ``build(bits)`` makes the kernels for registers of 512 bits (VAES), 256
(VAES without AVX-512) or 128 (AES-NI, AArch64); the source is the same.

All addresses are integers and nothing is checked here: see `mktme.crypto.native`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

from mktme.crypto import ivs as iv_sources
from mktme.crypto.aes import DECRYPT, ENCRYPT, TWEAK, Vector, blocks, decrypt, encrypt
from mktme.crypto.flow import CACHED, around, ask, put
from mktme.crypto.ivs import UNITS
from mktme.crypto.kernel import inline, kernel, part
from mktme.crypto.simd import (
    Pack,
    alphas,
    broadcast,
    clmul_hi,
    clmul_lo,
    copy,
    count,
    fence,
    load,
    load_each4,
    load_lines,
    modulus,
    peek,
    poke,
    powers,
    prefetch,
    scratch,
    size,
    step,
    store,
    store_lines,
    up64,
    xor3,
    zero,
)

ROOM = Pack(512, UNITS // 4)  # scratch for 16 bytes a unit
LINE_ROOM = Pack(512, 1)  # scratch for a line
WORDS_ROOM = Pack(512, UNITS // 8)  # scratch for 8 bytes a unit


class Kernels(NamedTuple):
    """What `build` makes; `schedule` in front of each is the address of the key schedule."""

    units: Callable[..., None]
    lines: Callable[..., None]
    read: Callable[..., None]
    write: Callable[..., None]
    scatter: Callable[..., None]


@inline
def times(t: Vector, p: Vector, one: Any) -> Vector:
    """Each block of t times the polynomial p, of degree below 64, in GF(2^128)."""
    high = clmul_hi(t, p)
    return xor3(clmul_lo(t, p), up64(high), clmul_hi(high, modulus(one)))


def build(bits: int) -> Kernels:
    """The XTS kernels for vector registers of `bits` bits."""
    wide, one = Pack(bits, 8), Pack(bits, 1)  # eight registers in flight; one, for constants
    line, block = Pack(bits, 512 // bits), Pack(128, 1)
    encrypt_blocks, take = blocks(bits), iv_sources.build(bits)

    @inline
    def crypt(x: Vector, tweaks: Vector, back: bool, schedule: int, rounds: int) -> Vector:
        if back:
            x = decrypt(x, tweaks, tweaks, one, schedule + DECRYPT, rounds)
        else:
            x = encrypt(x, tweaks, tweaks, one, schedule + ENCRYPT, rounds)
        return x

    @part
    def counted_tweaks(schedule: int, low: int, n: int, to: int, source: int, stream: int) -> None:
        """The encrypted IVs (low + i, 0) of n units; the scratch is written in whole packs.

        Asks for a quarter of the source of n lines, so that memory is not idle in this pass.
        """
        rounds, keys = peek(schedule), schedule + TWEAK
        i = 0
        while i + size(one) // 16 < n:
            ask(source + 16 * i, size(wide), stream)
            store(to + 16 * i, encrypt(count(wide, low + i, 0), zero(wide), zero(wide), one, keys, rounds))
            i += size(wide) // 16
        if i < n:
            store(to + 16 * i, encrypt(count(one, low + i, 0), zero(one), zero(one), one, keys, rounds))

    @inline
    def given_tweaks(schedule: int, ivs: int, n: int, to: int) -> None:
        """The encrypted IVs of n units, 16 bytes each in memory."""
        encrypt_blocks(schedule + TWEAK, peek(schedule), ivs, n, to)

    @inline
    def advance(tweak: int, blocks: int) -> None:
        """Multiply a tweak in memory by alpha^blocks: that of a later block of its unit."""
        while blocks > 0:
            power = min(blocks, 60)
            store(tweak, times(load(block, tweak), count(block, 1 << power, 0), block))
            blocks -= power

    @inline
    def line_tweaks(pack: Any, tweaks: int) -> Vector:
        return times(load_each4(pack, tweaks), alphas(pack), one)

    @part
    def small_units(
        schedule: int, back: bool, n: int, tweaks: int, source: int, to: int, stream: int
    ) -> None:
        """n units of 64 bytes whose encrypted IVs are at `tweaks`."""
        rounds = peek(schedule)
        whole = n - n % (size(wide) // 64)
        for i in range(0, 64 * whole, size(wide)):
            w = line_tweaks(wide, tweaks + i // 4)
            put(to + i, crypt(load(wide, source + i), w, back, schedule, rounds), stream)
            ask(source + 16 * n + 3 * i // 4, 3 * size(wide) // 4, stream)
        for i in range(64 * whole, 64 * n, 64):
            w1 = line_tweaks(line, tweaks + i // 4)
            put(to + i, crypt(load(line, source + i), w1, back, schedule, rounds), stream)

    @part
    def large_units(
        schedule: int, back: bool, unit: int, n: int, tweaks: int, source: int, to: int, stream: int
    ) -> None:
        """n units of `unit` bytes, a multiple of 64, whose encrypted IVs are at `tweaks`."""
        rounds = peek(schedule)
        rest = unit % size(wide)
        for i in range(n):
            begin, end = i * unit, i * unit + unit
            if unit >= size(wide):
                w = times(broadcast(wide, tweaks + 16 * i), powers(wide), one)
                for at in range(begin, end - size(wide) + 1, size(wide)):
                    put(to + at, crypt(load(wide, source + at), w, back, schedule, rounds), stream)
                    ask(source + at, size(wide), stream)
                    if at + size(wide) < end:
                        w = times(w, step(wide), one)
            if rest:
                w1 = times(broadcast(line, tweaks + 16 * i), powers(line), one)
                for _ in range(unit // size(wide)):
                    w1 = times(w1, step(wide), one)
                for at in range(end - rest, end, 64):
                    put(to + at, crypt(load(line, source + at), w1, back, schedule, rounds), stream)
                    w1 = times(w1, step(line), one)

    @part
    def lines(schedule: int, back: bool, first: int, n: int, source: int, to: int, stream: int) -> None:
        """n lines of 64 bytes, whose IVs are their numbers from `first` on."""
        tweaks = scratch(ROOM)
        for u in range(0, n, UNITS):
            m = min(UNITS, n - u)
            counted_tweaks(schedule, first + u, m, tweaks, source + 64 * u, stream)
            small_units(schedule, back, m, tweaks, source + 64 * u, to + 64 * u, stream)

    @inline
    def overlap(at: int, length: int) -> int:
        """Bytes of a request at `at` that lie in its first line."""
        return min(64 - (at & 63), length)

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
        """`length` bytes of units from source to `to` (the same place, or places that don't overlap).

        The first byte lies `skip` bytes into its unit; both are multiples of 64. The units' IVs
        come from `ivs` or `fill` (`mktme.crypto.ivs`).
        """
        tweaks = scratch(ROOM)
        how = around(to, stream)
        u = 0
        while length > 0:
            if skip or length < unit:  # a part of a unit
                part, m = min(unit - skip, length), 1
            else:
                part, m = unit, min(UNITS, length // unit)
            if part == 64:
                ask(source, 16 * m, how)  # the quarter of them that `small_units` leaves to us
            given_tweaks(schedule, take(ivs, fill, table, first, u, m, seal, tweaks), m, tweaks)
            advance(tweaks, skip >> 4)
            if part == 64:
                small_units(schedule, back, m, tweaks, source, to, how)
            else:
                large_units(schedule, back, part, m, tweaks, source, to, how)
            u, skip, length = u + m, 0, length - m * part
            source, to = source + m * part, to + m * part
        if stream:
            fence()

    @kernel(bits)
    def lines_of_units(
        schedule: int, seal: int, back: bool, n: int, ivs: int, skips: int, source: int, to: int
    ) -> None:
        """n lines, line i lying as many bytes into its unit as the i-th 64-bit number at `skips`."""
        tweaks = scratch(ROOM)
        for u in range(0, n, UNITS):
            m = min(UNITS, n - u)
            given_tweaks(schedule, take(ivs, 0, 0, 0, u, m, seal, tweaks), m, tweaks)
            for i in range(m):
                advance(tweaks + 16 * i, peek(skips + 8 * (u + i)) >> 4)
            small_units(schedule, back, m, tweaks, source + 64 * u, to + 64 * u, CACHED)

    @kernel(bits)
    def read(
        schedule: int, media: int, starts: int, start: int, n: int, length: int, to: int, stream: bool
    ) -> None:
        """Decrypt n runs of `length` bytes, one after another, into `to`.

        Run i begins at the i-th 64-bit address at `starts`, or if that is 0, the only run at
        `start`; addresses count from `media`, and a line's IV is its address divided by 64.
        """
        room = scratch(LINE_ROOM)
        for i in range(n):
            at = peek(starts + 8 * i) if starts else start
            left = length
            if at & 63 or left < 64:
                part = overlap(at, left)
                lines(schedule, True, at >> 6, 1, media + (at & -64), room, CACHED)
                copy(to, room + (at & 63), part)
                at, to, left = at + part, to + part, left - part
            whole = left & -64
            if whole:
                lines(schedule, True, at >> 6, whole >> 6, media + at, to, around(to, stream))
                at, to, left = at + whole, to + whole, left - whole
            if left:
                lines(schedule, True, at >> 6, 1, media + at, room, CACHED)
                copy(to, room, left)
                to += left
        if stream:
            fence()

    @inline
    def patch(schedule: int, media: int, at: int, source: int, length: int, room: int) -> None:
        """Replace some bytes of one line."""
        place = media + (at & -64)
        lines(schedule, True, at >> 6, 1, place, room, CACHED)
        copy(room + (at & 63), source, length)
        lines(schedule, False, at >> 6, 1, room, place, CACHED)

    @kernel(bits)
    def write(
        schedule: int,
        media: int,
        starts: int,
        start: int,
        n: int,
        length: int,
        source: int,
        stream: bool,
    ) -> None:
        """The inverse of `read`: encrypt n runs from `source`, keeping the bytes around them."""
        room = scratch(LINE_ROOM)
        for i in range(n):
            at = peek(starts + 8 * i) if starts else start
            left = length
            if at & 63 or left < 64:
                part = overlap(at, left)
                patch(schedule, media, at, source, part, room)
                at, source, left = at + part, source + part, left - part
            whole = left & -64
            if whole:
                put_around = around(media + at, stream)
                lines(schedule, False, at >> 6, whole >> 6, source, media + at, put_around)
                at, source, left = at + whole, source + whole, left - whole
            if left:
                patch(schedule, media, at, source, left, room)
                source += left
        if stream:
            fence()

    @inline
    def table(
        addresses: int, order: int, first: int, n: int, media: int, buffer: int, ivs: int, near: int, far: int
    ) -> None:
        """Where n lines lie on the medium and in the buffer, and their IVs."""
        for i in range(n):
            j = peek(order + 8 * (first + i)) if order else first + i
            address = peek(addresses + 8 * j)
            poke(ivs + 16 * i, address >> 6)
            poke(ivs + 16 * i + 8, 0)
            poke(near + 8 * i, media + address)
            poke(far + 8 * i, buffer + 64 * j)
            prefetch(media + address)

    @kernel(bits)
    def scatter(
        schedule: int, back: bool, addresses: int, order: int, n: int, media: int, buffer: int
    ) -> None:
        """Encrypt lines of the buffer to scattered addresses, or back: decrypt them from there.

        Line j of the buffer belongs to the j-th 64-bit address, counted from `media`; the lines
        taken are the n at `order` (64-bit indices), or if that is 0 the first n.
        """
        rounds = peek(schedule)
        tweaks, ivs = scratch(ROOM), scratch(ROOM)
        near, far = scratch(WORDS_ROOM), scratch(WORDS_ROOM)
        for u in range(0, n, UNITS):
            m = min(UNITS, n - u)
            table(addresses, order, u, m, media, buffer, ivs, near, far)
            given_tweaks(schedule, ivs, m, tweaks)
            source, to = (near, far) if back else (far, near)
            whole = m - m % (size(wide) // 64)
            for i in range(0, whole, size(wide) // 64):
                w = line_tweaks(wide, tweaks + 16 * i)
                store_lines(to + 8 * i, crypt(load_lines(wide, source + 8 * i), w, back, schedule, rounds))
            for i in range(whole, m):
                w1 = line_tweaks(line, tweaks + 16 * i)
                x = crypt(load_lines(line, source + 8 * i), w1, back, schedule, rounds)
                store_lines(to + 8 * i, x)

    return Kernels(units, lines_of_units, read, write, scatter)
