"""SM4-XTS batched on the `cryptography` package, for any processor.

It is the XTS of IEEE 1619-2018, as in `mktme.crypto.portable`; independent of the native kernels,
so it is also what the tests hold them against.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.ciphers import Cipher, CipherContext, algorithms, modes

from mktme.crypto.cipher import Bytes, Words
from mktme.crypto.portable import CHUNK, LITTLE, block_tweaks
from mktme.errors import BackendError


def context(key: bytearray, back: bool) -> CipherContext:
    """SM4 on single blocks (ECB). Raises BackendError where the linked OpenSSL has none."""
    algorithm = algorithms.SM4(key)  # type: ignore[arg-type]  # any buffer, as AES: no copy of it
    cipher = Cipher(algorithm, modes.ECB())
    try:
        return cipher.decryptor() if back else cipher.encryptor()
    except UnsupportedAlgorithm as error:
        raise BackendError("SM4: the OpenSSL that `cryptography` is linked to has no SM4") from error


def ecb(key: bytearray, back: bool, source: npt.NDArray[Any]) -> npt.NDArray[np.uint64]:
    """The SM4 of every 16-byte block of an array, as little-endian words."""
    out = np.empty(source.nbytes + 15, np.uint8)  # the library asks for room for a block more
    context(key, back).update_into(np.ascontiguousarray(source).data.cast("B"), out.data)
    return out[: source.nbytes].view(LITTLE)


class PortableSm4Xts:
    """SM4-XTS under two keys of 16 bytes, on any processor; see `mktme.crypto.sm4.Sm4Xts`."""

    iv_bytes = 16

    def __init__(self, data_key: Any, tweak_key: Any) -> None:
        self._data_key, self._tweak_key = bytearray(data_key), bytearray(tweak_key)
        context(self._data_key, False)

    def units(
        self, back: bool, unit: int, ivs: Words, source: Bytes, to: Bytes, skip: int = 0, of: int = 0
    ) -> None:
        """Encrypt or decrypt consecutive data units; see `mktme.crypto.sm4.Sm4Xts.units`."""
        count = max(1, CHUNK // unit)
        for u in range(0, -(-(skip + to.size) // unit), count):
            iv = ivs[u : u + count]
            start = u * unit - skip  # of unit u, in the request
            part = slice(max(start, 0), min(start + len(iv) * unit, to.size))
            words = slice((part.start - start) // 8, (part.stop - start) // 8)
            first = ecb(self._tweak_key, False, iv.astype(LITTLE)).reshape(-1, 2)
            tweaks = block_tweaks(first, unit // 16).reshape(-1)[words]
            mixed = np.ascontiguousarray(source[part]).view(LITTLE) ^ tweaks
            to[part] = (ecb(self._data_key, back, mixed) ^ tweaks).view(np.uint8)

    def lines(self, back: bool, ivs: Words, skips: Words, source: Bytes, to: Bytes) -> None:
        """Encrypt or decrypt single lines of larger units; see `mktme.crypto.cipher.PartCipher`."""
        count = CHUNK // 4096
        for u in range(0, skips.size, count):
            at = (skips[u : u + count] // np.uint64(16)).astype(np.intp)
            first = ecb(self._tweak_key, False, ivs[u : u + count].astype(LITTLE)).reshape(-1, 2)
            tweaks = block_tweaks(first, int(at.max()) + 4)
            chosen = np.take_along_axis(tweaks, (at[:, None] + np.arange(4))[:, :, None], 1).reshape(-1)
            part = slice(64 * u, 64 * (u + count))
            mixed = np.ascontiguousarray(source[part]).view(LITTLE) ^ chosen
            to[part] = (ecb(self._data_key, back, mixed) ^ chosen).view(np.uint8)

    def wipe(self) -> None:
        """Overwrite the keys; a later request is only garbage."""
        for key in (self._data_key, self._tweak_key):
            key[:] = bytes(len(key))
