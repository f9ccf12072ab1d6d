"""AES-CBC (NIST SP 800-38A, 6.2): C[j] = AES(K, P[j] ^ C[j-1]), C[-1] being the unit's IV.

Encryption is a chain within a unit, so many units are encrypted side by side, one in each block
of a register; decryption is parallel by itself.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from mktme.crypto import ivs as iv_sources
from mktme.crypto.aes import DECRYPT, ENCRYPT, decrypt, encrypt
from mktme.crypto.ivs import UNITS
from mktme.crypto.kernel import inline, kernel, part
from mktme.crypto.simd import Pack, copy, load, peek, scratch, size, store, zero
from mktme.crypto.strided import load_behind, load_strided, store_strided

ROOM = Pack(512, UNITS // 4)
BLOCK_ROOM = Pack(128, 1)


def build(bits: int) -> Callable[..., None]:
    """The kernel `units` of AES-CBC for registers of `bits` bits; arguments as of `xts.units`.

    Only whole units are encrypted, and decrypted: `skip` is 0.
    """
    wide, one = Pack(bits, 8), Pack(bits, 1)
    eight, block, line = Pack(128, 8), Pack(128, 1), Pack(bits, 512 // bits)
    take = iv_sources.build(bits)

    @inline
    def chains(
        pack: Any, key: Any, schedule: int, unit: int, ivs: int, source: int, to: int, rounds: int
    ) -> None:
        """Encrypt as many units as the pack has blocks."""
        state = load(pack, ivs)
        for at in range(0, unit, 16):
            x = load_strided(pack, source + at, unit)
            state = encrypt(state, x, zero(pack), key, schedule + ENCRYPT, rounds)
            store_strided(to + at, unit, state)

    @part
    def encrypt_units(schedule: int, unit: int, n: int, ivs: int, source: int, to: int) -> None:
        rounds = peek(schedule)
        u = 0
        while u + size(wide) // 16 <= n:
            chains(wide, one, schedule, unit, ivs + 16 * u, source + unit * u, to + unit * u, rounds)
            u += size(wide) // 16
        while u + 8 <= n:
            chains(eight, block, schedule, unit, ivs + 16 * u, source + unit * u, to + unit * u, rounds)
            u += 8
        while u < n:
            chains(block, block, schedule, unit, ivs + 16 * u, source + unit * u, to + unit * u, rounds)
            u += 1

    @inline
    def unchain(
        pack: Any, key: Any, schedule: int, start: int, end: int, source: int, to: int, last: int, rounds: int
    ) -> int:
        """Decrypt whole packs of a unit; the block before them is at `last`, and is replaced."""
        at = start
        while at + size(pack) <= end:
            x, before = load(pack, source + at), load_behind(pack, source + at, last)
            copy(last, source + at + size(pack) - 16, 16)
            store(to + at, decrypt(x, zero(pack), before, key, schedule + DECRYPT, rounds))
            at += size(pack)
        return at

    @part
    def decrypt_units(schedule: int, unit: int, n: int, ivs: int, source: int, to: int) -> None:
        rounds, last = peek(schedule), scratch(BLOCK_ROOM)
        for u in range(n):
            copy(last, ivs + 16 * u, 16)
            begin, end = unit * u, unit * u + unit
            at = unchain(wide, one, schedule, begin, end, source, to, last, rounds)
            at = unchain(line, one, schedule, at, end, source, to, last, rounds)
            unchain(block, block, schedule, at, end, source, to, last, rounds)

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
        room, n = scratch(ROOM), length // unit
        for u in range(0, n, UNITS):
            m = min(UNITS, n - u)
            vectors = take(ivs, fill, table, first, u, m, seal, room)
            if back:
                decrypt_units(schedule, unit, m, vectors, source + unit * u, to + unit * u)
            else:
                encrypt_units(schedule, unit, m, vectors, source + unit * u, to + unit * u)

    return units
