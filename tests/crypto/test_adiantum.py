"""Adiantum: published vectors first, then the kernels against the portable cipher, then bounds."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mktme.crypto import backend
from mktme.crypto.adiantum import Adiantum
from mktme.crypto.backend import WIDTH
from mktme.crypto.portable_adiantum import PortableAdiantum

VECTORS = Path(__file__).parents[1] / "vectors"
GOOGLE = json.loads((VECTORS / "adiantum.json").read_text())["vectors"]
FSCRYPT = [
    v
    for v in json.loads((VECTORS / "fscrypt.json").read_text())["vectors"]
    if v["cipher"] == "Adiantum" and v["kdf"] == "none"
]
UNITS = (16, 17, 31, 32, 48, 63, 64, 79, 80, 81, 128, 144, 255, 512, 528, 1000, 1024, 1039, 1040, 1041)
LONG_UNITS = (2047, 2048, 2049, 4096, 4097, 4112, 4113, 5136, 9000)
KEY = bytes(range(100, 132))
NATIVE = [name for name in backend.available() if name != "portable"]


def cipher(engine: str, key: bytes = KEY) -> Any:
    return PortableAdiantum(key) if engine == "portable" else Adiantum(WIDTH[engine], key)


@cache
def kept(engine: str) -> Any:
    return cipher(engine)


def crypt(c: Any, back: bool, unit: int, tweaks: Any, data: bytes) -> bytes:
    source = np.frombuffer(data, np.uint8)
    out = np.empty_like(source)
    c.units(back, unit, tweaks, source, out)
    return out.tobytes()


def some(seed: int, n: int, unit: int, tweak_words: int = 4) -> tuple[Any, bytes]:
    """Tweaks and data of n units."""
    rng = np.random.default_rng(seed)
    return rng.integers(0, 1 << 64, (n, tweak_words), dtype=np.uint64), rng.bytes(n * unit)


@pytest.mark.parametrize("vector", GOOGLE, ids=[f"{i}" for i in range(len(GOOGLE))])
def test_the_designers_vectors_agree(engine: str, vector: dict[str, str]) -> None:
    key, tweak, plain, made = (bytes.fromhex(vector[f]) for f in ("key", "tweak", "plaintext", "ciphertext"))
    row = np.frombuffer(tweak, np.uint8).reshape(1, len(tweak))
    c = cipher(engine, key)
    assert crypt(c, False, len(plain), row, plain) == made
    assert crypt(c, True, len(made), row, made) == plain


@pytest.mark.parametrize("vector", FSCRYPT, ids=[v["id"] for v in FSCRYPT])
def test_the_file_systems_vectors_agree(engine: str, vector: dict[str, Any]) -> None:
    plain, made = bytes.fromhex(vector["plaintext"]), bytes.fromhex(vector["ciphertext"])
    unit = min(vector["data_unit_size"], len(made))
    n = len(made) // unit
    tweaks = np.zeros((n, 4), "<u8")
    tweaks[:, 0] = vector["data_unit_index"] + np.arange(n)
    if vector["iv_method"] == "direct_key":
        tweaks[:, 1:3] = np.frombuffer(bytes.fromhex(vector["file_nonce"]), "<u8")
    else:
        assert vector["iv_method"] == "default"
    c = cipher(engine, bytes.fromhex(vector["master_key"])[:32])
    padded = plain.ljust(len(made), b"\0")
    assert n * unit == len(made)
    assert crypt(c, False, unit, tweaks, padded) == made
    assert crypt(c, True, unit, tweaks, made) == padded


def test_there_are_vectors_of_both() -> None:
    assert len(GOOGLE) >= 15
    assert len(FSCRYPT) >= 3


@pytest.mark.parametrize("engine", NATIVE)
@pytest.mark.parametrize("unit", UNITS + LONG_UNITS)
def test_units_of_every_size_and_number_agree_with_the_portable_cipher(engine: str, unit: int) -> None:
    counts = (1, 2, 3, 4, 5, 7, 8, 9, 15, 16, 17, 24, 31, 33, 40) if unit in UNITS else (1, 3, 8, 13, 17)
    for n in counts:
        tweaks, data = some(unit + n, n, unit)
        made = crypt(kept("portable"), False, unit, tweaks, data)
        assert crypt(kept(engine), False, unit, tweaks, data) == made
        assert crypt(kept(engine), True, unit, tweaks, made) == data


@pytest.mark.parametrize("engine", NATIVE)
@pytest.mark.parametrize("length", [*range(36), 47, 48, 49, 63, 64, 65, 200])
def test_tweaks_of_every_length_agree_with_the_portable_cipher(engine: str, length: int) -> None:
    rng = np.random.default_rng(length)
    tweaks = rng.integers(0, 256, (19, length), dtype=np.uint8)
    data = rng.bytes(19 * 80)
    made = crypt(kept("portable"), False, 80, tweaks, data)
    assert crypt(kept(engine), False, 80, tweaks, data) == made
    assert crypt(kept(engine), True, 80, tweaks, made) == data


@pytest.mark.parametrize("fill", [0x00, 0xFF])
@pytest.mark.parametrize("engine", NATIVE)
def test_extreme_bytes_agree_with_the_portable_cipher(engine: str, fill: int) -> None:
    for key in (bytes(32), b"\xff" * 32):
        for unit in (16, 33, 1040, 4096):
            tweaks, data = np.full((9, 32), fill, np.uint8), bytes([fill]) * (9 * unit)
            made = crypt(cipher("portable", key), False, unit, tweaks, data)
            assert crypt(cipher(engine, key), False, unit, tweaks, data) == made


@pytest.mark.parametrize("shift", [0, 1, 63])
@pytest.mark.parametrize("unit", [16, 17, 31, 64, 100, 255, 512, 1000, 4096, 4097])
def test_units_are_written_in_place_and_no_byte_beside_them(engine: str, unit: int, shift: int) -> None:
    for n in (1, 3, 16, 17):
        tweaks, data = some(shift + n, n, unit)
        made = crypt(kept(engine), False, unit, tweaks, data)
        room = np.full(n * unit + 256, 0xA5, np.uint8)
        start = 64 + shift
        place = room[start : start + n * unit]
        place[:] = np.frombuffer(data, np.uint8)
        for back, expected in ((False, made), (True, data)):
            kept(engine).units(back, unit, tweaks, place, place)
            assert place.tobytes() == expected
        assert (room[:start] == 0xA5).all()
        assert (room[start + n * unit :] == 0xA5).all()


@pytest.mark.parametrize("unit", [16, 40, 255, 512, 4096])
def test_a_unit_depends_on_its_own_tweak_and_bytes_only(engine: str, unit: int) -> None:
    tweaks, data = some(unit, 21, unit)
    made = crypt(kept(engine), False, unit, tweaks, data)
    for i in range(21):
        piece = slice(i * unit, (i + 1) * unit)
        assert crypt(kept(engine), False, unit, tweaks[i : i + 1], data[piece]) == made[piece]


@pytest.mark.parametrize("unit", [64, 1040, 4096])
def test_every_bit_changes_the_whole_unit_it_is_in_and_no_other(engine: str, unit: int) -> None:
    tweaks, data = some(unit, 17, unit)
    made = np.frombuffer(crypt(kept(engine), False, unit, tweaks, data), np.uint8).reshape(17, unit)
    for place in (0, unit // 2, unit - 17, unit - 1):
        other = bytearray(data)
        other[5 * unit + place] ^= 0x80
        got = np.frombuffer(crypt(kept(engine), False, unit, tweaks, bytes(other)), np.uint8)
        changed = got.reshape(17, unit) != made
        assert changed[5].mean() > 0.9
        assert not np.delete(changed, 5, axis=0).any()


@settings(max_examples=30, deadline=None, derandomize=True, database=None)
@given(unit=st.integers(16, 1200), n=st.integers(1, 20), tweak=st.integers(0, 64), seed=st.integers(0, 99))
@pytest.mark.parametrize("name", backend.available())
def test_decryption_undoes_encryption(name: str, unit: int, n: int, tweak: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    tweaks, data = rng.integers(0, 256, (n, tweak), dtype=np.uint8), rng.bytes(n * unit)
    made = crypt(kept(name), False, unit, tweaks, data)
    assert made != data
    assert crypt(kept(name), True, unit, tweaks, made) == data


def test_no_units_are_nothing(engine: str) -> None:
    kept(engine).units(False, 64, np.empty((0, 4), np.uint64), np.empty(0, np.uint8), np.empty(0, np.uint8))


def test_a_wiped_cipher_holds_no_key_and_gives_other_bytes(engine: str) -> None:
    c = cipher(engine)
    tweaks, data = some(1, 3, 4096)
    before = crypt(c, False, 4096, tweaks, data)
    held = [value for value in vars(c).values() if isinstance(value, bytearray | np.ndarray)]
    kept_keys = [bytes(value)[8:] for value in held]
    assert any(KEY in bytes(value) for value in held)
    c.wipe()
    assert crypt(c, False, 4096, tweaks, data) != before
    assert kept_keys
    for value in held:
        assert not any(bytes(value)[8:])
