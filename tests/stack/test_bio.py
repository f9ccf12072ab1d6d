"""Bios against a model of one that is a list of data units."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from itertools import accumulate, pairwise
from typing import Any

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

import pmem
from mktme import BioError, Key, KeyMaterialError, SchemeError
from mktme.crypto.cipher import Bytes
from mktme.stack.bio import SECTOR, Bio
from mktme.stack.engine import BlockDevice
from mktme.stack.keyslots import SOFTWARE, UNITS, BlockKey, CryptoProfile

SIZE = 1 << 20
TRIED = settings(max_examples=200, deadline=None, derandomize=True, database=None)


def no_key() -> Key:
    raise AssertionError("no slot is programmed here")


KEYS = [BlockKey("aes-xts-256", unit, no_key) for unit in (512, 512, 2048)]
ROOM = np.zeros(1 << 15, np.uint8)
WIDEST = [BlockKey("adiantum", 512, no_key, dun_bytes=32)]


def units(bio: Bio) -> list[tuple[Any, ...]]:
    """Every data unit: the direction, the key, the place on the device, the number, the memory."""
    step = SECTOR if bio.key is None else bio.key.unit
    places = [segment.ctypes.data + at for segment in bio.segments for at in range(0, segment.size, step)]
    first = bio.sector * SECTOR
    return [
        (bio.write, bio.key, first + n * step, None if bio.key is None else bio.dun + n, place)
        for n, place in enumerate(places)
    ]


def goes_on(one: list[tuple[Any, ...]], two: list[tuple[Any, ...]]) -> bool:
    """Whether the first unit of a list is what comes after the last one of another."""
    write, key, place, number, _ = one[-1]
    step = SECTOR if key is None else key.unit
    following = None if number is None else number + 1
    return (write, key, place + step, following) == two[0][:4]


def cut(lengths: list[int], unit: int) -> tuple[Bytes, ...]:
    ends = list(accumulate([0, *lengths]))
    return tuple(ROOM[a * unit : b * unit] for a, b in pairwise(ends))


@st.composite
def bios(draw: st.DrawFn) -> Bio:
    key = draw(st.sampled_from([None, *KEYS]))
    unit = SECTOR if key is None else key.unit
    dun = 0 if key is None else draw(st.sampled_from([0, 1, 2, 3, (1 << 32) - 1, (1 << 64) - 7]))
    lengths = draw(st.lists(st.integers(0, 2), min_size=1, max_size=3))
    return Bio(draw(st.booleans()), draw(st.integers(0, 6)), cut(lengths, unit), key, dun)


@TRIED
@given(bios())
def test_a_bios_size_and_next_number_are_its_units(bio: Bio) -> None:
    step = SECTOR if bio.key is None else bio.key.unit
    assert bio.size == len(units(bio)) * step
    assert bio.next_dun == (0 if bio.key is None else bio.dun + len(units(bio)))
    bio.check(SIZE)


CHANGES: dict[str, Callable[[Bio], dict[str, Any]]] = {
    "nothing": lambda bio: {},
    "the direction": lambda bio: {"write": not bio.write},
    "the sector": lambda bio: {"sector": bio.sector + 1},
    "the number": lambda bio: {"dun": bio.dun + 1},
    "the key": lambda bio: {"key": KEYS[bio.key is KEYS[0]]},
    "no key": lambda bio: {"key": None},
}


@TRIED
@given(bios(), bios(), st.sampled_from(sorted(CHANGES)))
def test_what_merges_is_what_goes_on_unit_by_unit(one: Bio, other: Bio, change: str) -> None:
    """The same data behind it, then with one thing changed; and any two bios."""
    assume(one.size)
    two = replace(one, sector=one.sector + one.size // SECTOR, dun=one.next_dun)
    two = replace(two, **CHANGES[change](two))
    assert one.mergeable(two) == goes_on(units(one), units(two))
    assert one.mergeable(two) == (
        change == "nothing" or (one.key is None and change in ("the number", "no key"))
    )
    if one.mergeable(two):
        assert units(one.merged(two)) == units(one) + units(two)
    if other.size:
        assert one.mergeable(other) == goes_on(units(one), units(other))


@TRIED
@given(bios(), st.lists(st.integers(1, 6), min_size=1, max_size=4))
def test_pieces_of_a_bio_merge_to_the_whole_and_only_in_order(bio: Bio, sizes: list[int]) -> None:
    unit = SECTOR if bio.key is None else bio.key.unit
    pieces, rest = [], bio
    for size in sizes:
        if size * unit < rest.size:
            head, rest = rest.split(size * unit)
            assert head.size == size * unit
            pieces.append(head)
    pieces.append(rest)
    assert [one for piece in pieces for one in units(piece)] == units(bio)
    assert units(pieces[0].merged(*pieces[1:])) == units(bio)
    for n, one in enumerate(pieces):
        if one.size:
            assert [one.mergeable(two) for two in pieces if two.size] == [
                m == n + 1 for m, two in enumerate(pieces) if two.size
            ]


@TRIED
@given(bios(), st.integers(-1, 9), st.sampled_from([0, 0, 1, 256, 511, -512]))
def test_a_bio_is_split_at_its_data_units_only(bio: Bio, count: int, beside: int) -> None:
    unit = SECTOR if bio.key is None else bio.key.unit
    at = count * unit + beside
    if 0 < at < bio.size and at % unit == 0:
        head, rest = bio.split(at)
        assert units(head) + units(rest) == units(bio)
    else:
        message = rf"{bio.size} bytes can't be split at {at}: at multiples of {unit}"
        with pytest.raises(BioError, match=message):
            bio.split(at)


def test_numbers_that_begin_anew_do_not_go_on() -> None:
    """As bio_crypt_dun_is_contiguous: a DUN that wraps is another request."""
    (key,) = WIDEST
    last = Bio(True, 0, (ROOM[:512],), key, (1 << 256) - 1)
    last.check(SIZE)
    assert not last.mergeable(Bio(True, 1, (ROOM[:512],), key, 0))
    carried = Bio(True, 0, (ROOM[:512],), key, (1 << 64) - 1)
    assert carried.mergeable(Bio(True, 1, (ROOM[:512],), key, 1 << 64))
    assert not carried.mergeable(Bio(True, 1, (ROOM[:512],), key, 0))


@TRIED
@given(bios(), st.lists(st.booleans(), max_size=12))
def test_a_plug_merges_each_bio_to_the_one_it_goes_on_from(bio: Bio, same: list[bool]) -> None:
    """The requests that are dispatched, against those that the model of units makes."""
    plug = [bio]
    for goes in same:
        last = plug[-1]
        plug.append(Bio(bio.write, last.sector + last.size // SECTOR + (not goes), bio.segments, bio.key,
                        last.next_dun))  # fmt: skip
    expected = [units(plug[0])]
    for last, one in pairwise(plug):
        if bio.size and goes_on(units(last), units(one)):
            expected[-1] += units(one)
        elif bio.size:
            expected.append(units(one))
    got: list[tuple[Bio, int]] = []

    class Noted(BlockDevice):
        def __init__(self) -> None:  # nothing but the plug
            self.profile = None

        def _check(self, bio: Bio) -> None: ...

        def _dispatch(self, bio: Bio, bios: int) -> None:
            got.append((bio, bios))

    Noted().submit_all(iter(plug))
    assert sum(n for _, n in got) == len(plug)
    if bio.size:
        assert [units(request) for request, _ in got] == expected


def zeros(size: int) -> Bytes:
    return np.zeros(size, np.uint8)


READ_ONLY = np.frombuffer(bytes(512), np.uint8)
KEY = BlockKey("aes-xts-256", 4096, no_key)
REFUSED: list[tuple[str, Callable[[], Bio], str]] = [
    ("before the first sector", lambda: Bio(True, -1, (zeros(512),)), "512 bytes at sector -1 are outside"),
    ("behind the last", lambda: Bio(True, 2048, (zeros(512),)), "which has 2048 sectors"),
    ("across the end", lambda: Bio(False, 2047, (zeros(512), zeros(512))), "1024 bytes at sector 2047"),
    ("a part of a sector", lambda: Bio(True, 0, (zeros(512), zeros(100))), "100 bytes is not whole"),
    ("a part of a unit", lambda: Bio(True, 0, (zeros(6144),), KEY), "6144 bytes is not whole .* of 4096"),
    ("too large a number", lambda: Bio(True, 0, (zeros(4096),), KEY, 1 << 64), "551616 doesn't fit"),
    (
        "a number that gets too large",
        lambda: Bio(True, 0, (zeros(4096), zeros(8192)), KEY, (1 << 64) - 2),
        "number 18446744073709551616 doesn't fit the 8 bytes",
    ),
    ("a negative number", lambda: Bio(True, 0, (zeros(8192),), KEY, -1), "data unit number -1 doesn't fit"),
    ("a negative number, no data", lambda: Bio(True, 0, (), KEY, -7), "data unit number -7 doesn't fit"),
    ("too large a number, no data", lambda: Bio(True, 0, (zeros(0),), KEY, 1 << 64), "doesn't fit the 8"),
    ("a sector that would wrap", lambda: Bio(True, np.int64(1 << 56), (zeros(512),)), "outside of"),  # type: ignore[arg-type]
    (
        "a number of numpy's that would wrap",
        lambda: Bio(True, 0, (zeros(8192),), KEY, np.uint64((1 << 64) - 1)),  # type: ignore[arg-type]
        "number 18446744073709551616 doesn't fit the 8 bytes",
    ),
    ("half a sector", lambda: Bio(True, 0.5, (zeros(512),)), r"sector 0\.5 and data unit number 0 are to be"),  # type: ignore[arg-type]
    ("no number", lambda: Bio(True, 0, (zeros(4096),), KEY, None), "number None are to be integers"),  # type: ignore[arg-type]
    ("no array", lambda: Bio(True, 0, [bytes(512)]), "type bytes is not an array: segments are a sequence"),  # type: ignore[list-item]
    ("an array for a sequence", lambda: Bio(True, 0, zeros(512)), "type uint8 is not an array"),  # type: ignore[arg-type]
    ("other elements", lambda: Bio(True, 0, (np.zeros(512),), None), "dtype float64 is not bytes in a row"),  # type: ignore[arg-type]
    ("two dimensions", lambda: Bio(True, 0, (zeros(1024).reshape(2, 512),)), r"shape \(2, 512\)"),
    ("bytes apart", lambda: Bio(True, 0, (zeros(1024)[::2],)), "contiguous uint8 arrays"),
    ("bytes backwards", lambda: Bio(False, 0, (zeros(4096)[::-1],), KEY), "contiguous uint8 arrays"),
    ("to read into constants", lambda: Bio(False, 0, (READ_ONLY,)), "read into is read-only"),
]  # fmt: skip


@pytest.mark.parametrize(("make", "message"), [r[1:] for r in REFUSED], ids=[r[0] for r in REFUSED])
@pytest.mark.parametrize("slots", [0, 1])
def test_what_cannot_be_done_is_refused_whole(
    device: pmem.Device, make: Callable[[], Bio], message: str, slots: int
) -> None:
    """By itself, and with all of a plug that it is the last of."""
    device.write(0, b"kept" * (SIZE // 4))
    engine = BlockDevice(device, CryptoProfile(slots) if slots else None)
    fine, out = np.full(4096, 7, np.uint8), zeros(512)
    for submit in (
        lambda: engine.submit(make()),
        lambda: engine.submit_all([Bio(True, 8, (fine,)), Bio(False, 0, (out,)), make()]),
    ):
        with pytest.raises(BioError, match=message) as caught:
            submit()
        assert isinstance(caught.value, ValueError)
    assert device.read(0, SIZE) == b"kept" * (SIZE // 4)
    assert not out.any()
    assert not any(vars(engine.counts).values())
    assert not any(engine.traffic.counts().values())


@pytest.mark.parametrize("key", [None, KEY], ids=["plain", "encrypted"])
def test_the_last_sectors_and_the_last_numbers_are_served(device: pmem.Device, key: BlockKey | None) -> None:
    bio = Bio(False, SIZE // SECTOR - 16, (zeros(8192),), key, (1 << 64) - 2 if key else 0)
    bio.check(device.size)
    Bio(True, SIZE // SECTOR, (), key).check(device.size)
    Bio(True, 0, (zeros(0),), key).check(device.size)


def test_block_keys_that_cannot_be_are_refused() -> None:
    for unit in (0, 64, 768, 8192):
        with pytest.raises(SchemeError, match=f"512, 1024, 2048 or 4096 bytes, not {unit}"):
            BlockKey("aes-xts-256", unit, no_key)
    for algorithm, most in (("aes-xts-256", 16), ("adiantum", 32)):
        for size in (0, -1, most + 1):
            with pytest.raises(SchemeError, match=f"a DUN of {algorithm} has 1 to {most} bytes, not {size}"):
                BlockKey(algorithm, 4096, no_key, dun_bytes=size)
        BlockKey(algorithm, 4096, no_key, dun_bytes=most)
    with pytest.raises(SchemeError, match="aes-cts-256 has no data units of 4096 bytes: take aes-xts-128"):
        BlockKey("aes-cts-256", 4096, no_key)
    with pytest.raises(SchemeError, match="aes-xe-128 has no data units of 512 bytes"):
        BlockKey("aes-xe-128", 512, no_key)
    with pytest.raises(KeyMaterialError, match="'des' is not an algorithm: aes-xts-128"):
        BlockKey("des", 4096, no_key)
    assert "adiantum" in SOFTWARE
    assert UNITS == (512, 1024, 2048, 4096)
