"""Adiantum batched on the `cryptography` package and numpy, for any processor.

The construction is that of `mktme.crypto.adiantum`, whose kernels this is independent of. AES takes
the blocks of a whole chunk of units in one call; NH and ChaCha12, whose twelve rounds the
package doesn't offer, run in numpy over the chunk. Poly1305 is the package's, a call for each
unit, with nothing added at its end.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
from cryptography.hazmat.primitives.poly1305 import Poly1305

from mktme.crypto.cipher import Bytes, Words
from mktme.crypto.portable import CHUNK, LITTLE, ecb

WORD = np.dtype("<u4")
SIGMA = np.frombuffer(b"expand 32-byte k", WORD)
DERIVED_BYTES = 32 + 16 + 16 + 1072  # keys of AES, of Poly1305 for tweak and for bulk, and of NH
NH_CHUNK = 1024

Matrix = npt.NDArray[np.uint32]


def rotated(x: Matrix, k: int) -> Matrix:
    return x << np.uint32(k) | x >> np.uint32(32 - k)


def quarter(m: Matrix, ib: list[int], ic: list[int], id_: list[int]) -> None:
    """Quarter rounds in place: row i of the first four, with the rows of the others in order."""
    a, b, c, d = m[0:4], m[ib], m[ic], m[id_]
    for left, right in ((16, 12), (8, 7)):
        a += b
        d = rotated(d ^ a, left)
        c += d
        b = rotated(b ^ c, right)
    m[ib], m[ic], m[id_] = b, c, d


def permuted(state: Matrix) -> Matrix:
    """Twelve ChaCha rounds of states of shape (16, n)."""
    m = state.copy()
    for _ in range(6):
        quarter(m, [4, 5, 6, 7], [8, 9, 10, 11], [12, 13, 14, 15])
        quarter(m, [5, 6, 7, 4], [10, 11, 8, 9], [15, 12, 13, 14])
    return m


def xchacha12(key: bytes | bytearray, nonces: npt.NDArray[Any], last: int, length: int) -> Bytes:
    """The first `length` bytes of streams, (n, length); nonces are 16 bytes each, then `last`."""
    words = np.ascontiguousarray(nonces).view(np.uint8).view(WORD).reshape(-1, 4)
    n, blocks = len(words), -(-length // 64)
    state = np.empty((16, n), np.uint32)
    state[0:4] = SIGMA[:, None]
    state[4:12] = np.frombuffer(key, WORD)[:, None]
    state[12:16] = words.T
    made = permuted(state)
    wide = np.zeros((16, n, blocks), np.uint32)
    wide[0:4] = SIGMA[:, None, None]
    wide[4:8], wide[8:12] = made[0:4, :, None], made[12:16, :, None]
    wide[12] = np.arange(blocks, dtype=np.uint32)
    wide[14] = last
    flat = wide.reshape(16, -1)
    flat = permuted(flat) + flat
    return np.ascontiguousarray(flat.T.astype(WORD)).view(np.uint8).reshape(n, -1)[:, :length]


def nh_sums(key: Matrix, words: npt.NDArray[np.uint32]) -> npt.NDArray[np.uint64]:
    """NH of messages (..., words): four 64-bit sums each."""
    made = np.empty((*words.shape[:-1], 4), LITTLE)
    size = words.shape[-1]
    for p in range(4):
        t = (words + key[4 * p : 4 * p + size]).reshape(*words.shape[:-1], size // 4, 4)
        products = t[..., 0:2].astype(np.uint64) * t[..., 2:4]
        made[..., p] = products.sum(axis=(-1, -2), dtype=np.uint64)
    return made


def digests(key: Matrix, bulk: Bytes) -> npt.NDArray[np.uint64]:
    """The NH digests of messages of equal length, (n, words)."""
    n, length = bulk.shape
    padded = np.zeros((n, -(-length // 16) * 16), np.uint8)
    padded[:, :length] = bulk
    words = padded.view(WORD)
    whole = length // NH_CHUNK
    parts = [nh_sums(key, words[:, : 256 * whole].reshape(n, whole, 256))]
    if length % NH_CHUNK:
        parts.append(nh_sums(key, words[:, None, 256 * whole :]))
    return np.concatenate(parts, axis=1).reshape(n, -1)


def poly1305(r: bytearray, messages: list[bytes]) -> npt.NDArray[np.uint64]:
    """The hashes of messages, (n, 2)."""
    key = bytes(r) + bytes(16)
    tags = b"".join(Poly1305.generate_tag(key, message) for message in messages)
    return np.frombuffer(tags, LITTLE).reshape(-1, 2).astype(np.uint64)


def plus(x: npt.NDArray[np.uint64], y: npt.NDArray[np.uint64]) -> npt.NDArray[np.uint64]:
    """Sums modulo 2^128 of (low, high)."""
    made = x + y
    made[:, 1] += made[:, 0] < x[:, 0]
    return made


def minus(x: npt.NDArray[np.uint64], y: npt.NDArray[np.uint64]) -> npt.NDArray[np.uint64]:
    """Differences modulo 2^128 of (low, high)."""
    made = x - y
    made[:, 1] -= x[:, 0] < y[:, 0]
    return made


class PortableAdiantum:
    """Adiantum with XChaCha12 and AES-256 under a 32-byte key, on any processor.

    Thread-safe but for `wipe`.
    """

    iv_bytes = 32  # of a tweak, where the caller is free to choose

    def __init__(self, key: Any) -> None:
        self._stream_key = bytearray(key)
        nonce = np.array([[1, 0]], LITTLE)
        derived = bytearray(xchacha12(self._stream_key, nonce, 0, DERIVED_BYTES).tobytes())
        self._block_key, self._tweak_r, self._bulk_r = derived[:32], derived[32:48], derived[48:64]
        self._nh_key = np.frombuffer(derived, WORD, offset=64).astype(np.uint32)
        derived[:] = bytes(len(derived))

    def units(
        self, back: bool, unit: int, ivs: Words, source: Bytes, to: Bytes, skip: int = 0, of: int = 0
    ) -> None:
        """Encrypt (or, back, decrypt) units of `unit` bytes, at least 16; a row of `ivs` is a tweak.

        Source and `to` are the same bytes or don't overlap.
        """
        n, count = to.size // unit, max(1, CHUNK // unit)
        given, made = source[: n * unit].reshape(n, unit), to[: n * unit].reshape(n, unit)
        for u in range(0, n, count):
            self._chunk(back, ivs[u : u + count], given[u : u + count], made[u : u + count])

    def _chunk(self, back: bool, ivs: Words, given: Bytes, made: Bytes) -> None:
        bulk, right = given[:, :-16], np.ascontiguousarray(given[:, -16:]).view(LITTLE)
        bits = (8 * bulk.shape[1]).to_bytes(16, "little")
        header = poly1305(self._tweak_r, [bits + iv.tobytes() for iv in ivs])
        before = plus(right, plus(header, self._hash(bulk)))
        after = ecb(self._block_key, back, before.astype(LITTLE)).reshape(-1, 2)
        nonces = (before if back else after).astype(LITTLE)
        out = bulk ^ xchacha12(self._stream_key, nonces, 1, bulk.shape[1])
        end = minus(after, plus(header, self._hash(out)))
        made[:, :-16] = out
        made[:, -16:] = end.astype(LITTLE).view(np.uint8)

    def _hash(self, bulk: Bytes) -> npt.NDArray[np.uint64]:
        """Poly1305 of the digests of bulks."""
        return poly1305(self._bulk_r, [row.tobytes() for row in digests(self._nh_key, bulk)])

    def wipe(self) -> None:
        """Overwrite the keys."""
        for key in (self._stream_key, self._block_key, self._tweak_r, self._bulk_r):
            key[:] = bytes(len(key))
        self._nh_key[:] = 0
