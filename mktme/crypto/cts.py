"""CBC with ciphertext stealing, variant CS3 (NIST SP 800-38A addendum): fscrypt's file names.

The last two blocks are always swapped; exactly 16 bytes are plain CBC. Names are short and few,
so this is arithmetic on the CBC of `cryptography`, under AES or SM4.
"""

from __future__ import annotations

from typing import Any

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes

from mktme.crypto.cipher import Bytes, Words
from mktme.errors import BackendError


class CbcCts:
    """AES-CBC-CTS under a key of 16 or 32 bytes; see `mktme.crypto.cipher.Cipher`."""

    _block: Any = algorithms.AES

    def __init__(self, key: Any) -> None:
        self._key = bytearray(key)

    def units(
        self, back: bool, unit: int, ivs: Words, source: Bytes, to: Bytes, skip: int = 0, of: int = 0
    ) -> None:
        """Encrypt (or decrypt) names of `unit` bytes each, 16 or more."""
        crypt = self._decrypt if back else self._encrypt
        made = b"".join(
            crypt(ivs[i].astype("<u8").tobytes(), source[i * unit : (i + 1) * unit].tobytes())
            for i in range(len(ivs))
        )
        to[:] = memoryview(made)

    def _cbc(self, back: bool, iv: bytes, data: bytes) -> bytes:
        cipher = Cipher(self._block(self._key), modes.CBC(iv))
        context = cipher.decryptor() if back else cipher.encryptor()
        return context.update(data)

    def _encrypt(self, iv: bytes, name: bytes) -> bytes:
        made = self._cbc(False, iv, name + bytes(-len(name) % 16))
        if len(name) == 16:
            return made
        at = len(made) - 32
        return made[:at] + made[at + 16 :] + made[at : at + 16][: len(name) - at - 16]

    def _decrypt(self, iv: bytes, name: bytes) -> bytes:
        if len(name) == 16:
            return self._cbc(True, iv, name)
        at = (len(name) - 1) // 16 * 16 - 16  # where the last two blocks begin
        last, stolen = name[at : at + 16], name[at + 16 :]
        mixed = self._cbc(True, bytes(16), last)  # the last plaintext block ^ the one that was stolen from
        whole = stolen + mixed[len(stolen) :]
        return self._cbc(True, iv, name[:at] + whole + last)[: len(name)]

    def wipe(self) -> None:
        self._key[:] = bytes(len(self._key))


class Sm4CbcCts(CbcCts):
    """SM4-CBC-CTS under a key of 16 bytes. Raises BackendError where the linked OpenSSL has no SM4."""

    _block = algorithms.SM4

    def __init__(self, key: Any) -> None:
        super().__init__(key)
        try:
            self._cbc(False, bytes(16), b"")
        except UnsupportedAlgorithm as error:
            raise BackendError("SM4: the OpenSSL that `cryptography` is linked to has no SM4") from error
