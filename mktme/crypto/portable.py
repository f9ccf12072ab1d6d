"""AES-XTS batched on the `cryptography` package, for any processor; and no cipher at all.

One ECB call encrypts the IVs of a whole chunk of units, numpy multiplies them up to the tweaks of
all blocks, a second ECB call does the data between two xors. Independent of the native kernels,
so it is also what the tests hold them against.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes

from mktme.crypto.cipher import LINE, Bytes, Words
from mktme.crypto.runs import LineAccess

CHUNK = 1 << 18  # bytes of data taken at once
LITTLE = np.dtype("<u8")


def ecb(key: bytearray, back: bool, source: npt.NDArray[Any]) -> npt.NDArray[np.uint64]:
    """The AES of every 16-byte block of an array, as little-endian words."""
    cipher = Cipher(algorithms.AES(key), modes.ECB())
    context = cipher.decryptor() if back else cipher.encryptor()
    out = np.empty(source.nbytes + 15, np.uint8)  # the library asks for room for a block more
    context.update_into(np.ascontiguousarray(source).data.cast("B"), out.data)
    return out[: source.nbytes].view(LITTLE)


def times_power(t: npt.NDArray[np.uint64], k: int) -> npt.NDArray[np.uint64]:
    """Each (low, high) of t, of shape (..., 2), times alpha^k in GF(2^128), for k below 58."""
    low, high = t[..., 0], t[..., 1]
    up, down = np.uint64(k), np.uint64(64 - k)
    carry = high >> down
    made = np.empty_like(t)
    made[..., 1] = high << up | low >> down
    made[..., 0] = low << up
    for shift in (0, 1, 2, 7):  # x^128 = x^7 + x^2 + x + 1 (IEEE 1619-2018, 5.2)
        made[..., 0] ^= carry << np.uint64(shift)
    return made


def block_tweaks(t: npt.NDArray[np.uint64], blocks: int) -> npt.NDArray[np.uint64]:
    """The tweaks of all blocks of units, (n, blocks, 2), from those of the first, (n, 2)."""
    tweaks = np.empty((t.shape[0], blocks, 2), LITTLE)
    tweaks[:, 0] = t
    done = 1
    while done < blocks:
        step = min(done, blocks - done, 32)
        tweaks[:, done : done + step] = times_power(tweaks[:, done - step : done], step)
        done += step
    return tweaks


def unit_chunks(unit: int, skip: int, length: int) -> Iterator[tuple[slice, slice, slice]]:
    """A request of units a chunk at a time: its bytes, its rows of IVs, its 16-byte blocks in them."""
    count = max(1, CHUNK // unit)
    at, row = 0, 0
    while at < length:
        end = min(length, at + count * unit - skip)
        rows = -(-(skip + end - at) // unit)
        yield slice(at, end), slice(row, row + rows), slice(skip // 16, (skip + end - at) // 16)
        at, row, skip = end, row + rows, 0


class PortableXts(LineAccess):
    """AES-XTS on any processor; see `mktme.crypto.cipher.Cipher`."""

    def __init__(self, data_key: Any, tweak_key: Any) -> None:
        self._data_key, self._tweak_key = bytearray(data_key), bytearray(tweak_key)

    def units(
        self, back: bool, unit: int, ivs: Words, source: Bytes, to: Bytes, skip: int = 0, of: int = 0
    ) -> None:
        for part, rows, within in unit_chunks(unit, skip, to.size):
            tweaks = block_tweaks(self._first_tweaks(ivs[rows]), unit // 16).reshape(-1, 2)[within]
            to[part] = self._crypt(back, source[part], tweaks.reshape(-1))

    def lines(self, back: bool, ivs: Words, skips: Words, source: Bytes, to: Bytes) -> None:
        for rows in (slice(u, u + CHUNK // 4096) for u in range(0, skips.size, CHUNK // 4096)):
            at, part = (skips[rows] // np.uint64(16)).astype(np.intp), slice(64 * rows.start, 64 * rows.stop)
            tweaks = block_tweaks(self._first_tweaks(ivs[rows]), int(at.max()) + 4)
            chosen = np.take_along_axis(tweaks, (at[:, None] + np.arange(4))[:, :, None], 1)
            to[part] = self._crypt(back, source[part], chosen.reshape(-1))

    def _first_tweaks(self, ivs: Words) -> npt.NDArray[np.uint64]:
        return ecb(self._tweak_key, False, ivs.astype(LITTLE)).reshape(-1, 2)

    def _crypt(self, back: bool, data: Bytes, tweaks: npt.NDArray[np.uint64]) -> Bytes:
        mixed = np.ascontiguousarray(data).view(LITTLE) ^ tweaks
        return (ecb(self._data_key, back, mixed) ^ tweaks).view(np.uint8)

    def numbered(self, back: bool, numbers: Words, source: Bytes, to: Bytes) -> None:
        ivs = np.zeros((numbers.size, 2), np.uint64)
        ivs[:, 0] = numbers
        self.units(back, LINE, ivs, source.reshape(-1), to.reshape(-1))

    def wipe(self) -> None:
        for key in (self._data_key, self._tweak_key):
            key[:] = bytes(len(key))


class Plain(LineAccess):
    """No encryption, behind the same calls."""

    def units(
        self, back: bool, unit: int, ivs: Words, source: Bytes, to: Bytes, skip: int = 0, of: int = 0
    ) -> None:
        to[:] = source

    def numbered(self, back: bool, numbers: Words, source: Bytes, to: Bytes) -> None:
        if to is not source:
            to[:] = source

    def read(self, media: Bytes, base: int, start: int, out: Bytes) -> None:
        out[:] = media[start : start + out.size]

    def write(self, media: Bytes, base: int, start: int, data: Bytes) -> None:
        media[start : start + data.size] = data

    def wipe(self) -> None:
        """There is no key."""
