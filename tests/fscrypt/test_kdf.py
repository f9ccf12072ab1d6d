"""fscrypt's key derivation against published vectors, its definition and OpenSSL's primitives."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from cryptography.hazmat.primitives.hashes import SHA512
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from mktme.errors import KeyMaterialError
from mktme.fscrypt import kdf
from mktme.fscrypt.siphash import siphash24

FILE = json.loads((Path(__file__).parents[1] / "vectors/fscrypt.json").read_text())
IDENTIFIERS = [v for v in FILE["vectors"] if v["op"] == "key_identifier"]
MASTER, NONCE, UUID = bytes(range(64)), bytes(range(64, 80)), bytes(range(80, 96))
PRK = kdf.extract(MASTER)


def expanded(master: bytes, info: bytes, size: int) -> bytes:
    """HKDF-SHA512 without a salt, by OpenSSL."""
    return HKDF(SHA512(), size, None, info).derive(master)


def cmac(key: bytes, message: bytes) -> bytes:
    """AES-CMAC as NIST SP 800-38B writes it."""

    def aes(block: bytes) -> bytes:
        return Cipher(algorithms.AES(key), modes.ECB()).encryptor().update(block)

    def doubled(block: bytes) -> bytes:
        x = int.from_bytes(block, "big") << 1
        return ((x ^ (0x87 if x >> 128 else 0)) & ((1 << 128) - 1)).to_bytes(16, "big")

    def xor(a: bytes, b: bytes) -> bytes:
        return bytes(x ^ y for x, y in zip(a, b, strict=True))

    once = doubled(aes(bytes(16)))
    at = (len(message) - 1) // 16 * 16
    last = message[at:]
    last = xor(last, once) if len(last) == 16 else xor((last + b"\x80").ljust(16, b"\0"), doubled(once))
    state = bytes(16)
    for i in range(0, at, 16):
        state = aes(xor(state, message[i : i + 16]))
    return aes(xor(state, last))


@pytest.mark.parametrize("vector", IDENTIFIERS, ids=[v["id"] for v in IDENTIFIERS])
def test_the_identifier_of_every_vector_agrees(vector: dict[str, Any]) -> None:
    master = bytes.fromhex(vector["master_key"])
    made = kdf.wrapped_key_identifier(master) if vector["hw_kdf"] else kdf.key_identifier(kdf.extract(master))
    assert made.hex() == vector["key_identifier"]


def test_there_are_identifiers_of_raw_and_of_hardware_wrapped_keys() -> None:
    assert {v["hw_kdf"] for v in IDENTIFIERS} == {False, True}


def test_hkdf_agrees_with_openssl() -> None:
    for context in range(1, 9):
        for rest in (b"", b"\x05", NONCE):
            for size in (16, 32, 64, 65, 200):
                for master in (MASTER, MASTER[:16], 3 * MASTER):
                    info = b"fscrypt\0" + bytes([context]) + rest
                    made = kdf.expand(kdf.extract(master), context, rest, size)
                    assert made == expanded(master, info, size)


@pytest.mark.parametrize(
    ("made", "info"),
    [
        (kdf.key_identifier(PRK), b"\x01"),
        (kdf.per_file_key(PRK, NONCE, 32), b"\x02" + NONCE),
        (kdf.direct_key(PRK, 9, 32), b"\x03\x09"),
        (kdf.iv_ino_lblk_64_key(PRK, 1, UUID, 64), b"\x04\x01" + UUID),
        (kdf.iv_ino_lblk_32_key(PRK, 1, UUID, 64), b"\x06\x01" + UUID),
        (kdf.inode_hash_key(PRK), b"\x07"),
    ],
    ids=["identifier", "file", "direct", "ino-lblk-64", "ino-lblk-32", "inode-hash"],
)
def test_every_key_of_a_v2_policy_has_its_context_and_its_rest(made: bytes, info: bytes) -> None:
    assert made == expanded(MASTER, b"fscrypt\0" + info, len(made))


def test_a_v1_key_is_the_master_key_encrypted_under_the_nonce_block_by_block() -> None:
    made = kdf.per_file_key_v1(MASTER, NONCE, 64)
    aes = Cipher(algorithms.AES(NONCE), modes.ECB()).decryptor()
    assert aes.update(made) == MASTER
    for size in (16, 32, 48):
        assert kdf.per_file_key_v1(MASTER, NONCE, size) == made[:size]


def test_the_hardware_derives_keys_by_sp_800_108_in_counter_mode() -> None:
    raw = hashlib.sha256(b"raw").digest()
    label = b"\0\0\x40" + bytes(7) + b"\x20"
    secret = b"raw secret" + bytes(9) + b"\x02\x17\0\x80\x50" + bytes(4)
    inline = b"inline encryption key" + bytes(6) + b"\x02\x43\0\x82\x50" + bytes(4)
    for made, context, bits in (
        (kdf.software_secret(raw), secret, 256),
        (kdf.inline_key(raw), inline, 512),
    ):
        parts = [
            cmac(raw, i.to_bytes(4, "big") + label + b"\0" + context + bits.to_bytes(4, "big"))
            for i in range(1, bits // 128 + 1)
        ]
        assert made == b"".join(parts)
    assert kdf.wrapped_key_identifier(raw) == expanded(kdf.software_secret(raw), b"fscrypt\0\x08", 16)


def test_siphash_agrees_with_the_vectors_of_its_authors() -> None:
    key, message = bytes(range(16)), bytes(range(63))
    for length, made in (  # of the reference implementation's vectors_sip64, and the paper's appendix A
        (0, "310e0edd47db6f72"),
        (1, "fd67dc93c539f874"),
        (7, "37d1018bf50002ab"),
        (8, "6224939a79f5f593"),
        (15, "e545be4961ca29a1"),
        (63, "724506eb4c328a95"),
    ):
        assert siphash24(key, message[:length]).to_bytes(8, "little").hex() == made


def test_an_inode_number_is_hashed_in_64_bits_and_cut_to_32() -> None:
    rng = np.random.default_rng(0)
    for inode in (0, 2, (1 << 32) - 1, 1 << 32, (1 << 63) + 5, (1 << 64) - 1):
        key = rng.bytes(16)
        made = kdf.inode_hash(key, inode)
        assert 0 <= made < 1 << 32
        assert made == siphash24(key, inode.to_bytes(8, "little")) % (1 << 32)
        assert made != kdf.inode_hash(key, inode ^ 1 << 40)


def test_a_length_that_does_not_fit_is_refused_without_a_word_of_the_key() -> None:
    for call in (
        lambda: kdf.per_file_key_v1(MASTER[:31], NONCE, 32),
        lambda: kdf.per_file_key_v1(MASTER, NONCE, 33),
        lambda: kdf.per_file_key_v1(MASTER, NONCE + NONCE, 32),
        lambda: kdf.per_file_key(PRK, NONCE[:15], 32),
        lambda: kdf.iv_ino_lblk_64_key(PRK, 1, UUID[:4], 64),
        lambda: kdf.iv_ino_lblk_32_key(PRK, 1, UUID + b"\0", 64),
        lambda: kdf.inline_key(MASTER[:16]),
        lambda: kdf.software_secret(MASTER[:24]),
        lambda: kdf.wrapped_key_identifier(MASTER),
    ):
        with pytest.raises(KeyMaterialError, match="bytes") as caught:
            call()
        error: BaseException | None = caught.value
        while error is not None:
            text = repr(error) + str(vars(error))
            assert MASTER[:8].hex() not in text
            assert repr(MASTER[:8])[2:-1] not in text
            error = error.__cause__ or error.__context__
