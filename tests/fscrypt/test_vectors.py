"""Every fscrypt vector, with the project's ciphers under its IV schemes, on every backend."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mktme.crypto import algorithms, backend
from mktme.crypto.cipher import Bytes, Cipher, PartCipher, Words
from mktme.fscrypt import kdf
from mktme.iv.compiled import Binding
from mktme.iv.scheme import find

FILE = json.loads((Path(__file__).parents[1] / "vectors/fscrypt.json").read_text())
VECTORS = [v for v in FILE["vectors"] if v["op"] == "encrypt"]
CIPHERS = {
    "AES-256-XTS": "aes-xts-256",
    "AES-128-CBC-ESSIV": "aes-cbc-essiv-128",
    "AES-256-CTS-CBC": "aes-cts-256",
    "AES-128-CTS-CBC": "aes-cts-128",
    "AES-256-HCTR2": "aes-hctr2-256",
    "Adiantum": "adiantum",
}
LEAST = {"AES-256-XTS": 0, "AES-128-CBC-ESSIV": 0}  # bytes of the shortest padded unit; others: 16


def given(vector: dict[str, Any], name: str) -> bytes:
    return bytes.fromhex(vector[name])


def secret(vector: dict[str, Any]) -> bytes:
    """What keys are derived from: the master key, or a hardware-wrapped key's software secret."""
    master = given(vector, "master_key")
    return kdf.software_secret(master) if vector["hw_kdf"] else master


def cipher_key(vector: dict[str, Any], size: int) -> bytes:
    if vector["use_inlinecrypt_key"]:
        return kdf.inline_key(given(vector, "master_key"))[:size]
    master, mode = secret(vector), vector["mode_num"]
    if vector["kdf"] == "none":
        return master[:size]
    if vector["kdf"] == "AES-128-ECB":
        return kdf.per_file_key_v1(master, given(vector, "file_nonce"), size)
    prk = kdf.extract(master)
    if vector["iv_method"] == "default":
        return kdf.per_file_key(prk, given(vector, "file_nonce"), size)
    if vector["iv_method"] == "direct_key":
        return kdf.direct_key(prk, mode, size)
    derive = kdf.iv_ino_lblk_64_key if vector["iv_method"] == "iv_ino_lblk_64" else kdf.iv_ino_lblk_32_key
    return derive(prk, mode, given(vector, "fs_uuid"), size)


def scheme_of(vector: dict[str, Any]) -> tuple[str, dict[str, int]]:
    """The name of the IV scheme and its coordinates at the first data unit."""
    method, values = vector["iv_method"], {"block": vector["data_unit_index"]}
    if method == "direct_key":
        nonce = given(vector, "file_nonce")
        values["nonce_low"], values["nonce_high"] = (
            int.from_bytes(half, "little") for half in (nonce[:8], nonce[8:])
        )
        return "direct-key", values
    if method == "iv_ino_lblk_64":
        return "ino-lblk-64", values | {"inode": vector["inode_number"]}
    if method == "iv_ino_lblk_32":
        key = kdf.inode_hash_key(kdf.extract(secret(vector)))
        return "ino-lblk-32", values | {"inode_hash": kdf.inode_hash(key, vector["inode_number"])}
    return "file-block", values


