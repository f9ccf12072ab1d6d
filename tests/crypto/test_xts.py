"""AES-XTS: published vectors first, then against OpenSSL, then bounds, on every backend."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cryptography_vectors
import numpy as np
import pytest
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes

from mktme.crypto.backend import aes_xts
from mktme.crypto.native import STREAM_FROM

IEEE = json.loads((Path(__file__).parents[1] / "vectors/ieee1619.json").read_text())["vectors"]
UNITS = (64, 128, 192, 448, 512, 576, 1024, 4032, 4096, 8192)


def nist(folder: str, bits: int) -> Iterator[tuple[bool, bytes, bytes, bytes, bytes]]:
    """(decrypt, key, IV, input, output) of every case whose units are whole blocks."""
    back, case = False, {}
    name = f"ciphers/AES/XTS/{folder}/XTSGenAES{bits}.rsp"
    with cryptography_vectors.open_vector_file(name, "r") as file:
        for line in file:
            if line.startswith("["):
                back = "DECRYPT" in line
            elif " = " in line:
                field, value = line.strip().split(" = ")
                case[field] = value
                last = "PT" if back else "CT"
                if field == last and int(case["DataUnitLen"]) % 128 == 0:
                    if "i" in case:
                        iv = bytes.fromhex(case["i"])
                    else:
                        iv = int(case["DataUnitSeqNumber"]).to_bytes(16, "little")
                    plain, made = bytes.fromhex(case["PT"]), bytes.fromhex(case["CT"])
                    source, to = (made, plain) if back else (plain, made)
                    yield back, bytes.fromhex(case["Key"]), iv, source, to


def crypt(engine: str, key: bytes, back: bool, unit: int, ivs: Any, data: bytes | Any) -> bytes:
    half = len(key) // 2
    source = np.frombuffer(data, np.uint8)
    out = np.empty_like(source)
    aes_xts(key[:half], key[half:], engine).units(back, unit, ivs, source, out)
    return out.tobytes()


def one(engine: str, key: bytes, back: bool, iv: bytes, data: bytes) -> bytes:
    """One data unit; a shorter one is the beginning of one of 64 bytes."""
    padded = data.ljust(-(-len(data) // 64) * 64, b"\0")
    words = np.frombuffer(iv, "<u8").astype(np.uint64).reshape(1, 2)
    return crypt(engine, key, back, len(padded), words, padded)[: len(data)]


def openssl(key: bytes, back: bool, unit: int, ivs: Any, data: bytes) -> bytes:
    out = []
    for i, iv in enumerate(ivs):
        cipher = Cipher(algorithms.AES(key), modes.XTS(iv.astype("<u8").tobytes()))
        context = cipher.decryptor() if back else cipher.encryptor()
        out.append(context.update(data[i * unit : (i + 1) * unit]))
    return b"".join(out)


@pytest.mark.parametrize("folder", ["tweak-128hexstr", "tweak-dataunitseqno"])
@pytest.mark.parametrize("bits", [128, 256])
def test_every_nist_vector_of_whole_blocks_agrees(engine: str, folder: str, bits: int) -> None:
    cases = 0
    for back, key, iv, source, to in nist(folder, bits):
        assert one(engine, key, back, iv, source) == to
        assert one(engine, key, not back, iv, to) == source
        cases += 1
    assert cases >= 500


@pytest.mark.parametrize("vector", IEEE, ids=[f"vector-{v['number']}" for v in IEEE])
def test_ieee_1619_vectors_agree(engine: str, vector: dict[str, Any]) -> None:
    key = bytes.fromhex(vector["data_key"] + vector["tweak_key"])
    iv = vector["data_unit"].to_bytes(16, "little")
    plain, made = bytes.fromhex(vector["plaintext"]), bytes.fromhex(vector["ciphertext"])
    assert one(engine, key, False, iv, plain) == made
    assert one(engine, key, True, iv, made) == plain


@pytest.mark.parametrize("unit", UNITS)
@pytest.mark.parametrize("bits", [128, 256])
def test_units_of_every_size_and_number_agree_with_openssl(engine: str, bits: int, unit: int) -> None:
    rng = np.random.default_rng(bits + unit)
    key = rng.bytes(bits // 4)
    counts = (1, 2, 3, 5, 7, 8, 9, 31, 33, 65, 127, 128, 129, 257) if unit < 600 else (1, 2, 3, 5)
    for n in counts:
        ivs = rng.integers(0, 1 << 64, (n, 2), dtype=np.uint64)
        data = rng.bytes(n * unit)
        for back in (False, True):
            assert crypt(engine, key, back, unit, ivs, data) == openssl(key, back, unit, ivs, data)


@pytest.mark.parametrize("shift", [0, 1, 16, 63])
@pytest.mark.parametrize("unit", [64, 576])
def test_a_cipher_writes_its_units_and_no_byte_beside_them(engine: str, unit: int, shift: int) -> None:
    rng = np.random.default_rng(shift)
    cipher = aes_xts(rng.bytes(32), rng.bytes(32), engine)
    for n in (1, 3, 17, 129):
        ivs = rng.integers(0, 1 << 64, (n, 2), dtype=np.uint64)
        source = np.frombuffer(rng.bytes(n * unit), np.uint8)
        room = np.full(n * unit + 256, 0xA5, np.uint8)
        start = 64 + shift
        cipher.units(False, unit, ivs, source, room[start : start + n * unit])
        assert (room[:start] == 0xA5).all()
        assert (room[start + n * unit :] == 0xA5).all()
        cipher.units(True, unit, ivs, room[start : start + n * unit], room[start : start + n * unit])
        assert (room[start : start + n * unit] == source).all()


@pytest.mark.parametrize("offset", [0, 16, 40])
def test_a_request_long_enough_to_bypass_the_cache_gives_the_same_bytes(engine: str, offset: int) -> None:
    rng = np.random.default_rng(offset)
    key = rng.bytes(32)
    cipher = aes_xts(key[:16], key[16:], engine)
    size = STREAM_FROM + 4096
    media = np.frombuffer(rng.bytes(size + 128), np.uint8).copy()
    before = media.copy()
    room = np.full(size + 256, 0xA5, np.uint8)
    first = -room.ctypes.data % 64 + offset
    out = room[first : first + size]
    cipher.read(media, media.ctypes.data, 64, out)
    ivs = np.zeros((size // 64, 2), np.uint64)
    ivs[:, 0] = np.arange(1, size // 64 + 1)
    pieces = [slice(i, i + 64) for i in (0, 64, 8192, size // 2 & -64, size - 64)]
    for piece in pieces:
        iv = ivs[piece.start // 64 : piece.start // 64 + 1]
        expected = openssl(key, True, 64, iv, media[64:][piece].tobytes())
        assert out[piece].tobytes() == expected
    assert (room[:first] == 0xA5).all()
    assert (room[first + size :] == 0xA5).all()
    cipher.write(media, media.ctypes.data, 64, out)
    assert (media == before).all()


def test_every_range_reads_and_writes_its_bytes_only(engine: str) -> None:
    rng = np.random.default_rng(7)
    cipher = aes_xts(rng.bytes(16), rng.bytes(16), engine)
    media = np.frombuffer(rng.bytes(4096), np.uint8).copy()
    base = media.ctypes.data
    model = np.empty_like(media)
    cipher.read(media, base, 0, model)
    again = np.empty_like(media)
    for _ in range(120):
        start, end = sorted(rng.integers(0, 4097, 2).tolist())
        out = np.empty(end - start, np.uint8)
        cipher.read(media, base, start, out)
        assert (out == model[start:end]).all()
        model[start:end] = np.frombuffer(rng.bytes(end - start), np.uint8)
        cipher.write(media, base, start, model[start:end].copy())
        cipher.read(media, base, 0, again)
        assert (again == model).all()


@pytest.mark.parametrize("length", [1, 8, 24, 64, 100, 300])
def test_runs_are_read_and_written_one_after_another(engine: str, length: int) -> None:
    rng = np.random.default_rng(length)
    cipher = aes_xts(rng.bytes(32), rng.bytes(32), engine)
    media = np.frombuffer(rng.bytes(1 << 16), np.uint8).copy()
    base = media.ctypes.data
    model = np.empty_like(media)
    cipher.read(media, base, 0, model)
    starts = rng.integers(0, media.size - length, 700).astype(np.uint64)
    out = np.empty(starts.size * length, np.uint8)
    cipher.read_runs(media, base, starts, length, out)
    assert (out.reshape(-1, length) == np.array([model[s : s + length] for s in starts.tolist()])).all()
    data = np.frombuffer(rng.bytes(out.size), np.uint8)
    cipher.write_runs(media, base, starts, length, data)
    for start, row in zip(starts.tolist(), data.reshape(-1, length), strict=True):
        model[start : start + length] = row
    cipher.read(media, base, 0, out := np.empty_like(media))
    assert (out == model).all()


@pytest.mark.parametrize("ordered", [False, True])
def test_scattered_lines_are_the_lines_at_their_addresses(engine: str, ordered: bool) -> None:
    rng = np.random.default_rng(5)
    cipher = aes_xts(rng.bytes(16), rng.bytes(16), engine)
    media = np.frombuffer(rng.bytes(1 << 16), np.uint8).copy()
    base = media.ctypes.data
    model = np.empty_like(media)
    cipher.read(media, base, 0, model)
    for n in (1, 2, 7, 9, 127, 130, 513):
        addresses = (rng.permutation(1024)[:n] * 64).astype(np.uint64)
        order = np.flatnonzero(rng.random(n) < 0.5).astype(np.uint64) if ordered else None
        taken = np.arange(n) if order is None else order
        out = np.full((n, 64), 0xA5, np.uint8)
        cipher.read_lines(media, base, addresses, order, out)
        rest = np.ones(n, bool)
        rest[taken] = False
        assert (out[rest] == 0xA5).all()
        assert (out[taken] == model.reshape(-1, 64)[addresses[taken] // 64]).all()
        lines = np.frombuffer(rng.bytes(64 * n), np.uint8).reshape(n, 64)
        cipher.write_lines(media, base, addresses, order, lines)
        model.reshape(-1, 64)[addresses[taken] // 64] = lines[taken]
    whole = np.empty_like(media)
    cipher.read(media, base, 0, whole)
    assert (whole == model).all()


def test_a_wiped_cipher_holds_no_key_and_gives_other_bytes(engine: str) -> None:
    data_key, tweak_key = b"\x5a" * 32, b"\xc3" * 32
    cipher = aes_xts(data_key, tweak_key, engine)
    data, ivs = np.zeros(64, np.uint8), np.zeros((1, 2), np.uint64)
    before, after = np.empty(64, np.uint8), np.empty(64, np.uint8)
    cipher.units(False, 64, ivs, data, before)
    cipher.wipe()
    cipher.units(False, 64, ivs, data, after)
    assert (before != after).any()
    held = b"".join(
        bytes(value)
        for part in (cipher, getattr(cipher, "_schedule", cipher))
        for value in vars(part).values()
        if isinstance(value, bytearray | np.ndarray)
    )
    assert held
    assert data_key not in held
    assert tweak_key not in held
