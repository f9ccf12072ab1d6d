"""Ranges mapped with any scheme, any cipher that fits it, any data unit: against plain bytes."""

from __future__ import annotations

import hashlib
import threading
import warnings
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes

import mktme
import pmem
from mktme import (
    Controller,
    IvReuseWarning,
    Key,
    KeyIDError,
    MappingError,
    PoisonError,
    Region,
    SchemeError,
    iv,
)
from mktme.crypto.algorithms import ALGORITHMS

LINE, PAGE = 64, 4096
SPLIT = 8 << 20  # bytes from which a request is taken in several threads

# What a scheme is given, at the first data unit; some values grow into the next word on the way.
GIVEN: dict[str, dict[str, Any]] = {
    "spa-line": {"system_address": (1 << 46) - PAGE},
    "dimm-line": {"device_address": (1 << 38) - PAGE, "dimm_serial": 0x0123456789ABCDEF},
    "file-block": {"block": (1 << 32) - 2},
    "per-file-key": {"block": 3},
    "direct-key": {"block": (1 << 32) - 2, "nonce": bytes(range(200, 216))},
    "ino-lblk-64": {"block": 0xFFFF0000, "inode": 77},
    "ino-lblk-32": {"block": 5, "inode_hash": 0xFFFFFFFD},
    "plain": {"sector": (1 << 32) - 3},
    "plain64": {"sector": (1 << 32) - 3},
    "plain64be": {"sector": (1 << 32) - 3},
    "essiv": {"sector": (1 << 40) + 1},
    "eboiv": {"sector": (1 << 40) + 1},
    "benbi": {"sector": (1 << 40) + 1},
    "xe": {"system_address": (1 << 40) + PAGE},
    "xex": {"system_address": (1 << 40) + PAGE},
}
STATEFUL = ("random", "ctr-global", "ctr-split", "ctr-deuce")
SCHEMES = [name for name, scheme in iv.schemes().items() if not scheme.own]
STEPS = {"system_address": 1.0, "device_address": 1.0, "address": 1.0, "sector": 1 / 512}


def material(algorithm: str) -> bytes:
    return bytes(range(7, 7 + sum(ALGORITHMS[algorithm].parts)))


@cache
def fitting(name: str) -> list[str]:
    """The algorithms that a scheme is for."""
    scheme = iv.schemes()[name]
    return [
        algorithm
        for algorithm, made in ALGORITHMS.items()
        if (made.family in scheme.families if scheme.families else made.takes(max(64, scheme.least_unit)))
    ]


def units(name: str, algorithm: str) -> list[int]:
    scheme = iv.schemes()[name]
    sizes = [1 << bits for bits in range(4, 13)]
    return [
        size
        for size in sizes
        if scheme.least_unit <= size <= scheme.most_unit and ALGORITHMS[algorithm].takes(size)
    ]


def mapped(
    controller: Controller, address: int, length: int, keyid: int, name: str, **options: Any
) -> Region:
    """Mapped with what the scheme wants, the metadata at the end of the device."""
    beside = mktme.metadata_bytes(
        name, length, unit=options.get("unit"), integrity=options.get("integrity", False)
    )
    if beside:
        options.setdefault("metadata", controller.size - beside)
    return controller.map(address, length, keyid, iv=name, **{**GIVEN.get(name, {}), **options})


def expected_ivs(name: str, algorithm: str, address: int, unit: int, first: int, n: int) -> Any:
    """The IVs of n units of a mapping of this file, one by one, sealed by another implementation."""
    scheme, width = iv.schemes()[name], ALGORITHMS[algorithm].iv_bytes // 8
    at_first: dict[str, Any] = {"address": address, **GIVEN.get(name, {})}
    if "nonce" in at_first:
        nonce = at_first.pop("nonce")
        at_first["nonce_low"], at_first["nonce_high"] = (
            int.from_bytes(nonce[:8], "little"),
            int.from_bytes(nonce[8:], "little"),
        )
    rows = []
    for number in range(first, first + n):
        values = {}
        for coordinate in scheme.coordinates:
            grows = 1 if coordinate == "block" else int(STEPS.get(coordinate, 0) * unit)
            values[coordinate] = at_first[coordinate] + grows * number
        made = scheme.iv_bytes(**values).ljust(8 * width, b"\0")
        if scheme.seal:
            key = material(algorithm)
            seal = hashlib.sha256(key).digest() if scheme.seal == "essiv" else key
            made = Cipher(algorithms.AES(seal), modes.ECB()).encryptor().update(made)
        rows.append(np.frombuffer(made, np.uint64))
    return np.array(rows)


@pytest.fixture
def device(tmp_path: Path) -> Iterator[pmem.Device]:
    with pmem.create(tmp_path / "pool.img", 1 << 18) as made:
        yield made


# Every scheme with every cipher, in every data unit


