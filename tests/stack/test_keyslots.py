"""Keyslots against a model of a least recently used list, alone and among threads."""

from __future__ import annotations

import copy
import errno
import pickle
import threading
from collections import OrderedDict
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest

import pmem
from mktme import (
    BioError,
    Key,
    KeyMaterialError,
    KeyslotBusy,
    KeyslotTimeout,
    KeyUnavailable,
    SchemeError,
)
from mktme.crypto import backend
from mktme.crypto.algorithms import ALGORITHMS
from mktme.errors import MktmeError
from mktme.fscrypt import kdf
from mktme.stack.bio import Bio
from mktme.stack.engine import BlockDevice
from mktme.stack.keyslots import DEFAULT_MODES, SOFTWARE, UNITS, BlockKey, CryptoProfile, Keyslot

MakeKey = Callable[..., BlockKey]
LONG = 30  # seconds after which a thread that should have gone on hasn't


class Fading:
    """A key that can be gone, and counts how often it was made."""

    def __init__(self) -> None:
        self.gone, self.made = False, 0
        self.block = BlockKey("aes-xts-128", 4096, self._make)

    def _make(self) -> Key:
        self.made += 1
        if self.gone:
            raise KeyUnavailable("the key has been removed")
        return Key.from_bytes("aes-xts-128", bytes(range(32)))


class Model:
    """What the slots should do: a list of idle slots, the next to be programmed first."""

    def __init__(self, slots: int) -> None:
        self.idle: OrderedDict[int, int | None] = OrderedDict.fromkeys(range(slots))  # slot -> key
        self.where: dict[int, int] = {}  # key -> slot
        self.flying: dict[int, int] = {}  # slot -> requests
        self.retired: set[int] = set()  # slots whose key goes with the last request
        self.counts = dict.fromkeys(("hits", "programmed", "evicted", "waits", "reprogrammed"), 0)

    def can_get(self, key: int) -> bool:
        return key in self.where or bool(self.idle)

    def get(self, key: int) -> int:
        slot = self.where.get(key)
        if slot is None:
            slot, old = self.idle.popitem(last=False)
            if old is not None:
                del self.where[old]
                self.counts["evicted"] += 1
            self.where[key] = slot
            self.counts["programmed"] += 1
        else:
            self.idle.pop(slot, None)
            self.counts["hits"] += 1
        self.flying[slot] = self.flying.get(slot, 0) + 1
        return slot

    def put(self, slot: int) -> None:
        self.flying[slot] -= 1
        if not self.flying[slot]:
            del self.flying[slot]
            if slot in self.retired:
                self.retired.remove(slot)
                self._empty(slot)
            else:
                self.idle[slot] = next(key for key, at in self.where.items() if at == slot)

    def drop(self, key: int) -> None:
        slot = self.where.pop(key, None)
        if slot in self.flying:
            self.retired.add(slot)
        elif slot is not None:
            self._empty(slot)

    def _empty(self, slot: int) -> None:
        self.idle[slot] = None
        self.idle.move_to_end(slot, last=False)

    def reset(self, gone: set[int]) -> None:
        lost = [slot for slot, key in self.idle.items() if key in gone]
        self.counts["reprogrammed"] += len(self.where) - len(lost)
        for slot in lost:
            del self.where[self.idle[slot]]  # type: ignore[arg-type]
            self._empty(slot)


def state(profile: CryptoProfile) -> tuple[Any, ...]:
    """Everything that a refused call leaves as it was."""
    return (
        [(s.key, s.slot, s.cipher, s.in_flight) for s in profile.slots],
        list(profile._idle),
        dict(profile._by_key),
        {name: n for name, n in vars(profile.counts).items() if name != "waits"},
    )


