"""Files by way of an inline crypto engine: data unit numbers, and how long keyslots have their keys."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import pmem
from mktme import KeyUnavailable, SchemeError
from mktme.crypto.algorithms import ALGORITHMS, make
from mktme.fscrypt.derived import DerivedKey
from mktme.iv.compiled import Binding
from mktme.iv.scheme import find
from mktme.stack import BlockDevice, CryptoProfile, Inline
from mktme.stack.keyslots import SOFTWARE

NONCE = {"nonce_low": 0xFFEE_DDCC_BBAA_9988, "nonce_high": 0x7766_5544_3322_1100}


def key_of(algorithm: str = "aes-xts-256", seed: int = 1) -> DerivedKey:
    size = sum(ALGORITHMS[algorithm].parts)
    return DerivedKey(algorithm, bytes((91 * seed + 3 * i) % 256 for i in range(size)))


@pytest.fixture
def inline(device: pmem.Device) -> Inline:
    return Inline(BlockDevice(device, CryptoProfile(2, SOFTWARE, dun_bytes=32)))


def by_scheme(key: DerivedKey, name: str, unit: int, given: dict[str, int], first: int, data: Any) -> bytes:
    """Data units from number `first` on under the scheme's own IVs, in one call of the cipher."""
    width = ALGORITHMS[key.algorithm].iv_bytes // 8
    ivs = Binding(find(name), unit, given).ivs(first, data.size // unit, width)
    copy, out = key.key(), np.empty_like(data)
    make(key.algorithm, list(copy.parts())).units(False, unit, ivs, data, out)
    return out.tobytes()


CASES: list[tuple[str, str, int, dict[str, int]]] = [
    ("file-block", "aes-xts-256", 4096, {}),
    ("file-block", "aes-cbc-essiv-128", 1024, {}),
    ("direct-key", "adiantum", 4096, NONCE),
    ("direct-key", "aes-hctr2-256", 2048, NONCE),
    ("ino-lblk-64", "aes-xts-256", 4096, {"inode": 0xFFFF_FFF0}),
    ("ino-lblk-32", "aes-xts-256", 512, {"inode_hash": 0xFFFF_FFFD}),
    ("plain64", "aes-xts-128", 512, {}),
]


@pytest.mark.parametrize(("name", "algorithm", "unit", "given"), CASES, ids=[f"{c[0]}-{c[1]}" for c in CASES])
def test_the_engine_writes_what_the_schemes_ivs_make(
    inline: Inline, name: str, algorithm: str, unit: int, given: dict[str, int]
) -> None:
    """Logical schemes count from the file's first byte, physical ones from the device's."""
    key, data = key_of(algorithm), np.random.default_rng(6).integers(0, 256, 6 * unit, np.uint8)
    how = inline.bind(key, find(name), unit, given)
    offset, address = 3 * 4096, 9 * 4096
    inline.put(how, offset, address, data)
    first = (address if name == "plain64" else offset) // unit
    values = given if name == "plain64" else {"block": 0, **given}
    assert inline.device.read(address, data.size) == by_scheme(key, name, unit, values, first, data)
    page = np.zeros_like(data)
    inline.fetch(how, offset, address, page)
    assert (page == data).all()
    assert inline.blocks.counts.fallbacks == 0
    assert inline.grain(how) == unit


@pytest.mark.parametrize("first", [0, 5, (1 << 32) - 1])
def test_runs_are_cut_where_the_numbers_begin_anew(inline: Inline, first: int) -> None:
    """Against a number for each unit."""
    how = inline.bind(key_of(), find("ino-lblk-32"), 512, {"inode_hash": first})
    for offset in (0, 512, 512 * ((1 << 32) - 7), 512 * ((1 << 33) - 2)):
        for count in (1, 2, 9):
            expected = [(first + offset // 512 + n) % (1 << 32) for n in range(count)]
            runs = how.duns(offset, 0, 512 * count)
            assert [dun + n for dun, size in runs for n in range(size // 512)] == expected
            assert len(runs) == 1 + (0 in expected[1:])


@pytest.mark.parametrize(
    ("name", "unit", "given", "message"),
    [
        ("pmem-line", 64, {}, "data units of 64 bytes, and blocks have 512 to 4096: take the path line"),
        ("essiv", 512, {}, "those of essiv aren't"),
        ("random", 512, {}, "those of random aren't"),
        ("plain64", 4096, {}, "the IVs of plain64 at 4096 bytes are 8 apart"),
        ("null", 512, {}, "are 0 apart"),
        ("benbi", 512, {}, "apart, and an engine counts"),
        ("ino-lblk-64", 4096, {}, "needs the inode of the file"),
    ],
)
def test_schemes_that_no_numbers_stand_for_are_refused(
    inline: Inline, name: str, unit: int, given: dict[str, int], message: str
) -> None:
    with pytest.raises(SchemeError, match=message):
        inline.bind(key_of(), find(name), unit, given)
    assert not inline._keys


def test_files_that_share_a_key_share_a_keyslot(inline: Inline) -> None:
    key, page = key_of(), np.zeros(4096, np.uint8)
    hows = [inline.bind(key, find("ino-lblk-64"), 4096, {"inode": n}) for n in range(5)]
    for how in hows:
        inline.put(how, 0, 0, page)
    assert len({how.key for how in hows}) == 1
    assert inline.bind(key, find("ino-lblk-64"), 2048, {"inode": 7}).key is not hows[0].key
    assert inline.blocks.profile is not None
    assert (inline.blocks.profile.counts.programmed, inline.blocks.profile.counts.hits) == (1, 4)


@pytest.mark.parametrize("slots", [0, 2])
def test_a_wiped_key_leaves_its_keyslots(device: pmem.Device, slots: int) -> None:
    inline = Inline(BlockDevice(device, CryptoProfile(slots) if slots else None))
    profile = inline.blocks.profile or inline.blocks.fallback
    key, page = key_of(), np.zeros(4096, np.uint8)
    hows = [inline.bind(key, find("file-block"), unit, {}) for unit in (4096, 512)]
    for how in hows:
        inline.put(how, 0, 0, page)
    flying = profile.get(hows[0].key)
    assert [slot.key for slot in profile.slots][:2] == [how.key for how in hows]
    made = device.read(0, 1 << 13)
    key.wipe()
    assert [slot.slot is None for slot in profile.slots][:2] == [False, True]
    profile.put(flying)
    assert all(slot.slot is None for slot in profile.slots)
    for how in hows:
        with pytest.raises(KeyUnavailable):
            inline.put(how, 0, 4096, page)
    assert device.read(0, 1 << 13) == made
    assert not inline._keys


class Slow(dict[Any, Any]):
    """A table in which a look-up lets another thread in, if there is one that can come."""

    def __init__(self, other: Callable[[], None]) -> None:
        self.other: Callable[[], None] | None = other

    def get(self, key: Any, default: Any = None) -> Any:
        found, other, self.other = super().get(key, default), self.other, None
        if other is not None:
            thread = threading.Thread(target=other)
            thread.start()
            thread.join(0.1)
        return found


def test_files_bound_at_once_share_a_block_key(inline: Inline) -> None:
    """Else a copy that nobody knows of would stay in a keyslot behind a wiped key."""
    key, hows, done = key_of(), [], threading.Event()

    def bind() -> None:
        hows.append(inline.bind(key, find("file-block"), 4096, {}))
        if len(hows) == 2:
            done.set()

    inline._keys = Slow(bind)
    bind()
    assert done.wait(30)
    assert hows[0].key is hows[1].key
    key.wipe()
    assert not inline._keys
