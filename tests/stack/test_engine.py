"""A block device's engine and its fallback against the ciphers, each data unit with its IV given."""

from __future__ import annotations

import json
from collections.abc import Callable
from itertools import accumulate, pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import pmem
from mktme import Key
from mktme.crypto import backend
from mktme.crypto.algorithms import ALGORITHMS, make
from mktme.crypto.cipher import Bytes
from mktme.fscrypt import kdf
from mktme.stack.bio import SECTOR, Bio
from mktme.stack.engine import BOUNCE, CHUNK, BlockDevice, dun_ivs
from mktme.stack.keyslots import SOFTWARE, UNITS, BlockKey, CryptoProfile
from mktme.stack.traffic import Traffic
from pmem import ReadOnlyDevice

MakeKey = Callable[..., BlockKey]
SIZE = 1 << 20
LENGTHS = (1, 3, 0, 2)  # data units of the segments
NUMBERS = {  # the first of six: what is counted over
    "0": 0,
    "2^32": (1 << 32) - 2,
    "2^63": (1 << 63) - 3,
    "2^64": (1 << 64) - 3,
    "2^120": (0xA5 << 120) - 1,
    "2^128": (1 << 128) - 2,
    "a nonce": int.from_bytes(bytes(range(0xF0, 0x100)), "little") << 64 | ((1 << 64) - 4),
    "2^192": (1 << 192) - 5,
    "the last": (1 << 256) - 6,
}


def engines(device: pmem.Device) -> tuple[BlockDevice, BlockDevice]:
    """One whose engine does everything, and one that has none."""
    return BlockDevice(device, CryptoProfile(2, SOFTWARE, dun_bytes=32)), BlockDevice(device)