def units_of(vector: dict[str, Any]) -> list[bytes]:
    """The plaintext's data units, the last one padded."""
    plain, size, padding = given(vector, "plaintext"), vector["data_unit_size"], vector["padding"]
    units = [plain[i : i + size] for i in range(0, len(plain), size)]
    length = size
    if padding is not None:
        length = max(len(units[-1]), LEAST.get(vector["cipher"], 16))
        length = min(-(-length // padding) * padding, size)
    units[-1] = units[-1].ljust(length, b"\0")
    return units


def ivs_of(vector: dict[str, Any], n: int, width: int) -> Words:
    """The IVs of n data units: (n, width) words."""
    name, values = scheme_of(vector)
    scheme = find(name)
    return Binding(scheme, scheme.unit, values).ivs(0, n, max(width, scheme.words))[:, :width].copy()


def cipher_of(vector: dict[str, Any], engine: str) -> tuple[algorithms.Algorithm, Cipher]:
    algorithm = algorithms.ALGORITHMS[CIPHERS[vector["cipher"]]]
    key, keys, at = cipher_key(vector, sum(algorithm.parts)), [], 0
    for size in algorithm.parts:
        keys.append(key[at : at + size])
        at += size
    return algorithm, algorithms.make(algorithm.name, keys, engine)


def crypt(cipher: Cipher, back: bool, units: list[bytes], ivs: Words) -> list[bytes]:
    """The units of a vector in two requests: those of the full size, and the last if it is shorter."""
    made = []
    for size in sorted({len(unit) for unit in units}, reverse=True):
        rows = [i for i, unit in enumerate(units) if len(unit) == size]
        source = np.frombuffer(b"".join(units[i] for i in rows), np.uint8)
        to = np.empty_like(source)
        cipher.units(back, size, np.ascontiguousarray(ivs[rows]), source, to)
        made += [to[i * size : (i + 1) * size].tobytes() for i in range(len(rows))]
    return made


@pytest.mark.parametrize("engine", backend.available())
@pytest.mark.parametrize("vector", VECTORS, ids=[f"{v['id']}-{v['cipher']}" for v in VECTORS])
def test_every_vector_agrees_in_both_directions(vector: dict[str, Any], engine: str) -> None:
    algorithm, cipher = cipher_of(vector, engine)
    units = units_of(vector)
    ivs = ivs_of(vector, len(units), algorithm.iv_bytes // 8)
    made = crypt(cipher, False, units, ivs)
    assert b"".join(made) == given(vector, "ciphertext")
    assert crypt(cipher, True, made, ivs) == units


def test_the_vectors_reach_every_cipher_every_derivation_and_every_iv() -> None:
    assert len(FILE["vectors"]) == 61
    assert {v["cipher"] for v in VECTORS} == set(CIPHERS)
    assert {v["kdf"] for v in VECTORS} == {"none", "AES-128-ECB", "HKDF-SHA512"}
    assert {scheme_of(v)[0] for v in VECTORS} == {"file-block", "direct-key", "ino-lblk-64", "ino-lblk-32"}
    assert {(v["hw_kdf"], v["use_inlinecrypt_key"]) for v in VECTORS} == {
        (False, False),
        (True, False),
        (True, True),
    }
    assert max(v["data_unit_index"] for v in VECTORS) == (1 << 64) - 1


LINES = [v for v in VECTORS if v["cipher"] == "AES-256-XTS"]


@pytest.mark.parametrize("engine", backend.available())
@pytest.mark.parametrize("vector", LINES, ids=[v["id"] for v in LINES])
def test_every_line_of_a_larger_unit_is_decrypted_alone(vector: dict[str, Any], engine: str) -> None:
    algorithm, cipher = cipher_of(vector, engine)
    plain = np.frombuffer(b"".join(units_of(vector)), np.uint8)
    made = np.frombuffer(given(vector, "ciphertext"), np.uint8)
    unit = vector["data_unit_size"]
    ivs = ivs_of(vector, made.size // unit, 2)
    assert algorithm.alone
    for at in range(0, made.size, 64):
        line: Bytes = np.empty(64, np.uint8)
        cipher.units(True, unit, ivs[at // unit :][:1].copy(), made[at : at + 64], line, skip=at % unit)
        assert (line == plain[at : at + 64]).all()
    order = np.random.default_rng(unit).permutation(made.size // 64)
    scattered = made.reshape(-1, 64)[order]
    out = np.empty(scattered.size, np.uint8)
    skips = (order * 64 % unit).astype(np.uint64)
    assert isinstance(cipher, PartCipher)
    cipher.lines(True, ivs[order * 64 // unit], skips, scattered.reshape(-1), out)
    assert (out.reshape(-1, 64) == plain.reshape(-1, 64)[order]).all()


@pytest.mark.parametrize("width", [2, 4])
def test_an_index_or_inode_number_beyond_its_field_is_cut_to_it(width: int) -> None:
    """fscrypt's fields have 32 bits where it needs them; what a scheme is given may have 64."""
    inode, index = 0xFEDC_BA98_7654_3210, (1 << 64) - 2
    for name, values, expected in (
        ("file-block", {"block": index}, [index, index + 1, 0, 1]),
        ("ino-lblk-64", {"block": 5, "inode": inode}, [0x7654_3210_0000_0005 + i for i in range(4)]),
        (
            "ino-lblk-64",
            {"block": 0xFFFF_FFFE, "inode": 1},
            [0x1_FFFF_FFFE, 0x1_FFFF_FFFF, 0x1_0000_0000, 0x1_0000_0001],
        ),
        ("ino-lblk-32", {"block": 0xFFFF_FFFF, "inode_hash": 0xFFFF_FFFF}, [0xFFFF_FFFE, 0xFFFF_FFFF, 0, 1]),
        ("ino-lblk-32", {"block": index, "inode_hash": 0}, [0xFFFF_FFFE, 0xFFFF_FFFF, 0, 1]),
    ):
        made = Binding(find(name), 4096, values).ivs(0, 4, width)
        assert made[:, 0].tolist() == expected
        assert not made[:, 1:].any()


def test_direct_key_places_the_nonce_behind_the_index() -> None:
    nonce = bytes(range(0xF0, 0x100))
    low, high = (int.from_bytes(half, "little") for half in (nonce[:8], nonce[8:]))
    values = {"block": (1 << 64) - 1, "nonce_low": low, "nonce_high": high}
    made = Binding(find("direct-key"), 4096, values).ivs(0, 2, 4)
    assert made[0].astype("<u8").tobytes() == b"\xff" * 8 + nonce + bytes(8)
    assert made[1].astype("<u8").tobytes() == bytes(8) + nonce + bytes(8)
