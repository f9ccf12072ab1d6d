"""Every cipher by its name: published vectors, OpenSSL or the definition, then bounds, on every backend."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cryptography_vectors
import numpy as np
import pytest
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from hypothesis import given, settings
from hypothesis import strategies as st

from mktme.crypto import backend
from mktme.crypto.algorithms import ALGORITHMS, make
from mktme.crypto.cipher import PartCipher, PlannedCipher
from mktme.crypto.native import STREAM_FROM
from mktme.crypto.portable import CHUNK
from mktme.iv.compiled import Binding
from mktme.iv.scheme import find

VECTORS = json.loads((Path(__file__).parents[1] / "vectors/sp800-38a.json").read_text())["vectors"]
NAMES = sorted(ALGORITHMS)
MODES = [name for name in NAMES if name.startswith(("aes-cbc", "aes-ctr"))]
PLANNED = [name for name in NAMES if name.startswith(("aes-xts", "aes-xe", "aes-ctr", "aes-cbc"))]
NATIVE = [name for name in backend.available() if name != "portable"]
ALONE = [name for name in NAMES if ALGORITHMS[name].alone]
UNITS = (64, 128, 192, 512, 576, 1024, 4096)
COUNTS = (1, 2, 7, 8, 9, 31, 33, 128, 130)  # at the edges of registers, of packs and of batches
SEALS = ("aes-cbc-128/essiv", "aes-cbc-256/essiv", "aes-cbc-128/eboiv", "aes-cbc-256/eboiv")


def words(iv: bytes) -> Any:
    return np.frombuffer(iv, "<u8").astype(np.uint64).reshape(1, -1)


def keys_of(name: str, rng: np.random.Generator) -> list[bytes]:
    return [rng.bytes(size) for size in ALGORITHMS[name.partition("/")[0]].parts]


def built(name: str, keys: list[bytes], engine: str) -> Any:
    """The cipher of a name; behind a slash, how its IVs are sealed."""
    name, _, seal = name.partition("/")
    cipher: Any = make(name, keys, engine)
    return cipher.sealed(seal) if seal else cipher


def random_ivs(name: str, n: int, rng: np.random.Generator) -> Any:
    width = ALGORITHMS[name.partition("/")[0]].iv_bytes // 8
    return rng.integers(0, 1 << 64, (n, width), dtype=np.uint64)


def sizes(name: str) -> list[int]:
    """Data units that a cipher takes, small, large and odd."""
    wanted = (16, 17, 31, 64, 192, 255, 576, 1000, 4096)
    return [size for size in wanted if ALGORITHMS[name].takes(size)]


def crypt(cipher: Any, back: bool, unit: int, ivs: Any, data: Any, skip: int = 0) -> bytes:
    source = np.frombuffer(data, np.uint8)
    out = np.empty_like(source)
    cipher.units(back, unit, np.ascontiguousarray(ivs), source, out, skip)
    return out.tobytes()


def prefix(cipher: Any, back: bool, iv: bytes, data: bytes) -> bytes:
    """The beginning of a unit: what follows in it doesn't change that in any mode here."""
    padded = data.ljust(-(-len(data) // 64) * 64, b"\0")
    return crypt(cipher, back, len(padded), words(iv), padded)[: len(data)]


def ecb(key: bytes, data: bytes, back: bool = False, block: Any = algorithms.AES) -> bytes:
    context = Cipher(block(key), modes.ECB())
    return (context.decryptor() if back else context.encryptor()).update(data)


def xor(a: bytes, b: bytes) -> bytes:
    return (int.from_bytes(a, "big") ^ int.from_bytes(b, "big")).to_bytes(len(a), "big")


def cts(key: bytes, iv: bytes, data: bytes, block: Any) -> bytes:
    """CBC-CS3 of the addendum to SP 800-38A, block by block."""
    full = (len(data) - 1) // 16  # blocks before the last one
    chain, out = iv, []
    for i in range(full):
        chain = ecb(key, xor(chain, data[16 * i : 16 * i + 16]), block=block)
        out.append(chain)
    last = data[16 * full :]
    final = ecb(key, xor(chain, last.ljust(16, b"\0")), block=block)
    if not full:
        return final
    return b"".join([*out[:-1], final, chain[: len(last)]])


def by_definition(name: str, keys: list[bytes], iv: bytes, unit: bytes) -> bytes:
    """One data unit encrypted, by OpenSSL where it has the mode."""
    name, _, seal = name.partition("/")
    key, family = keys[0], ALGORITHMS[name].family
    if seal == "essiv" or "essiv" in family:
        iv = ecb(hashlib.sha256(key).digest(), iv)
    elif seal == "eboiv":
        iv = ecb(key, iv)
    if family == "aes-xe":
        return ecb(key, xor(unit, iv))
    if family == "aes-xex":
        return xor(ecb(key, xor(unit, iv)), iv)
    if family.endswith("-cts"):
        return cts(key, iv, unit, algorithms.SM4 if family == "sm4-cts" else algorithms.AES)
    if family == "aes-xts":
        return Cipher(algorithms.AES(b"".join(keys)), modes.XTS(iv)).encryptor().update(unit)
    mode = modes.CTR(iv) if family == "aes-ctr" else modes.CBC(iv)
    return Cipher(algorithms.AES(key), mode).encryptor().update(unit)


def all_by_definition(name: str, keys: list[bytes], unit: int, ivs: Any, data: bytes) -> bytes:
    return b"".join(
        by_definition(name, keys, iv.astype("<u8").tobytes(), data[i * unit : (i + 1) * unit])
        for i, iv in enumerate(ivs)
    )


# Published vectors


@pytest.mark.parametrize("vector", VECTORS, ids=[v["cipher"] for v in VECTORS])
def test_the_vectors_of_sp_800_38a_agree(engine: str, vector: dict[str, str]) -> None:
    key, iv, plain, made = (bytes.fromhex(vector[f]) for f in ("key", "iv", "plaintext", "ciphertext"))
    cipher = make(vector["cipher"], [key], engine)
    assert crypt(cipher, False, 64, words(iv), plain) == made
    assert crypt(cipher, True, 64, words(iv), made) == plain


def published(path: str) -> Iterator[list[bytes]]:
    """The key, the IV, the plaintext and the ciphertext of every case of a file."""
    case = {}
    with cryptography_vectors.open_vector_file(f"ciphers/AES/{path}", "r") as file:
        for line in file:
            field, _, value = line.strip().partition(" = ")
            if value and field in ("KEY", "IV", "PLAINTEXT", "CIPHERTEXT"):
                case[field] = bytes.fromhex(value)
            if len(case) == 4:
                yield [case[f] for f in ("KEY", "IV", "PLAINTEXT", "CIPHERTEXT")]
                case = {}


@pytest.mark.parametrize(("bits", "cases"), [(128, 588), (256, 830)])
def test_every_nist_vector_of_cbc_agrees(engine: str, bits: int, cases: int) -> None:
    count = 0
    for kind in ("GFSbox", "KeySbox", "MMT", "VarKey", "VarTxt"):
        for key, iv, plain, made in published(f"CBC/CBC{kind}{bits}.rsp"):
            cipher = make(f"aes-cbc-{bits}", [key], engine)
            assert prefix(cipher, False, iv, plain) == made
            assert prefix(cipher, True, iv, made) == plain
            count += 1
    assert count == cases


@pytest.mark.parametrize("bits", [128, 256])
def test_every_vector_of_rfc_3686_agrees(engine: str, bits: int) -> None:
    count = 0
    for key, iv, plain, made in published(f"CTR/aes-{bits}-ctr.txt"):
        cipher = make(f"aes-ctr-{bits}", [key], engine)
        assert prefix(cipher, False, iv, plain) == made
        assert prefix(cipher, True, iv, made) == plain
        count += 1
    assert count == 3


RFC_3962 = {  # appendix B, by the bytes of the text that are encrypted
    17: "c6353568f2bf8cb4d8a580362da7ff7f97",
    31: "fc00783e0efdb2c1d445d4c8eff7ed2297687268d6ecccc0c07b25e25ecfe5",
    32: "39312523a78662d5be7fcbcc98ebf5a897687268d6ecccc0c07b25e25ecfe584",
    47: "97687268d6ecccc0c07b25e25ecfe584b3fffd940c16a18c1b5549d2f838029e39312523a78662d5be7fcbcc98ebf5",
    48: "97687268d6ecccc0c07b25e25ecfe5849dad8bbb96c4cdc03bc103e1a194bbd839312523a78662d5be7fcbcc98ebf5a8",
    64: "97687268d6ecccc0c07b25e25ecfe58439312523a78662d5be7fcbcc98ebf5a8"
    "4807efe836ee89a526730dbc2f7bc8409dad8bbb96c4cdc03bc103e1a194bbd8",
}


@pytest.mark.parametrize("length", RFC_3962)
def test_ciphertext_stealing_agrees_with_rfc_3962(engine: str, length: int) -> None:
    text = b"I would like the General Gau's Chicken, please, and wonton soup."[:length]
    cipher = make("aes-cts-128", [b"chicken teriyaki"], engine)
    made = crypt(cipher, False, length, words(bytes(16)), text)
    assert made.hex() == RFC_3962[length]
    assert crypt(cipher, True, length, words(bytes(16)), made) == text


# OpenSSL and definitions


@pytest.mark.parametrize("unit", UNITS)
@pytest.mark.parametrize("name", [*MODES, *SEALS])
def test_units_of_every_size_and_number_agree_with_openssl(engine: str, name: str, unit: int) -> None:
    rng = np.random.default_rng(unit)
    keys = keys_of(name, rng)
    cipher = built(name, keys, engine)
    most = max(COUNTS)
    ivs, data = random_ivs(name, most, rng), rng.bytes(most * unit)
    made = all_by_definition(name, keys, unit, ivs, data)
    for n in COUNTS:
        first = int(rng.integers(0, most - n + 1))
        rows, part = slice(first, first + n), slice(first * unit, (first + n) * unit)
        assert crypt(cipher, False, unit, ivs[rows], data[part]) == made[part]
        assert crypt(cipher, True, unit, ivs[rows], made[part]) == data[part]


@pytest.mark.parametrize("unit", UNITS)
@pytest.mark.parametrize("name", ["aes-ctr-128", "aes-ctr-256"])
def test_counters_that_fit_the_last_byte_agree_with_openssl(engine: str, name: str, unit: int) -> None:
    rng = np.random.default_rng(unit)
    keys = keys_of(name, rng)
    cipher = make(name, keys, engine)
    for highest in (0, 256 - unit // 16):  # of the last byte, none carrying
        ivs, data = random_ivs(name, 130, rng), rng.bytes(130 * unit)
        ivs.view(np.uint8)[:, 15] = rng.integers(0, highest + 1, 130)
        ivs.view(np.uint8)[-1, 15] = highest
        made = all_by_definition(name, keys, unit, ivs, data)
        for n in COUNTS:
            part = slice((130 - n) * unit, None)
            assert crypt(cipher, False, unit, ivs[130 - n :], data[part]) == made[part]


@pytest.mark.parametrize("unit", [64, 192, 576, 4096])
@pytest.mark.parametrize("name", ["aes-ctr-128", "aes-ctr-256"])
def test_a_counter_carries_through_all_of_its_bytes(engine: str, name: str, unit: int) -> None:
    rng = np.random.default_rng(unit)
    keys = keys_of(name, rng)
    cipher = make(name, keys, engine)
    ivs = random_ivs(name, 130, rng)
    flat = ivs.view(np.uint8)
    for i, row in enumerate(flat):
        row[16 - i % 17 :] = 0xFF  # none to all of its bytes
        row[15] -= i % 5 if i % 17 else 0  # at once, or some blocks later
    data = rng.bytes(130 * unit)
    made = all_by_definition(name, keys, unit, ivs, data)
    assert crypt(cipher, False, unit, ivs, data) == made
    assert crypt(cipher, True, unit, ivs, made) == data
    for i in range(34):
        alone = slice(i * unit, (i + 1) * unit)
        assert crypt(cipher, False, unit, ivs[i : i + 1], data[alone]) == made[alone]
        for skip in range(0, unit, 64 * (1 + unit // 512)):
            part = slice(i * unit + skip, (i + 2) * unit)
            assert crypt(cipher, False, unit, ivs[i : i + 2], data[part], skip) == made[part]
    order = rng.permutation(130 * unit // 64)[:260]
    lines = np.frombuffer(data, np.uint8).reshape(-1, 64)[order]
    out = np.empty(lines.size, np.uint8)
    at = order * 64
    cipher.lines(False, ivs[at // unit], (at % unit).astype(np.uint64), lines.reshape(-1), out)
    assert (out.reshape(-1, 64) == np.frombuffer(made, np.uint8).reshape(-1, 64)[order]).all()


@pytest.mark.parametrize("name", ["aes-xe-128", "aes-xex-128"])
def test_blocks_of_any_number_agree_with_the_definition(engine: str, name: str) -> None:
    rng = np.random.default_rng(16)
    keys = keys_of(name, rng)
    cipher = make(name, keys, engine)
    ivs, data = random_ivs(name, 1100, rng), rng.bytes(1100 * 16)
    made = all_by_definition(name, keys, 16, ivs, data)
    for n in (*COUNTS, 3, 4, 12, 32, 36, 511, 512, 516, 1024, 1097):
        part = slice(16, 16 + 16 * n)
        assert crypt(cipher, False, 16, ivs[1 : 1 + n], data[part]) == made[part]
        assert crypt(cipher, True, 16, ivs[1 : 1 + n], made[part]) == data[part]


@pytest.mark.parametrize("name", ["aes-cts-128", "aes-cts-256", "sm4-cts"])
def test_names_of_every_length_agree_with_the_definition(engine: str, name: str) -> None:
    rng = np.random.default_rng(80)
    keys = keys_of(name, rng)
    cipher = make(name, keys, engine)
    for length in (*range(16, 81), 254, 255):
        ivs, data = random_ivs(name, 2, rng), rng.bytes(2 * length)
        made = all_by_definition(name, keys, length, ivs, data)
        assert crypt(cipher, False, length, ivs, data) == made
        assert crypt(cipher, True, length, ivs, made) == data


# Lines of larger units


@pytest.mark.parametrize("unit", [128, 192, 576, 4096])
@pytest.mark.parametrize("name", ALONE)
def test_any_part_of_consecutive_units_is_that_part_of_the_whole(engine: str, name: str, unit: int) -> None:
    rng = np.random.default_rng(unit)
    cipher = make(name, keys_of(name, rng), engine)
    units = 300 if unit < 600 else 20
    for low in (False, True):
        ivs, data = random_ivs(name, units, rng), rng.bytes(units * unit)
        if low:
            ivs.view(np.uint8)[:, 15] = 0  # in counter mode, no carry
        made = crypt(cipher, False, unit, ivs, data)
        lines = units * unit // 64
        edges = [(1, lines), (0, lines - 1), (unit // 64 - 1, unit // 64 + 1), (1, 2)]
        for first, last in [*edges, *np.sort(rng.integers(0, lines, (30, 2))).tolist()]:
            start, end = 64 * first, 64 * (last + 1 if first == last else last)
            rows = ivs[start // unit : -(-end // unit)]
            assert crypt(cipher, False, unit, rows, data[start:end], start % unit) == made[start:end]
            assert crypt(cipher, True, unit, rows, made[start:end], start % unit) == data[start:end]


@pytest.mark.parametrize("unit", [64, 192, 1024, 4096])
@pytest.mark.parametrize("name", ALONE)
def test_scattered_lines_are_those_of_the_whole_units(engine: str, name: str, unit: int) -> None:
    rng = np.random.default_rng(unit)
    cipher = make(name, keys_of(name, rng), engine)
    assert isinstance(cipher, PartCipher)
    units = -(-130 * 64 // unit)
    for low in (False, True):
        ivs, data = random_ivs(name, units, rng), rng.bytes(units * unit)
        if low:
            ivs.view(np.uint8)[:, 15] = 0
        whole = np.frombuffer(crypt(cipher, False, unit, ivs, data), np.uint8).reshape(-1, 64)
        plain = np.frombuffer(data, np.uint8).reshape(-1, 64)
        for n in COUNTS:
            order = rng.permutation(len(plain))[:n]
            rows, skips = ivs[order * 64 // unit], (order * 64 % unit).astype(np.uint64)
            for back, source, expected in ((False, plain, whole), (True, whole, plain)):
                room = np.full(64 * n + 128, 0xA5, np.uint8)
                cipher.lines(back, rows, skips, source[order].reshape(-1), room[64:-64])
                assert (room[64:-64].reshape(-1, 64) == expected[order]).all()
                assert (room[:64] == 0xA5).all()
                assert (room[-64:] == 0xA5).all()
            same = plain[order]
            cipher.lines(False, rows, skips, same.reshape(-1), same.reshape(-1))
            assert (same == whole[order]).all()


# Bounds


@pytest.mark.parametrize("name", [*NAMES, *SEALS[1:3]])
def test_a_cipher_writes_its_units_and_no_byte_beside_them(engine: str, name: str) -> None:
    rng = np.random.default_rng(3)
    cipher = built(name, keys_of(name, rng), engine)
    for unit in sizes(name.partition("/")[0]):
        for n, shift in ((1, 0), (2, 63), (3, 16), (5, 1), (9, 8), (33, 40), (129, 7), (131, 16)):
            if n * unit > 1 << 16:
                continue
            ivs = random_ivs(name, n, rng)
            loose = np.frombuffer(rng.bytes(shift + n * unit), np.uint8)[shift:]
            room = np.full(n * unit + 256, 0xA5, np.uint8)
            start = -room.ctypes.data % 64 + 64 + shift
            place = room[start : start + n * unit]
            cipher.units(False, unit, ivs, loose, place)
            made = place.tobytes()
            place[:] = loose
            cipher.units(False, unit, ivs, place, place)
            assert place.tobytes() == made
            assert made != loose.tobytes()
            cipher.units(True, unit, ivs, place, place)
            assert (place == loose).all()
            assert (room[:start] == 0xA5).all()
            assert (room[start + n * unit :] == 0xA5).all()


@pytest.mark.parametrize("name", NAMES)
def test_no_unit_is_no_work(engine: str, name: str) -> None:
    rng = np.random.default_rng(5)
    cipher = make(name, keys_of(name, rng), engine)
    room = np.full(64, 0xA5, np.uint8)
    for back in (False, True):
        cipher.units(back, sizes(name)[-1], random_ivs(name, 0, rng), room[:0], room[:0])
    assert (room == 0xA5).all()


LARGE = {"aes-xts-128": 64, "aes-ctr-128": 64, "aes-xts-256": 4096, "aes-ctr-256": 1024, "aes-cbc-256": 512}


@pytest.mark.parametrize("name", [name for name in NAMES if "-cts" not in name])
def test_a_request_long_enough_to_bypass_the_cache_gives_the_same_bytes(engine: str, name: str) -> None:
    rng = np.random.default_rng(4)
    cipher = make(name, keys_of(name, rng), engine)
    unit = LARGE.get(name, 16 if ALGORITHMS[name].units[1] == 16 else 4096)
    skip = 64 if ALGORITHMS[name].alone and unit > 64 else 0
    n = (STREAM_FROM if engine != "portable" else 2 * CHUNK) // unit + 5
    size = n * unit - 2 * skip  # the last unit ends early
    ivs, data = random_ivs(name, n, rng), np.frombuffer(rng.bytes(size), np.uint8)
    ivs.view(np.uint8)[n // 3 :, 15] = 0  # in counter mode, carries before and none behind
    made = np.empty_like(data)
    step = (1 << 17) // unit
    for u in range(0, n, step):
        start, end = max(0, u * unit - skip), min(size, (u + step) * unit - skip)
        rows = np.ascontiguousarray(ivs[u : u + step])
        cipher.units(False, unit, rows, data[start:end], made[start:end], 0 if u else skip)
    room = np.empty(size + 256, np.uint8)
    for offset in (0, 16, 8):
        room[:] = 0xA5
        start = -room.ctypes.data % 64 + 64 + offset
        place = room[start : start + size]
        cipher.units(False, unit, ivs, data, place, skip)
        assert (place == made).all()
        cipher.units(True, unit, ivs, place, place, skip)
        assert (place == data).all()
        assert (room[:start] == 0xA5).all()
        assert (room[start + size :] == 0xA5).all()


# IV schemes inside the kernels


@pytest.mark.parametrize("engine", NATIVE)
@pytest.mark.parametrize("name", [*PLANNED, *SEALS])
def test_a_scheme_inside_the_kernel_gives_what_its_ivs_give(engine: str, name: str) -> None:
    rng = np.random.default_rng(6)
    algorithm = ALGORITHMS[name.partition("/")[0]]
    cipher = built(name, keys_of(name, rng), engine)
    assert isinstance(cipher, PlannedCipher)
    width = algorithm.iv_bytes // 8
    pairs = [("ino-lblk-64", 64), ("ino-lblk-64", 576), ("plain64be", 512), ("plain64be", 1024)]
    values = {"block": 3, "inode": 77, "sector": 2**60 + 250, "system_address": 4096}
    for scheme, unit in pairs if algorithm.takes(64) else [("xex", 16), ("ino-lblk-64", 16)]:
        binding = Binding(find(scheme), unit, values)
        plan = binding.plan(width)
        assert plan is not None
        for first, n in ((0, 1), (5, 3), (0, 128), (7, 129), (1 << 33, 260), (1, 515)):
            ivs, data = binding.ivs(first, n, width), rng.bytes(n * unit)
            source, out = np.frombuffer(data, np.uint8), np.empty(n * unit, np.uint8)
            cipher.planned(False, unit, *plan, first, source, out, 0)
            assert out.tobytes() == crypt(cipher, False, unit, ivs, data)
            cipher.planned(True, unit, *plan, first, out, out, 0)
            assert out.tobytes() == data
            if algorithm.alone and unit > 64:
                part, line = source[64:], out[64:]
                cipher.planned(False, unit, *plan, first, part, line, 64)
                assert line.tobytes() == crypt(cipher, False, unit, ivs, part, 64)


# Keys


def held(value: Any) -> list[bytes]:
    """The buffers of an object of the project and of what it is made of."""
    if isinstance(value, bytes | bytearray | np.ndarray):
        return [bytes(value)]
    if isinstance(value, list | tuple):
        return [buffer for v in value for buffer in held(v)]
    if isinstance(value, dict):
        return held(list(value.values()))
    if type(value).__module__.startswith("mktme") and hasattr(value, "__dict__"):
        return held(vars(value))
    return []


def pieces(buffers: list[bytes], step: int) -> set[bytes]:
    """What 8 bytes there are at multiples of `step`."""
    return {buffer[i : i + 8] for buffer in buffers for i in range(0, len(buffer) - 7, step)}


@pytest.mark.parametrize("name", [*NAMES, *SEALS])
def test_a_wiped_cipher_holds_nothing_of_its_key_and_gives_other_bytes(engine: str, name: str) -> None:
    rng = np.random.default_rng(8)
    keys = keys_of(name, rng)
    cipher, other = built(name, keys, engine), built(name, keys_of(name, rng), engine)
    unit = sizes(name.partition("/")[0])[-1]
    ivs, data = random_ivs(name, 4, rng), rng.bytes(4 * unit)
    before = crypt(cipher, False, unit, ivs, data)
    made_from_key = pieces(held(cipher), 8) - pieces(held(other), 8)  # round keys, tables
    assert made_from_key
    cipher.wipe()
    after = crypt(cipher, False, unit, ivs, data)
    assert all(before[at : at + unit] != after[at : at + unit] for at in range(0, 4 * unit, unit))
    left = held(cipher)
    assert not made_from_key & pieces(left, 8)
    assert not pieces([*keys, *(hashlib.sha256(key).digest() for key in keys)], 1) & pieces(left, 1)


@pytest.mark.parametrize("name", NAMES)
def test_a_cipher_keeps_no_view_of_the_keys_that_it_was_made_from(engine: str, name: str) -> None:
    rng = np.random.default_rng(9)
    keys = [bytearray(key) for key in keys_of(name, rng)]
    other = make(name, [bytes(key) for key in keys], engine)
    cipher = make(name, list(keys), engine)
    for key in keys:
        key[:] = bytes(len(key))
    unit = sizes(name)[0]
    ivs, data = random_ivs(name, 4, rng), rng.bytes(4 * unit)
    assert crypt(cipher, False, unit, ivs, data) == crypt(other, False, unit, ivs, data)


# Everything at once


@settings(max_examples=12, deadline=None, derandomize=True, database=None)
@given(place=st.floats(0, 1), n=st.integers(1, 40), seed=st.integers(0, 1 << 32))
@pytest.mark.parametrize("chosen", backend.available())
@pytest.mark.parametrize("name", NAMES)
def test_decryption_is_the_inverse(name: str, chosen: str, place: float, n: int, seed: int) -> None:
    least, most, multiple = ALGORITHMS[name].units
    unit = least + round(place * (most - least)) // multiple * multiple
    assert ALGORITHMS[name].takes(unit)
    rng = np.random.default_rng(seed)
    cipher = make(name, keys_of(name, rng), chosen)
    n = max(1, min(n, (1 << 15) // unit))
    ivs, data = random_ivs(name, n, rng), rng.bytes(n * unit)
    made = crypt(cipher, False, unit, ivs, data)
    assert made != data
    assert crypt(cipher, True, unit, ivs, made) == data
    portable = make(name, keys_of(name, np.random.default_rng(seed)), "portable")
    assert crypt(portable, False, unit, ivs, data) == made
