"""The block path: keyslots against a model, bios, the engine and its fallback against the ciphers."""

from __future__ import annotations

import errno
import json
import threading
from collections import OrderedDict
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import pmem
from mktme import BioError, Key, KeyslotBusy, KeyslotTimeout, KeyUnavailable, SchemeError
from mktme.crypto import backend
from mktme.crypto.algorithms import ALGORITHMS, make
from mktme.stack.bio import Bio
from mktme.stack.engine import BlockDevice, dun_ivs
from mktme.stack.keyslots import UNITS, BlockKey, CryptoProfile

SIZE = 1 << 20
FITTING = [name for name, a in ALGORITHMS.items() if a.takes(512) and a.takes(4096)]
EVERYTHING = dict.fromkeys(FITTING, UNITS)
VECTORS = json.loads((Path(__file__).parents[1] / "vectors/fscrypt.json").read_text())["vectors"]


def material(algorithm: str, seed: int = 3) -> bytes:
    return bytes((seed + i) % 256 for i in range(sum(ALGORITHMS[algorithm].parts)))


def block_key(
    algorithm: str = "aes-xts-256", unit: int = 4096, seed: int = 3, dun_bytes: int = 8
) -> BlockKey:
    return BlockKey(
        algorithm, unit, lambda: Key.from_bytes(algorithm, material(algorithm, seed)), dun_bytes=dun_bytes
    )


@pytest.fixture
def device(tmp_path: Path) -> Iterator[pmem.Device]:
    with pmem.create(tmp_path / "blocks.img", SIZE) as made:
        yield made