@pytest.mark.parametrize(("slots", "keys", "seed"), [(1, 3, 1), (2, 6, 2), (4, 9, 3), (5, 5, 4)])
def test_the_slots_are_a_least_recently_used_list_of_the_idle_ones(slots: int, keys: int, seed: int) -> None:
    """A walk at random: requests, ends, evictions, retirements, resets, keys that come and go."""
    rng, profile, model = np.random.default_rng(seed), CryptoProfile(slots), Model(slots)
    fading = [Fading() for _ in range(keys)]
    held: list[Keyslot] = []
    refused = dict.fromkeys(("timeout", "gone", "busy", "reset", "lost"), 0)
    for _ in range(3000):
        n, act = int(rng.integers(0, keys)), rng.random()
        key, before = fading[n].block, state(profile)
        if act < 0.45:
            if not model.can_get(n):
                with pytest.raises(KeyslotTimeout):
                    profile.get(key, timeout=0)
                assert state(profile) == before
                model.counts["waits"] += 1
                refused["timeout"] += 1
            elif n not in model.where and fading[n].gone:
                with pytest.raises(KeyUnavailable):
                    profile.get(key, timeout=0)
                assert state(profile) == before
                refused["gone"] += 1
            else:
                expected = model.get(n)
                held.append(profile.get(key, timeout=0))
                assert held[-1].index == expected
                assert held[-1].key is key
        elif act < 0.85 and held:
            slot = held.pop(int(rng.integers(0, len(held))))
            profile.put(slot)
            model.put(slot.index)
        elif act < 0.90:
            profile.retire(key)
            model.drop(n)
        elif act < 0.95:
            if model.where.get(n) in model.flying:
                with pytest.raises(KeyslotBusy):
                    profile.evict(key)
                assert state(profile) == before
                refused["busy"] += 1
            else:
                profile.evict(key)
                model.drop(n)
        elif act < 0.98:
            fading[n].gone = not fading[n].gone
        elif held:
            with pytest.raises(KeyslotTimeout, match="reset the device when they are done"):
                profile.reset(timeout=0)
            assert state(profile) == before
            refused["reset"] += 1
        else:
            gone = {m for m, key in enumerate(fading) if key.gone}
            if gone & set(model.where):
                with pytest.raises(KeyUnavailable):
                    profile.reset()
                refused["lost"] += 1
            else:
                profile.reset()
            model.reset(gone)
        assert list(profile._idle) == list(model.idle)
        where = {key: slot.index for key, slot in profile._by_key.items()}
        assert where == {fading[m].block: index for m, index in model.where.items()}
        for slot in profile.slots:
            assert slot.in_flight == model.flying.get(slot.index, 0)
            assert (slot.key is None) == (slot.index not in model.where.values())
            assert (slot.cipher is None) == (slot.slot is None) == (model.idle.get(slot.index, 0) is None)
    assert vars(profile.counts) == model.counts
    made = sum(f.made for f in fading)
    assert made >= model.counts["programmed"] + model.counts["reprogrammed"]
    assert refused["gone"] + refused["lost"] > 10
    assert refused["busy"] > 10
    assert slots == keys or (model.counts["evicted"] > 40 and refused["timeout"] > 10)


def test_only_idle_slots_give_way_the_longest_idle_first(make_key: MakeKey) -> None:
    profile, keys = CryptoProfile(3), [make_key(n) for n in range(5)]
    slots = [profile.get(key) for key in keys[:3]]
    assert [slot.index for slot in slots] == [0, 1, 2]
    for slot in (slots[2], slots[0]):
        profile.put(slot)
    profile.put(profile.get(keys[2]))  # used again: key 0's is the longest idle now
    assert profile.get(keys[3]).index == 0
    assert profile.get(keys[4]).index == 2
    assert slots[1].key is keys[1]
    assert vars(profile.counts) == {
        "hits": 1, "programmed": 5, "evicted": 2, "waits": 0, "reprogrammed": 0
    }  # fmt: skip


