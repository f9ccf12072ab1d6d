"""AES-HCTR2: published vectors first, then native against portable, then bounds, on every backend."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mktme.crypto import backend
from mktme.crypto.hctr2 import Hctr2
from mktme.crypto.portable_hctr2 import Polyval, PortableHctr2

FILE = json.loads((Path(__file__).parents[1] / "vectors/hctr2.json").read_text())
VECTORS = FILE["vectors"]
UNITS = (16, 17, 31, 32, 47, 64, 65, 127, 128, 144, 255, 512, 513, 1000, 1024, 2048, 4096, 4097, 8192, 9000)
NATIVE = [name for name in backend.available() if name != "portable"]


def hctr2(engine: str, key: bytes) -> Any:
    return PortableHctr2(key) if engine == "portable" else Hctr2(backend.WIDTH[engine], key)


def tweaks(rng: np.random.Generator, n: int) -> Any:
    return rng.integers(0, 1 << 64, (n, 4), dtype=np.uint64)


def crypt(cipher: Any, back: bool, unit: int, ivs: Any, data: bytes) -> bytes:
    source = np.frombuffer(data, np.uint8)
    out = np.empty_like(source)
    cipher.units(back, unit, ivs, source, out)
    return out.tobytes()


def test_the_file_of_vectors_has_its_licence_and_both_key_sizes() -> None:
    assert "Permission is hereby granted" in FILE["description"]["licence_text"]
    assert {len(v["key"]) for v in VECTORS} == {32, 64}
    assert {len(v["tweak"]) // 2 for v in VECTORS} >= {0, 1, 16, 32, 47}


@pytest.mark.parametrize("index", range(len(VECTORS)))
def test_published_vectors_agree(engine: str, index: int) -> None:
    key, tweak, plain, made = (
        bytes.fromhex(VECTORS[index][field]) for field in ("key", "tweak", "plaintext", "ciphertext")
    )
    cipher = hctr2(engine, key)
    ivs = np.array([list(tweak)], np.uint8)
    assert crypt(cipher, False, len(plain), ivs, plain) == made
    assert crypt(cipher, True, len(plain), ivs, made) == plain


def test_polyval_of_rfc_8452_appendix_a_agrees() -> None:
    key, first, second, made = (
        bytes.fromhex(text)
        for text in (
            "25629347589242761d31f826ba4b757b",
            "4f4f95668c83dfb6401762bb2d01a262",
            "d1a24ddd2721d006bbe45f20d3c9f362",
            "f7a3b47b846119fae5b7866cf5e5b77e",
        )
    )
    blocks = np.frombuffer(first + second, "<u8").reshape(1, 2, 2)
    assert Polyval(key)(np.zeros((1, 2), "<u8"), blocks).tobytes() == made


@pytest.mark.parametrize("engine", NATIVE)
@pytest.mark.parametrize("size", [16, 32])
@pytest.mark.parametrize("unit", UNITS)
def test_units_of_every_size_and_number_agree_with_the_portable_cipher(
    engine: str, unit: int, size: int
) -> None:
    rng = np.random.default_rng(size + unit)
    key = rng.bytes(size)
    cipher, other = hctr2(engine, key), PortableHctr2(key)
    for n in (1, 2, 3, 4, 5, 6, 9, 17, 40) if unit <= 128 else (1, 4, 7, 12) if unit < 4096 else (1, 3, 6):
        ivs, data = tweaks(rng, n), rng.bytes(n * unit)
        for back in (False, True):
            assert crypt(cipher, back, unit, ivs, data) == crypt(other, back, unit, ivs, data)


@pytest.mark.parametrize("engine", NATIVE)
@pytest.mark.parametrize("row", [0, 1, 15, 16, 17, 31, 33, 48, 64])
def test_tweaks_of_every_length_agree_with_the_portable_cipher(engine: str, row: int) -> None:
    rng = np.random.default_rng(row)
    key = rng.bytes(32)
    cipher, other = hctr2(engine, key), PortableHctr2(key)
    ivs = np.frombuffer(rng.bytes(7 * row), np.uint8).reshape(7, row)
    for unit in (48, 55):
        data = rng.bytes(7 * unit)
        made = crypt(cipher, False, unit, ivs, data)
        assert made == crypt(other, False, unit, ivs, data)
        assert crypt(cipher, True, unit, ivs, made) == data


@pytest.mark.parametrize("unit", [16, 31, 64, 100, 255, 1024, 4097])
def test_a_unit_does_not_depend_on_its_neighbours(engine: str, unit: int) -> None:
    rng = np.random.default_rng(unit)
    cipher = hctr2(engine, rng.bytes(32))
    ivs, data = tweaks(rng, 11), rng.bytes(11 * unit)
    for back in (False, True):
        alone = [
            crypt(cipher, back, unit, ivs[i : i + 1], data[i * unit : (i + 1) * unit]) for i in range(11)
        ]
        assert crypt(cipher, back, unit, ivs, data) == b"".join(alone)


@pytest.mark.parametrize("shift", [0, 1, 16])
@pytest.mark.parametrize("unit", [16, 31, 64, 100, 255, 512, 4097])
def test_a_cipher_writes_its_units_and_no_byte_beside_them(engine: str, unit: int, shift: int) -> None:
    rng = np.random.default_rng(unit + shift)
    cipher = hctr2(engine, rng.bytes(32))
    for n in (1, 5, 11):
        ivs, source = tweaks(rng, n), np.frombuffer(rng.bytes(n * unit), np.uint8)
        room = np.full(n * unit + 256, 0xA5, np.uint8)
        place = room[64 + shift : 64 + shift + n * unit]
        cipher.units(False, unit, ivs, source, place)
        made = place.tobytes()
        place[:] = source
        cipher.units(False, unit, ivs, place, place)
        assert place.tobytes() == made
        cipher.units(True, unit, ivs, place, place)
        assert (place == source).all()
        assert (room[: 64 + shift] == 0xA5).all()
        assert (room[64 + shift + n * unit :] == 0xA5).all()


def test_no_unit_is_no_work(engine: str) -> None:
    none = np.empty(0, np.uint8)
    hctr2(engine, bytes(16)).units(False, 4096, np.empty((0, 4), np.uint64), none, none)


def test_every_bit_of_a_unit_and_of_its_tweak_reaches_every_block(engine: str) -> None:
    rng = np.random.default_rng(3)
    cipher = hctr2(engine, rng.bytes(16))
    ivs, data = tweaks(rng, 1), rng.bytes(256)
    before = np.frombuffer(crypt(cipher, False, 256, ivs, data), np.uint8)
    for place in (0, 15, 16, 200, 255):
        changed = bytearray(data)
        changed[place] ^= 0x80
        after = np.frombuffer(crypt(cipher, False, 256, ivs, bytes(changed)), np.uint8)
        assert (before != after).reshape(-1, 16).any(axis=1).all()
    ivs[0, 3] ^= np.uint64(1)
    after = np.frombuffer(crypt(cipher, False, 256, ivs, data), np.uint8)
    assert (before != after).reshape(-1, 16).any(axis=1).all()


@settings(max_examples=40, deadline=None, derandomize=True, database=None)
@given(
    size=st.sampled_from([16, 32]),
    unit=st.integers(16, 700),
    n=st.integers(1, 9),
    row=st.integers(0, 40),
    seed=st.integers(0, 1 << 32),
)
@pytest.mark.parametrize("name", backend.available())
def test_decryption_is_the_inverse(name: str, size: int, unit: int, n: int, row: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    cipher = hctr2(name, rng.bytes(size))
    ivs = np.frombuffer(rng.bytes(n * row), np.uint8).reshape(n, row)
    data = rng.bytes(n * unit)
    made = crypt(cipher, False, unit, ivs, data)
    assert made != data
    assert crypt(cipher, True, unit, ivs, made) == data


def test_a_wiped_cipher_holds_no_key_and_gives_other_bytes(engine: str) -> None:
    key = b"\x5a" * 32
    cipher = hctr2(engine, key)
    data, ivs = bytes(100), np.zeros((1, 4), np.uint64)
    before = crypt(cipher, False, 100, ivs, data)
    cipher.wipe()
    assert crypt(cipher, False, 100, ivs, data) != before
    held = [value for value in vars(cipher).values() if isinstance(value, bytearray | np.ndarray)]
    assert held
    for value in held:
        assert not np.frombuffer(value, np.uint8)[8:].any()
