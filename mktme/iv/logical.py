"""IV schemes from a place in a file: fscrypt's (Documentation/filesystems/fscrypt.rst).

The block is the index of the data unit in its file, so blocks can move on the medium.
"""

from __future__ import annotations

from mktme.iv.scheme import Iv, Scheme, register

FSCRYPT = "fs/crypto/crypto.c, fscrypt_generate_iv"


def file_block(block: int) -> Iv:
    """The index of the data unit, 64 bits little-endian."""
    return block, 0


def direct_key(block: int, nonce_low: int, nonce_high: int) -> Iv:
    """The index, then the file's 16-byte nonce: 24 bytes, for ciphers that take 32."""
    return block, nonce_low, nonce_high, 0


def ino_lblk_64(block: int, inode: int) -> Iv:
    """The 32-bit index in bytes 0-3, the 32-bit inode number in bytes 4-7."""
    return (block & 0xFFFFFFFF) | (inode & 0xFFFFFFFF) << 32, 0


def ino_lblk_32(block: int, inode_hash: int) -> Iv:
    """The hashed inode number plus the index, modulo 2^32."""
    return (inode_hash + block) & 0xFFFFFFFF, 0


FILE_BLOCK = register(
    Scheme(
        name="file-block",
        unit=4096,
        coordinates=("block",),
        iv=file_block,
        summary="the index of the data unit in its file, under one key for all files",
        source="the logical block number alone; fscrypt uses it only under a key of the file's own",
    )
)
PER_FILE_KEY = register(
    Scheme(
        name="per-file-key",
        unit=4096,
        coordinates=("block",),
        iv=file_block,
        summary="the index of the data unit in its file, under a key of the file's own",
        source=FSCRYPT + ", policies without a flag",
        file_key=True,
    )
)
DIRECT_KEY = register(
    Scheme(
        name="direct-key",
        unit=4096,
        coordinates=("block", "nonce_low", "nonce_high"),
        iv=direct_key,
        summary="the index of the data unit and the file's nonce, under one key for all files",
        source=FSCRYPT + ", FSCRYPT_POLICY_FLAG_DIRECT_KEY",
        words=4,
        families=("adiantum", "aes-hctr2"),
    )
)
INO_LBLK_64 = register(
    Scheme(
        name="ino-lblk-64",
        unit=4096,
        coordinates=("block", "inode"),
        iv=ino_lblk_64,
        summary="the 32-bit index of the data unit and the 32-bit inode number, in 64 bits",
        source=FSCRYPT + ", FSCRYPT_POLICY_FLAG_IV_INO_LBLK_64",
        bits=32,
    )
)
INO_LBLK_32 = register(
    Scheme(
        name="ino-lblk-32",
        unit=4096,
        coordinates=("block", "inode_hash"),
        iv=ino_lblk_32,
        summary="the hashed inode number plus the index of the data unit, in 32 bits",
        source=FSCRYPT + ", FSCRYPT_POLICY_FLAG_IV_INO_LBLK_32",
        bits=32,
    )
)