def test_what_an_engine_supports() -> None:
    def key(algorithm: str, unit: int, dun_bytes: int = 8, wrapped: bool = False) -> BlockKey:
        return BlockKey(
            algorithm, unit, lambda: Key.generate(algorithm), dun_bytes=dun_bytes, wrapped=wrapped
        )

    narrow = CryptoProfile(1, {"aes-xts-256": (512, 4096), "adiantum": (4096,)}, dun_bytes=12)
    wide = CryptoProfile(1, SOFTWARE, dun_bytes=32, wrapped=True)
    plain = CryptoProfile()
    for algorithm in SOFTWARE:
        for unit in UNITS:
            for size in (1, 8, 12, 13, 16):
                for wrapped in (False, True):
                    asked = key(algorithm, unit, size, wrapped)
                    assert wide.supports(asked)
                    assert narrow.supports(asked) == (
                        (algorithm, unit) in (("aes-xts-256", 512), ("aes-xts-256", 4096), ("adiantum", 4096))
                        and size <= 12
                        and not wrapped
                    )
                    assert plain.supports(asked) == (algorithm in DEFAULT_MODES and size <= 8 and not wrapped)
    assert wide.supports(key("adiantum", 4096, 32))
    assert len(plain.slots) == 32


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"slots": 0}, "0 keyslots: an engine has at least one"),
        ({"slots": -3}, "-3 keyslots"),
        ({"dun_bytes": 0}, "1 to 32 bytes, not 0"),
        ({"dun_bytes": 33}, "1 to 32 bytes, not 33"),
        ({"modes": {"aes-xts-512": (4096,)}}, "no engine has aes-xts-512 with data units of"),
        ({"modes": {"aes-cts-256": (512,)}}, "no engine has aes-cts-256"),
        ({"modes": {"aes-xts-256": (64, 4096)}}, r"aes-xts-256 with data units of \[64, 4096\] bytes"),
    ],
)
def test_engines_that_cannot_be_are_refused(given: dict[str, Any], message: str) -> None:
    with pytest.raises(SchemeError, match=message):
        CryptoProfile(**given)


# Errors


def test_a_key_in_flight_is_not_evicted(make_key: MakeKey) -> None:
    profile, key = CryptoProfile(2), make_key()
    slot = profile.get(key)
    assert profile.get(key) is slot
    before = state(profile)
    with pytest.raises(KeyslotBusy, match=r"keyslot 0 has 2 requests in flight under this key: evict it when"
                       ) as caught:  # fmt: skip
        profile.evict(key)
    assert isinstance(caught.value, OSError)
    assert isinstance(caught.value, MktmeError)
    assert caught.value.errno == errno.EBUSY
    assert state(profile) == before
    assert slot.slot is not None
    profile.put(slot)
    with pytest.raises(KeyslotBusy, match="has 1 request in flight"):
        profile.evict(key)
    profile.put(slot)
    profile.evict(key)
    assert (slot.key, slot.slot, slot.cipher) == (None, None, None)
    profile.evict(key)  # it has no slot: nothing to do
    profile.evict(make_key())
    assert vars(profile.counts)["evicted"] == 0


def test_a_request_that_waits_too_long_is_refused(make_key: MakeKey) -> None:
    profile = CryptoProfile(1)
    slot = profile.get(make_key(1))
    before = state(profile)
    with pytest.raises(
        KeyslotTimeout, match=r"keyslots \(1\) were in flight for 0\.01 s: wait longer"
    ) as caught:
        profile.get(make_key(2), timeout=0.01)
    assert isinstance(caught.value, TimeoutError)
    assert isinstance(caught.value, MktmeError)
    assert caught.value.errno == errno.ETIMEDOUT
    assert state(profile) == before
    assert profile.counts.waits == 1
    profile.put(slot)
    assert profile.get(make_key(2), timeout=0) is slot


@pytest.mark.parametrize("algorithm", ["aes-xts-128", "aes-xts-256"])
def test_a_key_is_named_by_its_algorithm_alone(make_key: MakeKey, algorithm: str) -> None:
    key = make_key(0, algorithm)
    assert repr(key) == f"<BlockKey {algorithm}, data units of 4096 bytes>"
    for spread in (pickle.dumps, copy.copy, copy.deepcopy):
        with pytest.raises(TypeError, match="a key can't be pickled or copied"):
            spread(key)  # type: ignore[operator]


