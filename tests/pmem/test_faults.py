"""Faults of the medium: poison on every way of the bytes, flips, torn lines, unsafe shutdowns."""

from __future__ import annotations

import errno
import json
import pickle
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import mktme
import pmem
from mktme import Controller, FileSystem, Key, Region
from mktme.fscrypt import Keyring, Policy
from mktme.stack import BlockDevice, Bounce, CryptoProfile, Inline, Line, Plain
from mktme.stack.bio import Bio
from pmem import InterleaveSet, dax, faults
from pmem.poison import Ranges

SIZE = 1 << 18
START = 1 << 16  # of the region
LINE = 64

XTS = Key.from_bytes("aes-xts-128", bytes(range(32)))


@pytest.fixture(params=["device", "set"])
def device(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[pmem.Device]:
    if request.param == "device":
        with pmem.create(tmp_path / "pool.img", SIZE) as made:
            yield made
    else:
        with InterleaveSet.create([tmp_path / "a.img", tmp_path / "b.img"], SIZE // 2) as made:
            yield made


@pytest.fixture
def armed(device: pmem.Device) -> faults.Faults:
    return faults.arm(device)


@pytest.fixture
def region(device: pmem.Device) -> Region:
    return mapped(device)


def mapped(device: pmem.Device, key: Key = XTS, **named: Any) -> Region:
    controller = Controller(device)
    return controller.map(START, START, controller.program_key(key), **named)


def health(path: Path) -> Path:
    return path.with_name(path.name + ".health")


# Ranges of lines

Pairs = st.lists(st.tuples(st.integers(0, 40), st.integers(1, 9)), max_size=8)


def ranges(pairs: list[tuple[int, int]]) -> tuple[Ranges, set[int]]:
    firsts = np.array([first for first, _ in pairs], np.uint64)
    lengths = np.array([length for _, length in pairs], np.uint64)
    numbers = {n for first, length in pairs for n in range(first, first + length)}
    return Ranges.of(firsts, firsts + lengths), numbers


@given(Pairs, Pairs, st.integers(0, 50), st.integers(0, 20), st.integers(1, 10))
def test_ranges_are_the_set_of_their_numbers(
    one: list[tuple[int, int]], two: list[tuple[int, int]], first: int, length: int, step: int
) -> None:
    (left, these), (right, those) = ranges(one), ranges(two)
    for found, numbers in (
        (left, these),
        (left | right, these | those),
        (left.remove(first, first + length), these - set(range(first, first + length))),
    ):
        assert [n for low, high in found for n in range(low, high)] == sorted(numbers)
        assert np.all(found.edges[1:] > found.edges[:-1])  # neither empty nor touching
        assert bool(found) == bool(numbers)
        among = [n for n in range(first, first + length) if n in numbers]
        assert found.first(first, first + length) == (among[0] if among else None)
        assert found.holds(np.arange(64, dtype=np.uint64)).tolist() == [n in numbers for n in range(64)]
        begins, ends = found.pieces(step)
        pieces = [*zip(begins.tolist(), ends.tolist(), strict=True)]
        assert [n for low, high in pieces for n in range(low, high)] == sorted(numbers)
        assert all(low // step == (high - 1) // step for low, high in pieces)


# Reading poison

POISONED = START + 5 * LINE

READS: dict[str, Callable[[pmem.Device, Region], Any]] = {
    "device.read": lambda d, r: d.read(POISONED + 63, 1),
    "device.read across": lambda d, r: d.read(POISONED - 1, 2),
    "device.read all": lambda d, r: d.read(0, d.size),
    "device.read_into": lambda d, r: d.read_into(bytearray(200), POISONED - 100),
    "device.read_lines": lambda d, r: d.read_lines([0, POISONED, 0]),
    "controller.read": lambda d, r: r.mapping().read(POISONED + 10, 3),
    "controller.read over regions": lambda d, r: r.mapping().read(START - 64, 2 * LINE * 6),
    "controller.read_into": lambda d, r: r.mapping().read_into(np.empty(d.size, np.uint8)),
    "controller.read_lines": lambda d, r: r.mapping().read_lines([START, POISONED]),
    "controller.read_lines over regions": lambda d, r: r.mapping().read_lines([0, POISONED, 64]),
    "region.read": lambda d, r: r.read(5 * LINE + 60, 8),
    "region[a:b]": lambda d, r: r[:],
    "region[i]": lambda d, r: r[5 * LINE],
    "region.read_into": lambda d, r: r.read_into(np.zeros(1000, np.uint8)),
    "array": lambda d, r: np.asarray(r.array(np.uint64)),
    "array[i]": lambda d, r: r.array(np.uint64)[40],
    "array strided": lambda d, r: np.asarray(r.array(np.uint64)[::8]),
    "array advanced": lambda d, r: r.array(np.uint64)[[0, 40, 1000]],
}


@pytest.mark.parametrize("read", READS.values(), ids=READS.keys())
def test_every_read_of_a_poisoned_line_raises(
    device: pmem.Device, armed: faults.Faults, region: Region, read: Callable[..., Any]
) -> None:
    region.fill(7)
    read(device, region)
    armed.poison(POISONED)
    with pytest.raises(
        pmem.PoisonError, match=rf"line {POISONED // LINE} \(address {POISONED:#x}\)"
    ) as caught:
        read(device, region)
    assert caught.value.line == POISONED // LINE
    assert caught.value.errno == errno.EIO
    kept = caught.value  # an error that somebody keeps doesn't keep the device
    del caught
    device.close()
    assert kept.line


def test_a_refused_read_leaves_the_buffer_as_it_was(
    device: pmem.Device, armed: faults.Faults, region: Region
) -> None:
    armed.poison(POISONED)
    buffer = bytearray(b"mine" * 250)
    for read in (device.read_into, region.mapping().read_into):
        with pytest.raises(pmem.PoisonError):
            read(buffer, START)
    with pytest.raises(pmem.PoisonError):
        region.read_into(buffer)
    assert buffer == b"mine" * 250


def test_the_lines_around_are_read(device: pmem.Device, armed: faults.Faults, region: Region) -> None:
    region.write(0, bytes(range(256)) * 4)
    armed.poison(POISONED + 30)
    assert armed.poisoned.tolist() == [POISONED]
    assert region.read(0, 5 * LINE) == (bytes(range(256)) * 2)[: 5 * LINE]
    assert region.read(6 * LINE, LINE) == bytes(range(128, 192))
    assert np.asarray(region.array(np.uint8, 64, offset=6 * LINE)).tolist() == [*range(128, 192)]
    assert device.read(POISONED + LINE, 0) == b""
    assert region.read(5 * LINE, 0) == b""


def test_poison_outside_of_all_regions_is_found_by_the_controller(
    device: pmem.Device, armed: faults.Faults, region: Region
) -> None:
    controller = region.mapping()
    armed.poison(START - LINE)
    for request in (
        lambda: controller.read(START - 1, 1),
        lambda: controller.read(START - 1, 2),
        lambda: controller.read_lines([START - LINE]),
        lambda: controller.read_lines([START, START - LINE]),
        lambda: controller.write(START - 1, b"x"),
        lambda: controller.write(START - 1, b"xy"),
    ):
        with pytest.raises(pmem.PoisonError) as caught:
            request()
        assert caught.value.line == START // LINE - 1
        del caught
    controller.write(START - LINE, bytes(2 * LINE))
    assert armed.poisoned.size == 0


# Writing over it

PARTLY: dict[str, Callable[[pmem.Device, Region], Any]] = {
    "device.write": lambda d, r: d.write(POISONED, bytes(63)),
    "device.write end": lambda d, r: d.write(POISONED - 64, bytes(65)),
    "device.write start": lambda d, r: d.write(POISONED + 1, bytes(127)),
    "controller.write": lambda d, r: r.mapping().write(POISONED + 8, b"x"),
    "controller.write over regions": lambda d, r: r.mapping().write(START - 64, bytes(6 * LINE + 1)),
    "region.write": lambda d, r: r.write(5 * LINE + 1, bytes(63)),
    "region[a:b]": lambda d, r: r.__setitem__(slice(0, 5 * LINE + 8), bytes(5 * LINE + 8)),
    "region.fill": lambda d, r: r.fill(1, 5 * LINE + 8),
    "array[i]": lambda d, r: r.array(np.uint64).__setitem__(47, 1),
    "array strided": lambda d, r: r.array(np.uint64).__setitem__(slice(0, None, 2), 1),
    "array advanced": lambda d, r: r.array(np.uint64).__setitem__([0, 41], 1),
}

WHOLE: dict[str, Callable[[pmem.Device, Region], Any]] = {
    "device.write": lambda d, r: d.write(POISONED, bytes(64)),
    "device.write more": lambda d, r: d.write(POISONED - 1, bytes(66)),
    "device.write_lines": lambda d, r: d.write_lines([0, POISONED], np.zeros((2, 64), np.uint8)),
    "controller.write": lambda d, r: r.mapping().write(POISONED - 8, bytes(80)),
    "controller.write over regions": lambda d, r: r.mapping().write(START - 64, bytes(64 * LINE)),
    "controller.write_lines": lambda d, r: r.mapping().write_lines(
        [POISONED, 0, POISONED], np.zeros((3, 64), np.uint8)
    ),
    "region.write": lambda d, r: r.write(5 * LINE, bytes(64)),
    "region[a:b]": lambda d, r: r.__setitem__(slice(0, 6 * LINE), bytes(6 * LINE)),
    "region.fill": lambda d, r: r.fill(1),
    "array": lambda d, r: r.array(np.uint64).__setitem__(slice(None), 1),
    "array strided": lambda d, r: r.array(np.uint64, (64, 8, 2)).__setitem__(np.s_[:20, :, :], 1),
    "array rows": lambda d, r: r.array(np.uint8, (500, 128)).__setitem__(np.s_[:, 64:], 1),
    "array advanced": lambda d, r: r.array(np.uint64).__setitem__([*range(47, 39, -1)], 1),
}


@pytest.mark.parametrize("write", PARTLY.values(), ids=PARTLY.keys())
def test_a_part_of_a_poisoned_line_is_not_written(
    device: pmem.Device, armed: faults.Faults, region: Region, write: Callable[..., Any]
) -> None:
    region.fill(7)
    armed.poison(POISONED)
    before = device.media.tobytes()
    with pytest.raises(pmem.PoisonError) as caught:
        write(device, region)
    assert caught.value.line == POISONED // LINE
    del caught
    assert device.media.tobytes() == before
    assert armed.poisoned.tolist() == [POISONED]


@pytest.mark.parametrize("write", WHOLE.values(), ids=WHOLE.keys())
def test_a_write_of_the_whole_line_clears_it(
    device: pmem.Device, armed: faults.Faults, region: Region, write: Callable[..., Any]
) -> None:
    region.fill(7)
    armed.poison(POISONED)
    armed.poison(device.size - 1)
    write(device, region)
    assert armed.poisoned.tolist() == [device.size - LINE]
    device.read(POISONED, LINE)
    region.read(0, 4096)
    recorded = [json.loads(health(path).read_text())["bad"] for path in _images(device)]
    assert recorded[:-1] == [[]] * (len(recorded) - 1)
    last = device.size // LINE // len(recorded)
    assert recorded[-1] == [[last - 1, last]]  # the last line of the last DIMM


def _images(device: pmem.Device) -> list[Path]:
    found = device.dimms if isinstance(device, InterleaveSet) else (device.path,)
    return [path for path in found if path is not None]


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_poison_is_refused_and_cleared_just_where_it_lies(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    """Random requests through a region against a model of which lines are poisoned."""
    folder = tmp_path_factory.mktemp("poison")
    with InterleaveSet.create([folder / "a", folder / "b"], 8192) as device:
        controller = Controller(device)
        region = controller.map(4096, 8192, controller.program_key(XTS))
        armed, poisoned, text = faults.arm(device), set[int](), bytearray(8192)
        region.fill(0)
        for _ in range(data.draw(st.integers(1, 12))):
            at = data.draw(st.integers(0, 8191))
            size = data.draw(st.one_of(st.integers(1, 200), st.just(8192))) % (8193 - at)
            touched = set(range(at // LINE, -(-(at + size) // LINE))) if size else set()
            whole = set(range(-(-at // LINE), (at + size) // LINE))
            kind = data.draw(st.sampled_from(["poison", "read", "write"]))
            if kind == "poison":
                armed.poison(4096 + at, size)
                poisoned |= touched
            elif kind == "read":
                bad = touched & poisoned
                if bad:
                    with pytest.raises(pmem.PoisonError) as caught:
                        region.read(at, size)
                    assert caught.value.line - 4096 // LINE == min(bad)
                else:
                    assert region.read(at, size) == text[at : at + size]
            else:
                bad = (touched - whole) & poisoned
                new = bytes([data.draw(st.integers(0, 255))]) * size
                if bad:
                    with pytest.raises(pmem.PoisonError) as caught:
                        region.write(at, new)
                    assert caught.value.line - 4096 // LINE in bad
                else:
                    region.write(at, new)
                    poisoned -= whole
                    text[at : at + size] = new
            assert armed.poisoned.tolist() == [4096 + line * LINE for line in sorted(poisoned)]


def test_a_long_request_over_threads_is_refused_before_its_first_byte(tmp_path: Path) -> None:
    size = 9 << 20
    with pmem.create(tmp_path / "long", size) as device:
        controller = Controller(device, threads=2)
        region = controller.map(0, size, controller.program_key(XTS))
        region.fill(3)
        faults.arm(device).poison(size - 1)
        buffer = np.zeros(size, np.uint8)
        for read in (region.read_into, controller.read_into):
            with pytest.raises(pmem.PoisonError):
                read(buffer)
        assert not buffer.any()
        before = device.read(0, size - LINE)
        for write in (region.write, controller.write):
            with pytest.raises(pmem.PoisonError):
                write(8, buffer[: size - 9])
        assert device.read(0, size - LINE) == before
        region.write(0, buffer)
        assert region.read(size - LINE, LINE) == bytes(LINE)


def test_a_fill_that_covers_a_line_clears_it_wherever_it_begins(tmp_path: Path) -> None:
    with pmem.create(tmp_path / "pool", "2MiB") as device:
        controller = Controller(device)
        region = controller.map(0, "1MiB", controller.program_key(XTS))
        armed = faults.arm(device)
        armed.poison(64, (1 << 20) - 128)
        region.fill(9, 10, (1 << 20) - 20)
        assert armed.poisoned.size == 0
        assert region.read(10, (1 << 20) - 20) == b"\x09" * ((1 << 20) - 20)


@pytest.mark.parametrize("integrity", [False, True])
@pytest.mark.parametrize("algorithm", ["adiantum", "aes-cbc-128"])
def test_a_larger_data_unit_is_read_and_cleared_as_a_whole(
    device: pmem.Device, algorithm: str, integrity: bool
) -> None:
    key = Key.generate(algorithm)
    beside = 3 * START if integrity else None
    region = mapped(device, key, iv="plain64", sector=0, unit=512, integrity=integrity, metadata=beside)
    region.fill(5)
    armed = faults.arm(device)
    armed.poison(START + 512 + 128)  # the third line of the second unit
    for read in (
        lambda: region.read(512, 1),
        lambda: region.read(1023, 1),
        lambda: region.mapping().read_lines([START + 512]),
        lambda: region.array(np.uint64)[[0, 64]],
        lambda: region.write(512, bytes(64)),
        lambda: region.write(512 + 128, bytes(64)),
        lambda: region.write(600, bytes(424)),
        lambda: region.mapping().write_lines([START + 640], np.zeros((1, 64), np.uint8)),
        lambda: region.array(np.uint64).__setitem__([80], 1),
    ):
        with pytest.raises(pmem.PoisonError) as caught:
            read()
        assert caught.value.line == (START + 640) // LINE
        del caught
    assert region.read(0, 512) == b"\5" * 512
    assert region.read(1024, 512) == b"\5" * 512
    addresses = START + 512 + LINE * np.arange(8)
    region.mapping().write_lines(addresses, np.full((8, 64), 6, np.uint8))
    assert armed.poisoned.size == 0
    assert region.read(512, 512) == b"\6" * 512
    armed.poison(START + 1024)
    region.write(1000, bytes(600))
    assert armed.poisoned.size == 0


@pytest.mark.parametrize("scheme", ["ctr-global", "ctr-split", "ctr-deuce"])
@pytest.mark.parametrize("integrity", [False, True])
def test_a_poisoned_counter_takes_its_lines_with_it(
    device: pmem.Device, scheme: str, integrity: bool
) -> None:
    beside = 3 * START
    region = mapped(device, Key.generate("aes-ctr-128"), iv=scheme, integrity=integrity, metadata=beside)
    region.fill(1)
    armed = faults.arm(device)
    first = beside + (4096 if scheme == "ctr-global" else 0)
    armed.poison(first)
    for request in (
        lambda: region.read(0, 1),
        lambda: region.write(0, bytes(64)),
        lambda: region.mapping().read_lines([START]),
        lambda: region.mapping().write_lines([START], np.zeros((1, 64), np.uint8)),
        lambda: region.array(np.uint64)[[0]],
    ):
        with pytest.raises(pmem.PoisonError) as caught:
            request()
        assert caught.value.line == first // LINE
        del caught
    assert region.read(4096, 64) == b"\1" * 64  # its counter is in another line


def test_a_poisoned_line_is_healed_by_a_write_unless_the_old_bytes_are_needed(device: pmem.Device) -> None:
    for scheme, integrity, heals in (
        ("ctr-split", False, True),
        ("ctr-deuce", False, False),
        ("ctr-split", True, False),
        ("pmem-line", True, True),
    ):
        key = Key.generate("aes-xts-128" if scheme == "pmem-line" else "aes-ctr-128")
        metadata = 3 * START if integrity or scheme != "pmem-line" else None
        controller = Controller(device)
        region = controller.map(
            START, START, controller.program_key(key), scheme, integrity=integrity, metadata=metadata
        )
        device.write(3 * START, bytes(device.size - 3 * START))
        region.fill(1)
        armed = faults.arm(device)
        armed.poison(START)
        if heals:
            region.write(0, b"\2" * 64)
            assert region.read(0, 65) == b"\2" * 64 + b"\1"
        else:
            with pytest.raises(pmem.PoisonError):
                region.write(0, bytes(64))
            with pytest.raises(pmem.PoisonError):
                controller.write_lines([START], np.zeros((1, 64), np.uint8))
            assert armed.poisoned.tolist() == [START]
            armed.clear((START, 512))
        assert armed.poisoned.size == 0


PATHS: dict[str, Callable[[pmem.Device], Any]] = {
    "bounce": Bounce,
    "inline": lambda device: Inline(BlockDevice(device, CryptoProfile(3))),
    "fallback": lambda device: Inline(BlockDevice(device)),
    "line": lambda device: Line(Controller(device), 3),
    "none": lambda device: Plain(Controller(device)),
}


@pytest.mark.parametrize("path", PATHS.keys())
def test_a_file_with_a_poisoned_line_is_not_read_on_any_path(tmp_path: Path, path: str) -> None:
    with pmem.create(tmp_path / "volume", "8MiB") as device:
        volume = dax.make(device)
        ring = Keyring(volume.uuid)
        system = FileSystem(volume, PATHS[path](device), keyring=ring)
        system.mkdir("/d")
        if path != "none":
            system.set_policy("/d", Policy(ring.add(bytes(64))))
        with system.create("/d/f") as file:
            file.write(0, b"\1" * 16384)
            address = file.file.map(0, 16384)[0].address
            armed = faults.arm(device)
            armed.poison(address + 4096)
            assert file.read(0, 4096) == b"\1" * 4096
            for request in (
                lambda: file.read(0, 16384),
                lambda: file.read(4100, 1),
                lambda: file.write(4100, b"x"),
            ):
                with pytest.raises(pmem.PoisonError) as caught:
                    request()
                assert caught.value.line == (address + 4096) // LINE
                del caught
            file.write(4096, b"\2" * 4096)
            assert armed.poisoned.size == 0
            assert file.read(4096, 4096) == b"\2" * 4096
        volume.close()


def test_a_block_request_reads_no_poison(device: pmem.Device, armed: faults.Faults) -> None:
    armed.poison(1024)
    blocks, out = BlockDevice(device), np.zeros(1024, np.uint8)
    with pytest.raises(pmem.PoisonError):
        blocks.submit(Bio(False, 1, (out,), None, 0))
    blocks.submit(Bio(True, 2, (np.ones(512, np.uint8),), None, 0))
    blocks.submit(Bio(False, 1, (out,), None, 0))
    assert out[512:].all()


def test_the_poison_of_a_mac_is_poison_too(tmp_path: Path) -> None:
    assert issubclass(mktme.PoisonError, pmem.PoisonError)
    assert issubclass(pmem.PoisonError, pmem.PmemError)
    assert issubclass(pmem.PoisonError, OSError)
    for kind in (mktme.PoisonError, pmem.PoisonError):
        error = pickle.loads(pickle.dumps(kind("line 5 is poisoned", 5)))
        assert (type(error), str(error), error.line, error.errno) == (
            kind,
            "line 5 is poisoned",
            5,
            errno.EIO,
        )
    with pmem.create(tmp_path / "pool", SIZE) as device:
        region = mapped(device, integrity=True, metadata=3 * START)
        region.fill(1)
        faults.arm(device).flip(START + 70, 3)
        with pytest.raises(pmem.PoisonError) as caught:
            region.read(0, 128)
        assert (type(caught.value), caught.value.line) == (mktme.PoisonError, START // LINE + 1)
        del caught


# Bad blocks, and what outlives a restart


def test_bad_blocks_are_whole_blocks_of_512_bytes(armed: faults.Faults, device: pmem.Device) -> None:
    assert armed.bad_blocks == []
    armed.poison(1000)
    assert armed.bad_blocks == [(512, 512)]
    armed.poison(1024, 4096)
    armed.poison(20000, 0)
    armed.poison(device.size - 1, 1)
    assert armed.bad_blocks == [
        faults.BadBlock(offset=512, length=512 + 4096),
        faults.BadBlock(offset=device.size - 512, length=512),
    ]
    assert armed.poisoned.size == 1 + 64 + 1


def test_clearing_a_bad_block_leaves_zeros(armed: faults.Faults, device: pmem.Device) -> None:
    device.write(0, b"\1" * 8192)
    armed.poison(4000, 200)
    (block,) = armed.bad_blocks
    assert block == (3584, 1024)
    armed.clear(block)
    assert armed.bad_blocks == []
    assert device.read(0, 8192) == b"\1" * 3584 + bytes(1024) + b"\1" * 3584


@pytest.mark.parametrize(
    ("call", "what"),
    [
        (lambda f: f.poison(-1), "outside"),
        (lambda f: f.poison(SIZE), "outside"),
        (lambda f: f.poison(0, SIZE + 1), "outside"),
        (lambda f: f.poison("0"), "integers"),
        (lambda f: f.poison_random(SIZE // 64 + 1, 0), "can't be drawn from 4096"),
        (lambda f: f.poison_random(-1, 0), "can't be drawn"),
        (lambda f: f.clear((0, 64)), "whole blocks"),
        (lambda f: f.clear((64, 512)), "whole blocks"),
        (lambda f: f.clear((0, SIZE + 512)), "outside"),
        (lambda f: f.flip(SIZE, 0), f"address {SIZE} is not from 0 to {SIZE - 1}"),
        (lambda f: f.flip([0, -1], [0, 0]), "address -1"),
        (lambda f: f.flip(0, 8), "bit 8 is not from 0 to 7"),
        (lambda f: f.flip([0, 1], [0]), "not as many"),
        (lambda f: f.flip(0.5, 0), "integers"),
        (lambda f: f.flip_random(9, 0, 0, 1), "9 different bits can't be drawn from 8"),
        (lambda f: f.flip_random(1, 0, SIZE, 1), "outside"),
        (lambda f: f.tear([0], np.zeros((2, 64), np.uint8), np.zeros(1, np.uint8)), "shape"),
        (lambda f: f.tear([0], np.zeros((1, 64), np.uint8), [1]), "landed is a uint8 array"),
        (lambda f: f.tear([0, 0], np.zeros((2, 64), np.uint8), np.zeros(2, np.uint8)), "given twice"),
        (lambda f: f.tear([1], np.zeros((1, 64), np.uint8), np.zeros(1, np.uint8)), "address of a line"),
    ],
)
def test_faults_that_cannot_be_are_refused_whole(
    armed: faults.Faults, device: pmem.Device, call: Callable[[faults.Faults], Any], what: str
) -> None:
    with pytest.raises(pmem.RangeError, match=what):
        call(armed)
    assert armed.poisoned.size == 0
    assert not device.media.any()


def test_poison_outlives_a_restart(device: pmem.Device, armed: faults.Faults) -> None:
    addresses = armed.poison_random(20, seed=3)
    armed.poison(0, 20_000)
    expected = armed.poisoned
    assert np.isin(addresses, expected).all()
    images = _images(device)
    device.close()
    for path, bad in ((path, json.loads(health(path).read_text())["bad"]) for path in images):
        assert bad
        assert path.stat().st_size == SIZE // len(images)  # raw media bytes and nothing else
    again = InterleaveSet.open(images) if len(images) > 1 else pmem.open(images[0])
    with again:
        assert again.poison is None  # nobody asked
        again.read(0, 100)
        assert np.array_equal(faults.arm(again).poisoned, expected)
        with pytest.raises(pmem.PoisonError):
            again.read(0, 100)
        again.write(0, bytes(again.size))
    with InterleaveSet.open(images) if len(images) > 1 else pmem.open(images[0]) as third:
        assert faults.arm(third).poisoned.size == 0


def test_the_bad_lines_go_with_their_dimm(tmp_path: Path) -> None:
    paths = [tmp_path / "a", tmp_path / "b", tmp_path / "c"]
    with InterleaveSet.create(paths, SIZE) as whole:
        faults.arm(whole).poison(4096 * 4 + 128, 4096)  # DIMM 1's second stripe, and DIMM 2's
    assert json.loads(health(paths[1]).read_text())["bad"] == [[66, 128]]
    assert json.loads(health(paths[2]).read_text())["bad"] == [[64, 66]]
    with pmem.open(paths[1]) as alone:
        assert faults.arm(alone).poisoned.tolist() == [LINE * line for line in range(66, 128)]
    paths[2].unlink()
    with InterleaveSet.open(paths[:2], degraded=True) as degraded:
        armed = faults.arm(degraded)
        assert armed.poisoned.tolist() == [LINE * line for line in range(258, 320)]
        for address in (4096 * 4 + 128, 4096 * 2):
            with pytest.raises(pmem.PoisonError) as caught:
                degraded.read(address, 1)
            assert caught.value.line == address // LINE
            del caught
        degraded.write(4096 * 4, bytes(4096))
        assert armed.poisoned.size == 0
        with pytest.raises(pmem.PoisonError, match="missing"):
            armed.clear((4096 * 2, 512))


def test_a_device_opened_for_reading_shows_faults_and_takes_none(tmp_path: Path) -> None:
    path = tmp_path / "pool"
    with pmem.create(path, SIZE) as device:
        faults.arm(device).poison(128)
    before = health(path).read_bytes()
    with pmem.open(path, "r") as device:
        armed = faults.arm(device)
        with pytest.raises(pmem.PoisonError):
            device.read(128, 1)
        for call in (
            lambda: armed.poison(0),
            lambda: armed.poison_random(1, 0),
            lambda: armed.clear((0, 512)),
            lambda: armed.flip(0, 0),
            lambda: armed.tear([0], np.zeros((1, 64), np.uint8), np.zeros(1, np.uint8)),
            armed.unsafe_shutdown,
        ):
            with pytest.raises(pmem.ReadOnlyDevice):
                call()
        assert armed.poisoned.tolist() == [128]
    assert health(path).read_bytes() == before


def test_a_device_is_armed_once_and_open(tmp_path: Path) -> None:
    with pmem.create(tmp_path / "pool", SIZE) as device:
        assert device.faults is None
        assert not health(device.path).exists()
        armed = faults.arm(device)
        assert faults.arm(device) is armed is device.faults
        assert device.poison is None  # as long as there is none, nobody asks
    with pytest.raises(pmem.DeviceClosed):
        faults.arm(device)
    for call in (lambda: armed.poison(0), lambda: armed.flip(0, 0), armed.unsafe_shutdown):
        with pytest.raises(pmem.DeviceClosed):
            call()


@pytest.mark.parametrize(
    "text",
    [
        "", "[1]", "{", "{}", '{"unsafe_shutdowns": -1, "dirty": false, "bad": []}',
        '{"unsafe_shutdowns": 0, "dirty": 1, "bad": []}', '{"unsafe_shutdowns": 0, "dirty": true, "bad": 5}',
        '{"unsafe_shutdowns": 0, "dirty": true, "bad": [[3]]}',
        '{"unsafe_shutdowns": 0, "dirty": true, "bad": [[3, 3]]}',
        '{"unsafe_shutdowns": 0, "dirty": true, "bad": [[3, 5], [4, 6]]}',
        '{"unsafe_shutdowns": 0, "dirty": true, "bad": [[0, 4097]]}',
        '{"unsafe_shutdowns": 0, "dirty": true, "bad": [[-1, 2]]}',
        '{"unsafe_shutdowns": 0, "dirty": true, "bad": [["a", "b"]]}',
    ],
)  # fmt: skip
def test_a_damaged_health_record_is_refused(tmp_path: Path, text: str) -> None:
    with pmem.create(tmp_path / "pool", SIZE) as device:
        health(device.path).write_text(text)
        with pytest.raises(pmem.HealthInvalid, match=r"pool\.health"):
            faults.arm(device)
        assert health(device.path).read_text() == text
        assert device.faults is None


# Flips


def test_flips_change_just_the_bits_that_are_named(armed: faults.Faults, device: pmem.Device) -> None:
    device.write(0, b"\xaa" * 300)
    armed.flip(100, 0)
    armed.flip([7, 7, 7, 250], [1, 2, 1, 7])
    expected = bytearray(b"\xaa" * 300)
    expected[100] ^= 1
    expected[7] ^= 4
    expected[250] ^= 128
    assert device.read(0, 300) == expected


def test_random_flips_come_from_their_seed(armed: faults.Faults, device: pmem.Device) -> None:
    addresses, bits = armed.flip_random(1000, seed=5, address=4096, length=8192)
    found = np.unpackbits(device.media.copy(), bitorder="little")
    assert np.flatnonzero(found).tolist() == (8 * addresses.astype(int) + bits).tolist()
    assert found.sum() == 1000
    assert addresses.min() >= 4096
    assert addresses.max() < 3 * 4096
    again = armed.flip_random(1000, seed=5, address=4096, length=8192)
    assert np.array_equal(again[0], addresses)
    assert not device.media.any()
    other, _ = armed.flip_random(1000, seed=6, address=4096, length=8192)
    assert not np.array_equal(other, addresses)


def test_a_flipped_bit_of_ciphertext_garbles_one_block_of_16_bytes(
    armed: faults.Faults, region: Region
) -> None:
    text = np.random.default_rng(4).integers(0, 256, START, np.uint8)
    region.write(0, text)
    addresses, _ = armed.flip_random(50, seed=1, address=START, length=START)
    found = np.frombuffer(region.read(0, START), np.uint8)
    changed = np.flatnonzero((found != text).reshape(-1, 16).any(axis=1))
    assert changed.tolist() == np.unique((addresses - np.uint64(START)) // np.uint64(16)).tolist()
    assert 0.4 < np.unpackbits((found ^ text).reshape(-1, 16)[changed]).mean() < 0.6


# Torn lines


def test_a_torn_line_has_the_words_that_landed(armed: faults.Faults, device: pmem.Device) -> None:
    old, new = np.full((3, 64), 1, np.uint8), np.full((3, 64), 2, np.uint8)
    addresses = [0, 4096, 128]
    device.write_lines(addresses, new)
    armed.tear(addresses, old, np.array([0b00000001, 0b10100000, 0], np.uint8))
    words = device.read_lines(addresses).reshape(3, 8, 8)
    assert (words == words[:, :, :1]).all()  # no word is torn
    assert words[:, :, 0].tolist() == [[2, 1, 1, 1, 1, 1, 1, 1], [1, 1, 1, 1, 1, 2, 1, 2], [1] * 8]
    assert not device.read(64, 64).strip(b"\0")


def test_random_tears_come_from_their_seed_and_are_tears(armed: faults.Faults, device: pmem.Device) -> None:
    addresses = np.arange(0, 1000 * LINE, LINE)
    old, new = np.zeros((1000, 64), np.uint8), np.ones((1000, 64), np.uint8)
    masks = []
    for seed in (1, 1, 2):
        device.write_lines(addresses, new)
        masks.append(armed.tear_random(addresses, old, seed))
    assert np.array_equal(masks[0], masks[1])
    assert not np.array_equal(masks[0], masks[2])
    landed = device.read_lines(addresses).reshape(1000, 8, 8)[:, :, 0]
    assert np.array_equal(np.packbits(landed, axis=1, bitorder="little")[:, 0], masks[2])
    assert masks[2].min() > 0
    assert masks[2].max() < 255


def test_an_aligned_store_of_8_bytes_is_not_atomic_under_a_block_cipher(
    armed: faults.Faults, device: pmem.Device, region: Region
) -> None:
    """Medium words land alone: in plaintext each is old or new, under AES-XTS half a block ruins it."""
    for memory, first in ((region, 0), (None, 2 * START)):
        write = region.write if memory is not None else device.write
        read = region.read if memory is not None else device.read
        write(first, b"A" * 64)
        address = first + (START if memory is not None else 0)
        before = device.read_lines([address])
        write(first, b"B" * 8)
        changed = (device.read_lines([address]) != before).reshape(8, 8).any(axis=1).tolist()
        armed.tear([address], before, np.array([1], np.uint8))
        found = read(first, 64)
        if memory is None:
            assert changed == [True] + [False] * 7
            assert found == b"B" * 8 + b"A" * 56
        else:
            assert changed == [True, True] + [False] * 6  # one store, two words of ciphertext
            assert found[:8] not in (b"A" * 8, b"B" * 8)
            assert found[8:16] != b"A" * 8  # nor is its neighbour spared, which nobody wrote
            assert found[16:] == b"A" * 48


# Shutdowns


KILLED = """
import os, signal, sys, pmem
from pmem import faults
device = pmem.open(sys.argv[1])
faults.arm(device).poison(64)
device.write(0, b"written")
os.kill(os.getpid(), signal.SIGKILL)
"""


def test_a_holder_that_is_killed_is_an_unsafe_shutdown(tmp_path: Path) -> None:
    path = tmp_path / "pool"
    pmem.create(path, SIZE).close()

    for count in (0, 1, 2):
        with pmem.open(path) as device:
            armed = faults.arm(device)
            assert armed.unsafe_shutdowns == count
            assert device.read(0, 7) == (b"written" if count else bytes(7))
            assert armed.poisoned.tolist() == ([64] if count else [])
            assert json.loads(health(path).read_text())["dirty"] is True
        assert json.loads(health(path).read_text())["dirty"] is False
        died = subprocess.run([sys.executable, "-c", KILLED, str(path)], check=False).returncode
        assert died == -signal.SIGKILL
        with pmem.open(path, "r") as device:  # a reader neither counts nor cleans
            assert faults.arm(device).unsafe_shutdowns == count
    assert json.loads(health(path).read_text())["dirty"] is True


def test_each_dimm_of_a_set_counts(tmp_path: Path) -> None:
    paths = [tmp_path / "a", tmp_path / "b"]
    with InterleaveSet.create(paths, SIZE) as whole:
        armed = faults.arm(whole)
        assert armed.unsafe_shutdown() == 2
        assert armed.unsafe_shutdown() == armed.unsafe_shutdowns == 4
    with pmem.open(paths[0]) as alone:
        assert faults.arm(alone).unsafe_shutdown() == 3
    with InterleaveSet.open(paths) as whole:
        assert faults.arm(whole).unsafe_shutdowns == 5


def test_a_device_that_could_not_be_made_durable_is_not_closed_cleanly(tmp_path: Path, library: Any) -> None:
    path = tmp_path / "pool"
    device = pmem.create(path, SIZE)
    faults.arm(device)
    library.code = errno.EIO
    device.close()
    library.code = 0
    with pmem.open(path) as device:
        assert faults.arm(device).unsafe_shutdowns == 1
    with pmem.open(path) as device:
        assert faults.arm(device).unsafe_shutdowns == 1


def test_a_device_that_stays_open_stays_dirty(tmp_path: Path) -> None:
    with pmem.create(tmp_path / "pool", SIZE) as device:
        faults.arm(device)
        media = device.media
        with pytest.raises(pmem.DeviceBusy):
            device.close()
        assert json.loads(health(device.path).read_text())["dirty"] is True
        del media


def test_a_record_that_cannot_be_written_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pmem.create(tmp_path / "pool", SIZE) as device:
        (tmp_path / "pool.health.new").mkdir()
        with pytest.raises(pmem.DeviceFailed, match=r"pool\.health.*can't record|can't record"):
            faults.arm(device)
        assert device.faults is None
        (tmp_path / "pool.health.new").rmdir()
        faults.arm(device)
