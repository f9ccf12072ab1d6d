"""AES in the XE and XEX constructions, one tweak for each 16-byte block.

    XE   C = AES(K, P ^ T)          XEX   C = AES(K, P ^ T) ^ T

Memory encryption of early AMD parts was XE, later ones are XEX, with T made from the physical
address and not encrypted (Du et al. 2017; Wilke et al., SEVurity, 2020). A data unit is one
block, its IV is T.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from mktme.crypto import ivs as iv_sources
from mktme.crypto.aes import DECRYPT, ENCRYPT, Vector, decrypt, encrypt
from mktme.crypto.flow import around, ask, put
from mktme.crypto.kernel import inline, kernel, part
from mktme.crypto.simd import Pack, fence, load, peek, scratch, size, store, zero

BLOCKS = 512  # blocks whose tweaks are made at a time
ROOM = Pack(512, BLOCKS // 4)


def build(bits: int, outer: bool) -> Callable[..., None]:
    """The kernel `units` of XEX (outer) or XE for registers of `bits` bits; see `xts.build`."""
    wide, one, line, block = Pack(bits, 8), Pack(bits, 1), Pack(bits, 512 // bits), Pack(128, 1)
    take = iv_sources.build(bits)

    @inline
    def crypt(x: Vector, t: Vector, back: bool, schedule: int, rounds: int, pack: Any, key: Any) -> Vector:
        if back:
            x = decrypt(x, t if outer else zero(pack), t, key, schedule + DECRYPT, rounds)
        else:
            x = encrypt(x, t, t if outer else zero(pack), key, schedule + ENCRYPT, rounds)
        return x

    @part
    def blocks(schedule: int, back: bool, length: int, tweaks: int, source: int, to: int, how: int) -> None:
        """`length` bytes, a multiple of 16, whose tweaks are at `tweaks`."""
        rounds = peek(schedule)
        whole, lines = length - length % size(wide), length - length % 64
        for i in range(0, whole, size(wide)):
            t = load(wide, tweaks + i)
            put(to + i, crypt(load(wide, source + i), t, back, schedule, rounds, wide, one), how)
            ask(source + i, size(wide), how)
        for i in range(whole, lines, 64):
            t1 = load(line, tweaks + i)
            put(to + i, crypt(load(line, source + i), t1, back, schedule, rounds, line, one), how)
        for i in range(lines, length, 16):
            t2 = load(block, tweaks + i)
            store(to + i, crypt(load(block, source + i), t2, back, schedule, rounds, block, block))

    @kernel((bits, outer))
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
        room, how = scratch(ROOM), around(to, stream)
        for u in range(0, length // 16, BLOCKS):
            n = min(BLOCKS, length // 16 - u)
            tweaks = take(ivs, fill, table, first, u, n, seal, room)
            blocks(schedule, back, 16 * n, tweaks, source + 16 * u, to + 16 * u, how)
        if stream:
            fence()

    return units
