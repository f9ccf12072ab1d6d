"""AES-HCTR2 batched on the `cryptography` package and numpy, for any processor.

One ECB call encrypts the first blocks of all units of a chunk, another the counters of XCTR of
all of them. POLYVAL is a lookup per byte in tables of the key, all units of a chunk abreast, one
block of each after another. Nothing is shared with the native kernels, so this is also what the
tests hold them against.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from mktme.crypto.cipher import Bytes, Words
from mktme.crypto.portable import CHUNK, LITTLE, ecb

POLYNOMIAL = 1 << 128 | 1 << 127 | 1 << 126 | 1 << 121 | 1  # RFC 8452, section 3
WORD = (1 << 64) - 1


def blocks_of(data: Bytes, length: int, mark: int) -> Words:
    """Rows of bytes as 16-byte blocks, (n, blocks, 2) words: zero padded, after `mark` where they are."""
    padded = np.zeros((len(data), -(-length // 16) * 16), np.uint8)
    padded[:, :length] = data
    if length % 16:
        padded[:, length] = mark
    return padded.view(LITTLE).reshape(len(data), -1, 2)


class Polyval:
    """POLYVAL (RFC 8452, section 3) under a key of 16 bytes."""

    def __init__(self, key: bytes) -> None:
        power = int.from_bytes(key, "little")
        for _ in range(128):  # the RFC's product divides by x^128
            power = (power ^ POLYNOMIAL * (power & 1)) >> 1
        self._table = np.zeros((16, 256, 2), LITTLE)  # [i, v]: v x^(8 i) H x^-128
        for bit in range(128):
            i, half = bit >> 3, 1 << (bit & 7)
            word = np.array([power & WORD, power >> 64], LITTLE)
            self._table[i, half : 2 * half] = self._table[i, :half] ^ word
            power = power << 1 ^ POLYNOMIAL * (power >> 127)
        self._rows = np.arange(16)

    def __call__(self, state: Words, blocks: Words) -> Words:
        """The states, (n, 2), of n messages after more blocks, (n, blocks, 2), of each."""
        for i in range(blocks.shape[1]):
            places = np.ascontiguousarray(state ^ blocks[:, i]).view(np.uint8)
            state = np.bitwise_xor.reduce(self._table[self._rows, places], axis=1)
        return state

    def wipe(self) -> None:
        """Overwrite the tables."""
        self._table[:] = 0


class PortableHctr2:
    """AES-HCTR2 on any processor under a key of 16 or 32 bytes; see `mktme.crypto.hctr2.Hctr2`."""

    iv_bytes = 32

    def __init__(self, key: Any) -> None:
        self._key = bytearray(key)
        made = ecb(self._key, False, np.array([[0, 0], [1, 0]], LITTLE)).reshape(2, 2)
        self._hash, self._whiten = Polyval(made[0].tobytes()), made[1].copy()

    def units(
        self, back: bool, unit: int, ivs: Any, source: Bytes, to: Bytes, skip: int = 0, of: int = 0
    ) -> None:
        """Encrypt (or, back, decrypt) units of `unit` bytes, 16 or more, whose tweaks are rows."""
        n, count = to.size // unit, max(1, CHUNK // unit)
        tweaks = ivs.reshape(-1).view(np.uint8).reshape(n, ivs.nbytes // max(n, 1))
        for u in range(0, n, count):
            rows = source[u * unit : (u + count) * unit].reshape(-1, unit)
            made = self._chunk(back, tweaks[u : u + count], rows)
            to[u * unit : (u + count) * unit] = made.reshape(-1)

    def _chunk(self, back: bool, tweaks: Bytes, rows: Bytes) -> Bytes:
        """The units that are the rows, under the tweaks that are the rows."""
        n, rest = len(rows), rows.shape[1] - 16
        length = np.zeros((n, 1, 2), LITTLE)
        length[..., 0] = 16 * tweaks.shape[1] + (3 if rest % 16 else 2)
        state = self._hash(np.zeros((n, 2), LITTLE), length)
        state = self._hash(state, blocks_of(tweaks, tweaks.shape[1], 0))
        message = blocks_of(rows[:, 16:], rest, 1)
        first = np.ascontiguousarray(rows[:, :16]).view(LITTLE) ^ self._hash(state, message)
        second = ecb(self._key, back, first).reshape(n, 2)
        out = np.empty_like(rows)
        if rest:
            out[:, 16:] = rows[:, 16:] ^ self._stream(first ^ second ^ self._whiten, rest)
        head = second ^ self._hash(state, blocks_of(out[:, 16:], rest, 1))
        out[:, :16] = head.view(np.uint8)
        return out

    def _stream(self, seeds: Words, length: int) -> Bytes:
        """XCTR: the AES of each seed xor 1, 2, ..., cut to (n, length) bytes."""
        blocks = -(-length // 16)
        counters = np.repeat(seeds[:, None], blocks, axis=1)
        counters[..., 0] ^= np.arange(1, blocks + 1, dtype=LITTLE)
        return ecb(self._key, False, counters).view(np.uint8).reshape(len(seeds), -1)[:, :length]

    def wipe(self) -> None:
        """Overwrite the key and what was made of it."""
        self._key[:] = bytes(len(self._key))
        self._whiten[:] = 0
        self._hash.wipe()
