"""fscrypt's key derivation (Documentation/filesystems/fscrypt.rst, "Key derivation").

v1 policies encrypt the master key under the file's nonce (fs/crypto/keysetup_v1.c). v2 policies
use HKDF-SHA512 without a salt, the application-specific info telling the keys apart (fs/crypto/
hkdf.c, fscrypt_private.h): `extract` once a master key, then `expand` for every key (`prk` below).
Under a hardware-wrapped key the hardware derives the inline encryption
key and a software secret, which takes the place of the master key (Documentation/block/
inline-encryption.rst); what it computes is replicated as xfstests' src/fscrypt-crypt-util.c does.

Nonces and UUIDs are 16 bytes, a raw key inside a hardware-wrapped key 32. What is refused is
refused by its length alone: no error holds a key.
"""

from __future__ import annotations

import hmac

from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from cryptography.hazmat.primitives.cmac import CMAC

from mktme.errors import KeyMaterialError
from mktme.fscrypt.siphash import siphash24

# The context byte of HKDF's info: HKDF_CONTEXT_* of fs/crypto/fscrypt_private.h
KEY_IDENTIFIER, PER_FILE_KEY, DIRECT_KEY, IV_INO_LBLK_64_KEY = 1, 2, 3, 4
IV_INO_LBLK_32_KEY, INODE_HASH_KEY, WRAPPED_KEY_IDENTIFIER = 6, 7, 8

# The fixed parts of the hardware's messages
WRAPPED_LABEL = bytes.fromhex("0000400000000000000020")
INLINE_CONTEXT = b"inline encryption key" + bytes.fromhex("000000000000 0243 00 8250 00000000")
SECRET_CONTEXT = b"raw secret" + bytes.fromhex("000000000000000000 0217 00 8050 00000000")


Secret = bytes | bytearray


def per_file_key_v1(master: Secret, nonce: bytes, size: int) -> bytes:
    """A v1 policy's key of a file: AES-128-ECB of the master key's first bytes, under the nonce."""
    if len(master) < size or size % 16:
        raise KeyMaterialError(f"a key of {size} bytes can't be made from a master key of {len(master)}")
    _check("nonce", nonce, 16)
    encryptor = Cipher(algorithms.AES(nonce), modes.ECB()).encryptor()
    return encryptor.update(master[:size])


def extract(master: Secret) -> bytes:
    """The pseudorandom key of a master key, 64 bytes (RFC 5869, 2.2, without a salt)."""
    return hmac.digest(bytes(64), master, "sha512")


def expand(prk: Secret, context: int, rest: bytes, size: int) -> bytes:
    """A v2 policy's key number `context`, `size` bytes up to 16320 (fscrypt_hkdf_expand; RFC 5869, 2.3)."""
    info = b"fscrypt\0" + bytes([context]) + rest
    made = block = hmac.digest(prk, info + b"\1", "sha512")
    for i in range(2, -(-size // 64) + 1):
        block = hmac.digest(prk, block + info + bytes([i]), "sha512")
        made += block
    return made[:size]


def key_identifier(prk: Secret) -> bytes:
    """The 16 bytes by which v2 policies name their master key."""
    return expand(prk, KEY_IDENTIFIER, b"", 16)


def per_file_key(prk: Secret, nonce: bytes, size: int) -> bytes:
    """A v2 policy's key of a file."""
    _check("nonce", nonce, 16)
    return expand(prk, PER_FILE_KEY, nonce, size)


def direct_key(prk: Secret, mode: int, size: int) -> bytes:
    """The key of all files of an encryption mode (FSCRYPT_POLICY_FLAG_DIRECT_KEY)."""
    return expand(prk, DIRECT_KEY, bytes([mode]), size)


def iv_ino_lblk_64_key(prk: Secret, mode: int, uuid: bytes, size: int) -> bytes:
    """The key of a mode on a filesystem (FSCRYPT_POLICY_FLAG_IV_INO_LBLK_64)."""
    _check("filesystem's UUID", uuid, 16)
    return expand(prk, IV_INO_LBLK_64_KEY, bytes([mode]) + uuid, size)


def iv_ino_lblk_32_key(prk: Secret, mode: int, uuid: bytes, size: int) -> bytes:
    """The key of a mode on a filesystem (FSCRYPT_POLICY_FLAG_IV_INO_LBLK_32)."""
    _check("filesystem's UUID", uuid, 16)
    return expand(prk, IV_INO_LBLK_32_KEY, bytes([mode]) + uuid, size)


def inode_hash_key(prk: Secret) -> bytes:
    """The SipHash key of a master key's inode numbers, 16 bytes."""
    return expand(prk, INODE_HASH_KEY, b"", 16)


def inode_hash(key: Secret, inode: int) -> int:
    """An inode number of 64 bits, hashed to 32 (fscrypt_hash_inode_number)."""
    return siphash24(key, inode.to_bytes(8, "little")) & 0xFFFFFFFF


def wrapped_key_identifier(raw: Secret) -> bytes:
    """The identifier of a hardware-wrapped key, from the raw key inside it."""
    return expand(extract(software_secret(raw)), WRAPPED_KEY_IDENTIFIER, b"", 16)


def inline_key(raw: Secret) -> bytes:
    """The 64-byte inline encryption key of a hardware-wrapped key."""
    return _hardware(raw, INLINE_CONTEXT, 64)


def software_secret(raw: Secret) -> bytes:
    """The 32 bytes that the hardware gives the kernel in place of a master key."""
    return _hardware(raw, SECRET_CONTEXT, 32)


def _hardware(raw: Secret, context: bytes, size: int) -> bytes:
    """NIST SP 800-108, counter mode, with AES-256-CMAC."""
    _check("raw key", raw, 32)
    made, cipher = b"", algorithms.AES(raw)
    for counter in range(1, size // 16 + 1):
        mac = CMAC(cipher)
        mac.update(counter.to_bytes(4, "big") + WRAPPED_LABEL + b"\0" + context)
        mac.update((8 * size).to_bytes(4, "big"))
        made += mac.finalize()
    return made


def _check(what: str, value: Secret, size: int) -> None:
    if len(value) != size:
        raise KeyMaterialError(f"the {what} is to be {size} bytes, not {len(value)}")
