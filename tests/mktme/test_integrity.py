"""Integrity: a MAC of 28 bits for each line, and what happens to a line that doesn't match."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes

import mktme
import pmem
from mktme import Controller, Key, PoisonError, Region
from mktme.crypto.algorithms import ALGORITHMS

LINE, PAGE = 64, 4096
START, SIZE = 1 << 16, 4 * PAGE
META = 1 << 18
GIVEN: dict[str, dict[str, Any]] = {"plain64": {"sector": 9}, "xex": {"system_address": 0}}

# Of each kind of path one: lines by themselves, lines of larger units, whole units, small units, stores.
KINDS = [
    ("pmem-line", "aes-xts-128", 64),
    ("plain64", "aes-ctr-256", 4096),
    ("plain64", "aes-cbc-256", 512),
    ("xex", "aes-xex-128", 16),
    ("random", "aes-hctr2-256", 512),
    ("ctr-global", "aes-ctr-128", 64),
    ("ctr-split", "aes-ctr-128", 64),
    ("ctr-deuce", "aes-ctr-256", 64),
]


def material(algorithm: str) -> bytes:
    return bytes(range(3, 3 + sum(ALGORITHMS[algorithm].parts)))


class Sealed:
    """A region with integrity, filled with known bytes, and where its MACs lie."""

    def __init__(self, controller: Controller, name: str, algorithm: str, unit: int) -> None:
        self.controller, self.device = controller, controller.device
        keyid = controller.program_key(Key.from_bytes(algorithm, material(algorithm)), keyid=5)
        self.options = {"unit": unit, "integrity": True, "metadata": META, **GIVEN.get(name, {})}
        self.region: Region = controller.map(START, SIZE, keyid, iv=name, **self.options)
        self.macs = META + mktme.metadata_bytes(name, SIZE, unit=unit)
        self.data = np.random.default_rng(1).bytes(SIZE)
        # Bytes that are checked, and written, together.
        self.grain = unit if name == "random" or "cbc" in algorithm else LINE
        self.name, self.counted = name, name.startswith("ctr-")
        self.device.write(META, bytes(mktme.metadata_bytes(name, SIZE, unit=unit, integrity=True)))
        self.region.write(0, self.data)

    def flip(self, address: int, bit: int = 0) -> None:
        self.device.write(address, bytes([self.device.read(address, 1)[0] ^ 1 << bit]))

    def mac(self, line: int) -> bytes:
        """The stored MAC of the region's n-th line."""
        return self.device.read(self.macs + 4 * line, 4)

    def kept(self, line: int) -> bytes | None:
        """What the scheme keeps of the region's n-th line, taken from the metadata bit by bit."""
        at = self.device.read(META, self.macs - META)
        if self.name == "random":
            number = LINE * line // self.grain
            return at[16 * number :][:16]
        if self.name == "ctr-global":
            return at[PAGE + 8 * line :][:8] + bytes(8)
        if self.name == "ctr-split":
            page = at[64 * (line // 64) :][:64]
            minor = int.from_bytes(page[8:], "little") >> 7 * (line % 64) & 127
            return page[:8] + minor.to_bytes(8, "little")
        if self.name == "ctr-deuce":
            entry = at[8 * line :][:8]
            return entry[:4] + bytes(4) + entry[4:] + bytes(4)
        return None

    def state(self) -> bytes:
        return self.device.read(0, self.device.size)

    def refuses(self, call: Callable[[], Any], line: int) -> None:
        """The call names the n-th line of the region and changes nothing."""
        before, number = self.state(), START // LINE + line
        with pytest.raises(
            PoisonError, match=rf"line {number} \(address {number * LINE:#x}\) is poison"
        ) as found:
            call()
        assert found.value.line == number
        del found  # it holds the frames of the call, and the device open with them
        assert self.state() == before


@pytest.fixture(params=KINDS, ids=lambda kind: f"{kind[0]}-{kind[1]}-{kind[2]}")
def sealed(request: pytest.FixtureRequest, controller: Controller) -> Sealed:
    return Sealed(controller, *request.param)


@pytest.fixture
def lines(controller: Controller) -> Sealed:
    """The simplest: XTS, lines by themselves."""
    return Sealed(controller, *KINDS[0])


def cbc_mac(algorithm: str, line: int, keyid: int, ciphertext: bytes, kept: bytes | None = None) -> int:
    key = hashlib.sha256(b"mktme line integrity" + material(algorithm)).digest()[:16]
    place = keyid if kept is None else keyid + (1 << 63)
    message = line.to_bytes(8, "little") + place.to_bytes(8, "little") + (kept or b"") + ciphertext
    chain = Cipher(algorithms.AES(key), modes.CBC(bytes(16))).encryptor().update(message)
    return int.from_bytes(chain[-16:], "little") & (1 << 28) - 1


def test_a_mac_is_28_bits_of_the_cbc_mac_of_place_keyid_and_ciphertext(
    sealed: Sealed, request: pytest.FixtureRequest
) -> None:
    algorithm = request.node.callspec.params["sealed"][1]
    for line in (0, 1, 63, 64, SIZE // LINE - 1):
        address = START + LINE * line
        ciphertext = sealed.device.read(address, LINE)
        expected = cbc_mac(algorithm, address // LINE, 5, ciphertext, sealed.kept(line))
        assert int.from_bytes(sealed.mac(line), "little") == expected | 1 << 31


@pytest.mark.parametrize("chosen", mktme.crypto.backend.available())
def test_every_backend_makes_the_same_macs(
    controller: Controller, chosen: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mktme.crypto.backend.chosen", chosen)
    lines = Sealed(controller, *KINDS[0])
    ciphertext = lines.device.read(START, SIZE)
    for line in range(0, SIZE // LINE, 7):
        expected = cbc_mac("aes-xts-128", START // LINE + line, 5, ciphertext[LINE * line :][:LINE])
        assert int.from_bytes(lines.mac(line), "little") == expected | 1 << 31


def test_any_flipped_bit_of_a_line_poisons_it_and_no_other(sealed: Sealed) -> None:
    region, rng = sealed.region, np.random.default_rng(2)
    for _ in range(12):
        line = int(rng.integers(0, SIZE // LINE))
        address, bit = START + LINE * line + int(rng.integers(0, LINE)), int(rng.integers(0, 8))
        sealed.flip(address, bit)
        sealed.refuses(lambda line=line: region.read(LINE * line, LINE), line)  # type: ignore[misc]
        sealed.refuses(lambda line=line: region.read(LINE * line + 9, 1), line)  # type: ignore[misc]
        sealed.refuses(lambda: region.read(0, SIZE), line)
        begin = LINE * line // sealed.grain * sealed.grain
        assert region.read(0, begin) == sealed.data[:begin]
        assert (
            region.read(begin + sealed.grain, SIZE - begin - sealed.grain)
            == (sealed.data[begin + sealed.grain :])
        )
        sealed.flip(address, bit)
        assert region.read(0, SIZE) == sealed.data


def test_every_bit_of_a_line_counts(lines: Sealed) -> None:
    for bit in range(8 * LINE):
        lines.flip(START + LINE * 3 + bit // 8, bit % 8)
        with pytest.raises(PoisonError):
            lines.region.read(LINE * 3, 1)
        lines.flip(START + LINE * 3 + bit // 8, bit % 8)
    assert lines.region.read(0, SIZE) == lines.data


def test_every_bit_of_a_mac_counts(sealed: Sealed) -> None:
    for bit in range(32):
        sealed.flip(sealed.macs + 4 * 70 + bit // 8, bit % 8)
        sealed.refuses(lambda: sealed.region.read(70 * LINE, 5), 70)
        sealed.flip(sealed.macs + 4 * 70 + bit // 8, bit % 8)
    assert sealed.region.read(0, SIZE) == sealed.data


KEEPING = [kind for kind in KINDS if kind[0] == "random" or kind[0].startswith("ctr-")]


@pytest.mark.parametrize("kind", KEEPING, ids=[kind[0] for kind in KEEPING])
def test_every_bit_that_a_scheme_keeps_of_a_line_counts(
    controller: Controller, kind: tuple[str, str, int]
) -> None:
    """A counter or an IV set to another value is noticed, also where it is one of before."""
    sealed = Sealed(controller, *kind)
    region, name, line = sealed.region, kind[0], 70
    region.write(LINE * line // sealed.grain * sealed.grain, bytes(sealed.grain))
    first, bits = {
        "random": (16 * (LINE * line // sealed.grain), range(128)),
        "ctr-global": (PAGE + 8 * line, range(64)),
        "ctr-split": (64, [*range(64), *range(64 + 7 * 6, 64 + 7 * 7)]),
        "ctr-deuce": (8 * line, range(64)),
    }[name]
    whole = region.read(0, SIZE)
    for bit in bits:
        sealed.flip(META + first + bit // 8, bit % 8)
        with pytest.raises(PoisonError):
            region.read(LINE * line, 1)
        if sealed.counted:
            sealed.refuses(lambda: region.write(LINE * line, bytes(LINE)), line)
        sealed.flip(META + first + bit // 8, bit % 8)
    assert region.read(0, SIZE) == whole


def test_the_next_global_counter_set_back_uses_no_pad_twice(controller: Controller) -> None:
    sealed = Sealed(controller, "ctr-global", "aes-ctr-128", 64)
    used = {sealed.kept(3)}
    for back in range(4):
        sealed.device.write(META, back.to_bytes(8, "little"))
        sealed.region.write(0, bytes(8 * LINE))
        assert sealed.kept(3) not in used
        used.add(sealed.kept(3))


def test_the_first_poisoned_line_of_a_request_is_named(sealed: Sealed) -> None:
    for line in (200, 17, 90):
        sealed.flip(START + LINE * line)
    sealed.refuses(lambda: sealed.region.read(0, SIZE), 17)
    sealed.refuses(lambda: sealed.controller.read(START - 100, SIZE + 200), 17)
    sealed.refuses(lambda: sealed.region.read(LINE * 88, SIZE - LINE * 88), 90)
    sealed.refuses(lambda: sealed.region.read_into(bytearray(SIZE)), 17)


def test_a_line_that_was_never_written_is_poisoned(controller: Controller) -> None:
    for name, algorithm, unit in KINDS:
        sealed = Sealed(controller, name, algorithm, unit)
        controller.unmap(sealed.region)
        controller.device.write(META, bytes(1 << 16))
        region = controller.map(START, SIZE, 5, iv=name, **sealed.options)
        for line in (0, 100):
            with pytest.raises(PoisonError, match="poison") as caught:
                region.read(LINE * line, LINE)
            first = (
                LINE * line // sealed.grain * sealed.grain // LINE
            )  # of the bytes that are checked together
            assert caught.value.line == START // LINE + first
            del caught
        region.write(PAGE, bytes(PAGE))
        assert region.read(PAGE, PAGE) == bytes(PAGE)
        with pytest.raises(PoisonError):
            region.read(2 * PAGE, 1)
        controller.unmap(region)


def test_a_line_moved_elsewhere_with_its_mac_is_poisoned(sealed: Sealed) -> None:
    device, a, b = sealed.device, 8, 64 * 2 + 8
    device.write(START + LINE * b, device.read(START + LINE * a, LINE))
    device.write(sealed.macs + 4 * b, sealed.mac(a))
    sealed.refuses(lambda: sealed.region.read(LINE * b, LINE), b)
    assert (
        sealed.region.read(0, LINE * b // sealed.grain * sealed.grain)
        == (sealed.data[: LINE * b // sealed.grain * sealed.grain])
    )


def test_under_another_keyid_or_key_all_is_poisoned(lines: Sealed) -> None:
    controller, key = lines.controller, Key.from_bytes("aes-xts-128", material("aes-xts-128"))
    controller.unmap(lines.region)
    other = controller.map(START, SIZE, controller.program_key(key, keyid=6), **lines.options)
    lines.refuses(lambda: other.read(0, 1), 0)
    controller.unmap(other)
    again = controller.map(START, SIZE, 5, **lines.options)
    assert again.read(0, SIZE) == lines.data
    for swapped in (material("aes-xts-128")[::-1], bytes([1]) + material("aes-xts-128")[1:]):
        controller.program_key(Key.from_bytes("aes-xts-128", swapped), keyid=5)
        lines.refuses(lambda: again.read(0, SIZE), 0)
    controller.program_key(key, keyid=5)
    assert again.read(0, SIZE) == lines.data


def test_a_line_and_its_mac_put_back_together_are_accepted(lines: Sealed) -> None:
    old, mac = lines.device.read(START + LINE, LINE), lines.mac(1)
    lines.region.write(LINE, b"new" * 21 + b"!")
    lines.device.write(START + LINE, old)
    lines.refuses(lambda: lines.region.read(LINE, LINE), 1)
    lines.device.write(lines.macs + 4, mac)
    assert lines.region.read(0, SIZE) == lines.data


def test_random_macs_are_all_refused(controller: Controller) -> None:
    rng, tries = np.random.default_rng(7), 0
    lines = Sealed(controller, *KINDS[0])
    checker = lines.region.lines()._macs  # type: ignore[attr-defined]
    numbers = np.arange(START // LINE, (START + SIZE) // LINE, dtype=np.uint64)
    ciphertext, count = np.frombuffer(lines.device.read(START, SIZE), np.uint8), numbers.size
    while tries < 100_000:
        drawn = rng.integers(0, 1 << 28, count, np.uint32) | np.uint32(1 << 31)
        lines.device.write(lines.macs, drawn)
        assert not checker.valid(lines.device.media, ciphertext, numbers).any()
        tries += count
    lines.refuses(lambda: lines.region.read(0, 1), 0)


# Writing


WRITES: list[tuple[str, Callable[[Region], Any]]] = [
    ("a byte", lambda r: r.write(64 * LINE + 5, b"x")),
    ("an index", lambda r: r.__setitem__(64 * LINE, 1)),
    ("up to the middle", lambda r: r.write(56 * LINE, bytes(8 * LINE + 1))),
    ("up to the middle from elsewhere", lambda r: r.write(3, bytes(64 * LINE + 7))),
    ("from the middle on", lambda r: r.write(64 * LINE + 63, bytes(100 * LINE))),
    ("a fill up to the middle", lambda r: r.fill(3, 0, 64 * LINE + 1)),
    ("through the map", lambda r: r.mapping().write(START - PAGE, bytes(PAGE + 64 * LINE + 3))),
    ("a column", lambda r: r.array(np.uint8, (256, 64)).__setitem__((slice(None), slice(5, 9)), 1)),
    ("elements", lambda r: r.array(np.uint32).__setitem__([7, 64 * 16 + 2], 1)),
    ("strides", lambda r: r.array(np.uint16).__setitem__(slice(0, None, 2), 1)),
]


@pytest.mark.parametrize(("how", "call"), WRITES, ids=[how for how, _ in WRITES])
def test_a_write_to_part_of_a_poisoned_line_is_refused_with_nothing_written(
    sealed: Sealed, how: str, call: Callable[[Region], Any]
) -> None:
    sealed.flip(START + 64 * LINE + 60)
    sealed.refuses(lambda: call(sealed.region), 64)
    sealed.flip(START + 64 * LINE + 60)
    assert sealed.region.read(0, SIZE) == sealed.data
    call(sealed.region)
    sealed.region.read(0, SIZE)


def test_a_long_fill_and_a_long_write_are_refused_whole(controller: Controller) -> None:
    keyid = controller.program_key(Key.from_bytes("aes-xts-128", material("aes-xts-128")))
    region = controller.map(0, 1 << 19, keyid, integrity=True, metadata=1 << 19)
    region.fill(7)
    device = controller.device
    device.write((1 << 19) - 1, bytes([device.read((1 << 19) - 1, 1)[0] ^ 1]))
    before = device.read(0, device.size)
    with pytest.raises(PoisonError):
        region.fill(1, 0, (1 << 19) - 1)
    with pytest.raises(PoisonError):
        region.write(0, bytes((1 << 19) - 1))
    with pytest.raises(PoisonError):
        region.array(np.uint8, ((1 << 19) // 1024, 1024))[:, :-1] = 1
    assert device.read(0, device.size) == before


WHOLE: list[tuple[str, Callable[[Region, int], Any]]] = [
    ("write", lambda r, grain: r.write(PAGE, bytes(grain))),
    ("slice", lambda r, grain: r.__setitem__(slice(PAGE - grain, PAGE + 2 * grain), bytes(3 * grain))),
    ("all", lambda r, grain: r.write(0, bytes(SIZE))),
    ("fill", lambda r, grain: r.fill(0)),
    ("map", lambda r, grain: r.mapping().write(START + PAGE, bytes(PAGE))),
    ("lines", lambda r, grain: r.mapping().write_lines(
        START + PAGE + LINE * np.arange(grain // LINE)[::-1], np.zeros((grain // LINE, LINE), np.uint8))),
    ("rows", lambda r, grain: r.array(np.uint8, (SIZE // grain, grain)).__setitem__(slice(0, None, 2), 0)),
    ("picked", lambda r, grain: r.array(np.uint8, (SIZE // grain, grain)).__setitem__([PAGE // grain], 0)),
]  # fmt: skip


@pytest.mark.parametrize(("how", "call"), WHOLE, ids=[how for how, _ in WHOLE])
def test_a_write_of_the_whole_line_heals_it_unless_its_counter_counts(
    sealed: Sealed, how: str, call: Callable[[Region, int], Any]
) -> None:
    sealed.flip(START + PAGE)
    sealed.flip(sealed.macs + 4 * (PAGE // LINE))
    sealed.refuses(lambda: sealed.region.read(PAGE, 1), PAGE // LINE)
    if sealed.counted:
        sealed.refuses(lambda: call(sealed.region, sealed.grain), PAGE // LINE)
        return
    call(sealed.region, sealed.grain)
    assert sealed.region.read(PAGE, sealed.grain) == bytes(sealed.grain)
    if how in ("write", "map", "lines", "picked"):
        assert sealed.region.read(0, PAGE - sealed.grain) == sealed.data[: PAGE - sealed.grain]
        assert sealed.region.read(2 * PAGE, 2 * PAGE) == sealed.data[2 * PAGE :]
    sealed.region.read(0, SIZE)


def test_the_way_out_that_the_error_names_is_one(sealed: Sealed) -> None:
    sealed.flip(START + PAGE)
    whole = "line" if sealed.grain == LINE else f"data unit of {sealed.grain} bytes"
    out = f"write the whole {whole} " + ("if it was never written" if sealed.counted else "to use it again")
    with pytest.raises(PoisonError, match=out):
        sealed.region.read(PAGE, 1)
    if not sealed.counted:
        sealed.region.write(PAGE, bytes(sealed.grain))
        assert sealed.region.read(PAGE, sealed.grain) == bytes(sealed.grain)
        return
    algorithm = "aes-ctr-128"  # else anew: fresh metadata, another key
    sealed.controller.unmap(sealed.region)
    sealed.device.write(META, bytes(1 << 16))
    other = Key.from_bytes(algorithm, material(algorithm)[::-1])
    again = sealed.controller.map(
        START, SIZE, sealed.controller.program_key(other), iv=sealed.name, **sealed.options
    )
    again.write(0, sealed.data)
    assert again.read(0, SIZE) == sealed.data


def test_scattered_lines_runs_and_arrays_are_checked(sealed: Sealed) -> None:
    sealed.flip(START + 130 * LINE + 33)
    region, controller = sealed.region, sealed.controller
    reads: list[Callable[[], Any]] = [
        lambda: controller.read_lines(START + LINE * np.array([3, 130, 9])),
        lambda: controller.read_lines(START + LINE * np.arange(SIZE // LINE)[::-1]),
        lambda: np.asarray(region.array(np.uint8, (256, 64))[:, 3:5]),
        lambda: np.asarray(region.array(np.uint16)[::7]),
        lambda: np.asarray(region.array(np.uint32)),
        lambda: region.array(np.uint8)[[1, 2, 130 * LINE + 63]],
        lambda: region.array(np.uint8)[130 * LINE],
        lambda: region[130 * LINE - 1 : 130 * LINE + 1],
        lambda: region[130 * LINE],
    ]
    for read in reads:
        sealed.refuses(read, 130)
    rest = np.delete(np.arange(SIZE // LINE), np.arange(128, 136))
    plain = np.frombuffer(sealed.data, np.uint8).reshape(-1, LINE)
    assert (controller.read_lines(START + LINE * rest) == plain[rest]).all()


def test_turning_a_page_of_split_counters_does_not_heal_a_poisoned_line(controller: Controller) -> None:
    sealed = Sealed(controller, "ctr-split", "aes-ctr-128", 64)
    region = sealed.region
    sealed.flip(START + 9 * LINE)
    for _ in range(130):  # the 127th of these has no minor counter left
        region.write(0, bytes(LINE))
    assert region.lines().turned == 1  # type: ignore[attr-defined]
    sealed.refuses(lambda: region.read(9 * LINE, 1), 9)
    assert region.read(10 * LINE, SIZE - 10 * LINE) == sealed.data[10 * LINE :]
    assert region.read(LINE, 8 * LINE) == sealed.data[LINE : 9 * LINE]


def test_mixed_regions_are_checked_each_by_its_own(lines: Sealed) -> None:
    controller = lines.controller
    beside = controller.map(START + SIZE, PAGE, 5)  # the same key without integrity
    beside.write(0, b"b" * PAGE)
    lines.flip(START + SIZE)
    assert controller.read(START + SIZE - 64, 64) == lines.data[-64:]
    assert beside.read(64, PAGE - 64) == b"b" * (PAGE - 64)
    lines.flip(START + 5)
    before = lines.state()
    with pytest.raises(PoisonError):
        controller.write(START - 640, bytes(640 + 5))
    assert lines.state() == before
    with pytest.raises(PoisonError):
        controller.read_lines([START + SIZE, START])


def test_an_error_that_is_kept_does_not_keep_the_device_open(tmp_path: Path) -> None:
    kept = []
    device = pmem.create(tmp_path / "kept.img", 32 << 20)
    controller = Controller(device, threads=2)
    keyid = controller.program_key(Key.generate("aes-xts-128"))
    region = controller.map(0, 16 << 20, keyid, integrity=True, metadata=16 << 20)
    array = region.array(np.uint8, (1 << 14, 1 << 10))
    for attempt in (
        lambda: region.read(5, 100),
        lambda: region.read(0, 16 << 20),
        lambda: region.write(5, b"x"),
        lambda: region.fill(1, 5, 9 << 20),
        lambda: controller.read(0, 9 << 20),
        lambda: controller.write(3, b"x"),
        lambda: controller.read_lines([0, 64]),
        lambda: np.asarray(array[:, 3]),
        lambda: array.__setitem__((slice(None), 3), 1),
    ):
        with pytest.raises(PoisonError) as caught:
            attempt()
        kept.append(caught.value)
    device.close()
    assert len(kept) == 9