def by_hand(algorithm: str, unit: int, dun: int, data: np.ndarray[Any, Any]) -> bytes:
    """Each unit on its own, its IV from an integer."""
    parts, at = [], 0
    for size in ALGORITHMS[algorithm].parts:
        parts.append(material(algorithm)[at : at + size])
        at += size
    cipher, width, made = make(algorithm, parts), ALGORITHMS[algorithm].iv_bytes, b""
    for first in range(0, data.size, unit):
        iv = (dun + first // unit) % (1 << 8 * width)
        ivs = np.frombuffer(iv.to_bytes(width, "little"), np.uint64).reshape(1, -1).copy()
        out = np.empty(unit, np.uint8)
        cipher.units(False, unit, ivs, data[first : first + unit], out)
        made += out.tobytes()
    return made


@pytest.mark.parametrize("chosen", backend.available())
@pytest.mark.parametrize("algorithm", FITTING)
def test_engine_and_fallback_write_what_the_cipher_does(
    device: pmem.Device, algorithm: str, chosen: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mktme.crypto.backend.chosen", chosen)
    rng, wide = np.random.default_rng(1), min(32, ALGORITHMS[algorithm].iv_bytes)
    engines = BlockDevice(device, CryptoProfile(2, EVERYTHING, dun_bytes=32)), BlockDevice(device)
    for unit in (512, 4096):
        key = block_key(algorithm, unit, dun_bytes=wide)
        for dun in (0, (1 << 32) - 2, (1 << 63) - 2, (1 << 64) - 2, (1 << 100) + 5):
            data = rng.integers(0, 256, 5 * unit, np.uint8)
            expected = by_hand(algorithm, unit, dun, data)
            parts = data[:unit].copy(), data[unit : 4 * unit].copy(), data[4 * unit :].copy()
            for engine in engines:
                device.write(0, bytes(8 * 4096))
                engine.submit(Bio(True, 1, parts, key, dun))
                assert device.read(512, 5 * unit) == expected
                out = np.zeros(3 * unit, np.uint8), np.zeros(2 * unit, np.uint8)
                engine.submit(Bio(False, 1, out, key, dun))
                assert np.concatenate(out).tobytes() == data.tobytes()
        assert (parts[1] == data[unit : 4 * unit]).all()


BLOCKS = [v for v in VECTORS if v["op"] == "encrypt" and v["kdf"] == "none" and v["data_unit_size"] in UNITS]
NAMED = {"AES-256-XTS": "aes-xts-256", "AES-128-CBC-ESSIV": "aes-cbc-essiv-128", "Adiantum": "adiantum"}


def test_reference_ciphertext_lies_on_the_medium(device: pmem.Device) -> None:
    done = 0
    for vector in BLOCKS:
        algorithm = NAMED.get(vector["cipher"])
        plain, unit = bytes.fromhex(vector["plaintext"]), vector["data_unit_size"]
        if algorithm is None or len(plain) % unit or vector["iv_method"] != "default":
            continue
        raw = bytes.fromhex(vector["master_key"])[: sum(ALGORITHMS[algorithm].parts)]
        key = BlockKey(algorithm, unit, lambda a=algorithm, r=raw: Key.from_bytes(a, r))  # type: ignore[misc]
        for engine in (BlockDevice(device, CryptoProfile(1, EVERYTHING)), BlockDevice(device)):
            data = np.frombuffer(plain, np.uint8)
            engine.submit(Bio(True, 8, (data,), key, vector["data_unit_index"]))
            assert device.read(4096, len(plain)) == bytes.fromhex(vector["ciphertext"])
        done += 1
    assert done >= 3


def test_ivs_carry_into_the_words_above() -> None:
    for dun in (0, (1 << 64) - 3, (1 << 128) - 2, 7 << 192 | (1 << 64) - 1):
        made = dun_ivs(dun, 6, 4)
        for i, row in enumerate(made):
            assert int.from_bytes(row.astype("<u8").tobytes(), "little") == (dun + i) % (1 << 256)


def test_bytes_and_requests_are_counted(device: pmem.Device) -> None:
    data = np.zeros(4096, np.uint8)
    bios = [Bio(True, 8 * n, (data,), block_key(), n) for n in range(1)]
    key = bios[0].key
    bios += [Bio(True, 8 * n, (data,), key, n) for n in (1, 2)]  # go on: merged
    bios += [Bio(True, 24, (data,), key, 9)]  # sectors go on, numbers don't
    bios += [Bio(True, 32, (data,), block_key(), 10)]  # another key
    bios += [Bio(False, 40, (data.copy(),), bios[4].key, 11)]  # another direction
    for profile, copied in ((CryptoProfile(4), 0), (None, 6 * 4096)):
        engine = BlockDevice(device, profile)
        engine.submit_all(bios)
        counts = engine.counts
        assert (counts.bios, counts.merged, counts.requests) == (6, 2, 4)
        assert counts.fallbacks == (0 if profile else 4)
        assert engine.traffic.counts() == {
            "asked": 0, "copied": copied, "encrypted": 5 * 4096, "decrypted": 4096
        }  # fmt: skip
    engine = BlockDevice(device, CryptoProfile(4))
    engine.submit_all([Bio(True, 0, (data,)), Bio(True, 8, (data,))])
    assert (engine.counts.requests, engine.counts.merged, engine.traffic.encrypted) == (1, 1, 0)
    assert device.read(0, 8192) == bytes(8192)


def test_halves_of_a_split_bio_merge_to_the_whole() -> None:
    rng, key = np.random.default_rng(5), block_key(unit=512)
    for _ in range(200):
        parts = tuple(np.zeros(512 * int(n), np.uint8) for n in rng.integers(0, 4, 4))
        bio = Bio(True, 7, parts, key, (1 << 64) - 3)
        if bio.size < 1024:
            continue
        at = 512 * int(rng.integers(1, bio.size // 512))
        head, tail = bio.split(at)
        assert (head.size, tail.size, tail.sector) == (at, bio.size - at, 7 + at // 512)
        assert tail.dun == bio.dun + at // 512 == head.next_dun
        assert head.mergeable(tail)
        assert not tail.mergeable(head)
        whole = head.merged(tail)
        assert (whole.size, whole.sector, whole.dun, whole.next_dun) == (bio.size, 7, bio.dun, bio.next_dun)
        with pytest.raises(BioError, match="can't be split at"):
            bio.split(at + 1)


@pytest.mark.parametrize(
    ("bio", "message"),
    [
        (lambda key: Bio(True, -1, (np.zeros(512, np.uint8),)), "outside of the device"),
        (lambda key: Bio(True, SIZE // 512, (np.zeros(512, np.uint8),)), "outside of the device"),
        (lambda key: Bio(True, 0, (np.zeros(100, np.uint8),)), "100 bytes is not whole data units of 512"),
        (lambda key: Bio(True, 0, (np.zeros(6144, np.uint8),), key), "not whole data units of 4096"),
        (
            lambda key: Bio(True, 0, (np.zeros(8192, np.uint8),), key, (1 << 64) - 1),
            "doesn't fit the 8 bytes",
        ),
        (lambda key: Bio(True, 0, (np.zeros(4096, np.uint8),), key, -1), "doesn't fit"),
    ],
)
def test_what_no_device_can_do_is_refused_with_nothing_written(
    device: pmem.Device, bio: Any, message: str
) -> None:
    device.write(0, b"kept" * 2048)
    engine = BlockDevice(device, CryptoProfile(1))
    with pytest.raises(BioError, match=message):
        engine.submit(bio(block_key()))
    assert device.read(0, 8192) == b"kept" * 2048
    assert engine.counts.requests == 0


def test_keys_that_cannot_be() -> None:
    with pytest.raises(SchemeError, match="512, 1024, 2048 or 4096"):
        block_key(unit=64)
    with pytest.raises(SchemeError, match="1 to 16 bytes, not 24"):
        block_key(dun_bytes=24)
    with pytest.raises(SchemeError, match="at least one"):
        CryptoProfile(0)
    profile = CryptoProfile(1, {"aes-xts-256": (4096,)}, dun_bytes=8)
    assert profile.supports(block_key())
    assert not profile.supports(block_key(unit=512))
    assert not profile.supports(block_key("aes-xts-128"))
    assert not profile.supports(block_key(dun_bytes=16))
    assert "03" not in repr(block_key())


# Keyslots


def test_slots_are_a_least_recently_used_list_of_the_idle_ones() -> None:
    """A random walk against a model of a few lines."""
    rng, profile = np.random.default_rng(6), CryptoProfile(4)
    keys = [block_key(seed=n) for n in range(9)]
    idle: OrderedDict[int, int | None] = OrderedDict.fromkeys(range(4))  # slot -> key
    busy: dict[int, list[Any]] = {}  # key -> keyslots held
    where: dict[int, int] = {}  # key -> slot
    hits = programmed = evicted = 0
    for _ in range(4000):
        n, act = int(rng.integers(0, 9)), rng.random()
        if act < 0.5:
            if n not in where and not idle:
                with pytest.raises(KeyslotTimeout):
                    profile.get(keys[n], timeout=0)
                continue
            if n in where:
                hits += 1
                idle.pop(where[n], None)
            else:
                slot, old = idle.popitem(last=False)
                if old is not None:
                    del where[old]
                    evicted += 1
                programmed += 1
                where[n] = slot
            held = profile.get(keys[n])
            assert held.index == where[n]
            busy.setdefault(n, []).append(held)
        elif act < 0.9 and busy:
            n = list(busy)[n % len(busy)]
            profile.put(busy[n].pop())
            if not busy[n]:
                del busy[n]
                idle[where[n]] = n
        elif n in busy:
            with pytest.raises(KeyslotBusy, match="in flight under this key") as caught:
                profile.evict(keys[n])
            assert caught.value.errno == errno.EBUSY
        else:
            profile.evict(keys[n])
            if n in where:
                slot = where.pop(n)
                idle[slot] = None
                idle.move_to_end(slot, last=False)
    counts = profile.counts
    assert (counts.hits, counts.programmed, counts.evicted) == (hits, programmed, evicted)
    assert evicted > 100


def test_a_request_waits_for_a_slot(device: pmem.Device) -> None:
    profile = CryptoProfile(1)
    first, second, got = block_key(seed=1), block_key(seed=2), []
    held = profile.get(first)
    waiting = threading.Thread(target=lambda: got.append(profile.get(second)))
    waiting.start()
    waiting.join(0.05)
    assert waiting.is_alive()
    profile.put(held)
    waiting.join()
    assert got == [held]
    assert held.key is second
    assert profile.counts.waits == 1
    with pytest.raises(KeyslotTimeout, match=r"all 1 keyslots were in flight for 0\.01 s"):
        profile.get(first, timeout=0.01)


def test_a_reset_device_has_its_keys_again(device: pmem.Device) -> None:
    profile = CryptoProfile(3)
    engine, keys = BlockDevice(device, profile), [block_key(seed=n) for n in range(3)]
    data = np.arange(4096, dtype=np.uint16).astype(np.uint8)
    for n, key in enumerate(keys):
        engine.submit(Bio(True, 8 * n, (data,), key, n))
    slots = [slot.slot for slot in profile.slots]
    profile.reset()
    assert profile.counts.reprogrammed == 3
    assert not {id(slot.slot) for slot in profile.slots} & {id(slot) for slot in slots}
    for n, key in enumerate(keys):
        out = np.empty(4096, np.uint8)
        engine.submit(Bio(False, 8 * n, (out,), key, n))
        assert (out == data).all()
    assert profile.counts.programmed == 3


def test_a_key_that_is_gone_leaves_the_slots_as_they_were() -> None:
    profile, fine = CryptoProfile(1), block_key(seed=1)

    def gone() -> Key:
        raise KeyUnavailable("gone")

    lost = BlockKey("aes-xts-256", 4096, gone)
    profile.put(profile.get(fine))
    with pytest.raises(KeyUnavailable):
        profile.get(lost)
    held = profile.get(fine)
    assert (profile.counts.hits, profile.counts.programmed) == (1, 1)
    profile.put(held)
    assert held.in_flight == 0


def test_a_retired_key_ends_with_its_last_request() -> None:
    profile, key = CryptoProfile(2), block_key()
    held = profile.get(key)
    slot = held.slot
    assert slot is not None
    profile.retire(key)
    assert held.slot is slot
    assert profile.get(key) is not held
    profile.put(held)
    assert held.slot is None
    assert held.key is None


def test_threads_share_few_slots(device: pmem.Device) -> None:
    engine = BlockDevice(device, CryptoProfile(2))
    assert engine.profile is not None
    keys = [block_key(unit=512, seed=n) for n in range(6)]

    def work(n: int) -> None:
        rng, base = np.random.default_rng(n), n * 128
        for _ in range(30):
            at, count = base + int(rng.integers(0, 100)), int(rng.integers(1, 20))
            data = rng.integers(0, 256, 512 * count, np.uint8)
            engine.submit(Bio(True, at, (data,), keys[n % 6], at))
            out = np.empty_like(data)
            engine.submit(Bio(False, at, (out,), keys[n % 6], at))
            assert (out == data).all()

    with ThreadPoolExecutor(8) as pool:
        for future in [pool.submit(work, n) for n in range(8)]:
            future.result()
    assert [slot.in_flight for slot in engine.profile.slots] == [0, 0]
    assert engine.counts.requests == engine.counts.bios == 8 * 60