def by_hand(key: BlockKey, dun: int, data: Bytes) -> bytes:
    """Each data unit in a call of the cipher, its IV the number in little-endian bytes."""
    copy = key.make()
    cipher, width = make(key.algorithm, list(copy.parts())), ALGORITHMS[key.algorithm].iv_bytes
    made = []
    for n in range(data.size // key.unit):
        ivs = np.frombuffer((dun + n).to_bytes(width, "little"), np.uint64).reshape(1, -1).copy()
        out = np.empty(key.unit, np.uint8)
        cipher.units(False, key.unit, ivs, data[n * key.unit : (n + 1) * key.unit].copy(), out)
        made.append(out.tobytes())
    return b"".join(made)


def pieces(data: Bytes, unit: int) -> tuple[Bytes, ...]:
    """Segments in memory of their own, each at another offset from a line's beginning."""
    made = []
    for n, (first, end) in enumerate(pairwise(accumulate([0, *LENGTHS]))):
        room = np.empty((end - first) * unit + 64, np.uint8)[7 * n :][: (end - first) * unit]
        room[:] = data[first * unit : end * unit]
        made.append(room)
    return tuple(made)


@pytest.mark.parametrize("chosen", backend.available())
@pytest.mark.parametrize("algorithm", SOFTWARE)
def test_engine_and_fallback_leave_the_ciphers_bytes(
    make_key: MakeKey, device: pmem.Device, algorithm: str, chosen: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """For each size of data units and the numbers that fit: writes, reads, nothing beside them."""
    monkeypatch.setattr("mktme.crypto.backend.chosen", chosen)
    rng, width, both = np.random.default_rng(1), ALGORITHMS[algorithm].iv_bytes, engines(device)
    count, sector = sum(LENGTHS), 9
    fitting = [dun for dun in NUMBERS.values() if (dun + count - 1) >> 8 * width == 0]
    assert len(fitting) == {16: 5, 32: 9}[width]
    for unit in UNITS:
        key = make_key(5, algorithm, unit, dun_bytes=width)
        for dun in fitting:
            data = rng.integers(0, 256, count * unit, np.uint8)
            expected = by_hand(key, dun, data)
            for engine in both:
                around = rng.bytes(1 << 15)
                device.write(0, around)
                segments = pieces(data, unit)
                engine.submit(Bio(True, sector, segments, key, dun))
                at, end = sector * SECTOR, sector * SECTOR + count * unit
                assert device.read(0, 1 << 15) == around[:at] + expected + around[end:]
                assert np.concatenate(segments).tobytes() == data.tobytes(), "the caller's memory stays"
                out = pieces(np.zeros_like(data), unit)
                engine.submit(Bio(False, sector, out, key, dun))
                assert np.concatenate(out).tobytes() == data.tobytes()
                assert device.read(0, 1 << 15) == around[:at] + expected + around[end:]


@pytest.mark.parametrize("first", [0, (1 << 63) - 700, (1 << 64) - 700])
@pytest.mark.parametrize("algorithm", ["aes-xts-256", "aes-cbc-essiv-128", "adiantum"])
def test_requests_larger_than_the_bounce_pages(
    make_key: MakeKey, device: pmem.Device, algorithm: str, first: int
) -> None:
    key, rng = make_key(2, algorithm, 512, dun_bytes=16), np.random.default_rng(2)
    data = rng.integers(0, 256, 2 * BOUNCE + 3 * 512, np.uint8)
    expected = by_hand(key, first, data)
    for engine in engines(device):
        device.write(0, bytes(SIZE))
        engine.submit(Bio(True, 1, (data[: BOUNCE + 512], data[BOUNCE + 512 :]), key, first))
        assert device.read(512, data.size) == expected
        out = np.empty_like(data)
        engine.submit(Bio(False, 1, (out,), key, first))
        assert (out == data).all()


def test_ivs_carry_into_the_words_above() -> None:
    for dun in (*NUMBERS.values(), (7 << 192) | (1 << 64) - 1):
        for count in (0, 1, 2, 3, 6):
            made = dun_ivs(dun, count, 4)
            assert made.shape == (count, 4)
            assert [int.from_bytes(row.astype("<u8").tobytes(), "little") for row in made] == [
                dun + i for i in range(count)
            ]
    made = dun_ivs((1 << 64) - 5, 10, 2)
    assert made[:, 1].tolist() == [0] * 5 + [1] * 5


def test_long_numbers_are_made_a_chunk_at_a_time(make_key: MakeKey, tmp_path: Path) -> None:
    """The carry in a later chunk than the first."""
    key, count = make_key(2, "aes-xts-128", 512, dun_bytes=16), 2 * CHUNK + 5
    first = (1 << 64) - CHUNK - 3
    data = np.random.default_rng(3).integers(0, 256, 512 * count, np.uint8)
    with pmem.create(tmp_path / "large.img", 8 << 20) as device:
        engine = BlockDevice(device, CryptoProfile(1, dun_bytes=16))
        engine.submit(Bio(True, 0, (data,), key, first))
        for n in (0, CHUNK - 1, CHUNK, CHUNK + 2, CHUNK + 3, 2 * CHUNK, count - 1):
            part = data[512 * n : 512 * (n + 1)]
            assert device.read(512 * n, 512) == by_hand(key, first + n, part), n


# fscrypt's reference


def hexed(vector: dict[str, Any], name: str) -> bytes:
    return bytes.fromhex(vector[name])


VECTORS = [
    v
    for v in json.loads((Path(__file__).parents[1] / "vectors/fscrypt.json").read_text())["vectors"]
    if v["op"] == "encrypt" and v["data_unit_size"] in UNITS and v["padding"] is None
]
CIPHERS = {
    "AES-256-XTS": "aes-xts-256",
    "AES-128-CBC-ESSIV": "aes-cbc-essiv-128",
    "Adiantum": "adiantum",
}


def key_of(vector: dict[str, Any], size: int) -> bytes:
    """The cipher's key, derived as the vector says."""
    master = hexed(vector, "master_key")
    if vector["use_inlinecrypt_key"]:
        return kdf.inline_key(master)[:size]
    master = kdf.software_secret(master) if vector["hw_kdf"] else master
    if vector["kdf"] == "none":
        return master[:size]
    if vector["kdf"] == "AES-128-ECB":
        return kdf.per_file_key_v1(master, hexed(vector, "file_nonce"), size)
    prk, mode = kdf.extract(master), vector["mode_num"]
    if vector["iv_method"] == "default":
        return kdf.per_file_key(prk, hexed(vector, "file_nonce"), size)
    if vector["iv_method"] == "direct_key":
        return kdf.direct_key(prk, mode, size)
    derive = kdf.iv_ino_lblk_64_key if vector["iv_method"] == "iv_ino_lblk_64" else kdf.iv_ino_lblk_32_key
    return derive(prk, mode, hexed(vector, "fs_uuid"), size)


def duns_of(vector: dict[str, Any], count: int) -> list[int]:
    """The data unit numbers of fscrypt_generate_dun: the IVs as integers."""
    indices = [(vector["data_unit_index"] + n) % (1 << 64) for n in range(count)]
    if vector["iv_method"] == "direct_key":
        return [index | int.from_bytes(hexed(vector, "file_nonce"), "little") << 64 for index in indices]
    if vector["iv_method"] == "iv_ino_lblk_64":
        return [index | vector["inode_number"] << 32 for index in indices]
    if vector["iv_method"] == "iv_ino_lblk_32":
        master = hexed(vector, "master_key")
        secret = kdf.software_secret(master) if vector["hw_kdf"] else master
        hashed = kdf.inode_hash(kdf.inode_hash_key(kdf.extract(secret)), vector["inode_number"])
        return [(hashed + index) % (1 << 32) for index in indices]
    return indices


@pytest.mark.parametrize("chosen", backend.available())
@pytest.mark.parametrize("vector", VECTORS, ids=[f"{v['id']}-{v['cipher']}" for v in VECTORS])
def test_fscrypts_reference_ciphertext_lies_on_the_medium(
    device: pmem.Device, vector: dict[str, Any], chosen: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A bio for each data unit, in a plug: those whose numbers go on are one request."""
    monkeypatch.setattr("mktme.crypto.backend.chosen", chosen)
    algorithm, unit = CIPHERS[vector["cipher"]], vector["data_unit_size"]
    raw = key_of(vector, sum(ALGORITHMS[algorithm].parts))
    wide = 24 if vector["iv_method"] == "direct_key" else 8
    key = BlockKey(algorithm, unit, lambda: Key.from_bytes(algorithm, raw), dun_bytes=wide)
    plain, made = hexed(vector, "plaintext"), hexed(vector, "ciphertext")
    data = np.zeros(len(made), np.uint8)  # the last data unit ends in zeros
    data[: len(plain)] = np.frombuffer(plain, np.uint8)
    duns = duns_of(vector, data.size // unit)
    runs = 1 + sum(b != a + 1 for a, b in pairwise(duns))
    for engine in engines(device):
        device.write(0, bytes(1 << 16))
        out = np.zeros_like(data)
        for write, memory in ((True, data), (False, out)):
            engine.submit_all(
                Bio(write, 8 + n * unit // SECTOR, (memory[n * unit : (n + 1) * unit],), key, dun)
                for n, dun in enumerate(duns)
            )
        assert device.read(4096, data.size) == made
        assert (out == data).all()
        assert (engine.counts.bios, engine.counts.requests) == (2 * len(duns), 2 * runs)


def test_the_vectors_reach_every_cipher_derivation_iv_and_size() -> None:
    assert {v["cipher"] for v in VECTORS} == set(CIPHERS)
    assert {v["kdf"] for v in VECTORS} == {"none", "AES-128-ECB", "HKDF-SHA512"}
    assert {v["iv_method"] for v in VECTORS} == {"default", "direct_key", "iv_ino_lblk_64", "iv_ino_lblk_32"}
    assert {v["data_unit_size"] for v in VECTORS} == set(UNITS)
    assert any(v["use_inlinecrypt_key"] for v in VECTORS)


# Counts


def test_bytes_and_requests_are_counted_exactly(make_key: MakeKey, device: pmem.Device) -> None:
    key, other, room = make_key(1, unit=512), make_key(1, unit=512), np.zeros(8192, np.uint8)
    plug = [
        Bio(True, 0, (room[:4096],), key, 0),
        Bio(True, 8, (room[:512], room[:512]), key, 8),  # goes on
        Bio(True, 10, (room[:512],), key, 10),  # goes on
        Bio(True, 11, (room[:512],), key, 12),  # the sectors go on, the numbers don't
        Bio(True, 13, (room[:512],), key, 13),  # the numbers go on, the sectors don't
        Bio(True, 14, (room[:512],), other, 14),  # the same bytes in another key
        Bio(False, 15, (room[:1024],), other, 15),  # another direction
        Bio(False, 17, (room[1024:2048],), other, 17),  # goes on
        Bio(False, 19, (room[2048:4096],)),  # no key
        Bio(False, 23, (room[4096:],)),  # goes on
        Bio(True, 31, (room[:512],)),  # another direction
        Bio(True, 40, (), key, 3),  # nothing
    ]
    written, read = 4096 + 1024 + 512 + 512 + 512 + 512, 2048
    for profile, software in ((CryptoProfile(4), False), (None, True)):
        traffic = Traffic(asked=5)
        engine = BlockDevice(device, profile, traffic)
        engine.submit_all(plug)
        assert vars(engine.counts) == {
            "bios": 12, "merged": 4, "requests": 8, "fallbacks": 6 * software
        }  # fmt: skip
        assert engine.traffic is traffic
        assert traffic.counts() == {
            "asked": 5, "copied": (written + read) * software, "encrypted": written, "decrypted": read
        }  # fmt: skip
        slots = (profile or engine.fallback).counts
        assert (slots.programmed, slots.hits) == (2, 4)
        for bio in plug:
            engine.submit(bio)
        assert vars(engine.counts) == {
            "bios": 24, "merged": 4, "requests": 20, "fallbacks": (6 + 9) * software
        }  # fmt: skip
        assert traffic.encrypted == 2 * written
        assert traffic.decrypted == 2 * read
        assert traffic.copied == 2 * (written + read) * software


def test_what_the_engine_lacks_is_done_in_software(make_key: MakeKey, device: pmem.Device) -> None:
    profile = CryptoProfile(2, {"aes-xts-256": (4096,)}, dun_bytes=8)
    data = np.random.default_rng(4).integers(0, 256, 4096, np.uint8)
    for key, software in (
        (make_key(), 0),
        (make_key(unit=512), 1),
        (make_key(algorithm="aes-xts-128"), 1),
        (make_key(algorithm="adiantum", dun_bytes=32), 1),
        (make_key(dun_bytes=9), 1),
        (make_key(dun_bytes=4), 0),
    ):
        engine = BlockDevice(device, profile)
        engine.submit(Bio(True, 0, (data,), key, 77))
        assert device.read(0, 4096) == by_hand(key, 77, data)
        assert (engine.counts.fallbacks, engine.traffic.copied) == (software, 4096 * software)
        assert engine.fallback.counts.programmed == software
    assert profile.counts.programmed == 2


def test_a_request_without_a_key_goes_as_it_is(device: pmem.Device) -> None:
    engine, data = BlockDevice(device, CryptoProfile(1)), np.arange(2048, dtype=np.uint16).view(np.uint8)
    engine.submit(Bio(True, 3, (data[:512], data[512:]), None, 99))
    assert device.read(1536, 4096) == data.tobytes()
    out = np.zeros(4096, np.uint8)
    engine.submit(Bio(False, 3, (out[:1024], out[1024:])))
    assert (out == data).all()
    assert not any(engine.traffic.counts().values())


# Failures


@pytest.mark.parametrize("shift", [-BOUNCE, -4096, -512, 0, 4096])
@pytest.mark.parametrize("encrypted", [True, False], ids=["encrypted", "plain"])
def test_what_lies_on_the_medium_is_written_elsewhere_as_it_was(
    make_key: MakeKey, device: pmem.Device, shift: int, encrypted: bool
) -> None:
    """Ciphertext as plaintext, from under the request's own hands."""
    before, first, size = np.random.default_rng(6).bytes(SIZE), BOUNCE + 4096, 2 * BOUNCE
    key, cut = make_key() if encrypted else None, BOUNCE // 2
    for engine in engines(device):
        device.write(0, before)
        there = device.media[first + shift :][:size]
        engine.submit(Bio(True, first // SECTOR, (there[:cut], there[cut:]), key, 9))
        out = np.zeros(size, np.uint8)
        engine.submit(Bio(False, first // SECTOR, (out,), key, 9))
        assert out.tobytes() == before[first + shift :][:size]


def test_a_request_that_fails_leaves_its_slot_idle_and_is_not_counted(
    make_key: MakeKey, tmp_path: Path
) -> None:
    key, data = make_key(), np.zeros(4096, np.uint8)
    with pmem.create(tmp_path / "kept.img", SIZE) as device:
        BlockDevice(device, CryptoProfile(1)).submit(Bio(True, 0, (data,), key))
        made = device.read(0, SIZE)
    with pmem.open(tmp_path / "kept.img", mode="r") as device:
        for engine in (BlockDevice(device, CryptoProfile(1)), BlockDevice(device)):
            profile = engine.profile or engine.fallback
            with pytest.raises(ReadOnlyDevice):
                engine.submit(Bio(True, 8, (data,), key))
            engine.submit(Bio(False, 0, (data,), key))
            assert not data.any()
            assert all(slot.in_flight == 0 for slot in profile.slots)
            assert vars(engine.counts)["requests"] == vars(engine.counts)["bios"] == 1
            assert (engine.traffic.encrypted, engine.traffic.decrypted) == (0, 4096)
            assert device.read(0, SIZE) == made


@pytest.mark.parametrize("slots", [0, 1])
def test_a_cipher_that_fails_gives_its_slot_back(
    make_key: MakeKey, device: pmem.Device, slots: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine, key, data = (
        BlockDevice(device, CryptoProfile(1) if slots else None),
        make_key(),
        np.ones(4096, np.uint8),
    )
    profile = engine.profile or engine.fallback

    def fails(*given: object) -> None:
        assert sum(slot.in_flight for slot in profile.slots) == 1
        raise FloatingPointError

    with monkeypatch.context() as patched:
        patched.setattr("mktme.stack.engine._crypt", fails)
        for write in (True, False):
            with pytest.raises(FloatingPointError):
                engine.submit(Bio(write, 0, (data,), key))
    assert sum(slot.in_flight for slot in profile.slots) == 0
    assert not any(vars(engine.counts).values())
    assert not any(engine.traffic.counts().values())
    profile.evict(key)