def scribble(region: Region, model: bytearray, rng: np.random.Generator, steps: int) -> None:
    """All the ways to write to a region, at random places, on the region and its model alike."""
    controller, size = region.mapping(), region.size
    for _ in range(steps):
        length = int(rng.choice([1, 15, 63, 64, 65, 200, 512, 1000, 4096, 5000]))
        offset = int(rng.integers(0, size - length + 1))
        if rng.integers(0, 3) == 0:
            offset = offset // 64 * 64
        data, how = rng.bytes(length), int(rng.integers(0, 7))
        if how == 0:
            region.write(offset, data)
        elif how == 1:
            region[offset : offset + length] = data
        elif how == 2:
            controller.write(region.address + offset, data)
        elif how == 3:
            data = bytes([length & 255]) * length
            region.fill(length & 255, offset, length)
        elif how == 4:
            places = rng.integers(0, size // LINE, 9)
            places[5] = places[2]  # the later one stays
            rows = rng.integers(0, 256, (9, LINE), np.uint8)
            controller.write_lines(region.address + LINE * places, rows)
            for place, row in zip(places.tolist(), rows, strict=True):
                model[LINE * place : LINE * place + LINE] = row.tobytes()
            continue
        elif how == 5:
            step, start = int(rng.integers(1, 40)), int(rng.integers(0, 50))
            view = np.frombuffer(model, np.uint16)[start : start + 900 : step]
            values = rng.integers(0, 1 << 16, view.size, np.uint16)
            region.array(np.uint16)[start : start + 900 : step] = values
            np.frombuffer(model, np.uint16)[start : start + 900 : step] = values
            continue
        else:
            rows_of = size // 96
            row, column = int(rng.integers(0, rows_of - 4)), int(rng.integers(0, 60))
            values = rng.integers(0, 256, (2, 20), np.uint8)
            region.array(np.uint8, (rows_of, 96))[row : row + 4 : 2, column : column + 20] = values
            plain = np.frombuffer(model, np.uint8)[: rows_of * 96].reshape(rows_of, 96)
            plain[row : row + 4 : 2, column : column + 20] = values
            continue
        model[offset : offset + length] = data


def look(region: Region, model: bytearray, rng: np.random.Generator, steps: int) -> None:
    """All the ways to read."""
    controller, size = region.mapping(), region.size
    assert region.read(0, size) == model
    for _ in range(steps):
        length = int(rng.choice([0, 1, 17, 64, 129, 700, 4096, 4500]))
        offset = int(rng.integers(0, size - length + 1))
        expected = model[offset : offset + length]
        assert region.read(offset, length) == expected
        assert controller.read(region.address + offset, length) == expected
        places = rng.integers(0, size // LINE, 8)
        places[3] = places[1]
        lines = controller.read_lines(region.address + LINE * places)
        assert (lines == np.frombuffer(model, np.uint8).reshape(-1, LINE)[places]).all()
        start, step = int(rng.integers(0, 100)), int(rng.integers(1, 33))
        words = np.frombuffer(model, np.uint32)
        assert (np.asarray(region.array(np.uint32)[start::step]) == words[start::step]).all()


def exercise(controller: Controller, name: str, algorithm: str, unit: int, integrity: bool) -> None:
    """A mapping of 2 pages between bytes that must stay: written, read, mapped again."""
    device, address, size = controller.device, 3 * PAGE, 2 * PAGE
    rng = np.random.default_rng([len(name), unit, integrity, *algorithm.encode()])
    device.write(0, rng.bytes(device.size))
    beside = mktme.metadata_bytes(name, size, unit=unit, integrity=integrity)
    device.write(device.size - max(PAGE, beside), bytes(max(PAGE, beside)))
    before = device.read(0, device.size)
    keyid = controller.program_key(Key.from_bytes(algorithm, material(algorithm)))
    region = mapped(controller, address, size, keyid, name, unit=unit, integrity=integrity)
    assert (region.scheme.name, region.unit, region.size) == (name, unit, size)
    model = bytearray(rng.bytes(size))
    region.write(0, model)
    if name not in STATEFUL:
        ivs = expected_ivs(name, algorithm, address, unit, 0, size // unit)
        made = np.empty(size, np.uint8)
        controller.slot(keyid).cipher.units(False, unit, ivs, np.frombuffer(bytes(model), np.uint8), made)
        if not region.scheme.seal:
            assert device.read(address, size) == made.tobytes()
    media = device.read(address, size)
    assert all(model[at : at + 16] != media[at : at + 16] for at in range(0, size, 16))
    scribble(region, model, rng, 7)
    look(region, model, rng, 2)
    controller.unmap(region)
    region = mapped(controller, address, size, keyid, name, unit=unit, integrity=integrity)
    assert region.read(0, size) == model
    after = device.read(0, device.size)
    end = device.size - beside
    assert after[:address] == before[:address]
    assert after[address + size : end] == before[address + size : end]
    controller.unmap(region)
    controller.clear_key(keyid)


@pytest.mark.filterwarnings("ignore::mktme.IvReuseWarning")  # of IVs without a place for a counter
@pytest.mark.parametrize("integrity", [False, True])
@pytest.mark.parametrize("name", SCHEMES)
def test_every_fitting_cipher_and_unit_reads_back_what_was_written(
    controller: Controller, name: str, integrity: bool
) -> None:
    assert fitting(name)
    for algorithm in fitting(name):
        assert units(name, algorithm)
        for unit in units(name, algorithm):
            exercise(controller, name, algorithm, unit, integrity)


@pytest.mark.parametrize("name", SCHEMES)
def test_every_backend_reads_what_another_one_wrote(
    device: pmem.Device, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    algorithm = fitting(name)[-1]
    unit, size = units(name, algorithm)[-1], 2 * PAGE
    data = np.random.default_rng(5).bytes(size)
    for writer, reader in zip(
        mktme.crypto.backend.available(), reversed(mktme.crypto.backend.available()), strict=True
    ):
        for at, chosen in enumerate((writer, reader)):
            monkeypatch.setattr("mktme.crypto.backend.chosen", chosen)
            controller = Controller(device)
            keyid = controller.program_key(Key.from_bytes(algorithm, material(algorithm)))
            region = mapped(controller, PAGE, size, keyid, name, unit=unit, integrity=True)
            if at == 0:
                region.write(0, data)
            assert region.read(0, size) == data


@pytest.mark.parametrize("name", ["essiv", "eboiv"])
def test_sealed_schemes_are_cbc_under_the_sealed_iv_on_the_medium(controller: Controller, name: str) -> None:
    for algorithm in fitting(name):
        keyid = controller.program_key(Key.from_bytes(algorithm, material(algorithm)))
        for unit in units(name, algorithm):
            region = mapped(controller, PAGE, 2 * PAGE, keyid, name, unit=unit)
            plain = np.random.default_rng(unit).bytes(2 * PAGE)
            region.write(0, plain)
            for number, row in enumerate(expected_ivs(name, algorithm, PAGE, unit, 0, 2 * PAGE // unit)):
                cbc = Cipher(algorithms.AES(material(algorithm)), modes.CBC(row.tobytes())).encryptor()
                expected = cbc.update(plain[number * unit : (number + 1) * unit])
                assert controller.device.read(PAGE + number * unit, unit) == expected
            controller.unmap(region)


# Coordinates


OTHER: list[tuple[str, str, dict[str, Any]]] = [
    ("spa-line", "aes-xts-256", {"system_address": 1 << 20}),
    ("dimm-line", "aes-xts-128", {"dimm_serial": 8}),
    ("dimm-line", "aes-ctr-128", {"device_address": 0}),
    ("file-block", "aes-xts-256", {"block": 9}),
    ("per-file-key", "aes-cbc-256", {"block": 9}),
    ("direct-key", "aes-hctr2-256", {"nonce": bytes(16)}),
    ("direct-key", "aes-hctr2-128", {"block": 0}),
    ("ino-lblk-64", "aes-xts-256", {"inode": 78}),
    ("ino-lblk-32", "aes-cbc-essiv-128", {"inode_hash": 1}),
    ("plain64", "aes-xts-256", {"sector": 64}),
    ("essiv", "aes-cbc-256", {"sector": 64}),
    ("eboiv", "aes-cbc-128", {"sector": 64}),
    ("benbi", "aes-ctr-256", {"sector": 64}),
    ("xe", "aes-xe-128", {"system_address": 1 << 20}),
    ("xex", "aes-xex-128", {"system_address": 1 << 20}),
]


@pytest.mark.parametrize(("name", "algorithm", "other"), OTHER)
def test_two_regions_of_one_key_and_scheme_differ_by_their_coordinates(
    controller: Controller, name: str, algorithm: str, other: dict[str, Any]
) -> None:
    keyid = controller.program_key(Key.from_bytes(algorithm, material(algorithm)))
    one = mapped(controller, 0, PAGE, keyid, name)
    two = mapped(controller, PAGE, PAGE, keyid, name)
    three = mapped(controller, 2 * PAGE, PAGE, keyid, name, **other)
    data = np.random.default_rng(1).bytes(PAGE)
    for region in (one, two, three):
        region.write(0, data)
    first, second, third = (controller.device.read(at, PAGE) for at in (0, PAGE, 2 * PAGE))
    assert first == second  # by the same coordinates it's the same ciphertext, at any address
    blocks = range(0, PAGE, 16)
    assert not {first[at : at + 16] for at in blocks} & {third[at : at + 16] for at in blocks}
    controller.unmap(one)
    assert mapped(controller, 0, PAGE, keyid, name, **other).read(0, PAGE) != data


@pytest.mark.parametrize(
    ("name", "algorithm", "grown"),
    [
        ("file-block", "aes-xts-256", {"block": 2}),
        ("per-file-key", "aes-cbc-essiv-256", {"block": 2}),
        ("direct-key", "aes-hctr2-256", {"block": 2, "nonce": bytes(range(16))}),
        ("ino-lblk-64", "aes-cbc-256", {"block": 2, "inode": 3}),
        ("ino-lblk-32", "aes-ctr-256", {"block": 2, "inode_hash": 3}),
        ("plain64", "aes-xts-128", {"sector": 16}),
        ("essiv", "aes-cbc-128", {"sector": 16}),
        ("benbi", "aes-cbc-128", {"sector": 16}),
        ("dimm-line", "aes-xts-128", {"device_address": 2 * PAGE, "dimm_serial": 3}),
        ("xex", "aes-xex-128", {"system_address": 2 * PAGE}),
    ],
)
def test_ciphertext_moves_with_its_logical_coordinates(
    controller: Controller, name: str, algorithm: str, grown: dict[str, Any]
) -> None:
    keyid = controller.program_key(Key.from_bytes(algorithm, material(algorithm)))
    moving = {"block": 0, "sector": 0, "device_address": 0, "system_address": 0}
    first = {coordinate: moving.get(coordinate, value) for coordinate, value in grown.items()}
    region = controller.map(0, 4 * PAGE, keyid, iv=name, **first)
    data = np.random.default_rng(2).bytes(4 * PAGE)
    region.write(0, data)
    controller.device.write(1 << 17, controller.device.read(2 * PAGE, 2 * PAGE))  # its last two pages
    elsewhere = controller.map(1 << 17, 2 * PAGE, keyid, iv=name, **grown)
    assert elsewhere.read(0, 2 * PAGE) == data[2 * PAGE :]


def test_ciphertext_under_physical_addresses_does_not_move(controller: Controller) -> None:
    keyid = controller.program_key(Key.from_bytes("aes-xts-256", material("aes-xts-256")))
    for name in ("pmem-line", "pmem-page"):
        region = controller.map(0, PAGE, keyid, iv=name)
        region.write(0, bytes(PAGE))
        controller.device.write(PAGE, controller.device.read(0, PAGE))
        elsewhere = controller.map(PAGE, PAGE, keyid, iv=name)
        assert bytes(16) not in elsewhere.read(0, PAGE)
        controller.unmap(region)
        controller.unmap(elsewhere)


@pytest.mark.parametrize("integrity", [False, True])
@pytest.mark.parametrize("name", SCHEMES)
def test_a_reopened_device_has_the_data_the_counters_and_the_macs(
    tmp_path: Path, name: str, integrity: bool
) -> None:
    algorithm, rng = fitting(name)[0], np.random.default_rng(4)
    model = bytearray(rng.bytes(2 * PAGE))
    with pmem.create(tmp_path / "kept.img", 1 << 17):
        pass
    for round_ in range(3):
        with pmem.open(tmp_path / "kept.img") as device:
            controller = Controller(device)
            keyid = controller.program_key(Key.from_bytes(algorithm, material(algorithm)))
            region = mapped(controller, PAGE, 2 * PAGE, keyid, name, integrity=integrity)
            if round_ == 0:
                region.write(0, model)
            assert region.read(0, 2 * PAGE) == model
            scribble(region, model, rng, 6)
            region.persist()


# Several regions at once


MIXED = [
    ("pmem-line", "aes-xts-128", 64, False),
    ("pmem-line", "aes-xts-128", 64, True),
    ("pmem-page", "aes-cbc-256", 4096, True),
    ("file-block", "aes-hctr2-256", 512, False),
    ("direct-key", "aes-hctr2-256", 4096, True),
    ("xex", "aes-xex-128", 16, True),
    ("plain64", "aes-ctr-256", 1024, False),
    ("essiv", "aes-cbc-128", 512, True),
    ("random", "aes-cbc-essiv-256", 512, True),
    ("random", "aes-ctr-128", 1024, False),
    ("ctr-global", "aes-ctr-128", 64, True),
    ("ctr-split", "aes-ctr-256", 64, True),
    ("ctr-split", "aes-ctr-128", 64, False),
    ("ctr-deuce", "aes-ctr-128", 64, False),
    ("pmem-line", "aes-cts-256", 128, False),
]


class Walk:
    """A controller over a random map, beside plain bytes of the whole data area."""

    PAGES, META = 40, 40 * PAGE

    def __init__(self, device: pmem.Device, seed: int) -> None:
        self.rng = np.random.default_rng(seed)
        self.device = device
        self.controller = Controller(device)
        self.keyids = {
            algorithm: self.controller.program_key(Key.from_bytes(algorithm, material(algorithm)))
            for algorithm in sorted({algorithm for _, algorithm, _, _ in MIXED})
        }
        self.model = bytearray(device.read(0, self.PAGES * PAGE))
        self.free = list(range(self.PAGES, device.size // PAGE))  # pages for metadata
        self.regions: dict[Region, tuple[int, int]] = {}

    def map(self) -> None:
        page = int(self.rng.integers(0, self.PAGES - 4))
        count = int(self.rng.integers(1, 5))
        if any(r.address < (page + count) * PAGE and page * PAGE < r.address + r.size for r in self.regions):
            return
        name, algorithm, unit, integrity = MIXED[int(self.rng.integers(0, len(MIXED)))]
        beside = mktme.metadata_bytes(name, count * PAGE, unit=unit, integrity=integrity) // PAGE
        if beside > len(self.free):
            return
        options: dict[str, Any] = {}
        if beside:
            at = self.free[0]
            if self.free[:beside] != list(range(at, at + beside)):
                return
            options["metadata"] = at * PAGE
            self.device.write(at * PAGE, bytes(beside * PAGE))
            self.free = self.free[beside:]
        region = self.controller.map(
            page * PAGE,
            count * PAGE,
            self.keyids[algorithm],
            iv=name,
            unit=unit,
            integrity=integrity,
            **{**GIVEN.get(name, {}), **options},
        )
        data = self.rng.bytes(region.size)
        region.write(0, data)
        self.model[region.address : region.address + region.size] = data
        self.regions[region] = (options.get("metadata", 0) // PAGE, beside)

    def unmap(self) -> None:
        if self.regions:
            region = list(self.regions)[int(self.rng.integers(0, len(self.regions)))]
            at, beside = self.regions.pop(region)
            self.free = sorted(self.free + list(range(at, at + beside)))
            self.controller.unmap(region)
            self.model[region.address : region.address + region.size] = self.device.read(
                region.address, region.size
            )

    def write(self) -> None:
        length = int(self.rng.integers(1, 3 * PAGE))
        at = int(self.rng.integers(0, self.PAGES * PAGE - length))
        data = self.rng.bytes(length)
        self.controller.write(at, data)
        self.model[at : at + length] = data

    def write_lines(self) -> None:
        count = int(self.rng.integers(1, 200))
        places = self.rng.integers(0, self.PAGES * PAGE // LINE, count)
        rows = self.rng.integers(0, 256, (count, LINE), np.uint8)
        self.controller.write_lines(LINE * places, rows)
        for place, row in zip(places.tolist(), rows, strict=True):
            self.model[LINE * place : LINE * place + LINE] = row.tobytes()

    def scribble(self) -> None:
        if self.regions:
            region = list(self.regions)[int(self.rng.integers(0, len(self.regions)))]
            part = bytearray(self.model[region.address : region.address + region.size])
            if region.size > 5000:
                scribble(region, part, self.rng, 2)
            self.model[region.address : region.address + region.size] = part

    def check(self) -> None:
        length = self.PAGES * PAGE
        assert self.controller.read(0, length) == self.model
        places = self.rng.permutation(length // LINE)[:500]
        lines = self.controller.read_lines(LINE * places)
        assert (lines == np.frombuffer(self.model, np.uint8).reshape(-1, LINE)[places]).all()


@pytest.mark.parametrize("seed", range(6))
def test_a_random_walk_over_regions_of_mixed_schemes_is_that_of_plain_bytes(
    device: pmem.Device, seed: int
) -> None:
    walk = Walk(device, seed)
    for _ in range(6):
        walk.map()
    steps: list[Callable[[], None]] = [
        walk.map, walk.map, walk.unmap, walk.write, walk.write, walk.write_lines, walk.scribble,
    ]  # fmt: skip
    for step in walk.rng.integers(0, len(steps), 70).tolist():
        steps[step]()
        walk.check()
    assert len(walk.controller.regions) == len(walk.regions) > 1


def test_a_request_over_the_borders_of_regions_and_gaps_is_whole(controller: Controller) -> None:
    at = PAGE
    for name, algorithm, unit, integrity in MIXED:
        keyid = controller.program_key(Key.from_bytes(algorithm, material(algorithm)))
        beside = mktme.metadata_bytes(name, PAGE, unit=unit, integrity=integrity)
        free = controller.size - sum(r.metadata[1] - r.metadata[0] for r in controller.regions if r.metadata)
        more = {"metadata": free - beside} if beside else {}
        mapped(controller, at, PAGE, keyid, name, unit=unit, integrity=integrity, **more)
        at += PAGE if at % (3 * PAGE) else 2 * PAGE  # after some of them a page that isn't mapped
    for region in controller.regions:
        region.write(0, bytes(PAGE))
    data = np.random.default_rng(3).bytes(at)
    controller.write(0, data)
    assert controller.read(0, at) == data
    small = np.random.default_rng(4).bytes(100)
    model = bytearray(data)
    for border in range(PAGE, at, PAGE):
        controller.write(border - 37, small)
        model[border - 37 : border + 63] = small
        assert controller.read(border - 90, 170) == model[border - 90 : border + 80]
    assert controller.read(0, at) == model


# Long requests and several threads


LONG = [
    ("file-block", "aes-xts-256", 4096, False),
    ("ctr-split", "aes-ctr-128", 64, False),
    ("pmem-line", "aes-xts-128", 64, True),
]


@pytest.mark.parametrize(("name", "algorithm", "unit", "integrity"), LONG)
def test_a_long_request_over_several_threads_is_as_many_short_ones(
    tmp_path: Path, name: str, algorithm: str, unit: int, integrity: bool
) -> None:
    size = SPLIT + 6 * PAGE
    with pmem.create(tmp_path / "long.img", 4 * SPLIT) as device:
        controller = Controller(device, threads=3)
        keyid = controller.program_key(Key.from_bytes(algorithm, material(algorithm)))
        region = mapped(controller, PAGE, size, keyid, name, unit=unit, integrity=integrity)
        rng = np.random.default_rng(8)
        model = np.frombuffer(rng.bytes(size), np.uint8).copy()
        region.write(0, model)
        assert region.read(0, size) == model.tobytes()
        for at in (0, SPLIT // 3, SPLIT, size - 100):
            assert region.read(at, 100) == model[at : at + 100].tobytes()
        again = np.frombuffer(rng.bytes(SPLIT + 999), np.uint8)
        region.write(777, again)
        model[777 : 777 + again.size] = again
        assert controller.read(PAGE, size) == model.tobytes()
        addresses = PAGE + LINE * rng.permutation(size // LINE).astype(np.uint64)
        lines = controller.read_lines(addresses)
        assert (lines == model.reshape(-1, LINE)[(addresses - np.uint64(PAGE)) // np.uint64(LINE)]).all()
        if integrity:
            device.write(PAGE + SPLIT // 2, bytes([device.read(PAGE + SPLIT // 2, 1)[0] ^ 1]))
            with pytest.raises(PoisonError) as caught:
                region.read(0, size)
            assert caught.value.line == (PAGE + SPLIT // 2) // LINE
            del caught  # it holds the frames of the call, and the device open with them


@pytest.mark.parametrize("name", STATEFUL)
def test_threads_on_different_parts_of_one_stateful_region_lose_nothing(
    controller: Controller, name: str
) -> None:
    keyid = controller.program_key(Key.from_bytes("aes-ctr-128", material("aes-ctr-128")))
    region = mapped(controller, 0, 8 * PAGE, keyid, name, integrity=True)
    region.write(0, bytes(8 * PAGE))
    part, parts = 2 * PAGE, 4
    models = [bytearray(part) for _ in range(parts)]
    errors: list[BaseException] = []

    def work(n: int) -> None:
        rng = np.random.default_rng(n)
        try:
            for _ in range(60):
                length = int(rng.integers(1, 600))
                at = int(rng.integers(0, part - length))
                data = rng.bytes(length)
                region.write(n * part + at, data)
                models[n][at : at + length] = data
                assert region.read(n * part + at, length) == data
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=work, args=(n,)) for n in range(parts)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not errors
    assert region.read(0, 8 * PAGE) == b"".join(models)


# Refusals


class Laboratory:
    """A controller with a key of every algorithm and a region that keeps metadata."""

    def __init__(self, device: pmem.Device) -> None:
        self.device = device
        device.write(0, np.random.default_rng(6).bytes(device.size - 4 * PAGE))
        self.controller = Controller(device)
        self.keyids = {
            algorithm: self.controller.program_key(Key.from_bytes(algorithm, material(algorithm)))
            for algorithm in ALGORITHMS
        }
        # Data in pages 8 and 9, metadata (1 page of counters, 1 of MACs) in the device's last two.
        self.metadata = device.size - 2 * PAGE
        self.region = self.controller.map(
            8 * PAGE,
            2 * PAGE,
            self.keyids["aes-ctr-128"],
            iv="ctr-split",
            integrity=True,
            metadata=self.metadata,
        )
        self.region.write(0, bytes(2 * PAGE))

    def state(self) -> tuple[object, ...]:
        return (
            self.device.read(0, self.device.size),
            self.controller.regions,
            self.controller.keyids,
            list(self.controller.slots),
        )

    def map(self, algorithm: str, name: str, **options: Any) -> Region:
        address, length = options.pop("address", 0), options.pop("length", 2 * PAGE)
        return self.controller.map(address, length, self.keyids[algorithm], iv=name, **options)


@pytest.fixture
def laboratory(device: pmem.Device) -> Laboratory:
    return Laboratory(device)


COORDINATES: list[tuple[str, str, str, dict[str, Any]]] = [
    (r"spa-line needs the system_address .* pass system_address=.*, at the first data unit",
     "aes-xts-128", "spa-line", {}),
    (r"dimm-line needs the dimm_serial .* pass dimm_serial=\.\.\., the serial number of the DIMM",
     "aes-xts-128", "dimm-line", {"device_address": 0}),
    (r"file-block needs the block .* pass block=\.\.\., the index of the data unit in its file, at the first",
     "aes-xts-128", "file-block", {}),
    (r"direct-key needs the nonce.*pass nonce=\.\.\., the file's 16 bytes",
     "aes-hctr2-256", "direct-key", {"block": 0}),
    (r"ino-lblk-64 needs the inode", "aes-xts-256", "ino-lblk-64", {"block": 0}),
    (r"ino-lblk-32 needs the inode_hash", "aes-xts-256", "ino-lblk-32", {"block": 0}),
    (r"essiv needs the sector", "aes-cbc-128", "essiv", {}),
    (r"xex needs the system_address", "aes-xex-128", "xex", {}),
    (r"pmem-line has no coordinate inode: it takes none", "aes-xts-128", "pmem-line", {"inode": 12}),
    (r"file-block has no coordinate sector: it takes block",
     "aes-xts-128", "file-block", {"block": 0, "sector": 0}),
    (r"file-block has no coordinate nonce", "aes-xts-128", "file-block", {"block": 0, "nonce": bytes(16)}),
    (r"null has no coordinate sector: it takes none", "aes-xts-128", "null", {"sector": 0}),
    (r"ctr-global has no coordinate counter: it takes none",
     "aes-ctr-128", "ctr-global", {"counter": 0, "metadata": 1 << 16}),
    (r"ctr-split has no coordinate minor: it takes none",
     "aes-ctr-128", "ctr-split", {"minor": 0, "metadata": 1 << 16}),
    (r"block = 18446744073709551616 is outside of 0 to 2\^64 - 1",
     "aes-xts-128", "file-block", {"block": 1 << 64}),
    (r"block = -1 is outside of 0 to 2\^64 - 1", "aes-xts-128", "file-block", {"block": -1}),
    (r"block is to be an integer, not float", "aes-xts-128", "file-block", {"block": 1.0}),
    (r"block is to be an integer, not str", "aes-xts-128", "file-block", {"block": "1"}),
    (r"block is to be an integer, not NoneType", "aes-xts-128", "file-block", {"block": None}),
    (r"block is to be an integer, not type", "aes-xts-128", "file-block", {"block": int}),
    (r"nonce is to be 16 bytes", "aes-hctr2-256", "direct-key", {"block": 0, "nonce": bytes(15)}),
    (r"nonce is to be a buffer of 16 bytes, not str",
     "aes-hctr2-256", "direct-key", {"block": 0, "nonce": "0123456789abcdef"}),
    (r"nonce is to be a buffer of 16 bytes, not int",
     "aes-hctr2-256", "direct-key", {"block": 0, "nonce": 16}),
    (r"ino-lblk-64 takes a block below 2\^32, and the range's last one is 4294967296",
     "aes-xts-256", "ino-lblk-64", {"block": 0xFFFFFFFF, "inode": 1}),
    (r"ino-lblk-64 takes a inode below 2\^32", "aes-xts-256", "ino-lblk-64", {"block": 0, "inode": 1 << 32}),
    (r"file-block takes a block below 2\^64", "aes-xts-256", "file-block", {"block": (1 << 64) - 1}),
    (r"system_address = 100 is not a multiple of the data unit, 64 bytes",
     "aes-xts-128", "spa-line", {"system_address": 100}),
    (r"system_address = 64 is not a multiple of the data unit, 4096 bytes",
     "aes-xts-128", "spa-line", {"system_address": 64, "unit": 4096}),
    (r"device_address = 8 is not a multiple of the data unit, 64 bytes",
     "aes-xts-128", "dimm-line", {"device_address": 8, "dimm_serial": 0}),
    (r"system_address = 8 is not a multiple of the data unit, 16 bytes",
     "aes-xe-128", "xe", {"system_address": 8}),
]  # fmt: skip
FITTING: list[tuple[str, str, str, dict[str, Any]]] = [
    (r"pmem-page has no data units of 64 bytes: they are 4096 bytes",
     "aes-xts-128", "pmem-page", {"unit": 64}),
    (r"plain64 has no data units of 256 bytes: they are powers of two from 512 to 4096",
     "aes-xts-128", "plain64", {"sector": 0, "unit": 256}),
    (r"pmem-line has no data units of 96 bytes", "aes-xts-128", "pmem-line", {"unit": 96}),
    (r"pmem-line has no data units of 8192 bytes", "aes-xts-128", "pmem-line", {"unit": 8192}),
    (r"pmem-line has no data units of 0 bytes", "aes-xts-128", "pmem-line", {"unit": 0}),
    (r"pmem-line has no data units of -64 bytes", "aes-xts-128", "pmem-line", {"unit": -64}),
    (r"unit is to be an integer, in bytes, not float", "aes-xts-128", "pmem-line", {"unit": 64.0}),
    (r"unit is to be an integer, in bytes, not str", "aes-xts-128", "pmem-line", {"unit": "64"}),
    (r"ctr-global has no data units of 128 bytes: they are 64 bytes",
     "aes-ctr-128", "ctr-global", {"unit": 128, "metadata": 1 << 16}),
    (r"xex has no data units of 64 bytes: they are 16 bytes",
     "aes-xex-128", "xex", {"system_address": 0, "unit": 64}),
    (r"aes-cts-128 has no data units of 512 bytes: they have 16 to 255 bytes",
     "aes-cts-128", "plain64", {"sector": 0}),
    (r"aes-cts-128 has no data units of 256 bytes", "aes-cts-128", "pmem-line", {"unit": 256}),
    (r"aes-xex-128 has no data units of 64 bytes: they have 16 bytes", "aes-xex-128", "pmem-line", {}),
    (r"ctr-split is not for aes-xts-256: program a key of aes-ctr-128 or aes-ctr-256",
     "aes-xts-256", "ctr-split", {"metadata": 1 << 16}),
    (r"direct-key is not for aes-xts-256: program a key of adiantum or aes-hctr2-128 or",
     "aes-xts-256", "direct-key", {"block": 0, "nonce": bytes(16)}),
    (r"xe is not for aes-xex-128: program a key of aes-xe-128",
     "aes-xex-128", "xe", {"system_address": 0}),
    (r"essiv is not for aes-cbc-essiv-128: program a key of aes-cbc-128 or aes-cbc-256",
     "aes-cbc-essiv-128", "essiv", {"sector": 0}),
    (r"eboiv is not for aes-xts-128: program a key of aes-cbc-128 or aes-cbc-256",
     "aes-xts-128", "eboiv", {"sector": 0}),
]  # fmt: skip


@pytest.mark.parametrize(("message", "algorithm", "name", "options"), COORDINATES + FITTING)
def test_what_does_not_fit_together_is_refused_with_nothing_changed(
    laboratory: Laboratory, message: str, algorithm: str, name: str, options: dict[str, Any]
) -> None:
    before = laboratory.state()
    with pytest.raises(SchemeError, match=message):
        laboratory.map(algorithm, name, **options)
    assert laboratory.state() == before
    assert laboratory.region.read(0, 2 * PAGE) == bytes(2 * PAGE)


LAST = (1 << 18) - PAGE  # the device's last page, where the region's MACs are
METADATA: list[tuple[str, str, str, dict[str, Any]]] = [
    (r"random keeps 4096 bytes beside the data: pass metadata=, the address of as many free bytes",
     "aes-xts-128", "random", {}),
    (r"ctr-global keeps 8192 bytes beside the data: pass metadata=", "aes-ctr-128", "ctr-global", {}),
    (r"ctr-split keeps 8192 bytes beside the data: pass metadata=",
     "aes-ctr-128", "ctr-split", {"integrity": True}),
    (r"integrity keeps 4096 bytes beside the data: pass metadata=",
     "aes-xts-128", "pmem-line", {"integrity": True}),
    (r"pmem-line keeps no metadata: leave it out", "aes-xts-128", "pmem-line", {"metadata": 1 << 16}),
    (r"xex keeps no metadata: leave it out",
     "aes-xex-128", "xex", {"system_address": 0, "metadata": 1 << 16}),
    (r"metadata.*100.*multiple of the page, 4096", "aes-xts-128", "random", {"metadata": 100}),
    (r"metadata.*65600.*multiple of the page, 4096",
     "aes-xts-128", "pmem-line", {"integrity": True, "metadata": (1 << 16) + 64}),
    (r"metadata.*bytes 262144 to 266239 are not all on the device, which has 262144 bytes",
     "aes-xts-128", "random", {"metadata": 1 << 18}),
    (r"metadata.*bytes 258048 to 266239 are not all on the device",
     "aes-ctr-128", "ctr-global", {"metadata": LAST}),
    (r"the metadata, bytes 0 to 4095, overlaps the range itself", "aes-xts-128", "random", {"metadata": 0}),
    (r"the metadata, bytes 4096 to 12287, overlaps the range itself",
     "aes-ctr-128", "ctr-global", {"metadata": PAGE}),
    (r"the metadata, bytes 12288 to 20479, overlaps the range itself",
     "aes-ctr-128", "ctr-global", {"address": 4 * PAGE, "metadata": 3 * PAGE}),
    (r"bytes 36864 to 40959 overlap a region at 32768 to 40959 \(KeyID \d\): unmap it first",
     "aes-xts-128", "random", {"metadata": 9 * PAGE}),
    (r"bytes 28672 to 36863 overlap a region at 32768 to 40959 \(KeyID \d\): unmap it first",
     "aes-ctr-128", "ctr-global", {"metadata": 7 * PAGE}),
    (r"bytes 258048 to 262143 overlap the metadata.* 253952 to 262143.*region at 32768.*KeyID \d",
     "aes-xts-128", "random", {"metadata": LAST}),
    (r"bytes 249856 to 258047 overlap the metadata.* 253952 to 262143.*region at 32768",
     "aes-xts-128", "pmem-line", {"address": LAST - 2 * PAGE}),
    (r"bytes 258048 to 262143 overlap the metadata.* 253952 to 262143.*region at 32768",
     "aes-xts-128", "pmem-line", {"address": LAST, "length": PAGE}),
    (r"bytes 36864 to 45055 overlap a region at 32768", "aes-xts-128", "pmem-line", {"address": 9 * PAGE}),
    (r"bytes 0 to 204799 overlap a region at 32768",
     "aes-xts-128", "pmem-line", {"length": 50 * PAGE}),
]  # fmt: skip


@pytest.mark.parametrize(("message", "algorithm", "name", "options"), METADATA)
def test_metadata_that_is_missing_or_in_the_way_is_refused_with_nothing_changed(
    laboratory: Laboratory, message: str, algorithm: str, name: str, options: dict[str, Any]
) -> None:
    before = laboratory.state()
    with pytest.raises(MappingError, match=message):
        laboratory.map(algorithm, name, **options)
    assert laboratory.state() == before


def test_writing_through_the_controller_never_reaches_metadata(laboratory: Laboratory) -> None:
    controller, first = laboratory.controller, laboratory.metadata
    laboratory.region.write(0, b"kept")
    before = controller.device.read(0, controller.size)
    message = rf"overlap the metadata, bytes {first} to {first + 2 * PAGE - 1}, of the region at {8 * PAGE}"
    for address, length in ((first, 1), (first - 1, 2), (LAST + PAGE - 1, 1), (0, controller.size)):
        with pytest.raises(MappingError, match=message):
            controller.write(address, b"x" * length)
    for lines in ([first], [0, first + PAGE, 64], [first - LINE, LAST + PAGE - LINE]):
        with pytest.raises(MappingError, match=message):
            controller.write_lines(lines, np.ones((len(lines), LINE), np.uint8))
    assert controller.device.read(0, controller.size) == before
    assert controller.read(first, 2 * PAGE) == before[first : first + 2 * PAGE]
    assert controller.read_lines([first]).tobytes() == before[first : first + LINE]
    controller.write(first - 100, bytes(100))
    controller.write_lines([first - LINE, 0], np.ones((2, LINE), np.uint8))
    controller.device.write(first, before[first : first + 64])
    assert laboratory.region.read(0, 4) == b"kept"
    controller.unmap(laboratory.region)
    controller.write(first, b"free again")
    controller.write_lines([first + PAGE], np.ones((1, LINE), np.uint8))


def test_a_region_can_lie_next_to_others_and_to_their_metadata(laboratory: Laboratory) -> None:
    for address, length in ((6 * PAGE, 2 * PAGE), (10 * PAGE, PAGE), (laboratory.metadata - PAGE, PAGE)):
        laboratory.map("aes-xts-128", "pmem-line", address=address, length=length)
    laboratory.controller.unmap(laboratory.region)
    laboratory.map("aes-xts-128", "pmem-line", address=laboratory.metadata)
    laboratory.map("aes-xts-128", "random", address=8 * PAGE, metadata=11 * PAGE)


def test_metadata_is_counted_to_the_page() -> None:
    for name, unit, length, expected in (
        ("pmem-line", 64, 1 << 20, 0),
        ("random", 512, 1 << 20, 1 << 15),
        ("random", 4096, 1 << 20, PAGE),
        ("ctr-global", 64, 1 << 20, PAGE + (1 << 17)),
        ("ctr-split", 64, 1 << 20, 1 << 14),
        ("ctr-deuce", 64, 1 << 20, 1 << 17),
        ("ctr-split", 64, 65 * PAGE, 2 * PAGE),
    ):
        assert mktme.metadata_bytes(name, length, unit=unit) == expected
        macs = -(-length // 64 * 4 // PAGE) * PAGE
        assert mktme.metadata_bytes(name, length, unit=unit, integrity=True) == expected + macs
    assert mktme.metadata_bytes("random", "1MiB") == 1 << 15
    with pytest.raises(SchemeError, match="there is no IV scheme 'other'"):
        mktme.metadata_bytes("other", PAGE)
    with pytest.raises(SchemeError, match="random has no data units of 64 bytes"):
        mktme.metadata_bytes("random", PAGE, unit=64)


@pytest.mark.parametrize("name", [[], {}, None, 7])
def test_a_scheme_that_isnt_named_by_text_is_refused(laboratory: Laboratory, name: Any) -> None:
    before = laboratory.state()
    with pytest.raises(SchemeError, match=r"there is no IV scheme .*: there are .*pmem-line"):
        laboratory.controller.map(0, PAGE, laboratory.keyids["aes-xts-128"], iv=name)
    assert laboratory.state() == before


def test_a_keyid_without_a_key_is_refused_with_any_scheme(laboratory: Laboratory) -> None:
    before = laboratory.state()
    with pytest.raises(KeyIDError, match="KeyID 40 holds no key: program one first"):
        laboratory.controller.map(0, PAGE, 40, iv="ctr-split", metadata=1 << 16)
    assert laboratory.state() == before


def test_integrity_without_a_key_is_refused(laboratory: Laboratory) -> None:
    before = laboratory.state()
    with pytest.raises(SchemeError, match="integrity needs a key, and KeyID 0"):
        laboratory.controller.map(0, PAGE, 0, integrity=True, metadata=1 << 16)
    assert laboratory.state() == before


@pytest.mark.parametrize("algorithm", [a for a in ALGORITHMS if not a.startswith("aes-ctr")])
def test_a_key_that_does_not_fit_a_mapped_region_is_refused_and_the_old_one_stays(
    laboratory: Laboratory, algorithm: str
) -> None:
    before, key = laboratory.state(), Key.generate(algorithm)
    with pytest.raises(SchemeError, match=f"ctr-split is not for {algorithm}: program a key of aes-ctr-128"):
        laboratory.controller.program_key(key, keyid=laboratory.region.keyid)
    assert laboratory.state() == before
    laboratory.region.write(100, b"still works")
    assert laboratory.region.read(99, 13) == b"\0still works\0"
    laboratory.controller.program_key(key)  # under another KeyID it is welcome


def test_a_key_structure_that_does_not_fit_a_mapped_region_is_refused_too(laboratory: Laboratory) -> None:
    before = laboratory.state()
    command = mktme.pconfig.Command.SET_KEY_DIRECT
    struct = mktme.pconfig.pack(laboratory.region.keyid, command, "aes-xts-128", bytes(16), bytes(16))
    with pytest.raises(SchemeError, match="ctr-split is not for aes-xts-128"):
        laboratory.controller.pconfig(struct)
    assert laboratory.state() == before
    assert laboratory.region.read(0, 2 * PAGE) == bytes(2 * PAGE)


def test_a_key_of_the_same_family_can_take_the_place_of_another(laboratory: Laboratory) -> None:
    region, keyid = laboratory.region, laboratory.region.keyid
    laboratory.controller.program_key(Key.from_bytes("aes-ctr-256", material("aes-ctr-256")), keyid=keyid)
    with pytest.raises(PoisonError):
        region.read(0, 64)
    first, last = region.metadata or (0, 0)
    laboratory.device.write(first, bytes(last - first))
    region.write(0, b"a" * 2 * PAGE)
    assert region.read(0, 2 * PAGE) == b"a" * 2 * PAGE
    laboratory.controller.program_key(Key.from_bytes("aes-ctr-128", material("aes-ctr-128")), keyid=keyid)
    with pytest.raises(PoisonError):
        region.read(0, 64)


@pytest.mark.parametrize("name", SCHEMES)
def test_a_read_only_device_is_read_and_never_written(tmp_path: Path, name: str) -> None:
    algorithm, data = fitting(name)[0], np.random.default_rng(2).bytes(2 * PAGE)
    with pmem.create(tmp_path / "kept.img", 1 << 17) as device:
        controller = Controller(device)
        keyid = controller.program_key(Key.from_bytes(algorithm, material(algorithm)))
        mapped(controller, PAGE, 2 * PAGE, keyid, name, integrity=True).write(0, data)
        media = device.read(0, device.size)
    with pmem.open(tmp_path / "kept.img", mode="r") as device:
        controller = Controller(device)
        keyid = controller.program_key(Key.from_bytes(algorithm, material(algorithm)))
        region = mapped(controller, PAGE, 2 * PAGE, keyid, name, integrity=True)
        attempts: list[Callable[[], object]] = [
            lambda: region.write(0, data),
            lambda: region.write(5, b"x"),
            lambda: region.fill(1),
            lambda: region.array(np.uint8).__setitem__(slice(0, 4000, 3), 1),
            lambda: controller.write(0, bytes(3 * PAGE)),
            lambda: controller.write_lines([PAGE], np.zeros((1, LINE), np.uint8)),
        ]
        for attempt in attempts:
            with pytest.raises(pmem.ReadOnlyDevice, match=r'mode="r\+"'):
                attempt()
        assert region.read(0, 2 * PAGE) == data
        assert device.read(0, device.size) == media


@pytest.mark.parametrize("name", ["pmem-line", "random", "ctr-global", "ctr-split", "ctr-deuce"])
def test_a_device_without_space_for_the_metadata_is_not_written(
    tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pmem.create(tmp_path / "sparse.img", 1 << 20) as device:
        controller = Controller(device)
        keyid = controller.program_key(Key.from_bytes("aes-ctr-128", material("aes-ctr-128")))
        region = mapped(controller, 0, 2 * PAGE, keyid, name, integrity=True)
        device.write(0, bytes(PAGE))
        media = device.read(0, device.size)
        allocate = pmem.Device._allocate

        def full(self: pmem.Device, first: int, last: int) -> None:
            if last:
                raise pmem.DeviceFull(28, "no file space")
            allocate(self, first, last)

        monkeypatch.setattr(pmem.Device, "_allocate", full)
        attempts: list[Callable[[], object]] = [
            lambda: region.write(0, bytes(range(256)) * 4),
            lambda: controller.write_lines(range(448, -64, -64), np.ones((8, LINE), np.uint8)),
            lambda: region.array(np.uint8, (16, 512))[::2].__setitem__(slice(None), 1),
        ]
        for attempt in attempts:
            with pytest.raises(pmem.DeviceFull):
                attempt()
            assert device.read(0, device.size) == media


@pytest.mark.parametrize(
    ("name", "warned"), [("plain64be", True), ("null", True), ("plain64", False), ("plain", False)]
)
def test_counter_mode_warns_of_ivs_that_count_into_each_other(
    controller: Controller, name: str, warned: bool
) -> None:
    """The big-endian sector is where AES-CTR counts blocks: one unit's pad goes on as the next one's."""
    keyid = controller.program_key(Key.generate("aes-ctr-128"))
    given = {"sector": 5} if name != "null" else {}
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        region = controller.map(0, 1 << 14, keyid, iv=name, **given)
    assert [w.category for w in caught] == [IvReuseWarning] * warned
    region.write(0, bytes(1024))  # zeros: the pads themselves
    pads = controller.device.media[:1024].tobytes()
    assert (pads[16:512] == pads[512 : 512 + 496]) == (name == "plain64be")