# Keys that can't be made


def of_another(gone: bool) -> Key:
    raise MemoryError if gone else NotImplementedError


MAKES: list[tuple[str, Callable[[], Key], type[Exception]]] = [
    ("gone", lambda: of_another(True), MemoryError),
    ("of another algorithm", lambda: Key.generate("aes-xts-256"), KeyMaterialError),
    ("of no lines", lambda: Key.generate("adiantum"), KeyMaterialError),
]


@pytest.mark.parametrize(("make", "error"), [m[1:] for m in MAKES], ids=[m[0] for m in MAKES])
@pytest.mark.parametrize("full", [False, True])
def test_a_key_that_cannot_be_made_leaves_the_slots_as_they_were(
    make_key: MakeKey, make: Callable[[], Key], error: type[Exception], full: bool
) -> None:
    profile, fine = CryptoProfile(1), make_key(1, "aes-xts-128")
    if full:
        profile.put(profile.get(fine))
    before = state(profile)
    for _ in range(2):
        with pytest.raises(error):
            profile.get(BlockKey("aes-xts-128", 4096, make))
        assert state(profile) == before
    slot = profile.get(fine, timeout=0)
    assert (slot.in_flight, profile.counts.hits, profile.counts.evicted) == (1, int(full), 0)


def test_a_copy_that_no_slot_takes_is_cleared() -> None:
    made: list[Key] = []

    def make() -> Key:
        made.append(Key.generate("aes-xts-256"))
        return made[-1]

    with pytest.raises(KeyMaterialError, match="a block key of aes-xts-128 made a key of aes-xts-256"):
        CryptoProfile(1).get(BlockKey("aes-xts-128", 4096, make))
    profile = CryptoProfile(1)
    profile.get(BlockKey("aes-xts-256", 4096, make))
    for key in made:
        with pytest.raises(KeyMaterialError, match="cleared"):
            key.parts()


def test_a_block_key_of_a_key_lasts_as_long_as_it(device: pmem.Device) -> None:
    whole = Key.generate("aes-xts-256")
    key, other = BlockKey.of(whole, 512, dun_bytes=16), BlockKey.of(Key.generate("adiantum"))
    assert (key.unit, key.dun_bytes, other.algorithm) == (512, 16, "adiantum")
    profile = CryptoProfile(1, SOFTWARE, dun_bytes=16)
    for one in (key, other, key):
        profile.put(profile.get(one))
    whole.parts()  # the slots took copies
    whole.clear()
    profile.put(profile.get(key))
    profile.evict(key)
    with pytest.raises(KeyMaterialError, match="cleared"):
        profile.get(key)


def test_a_waiting_request_goes_on_when_another_cannot_be_made(make_key: MakeKey) -> None:
    """The slot that a request found idle and could not use is there for the next that waits."""
    profile, lost, got = CryptoProfile(1), Fading(), []
    slot = profile.get(make_key(1))

    def fail() -> None:
        with pytest.raises(KeyUnavailable):
            profile.get(lost.block, LONG)

    def succeed() -> None:
        got.append(profile.get(make_key(2), LONG))
        profile.put(got[-1])

    lost.gone = True
    threads = [threading.Thread(target=fail) for _ in range(3)]
    threads.append(threading.Thread(target=succeed))
    for thread in threads:
        thread.start()
    wait_until(lambda: profile.counts.waits == 4)
    profile.put(slot)
    for thread in threads:
        thread.join(LONG)
    assert got == [slot]


# Wiping


def secrets(slot: Keyslot) -> list[np.ndarray[Any, Any] | bytearray]:
    """Where a slot keeps what was made from its key: the schedule, the key of MACs."""
    assert slot.slot is not None
    cipher: Any = slot.slot.cipher
    if hasattr(cipher, "_schedule"):
        return [cipher._schedule._room[8:], slot.slot._mac_key]  # the first 8 bytes: how many rounds
    return [cipher._data_key, cipher._tweak_key, slot.slot._mac_key]


