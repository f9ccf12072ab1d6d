"""fscrypt's key derivation (Documentation/filesystems/fscrypt.rst)."""

from __future__ import annotations

from cryptography.hazmat.primitives.hashes import SHA512
from cryptography.hazmat.primitives.kdf.hkdf import HKDF


def per_file_key(master: bytes, nonce: bytes, size: int) -> bytes:
    """A v2 policy's key of a file: HKDF-SHA512, context 2 and the file's 16-byte nonce."""
    return HKDF(SHA512(), size, None, b"fscrypt\0\x02" + nonce).derive(master)
