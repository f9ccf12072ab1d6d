"""AES-CTR, AES-CBC, XE and XEX batched on the `cryptography` package, for any processor.

Independent of the native kernels, so it is also what the tests hold them against.
"""

from __future__ import annotations

import hashlib
from typing import Any, Self

import numpy as np
import numpy.typing as npt

from mktme.crypto.cipher import Bytes, Words
from mktme.crypto.portable import CHUNK, LITTLE, ecb, unit_chunks


class PortableAes:
    """A mode of AES under one key."""

    def __init__(self, key: Any) -> None:
        self._key = bytearray(key)

    def wipe(self) -> None:
        self._key[:] = bytes(len(self._key))


class PortableCtr(PortableAes):
    """AES-CTR; see `mktme.crypto.ctr`."""

    def units(
        self, back: bool, unit: int, ivs: Words, source: Bytes, to: Bytes, skip: int = 0, of: int = 0
    ) -> None:
        blocks = np.arange(unit // 16, dtype=np.uint64)
        for part, rows, within in unit_chunks(unit, skip, to.size):
            counters = counted(ivs[rows][:, None], blocks[None, :]).reshape(-1, 2)[within]
            to[part] = self._crypt(counters, source[part])

    def lines(self, back: bool, ivs: Words, skips: Words, source: Bytes, to: Bytes) -> None:
        blocks = (skips[:, None] >> np.uint64(4)) + np.arange(4).astype(np.uint64)
        for u in range(0, skips.size, CHUNK // 64):
            rows, part = slice(u, u + CHUNK // 64), slice(64 * u, 64 * u + CHUNK)
            to[part] = self._crypt(counted(ivs[rows][:, None], blocks[rows]), source[part])

    def _crypt(self, counters: npt.NDArray[np.uint64], data: Bytes) -> Bytes:
        pad = ecb(self._key, False, np.ascontiguousarray(counters, LITTLE))
        return (np.ascontiguousarray(data).view(LITTLE) ^ pad).view(np.uint8)


def counted(ivs: npt.NDArray[np.uint64], blocks: npt.NDArray[np.uint64]) -> npt.NDArray[np.uint64]:
    """Counter blocks: 128-bit big-endian numbers plus block numbers, broadcast against each other."""
    low = ivs[..., 1].byteswap() + blocks
    high = ivs[..., 0].byteswap() + (low < blocks)
    return np.stack([high.byteswap(), low.byteswap()], axis=-1)


class PortableXex(PortableAes):
    """XEX (outer), or XE; see `mktme.crypto.xex`."""

    def __init__(self, key: Any, outer: bool) -> None:
        super().__init__(key)
        self._outer = outer

    def units(
        self, back: bool, unit: int, ivs: Words, source: Bytes, to: Bytes, skip: int = 0, of: int = 0
    ) -> None:
        for u in range(0, to.size, CHUNK):
            tweaks = ivs[u // 16 : (u + CHUNK) // 16].astype(LITTLE).reshape(-1)
            data = np.ascontiguousarray(source[u : u + CHUNK]).view(LITTLE)
            if not back or self._outer:
                data = data ^ tweaks
            data = ecb(self._key, back, data)
            if back or self._outer:
                data ^= tweaks
            to[u : u + CHUNK] = data.view(np.uint8)


class PortableCbc(PortableAes):
    """AES-CBC; see `mktme.crypto.cbc`. The chain is walked for all units of a chunk at once."""

    def __init__(self, key: Any) -> None:
        super().__init__(key)
        self._seal: bytearray | None = None
        self._essiv = bytearray(hashlib.sha256(key).digest())

    def sealed(self, kind: str) -> Self:
        """This cipher with IVs encrypted under the key's SHA-256 (essiv) or the key itself (eboiv)."""
        made = type(self).__new__(type(self))
        made.__dict__.update(self.__dict__)
        made._seal = self._essiv if kind == "essiv" else self._key
        return made

    def units(
        self, back: bool, unit: int, ivs: Words, source: Bytes, to: Bytes, skip: int = 0, of: int = 0
    ) -> None:
        for part, rows, _ in unit_chunks(unit, 0, to.size):
            vectors = np.ascontiguousarray(ivs[rows], LITTLE)
            if self._seal is not None:
                vectors = ecb(self._seal, False, vectors).reshape(-1, 2)
            data = np.ascontiguousarray(source[part]).view(LITTLE).reshape(len(vectors), -1, 2)
            made = np.empty_like(data)
            if back:
                made[:] = ecb(self._key, True, data).reshape(data.shape)
                made[:, 0] ^= vectors
                made[:, 1:] ^= data[:, :-1]
            else:
                chain = vectors
                for j in range(data.shape[1]):
                    chain = ecb(self._key, False, chain ^ data[:, j]).reshape(-1, 2)
                    made[:, j] = chain
            to[part] = made.reshape(-1).view(np.uint8)

    def wipe(self) -> None:
        super().wipe()
        self._essiv[:] = bytes(len(self._essiv))