@pytest.mark.parametrize("chosen", backend.available())
@pytest.mark.parametrize("algorithm", ["aes-xts-128", "aes-xts-256"])
def test_a_key_that_leaves_its_slot_is_overwritten(
    make_key: MakeKey, algorithm: str, chosen: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mktme.crypto.backend.chosen", chosen)
    key, other = make_key(1, algorithm), make_key(2, algorithm)
    ways: list[Callable[[CryptoProfile, Keyslot], object]] = [
        lambda profile, slot: profile.evict(key),
        lambda profile, slot: profile.retire(key),
        lambda profile, slot: profile.get(other),
        lambda profile, slot: profile.reset(),
    ]
    for leave in ways:
        profile = CryptoProfile(1)
        slot = profile.get(key)
        profile.put(slot)
        rooms = secrets(slot)
        assert all(any(room) for room in rooms)
        leave(profile, slot)
        assert not any(any(room) for room in rooms)
        assert slot.slot is None or all(any(room) for room in secrets(slot))


def test_a_retired_key_is_wiped_with_its_last_request(make_key: MakeKey) -> None:
    profile, key = CryptoProfile(2), make_key()
    slot = profile.get(key)
    assert profile.get(key) is slot
    rooms = secrets(slot)
    profile.retire(key)
    again = profile.get(key)  # a new request has a slot of its own
    assert again is not slot
    profile.put(slot)
    assert slot.slot is not None
    assert all(any(room) for room in rooms)
    profile.put(slot)
    assert (slot.slot, slot.cipher, slot.key) == (None, None, None)
    assert not any(any(room) for room in rooms)
    assert again.slot is not None
    assert profile.get(make_key(7)) is slot
    assert profile.counts.evicted == 0
    profile.retire(make_key(9))  # it has no slot


# Resets


def test_after_a_reset_every_key_is_in_its_slot_again(make_key: MakeKey, device: pmem.Device) -> None:
    profile = CryptoProfile(4)
    engine, keys = BlockDevice(device, profile), [make_key(n) for n in range(3)]
    data = np.random.default_rng(8).integers(0, 256, (3, 4096), np.uint8)
    for n, key in enumerate(keys):
        engine.submit(Bio(True, 8 * n, (data[n],), key, n))
    before = {key: slot.index for key, slot in profile._by_key.items()}, list(profile._idle)
    old = [slot.slot for slot in profile.slots]
    profile.reset()
    assert profile.counts.reprogrammed == 3
    assert before == ({key: slot.index for key, slot in profile._by_key.items()}, list(profile._idle))
    assert all(
        slot.slot is None or slot.slot is not was for slot, was in zip(profile.slots, old, strict=True)
    )
    out = np.empty(4096, np.uint8)
    for n, key in enumerate(keys):
        engine.submit(Bio(False, 8 * n, (out,), key, n))
        assert (out == data[n]).all()
    assert (profile.counts.programmed, profile.counts.hits) == (3, 3)


def test_a_reset_empties_the_slots_of_keys_that_are_gone_and_fills_the_others(make_key: MakeKey) -> None:
    profile, fading = CryptoProfile(3), [Fading() for _ in range(3)]
    for key in fading:
        profile.put(profile.get(key.block))
    rooms = [room for slot in profile.slots for room in secrets(slot)]
    fading[0].gone = fading[2].gone = True
    with pytest.raises(KeyUnavailable):
        profile.reset()
    assert not any(any(room) for room in rooms)
    assert [slot.key for slot in profile.slots] == [None, fading[1].block, None]
    assert profile.counts.reprogrammed == 1
    profile.put(profile.get(fading[1].block, timeout=0))
    assert profile.counts.hits == 1
    with pytest.raises(KeyUnavailable):
        profile.get(fading[0].block, timeout=0)
    slots = [profile.get(make_key(n), timeout=0) for n in range(2)]  # the empty ones first
    assert {slot.index for slot in slots} == {0, 2}
    assert profile.counts.evicted == 0


def test_a_reset_waits_for_requests_in_flight_and_holds_new_ones_back(make_key: MakeKey) -> None:
    profile, key, done = CryptoProfile(2), make_key(), []
    slot = profile.get(key)
    cipher = slot.slot
    resetting = threading.Thread(target=lambda: done.append(("reset", profile.reset(LONG))))
    resetting.start()
    wait_until(lambda: profile._resets == 1)
    for asked in (key, make_key(2)):  # a hit, and one for the other slot, which is idle
        with pytest.raises(KeyslotTimeout):
            profile.get(asked, timeout=0)
    late = threading.Thread(target=lambda: done.append(("late", profile.get(key, LONG))))
    late.start()
    wait_until(lambda: profile.counts.waits == 3)
    assert slot.slot is cipher
    assert not done
    profile.put(slot)
    for thread in (resetting, late):
        thread.join(LONG)
    assert sorted(name for name, _ in done) == ["late", "reset"]
    assert (slot.in_flight, slot.key) == (1, key)
    assert slot.slot is not cipher


# Threads


def wait_until(holds: Callable[[], bool]) -> None:
    """Until other threads have come so far."""
    pause = threading.Event()
    for _ in range(LONG * 1000):
        if holds():
            return
        pause.wait(0.001)
    raise AssertionError("the other threads have not come so far")


def test_requests_wait_while_all_slots_are_in_flight(make_key: MakeKey) -> None:
    profile, got = CryptoProfile(1), []
    first, second = make_key(1), make_key(2)
    slot = profile.get(first)
    threads = [threading.Thread(target=lambda: got.append(profile.get(second, LONG))) for _ in range(3)]
    for thread in threads:
        thread.start()
    wait_until(lambda: profile.counts.waits == 3)
    assert not got
    assert slot.key is first
    profile.put(slot)  # once: the three share the slot of their key
    for thread in threads:
        thread.join(LONG)
    assert got == [slot] * 3
    assert (slot.key, slot.in_flight) == (second, 3)
    assert vars(profile.counts) == {
        "hits": 2, "programmed": 2, "evicted": 1, "waits": 3, "reprogrammed": 0
    }  # fmt: skip


@pytest.mark.parametrize("resets", [0, 25])
def test_threads_share_few_slots(make_key: MakeKey, device: pmem.Device, resets: int) -> None:
    """Eight threads, six keys and two slots: each reads back what it wrote, also across resets."""
    profile = CryptoProfile(2)
    engine, keys = BlockDevice(device, profile), [make_key(n, unit=512) for n in range(6)]
    written: list[dict[int, bytes]] = [{} for _ in range(8)]

    def work(n: int) -> None:
        rng, base = np.random.default_rng(n), n * 256
        for turn in range(40):
            at, count = base + int(rng.integers(0, 200)), int(rng.integers(1, 40))
            key = keys[(n + turn) % 6]
            data = rng.integers(0, 256, 512 * count, np.uint8)
            engine.submit(Bio(True, at, (data,), key, at))
            out = np.empty_like(data)
            engine.submit(Bio(False, at, (out,), key, at))
            assert (out == data).all()
            for sector in range(count):
                written[n][at + sector] = device.read((at + sector) * 512, 512)

    with ThreadPoolExecutor(9) as pool:
        futures = [pool.submit(work, n) for n in range(8)]
        for _ in range(resets):
            profile.reset(LONG)
        for future in futures:
            future.result(LONG)
    assert [slot.in_flight for slot in profile.slots] == [0, 0]
    assert {key: slot.index for key, slot in profile._by_key.items()} == {
        s.key: s.index for s in profile.slots
    }
    counts, slots = engine.counts, profile.counts
    assert counts.requests == counts.bios == 8 * 40 * 2 == slots.hits + slots.programmed
    assert counts.fallbacks == counts.merged == 0
    assert slots.evicted == slots.programmed - 2
    for sectors in written:
        for sector, ciphertext in sectors.items():
            assert device.read(512 * sector, 512) == ciphertext


def test_threads_evict_retire_and_use_the_same_keys(make_key: MakeKey, device: pmem.Device) -> None:
    profile = CryptoProfile(2)
    engine, keys = BlockDevice(device, profile), [make_key(n) for n in range(3)]
    stop = threading.Event()

    def disturb() -> None:
        rng = np.random.default_rng(9)
        while not stop.is_set():
            key = keys[int(rng.integers(0, 3))]
            if rng.random() < 0.5:
                profile.retire(key)
            else:
                try:
                    profile.evict(key)
                except KeyslotBusy:
                    continue

    def work(n: int) -> None:
        data, out = np.full(4096, n, np.uint8), np.empty(4096, np.uint8)
        for turn in range(60):
            engine.submit(Bio(True, 8 * n, (data,), keys[turn % 3], turn))
            engine.submit(Bio(False, 8 * n, (out,), keys[turn % 3], turn))
            assert (out == data).all()

    with ThreadPoolExecutor(5) as pool:
        disturbing, futures = pool.submit(disturb), [pool.submit(work, n) for n in range(4)]
        try:
            for future in futures:
                future.result(LONG)
        finally:
            stop.set()
        disturbing.result(LONG)
    assert [slot.in_flight for slot in profile.slots] == [0, 0]
    assert sorted(profile._idle) == [0, 1]


def test_hardware_wrapped_keys_are_for_engines_that_take_them(device: pmem.Device) -> None:
    key = BlockKey("aes-xts-256", 4096, lambda: Key.generate("aes-xts-256"), wrapped=True)
    data = np.ones(4096, np.uint8)
    for profile in (None, CryptoProfile(1), CryptoProfile(1, {"aes-xts-128": UNITS}, wrapped=True)):
        engine = BlockDevice(device, profile)
        with pytest.raises(
            BioError, match="no engine that takes them with aes-xts-256 and data units of 4096"
        ):
            engine.submit_all([Bio(True, 0, (data,)), Bio(True, 8, (data,), key)])
        assert not any(device.read(0, 8192))
        assert engine.counts.requests == 0
    BlockDevice(device, CryptoProfile(1, wrapped=True)).submit(Bio(True, 8, (data,), key))
    assert any(device.read(4096, 4096))


@pytest.mark.parametrize("algorithm", ["aes-xts-256", "aes-xts-128", "adiantum"])
def test_an_engine_derives_the_inline_key_of_a_wrapped_one_whenever_it_programs_it(
    device: pmem.Device, algorithm: str
) -> None:
    profile, copies = CryptoProfile(1, SOFTWARE, wrapped=True), []

    def unwrap() -> bytearray:
        copies.append(bytearray(range(32)))
        return copies[-1]

    engine, key = BlockDevice(device, profile), BlockKey.of_wrapped(unwrap, algorithm)
    material = kdf.inline_key(bytes(range(32)))[: sum(ALGORITHMS[algorithm].parts)]
    derived = BlockKey.of(Key.from_bytes(algorithm, material))
    assert copies == []
    data, out = np.random.default_rng(7).integers(0, 256, 8192, np.uint8), np.zeros(8192, np.uint8)
    engine.submit(Bio(True, 8, (data,), key, 5))
    BlockDevice(device).submit(Bio(False, 8, (out,), derived, 5))
    assert (out == data).all()
    profile.reset()
    out[:] = 0
    engine.submit(Bio(False, 8, (out,), key, 5))
    assert (out == data).all()
    assert copies == [bytearray(32)] * 2


def test_a_wrapped_key_that_cannot_be_derived_leaves_the_slot_and_no_copy() -> None:
    profile, short = CryptoProfile(1, wrapped=True), bytearray(b"k" * 31)
    held = profile.get(BlockKey.of(Key.generate("aes-xts-256")))
    profile.put(held)
    cipher = held.cipher
    with pytest.raises(KeyMaterialError, match="the raw key is to be 32 bytes, not 31"):
        profile.get(BlockKey.of_wrapped(lambda: short))
    assert held.cipher is cipher
    assert profile.counts.programmed == 1
    assert short == bytes(31)
