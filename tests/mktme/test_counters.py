"""What is kept beside the data: write counters and drawn IVs, to the bit."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes

import mktme
import pmem
from mktme import Controller, CountersExhausted, Key, Region
from mktme.iv.state import DeuceCounters, GlobalCounters, RandomIvs, SplitCounters

LINE, PAGE = 64, 4096
START, META = 1 << 16, 1 << 19
MATERIAL = bytes(range(16))
Words = npt.NDArray[np.uint64]


def mapped(controller: Controller, name: str, size: int = 4 * PAGE, **options: Any) -> Region:
    keyid = controller.program_key(Key.from_bytes("aes-ctr-128", MATERIAL), keyid=1)
    return controller.map(START, size, keyid, iv=name, metadata=META, **options)


def words(region: Region, kind: str = "<u8") -> Any:
    """The metadata as numbers."""
    assert region.metadata is not None
    first, last = region.metadata
    return np.frombuffer(region.device.read(first, last - first), kind)


def pad(first: int, second: int) -> bytes:
    """The 64 bytes that a line is xored with under an IV of two words."""
    iv = first.to_bytes(8, "little") + second.to_bytes(8, "little")
    return Cipher(algorithms.AES(MATERIAL), modes.CTR(iv)).encryptor().update(bytes(LINE))


def xor(a: bytes, b: bytes) -> bytes:
    return bytes(x ^ y for x, y in zip(a, b, strict=True))


def media(region: Region, line: int) -> bytes:
    return region.device.read(region.address + LINE * line, LINE)


class Minors:
    """Split counters bit by bit, as one long number for each page; the model."""

    def __init__(self, pages: int) -> None:
        self.major = [0] * pages
        self.minor = [[0] * 64 for _ in range(pages)]
        self.turned = 0

    def write(self, lines: list[int]) -> None:
        """Lines that are written at once, each one time."""
        for page in sorted({line // 64 for line in lines}):
            own = [line % 64 for line in lines if line // 64 == page]
            if any(self.minor[page][slot] == 127 for slot in own):
                self.major[page], self.minor[page] = self.major[page] + 1, [0] * 64
                self.turned += 1
            for slot in own:
                self.minor[page][slot] += 1

    def packed(self) -> bytes:
        made = b""
        for major, minor in zip(self.major, self.minor, strict=True):
            number = major
            for slot, value in enumerate(minor):
                number |= value << (64 + 7 * slot)
            made += number.to_bytes(64, "little")
        return made


# ctr-global


def test_each_line_that_is_written_takes_the_next_value_of_the_counter(controller: Controller) -> None:
    region = mapped(controller, "ctr-global")
    region.write(0, bytes(3 * LINE))
    region.write(5 * LINE + 3, b"x")
    region.write(LINE, bytes(LINE))
    controller.write_lines(
        START + LINE * np.array([9, 2, 9, 200]), np.arange(4, dtype=np.uint8)[:, None].repeat(LINE, 1)
    )
    region.write(10 * LINE + 1, bytes(3 * LINE))  # a part, two lines, a part
    kept = words(region)
    counters = kept[PAGE // 8 :]
    assert kept[0] == counters.max() == 12
    assert counters[[0, 1, 2, 5]].tolist() == [1, 5, 6, 4]
    assert sorted(counters[[2, 9, 200]].tolist()) == [6, 7, 8]
    assert sorted(counters[[10, 11, 12, 13]].tolist()) == [9, 10, 11, 12]
    assert np.count_nonzero(counters) == 10
    assert not kept[1 : PAGE // 8].any()


def test_a_line_is_under_the_pad_of_its_own_counter(controller: Controller) -> None:
    region, rng = mapped(controller, "ctr-global"), np.random.default_rng(1)
    data = rng.bytes(region.size)
    region.write(0, data)
    for line in rng.integers(0, region.size // LINE, 40).tolist():
        region.write(LINE * line, data[LINE * line :][:LINE])
    counters = words(region)[PAGE // 8 :]
    assert len(set(counters[: region.size // LINE].tolist())) == region.size // LINE
    for line in range(0, region.size // LINE, 5):
        plain = data[LINE * line :][:LINE]
        assert media(region, line) == xor(plain, pad(int(counters[line]), START // LINE + line))


@pytest.mark.parametrize("left", [0, 1, 2])
def test_a_global_counter_at_its_end_is_refused_with_nothing_written(
    controller: Controller, left: int
) -> None:
    region, device = mapped(controller, "ctr-global"), controller.device
    region.write(0, bytes(region.size))
    device.write(META, ((1 << 64) - 1 - left).to_bytes(8, "little"))
    before = device.read(0, device.size)
    for attempt in (
        lambda: region.write(0, bytes((left + 1) * LINE)),
        lambda: region.write(10, bytes(left * LINE + 1 if left else 1) + bytes(LINE if left else 0)),
        lambda: region.write(0, bytes(region.size)),
        lambda: region.fill(9),
        lambda: controller.write(START - 100, bytes(100 + (left + 1) * LINE)),
        lambda: controller.write_lines(
            START + LINE * np.arange(left + 1), np.zeros((left + 1, LINE), np.uint8)
        ),
    ):
        with pytest.raises(CountersExhausted, match=r"2\^64 writes: map the range anew under another key"):
            attempt()
        assert device.read(0, device.size) == before
    assert region.read(0, region.size) == bytes(region.size)
    if left:
        region.write(0, b"a" * LINE * left)
        assert region.read(0, LINE * (left + 1)) == b"a" * LINE * left + bytes(LINE)
        assert words(region)[0] == (1 << 64) - 1


# ctr-split


def test_the_128th_write_of_a_line_encrypts_its_page_anew_just_once(controller: Controller) -> None:
    region, rng = mapped(controller, "ctr-split"), np.random.default_rng(2)
    model = bytearray(rng.bytes(region.size))
    region.write(0, model)
    path: Any = region.lines()
    page, other = media(region, 64 + 3), media(region, 3)
    for count in range(2, 128):
        model[PAGE + 7 * LINE : PAGE + 8 * LINE] = rng.bytes(LINE)
        region.write(PAGE + 7 * LINE, model[PAGE + 7 * LINE : PAGE + 8 * LINE])
        assert path.turned == 0
        assert region.read(PAGE, PAGE) == model[PAGE : 2 * PAGE]
        assert (int.from_bytes(words(region)[8:16].tobytes(), "little") >> 64 + 7 * 7 & 127) == count
    assert media(region, 64 + 3) == page
    region.write(PAGE + 7 * LINE, bytes(LINE))
    model[PAGE + 7 * LINE : PAGE + 8 * LINE] = bytes(LINE)
    assert path.turned == 1
    assert media(region, 64 + 3) != page
    assert media(region, 3) == other
    assert region.read(0, region.size) == model
    packed = words(region)[8:16]
    assert int.from_bytes(packed.tobytes(), "little") == 1 | 1 << (64 + 7 * 7)
    assert media(region, 64 + 7) == pad(1, START // LINE + 64 + 7 | 1 << 48)
    assert media(region, 64 + 3) == xor(bytes(model[PAGE + 3 * LINE :][:LINE]), pad(1, START // LINE + 67))
    for _ in range(126):
        region.write(PAGE + 7 * LINE, bytes(LINE))
    assert path.turned == 1
    region.write(PAGE + 7 * LINE, bytes(LINE))
    assert path.turned == 2
    assert words(region)[8] == 2
    assert region.read(0, region.size) == model


def test_many_pages_that_overflow_in_one_request_are_each_turned_once(controller: Controller) -> None:
    region, rng = mapped(controller, "ctr-split", size=32 * PAGE), np.random.default_rng(3)
    for _ in range(127):
        region.write(0, bytes(region.size))
    path: Any = region.lines()
    assert path.turned == 0
    data = rng.bytes(30 * PAGE)
    region.write(PAGE // 2, data)  # half of the first page, 29 whole, half of the 31st
    assert path.turned == 31
    assert region.read(0, region.size) == bytes(PAGE // 2) + data + bytes(PAGE + PAGE // 2)
    kept = words(region).reshape(-1, 8)
    assert kept[:32, 0].tolist() == [1] * 31 + [0]
    first = int.from_bytes(kept[0].tobytes(), "little") >> 64
    assert [first >> 7 * slot & 127 for slot in range(64)] == [0] * 32 + [1] * 32
    controller.write_lines(START + np.array([31 * PAGE, 0]), np.ones((2, LINE), np.uint8))
    assert path.turned == 32


@pytest.mark.parametrize("seed", range(3))
def test_minor_counters_are_packed_as_a_model_of_bits_predicts(controller: Controller, seed: int) -> None:
    region, rng = mapped(controller, "ctr-split"), np.random.default_rng([seed, 4])
    model, plain = Minors(4), np.frombuffer(region.read(0, region.size), np.uint8).reshape(-1, LINE).copy()
    hot = rng.integers(0, 256, 6)
    for _ in range(420):
        chosen = np.unique(rng.choice(np.append(hot, rng.integers(0, 256, 2)), 4))
        rows = rng.integers(0, 256, (chosen.size, LINE), np.uint8)
        controller.write_lines(START + LINE * chosen, rows)
        plain[chosen] = rows
        model.write(chosen.tolist())
    assert words(region).tobytes()[: 4 * 64] == model.packed()
    assert region.lines().turned == model.turned > 0  # type: ignore[attr-defined]
    assert region.read(0, region.size) == plain.tobytes()
    for line in range(0, 256, 3):
        number = START // LINE + line | model.minor[line // 64][line % 64] << 48
        assert media(region, line) == xor(plain[line].tobytes(), pad(model.major[line // 64], number))


@pytest.mark.parametrize("seed", range(4))
def test_the_store_alone_packs_any_values(seed: int) -> None:
    rng = np.random.default_rng([seed, 5])
    room, model = np.zeros(3 * LINE, np.uint8), Minors(3)
    store = SplitCounters(room)
    for page in range(3):
        model.major[page] = int(rng.integers(0, 1 << 64, dtype=np.uint64))
        model.minor[page] = rng.integers(0, 128, 64).tolist()
    room[:] = np.frombuffer(model.packed(), np.uint8)
    everything = np.arange(192, dtype=np.uint64)
    found = store.current(everything)
    assert found["major"].tolist() == [major for major in model.major for _ in range(64)]
    assert found["minor"].tolist() == list(itertools.chain(*model.minor))
    for _ in range(300):
        lines = np.unique(rng.integers(0, 192, int(rng.integers(1, 20)))).astype(np.uint64)
        full = sorted({n // 64 for n in lines.tolist() if model.minor[n // 64][n % 64] == 127})
        assert store.full(lines).tolist() == full
        for page in full:
            store.turn(page)
        model.write(lines.tolist())
        now = store.advance(lines)
        assert now["minor"].tolist() == [model.minor[n // 64][n % 64] for n in lines.tolist()]
        assert room.tobytes() == model.packed()


def test_a_page_without_a_next_major_counter_is_refused_with_nothing_written(controller: Controller) -> None:
    region, device = mapped(controller, "ctr-split"), controller.device
    region.write(0, bytes(region.size))
    last = (1 << 64) - 1 | 127 << 64 | 126 << 71
    device.write(META + 64, last.to_bytes(64, "little"))
    region.write(PAGE + LINE, bytes(PAGE - LINE))  # all but the first line have a next one
    before = device.read(0, device.size)
    for attempt in (
        lambda: region.write(PAGE, bytes(LINE)),
        lambda: region.write(PAGE + 5, b"x"),
        lambda: region.write(PAGE + LINE, bytes(1)),
        lambda: region.write(PAGE - 70, bytes(90)),
        lambda: region.fill(1),
        lambda: controller.write(0, bytes(START + 2 * PAGE)),
        lambda: controller.write_lines([START, START + PAGE], np.ones((2, LINE), np.uint8)),
    ):
        with pytest.raises(
            CountersExhausted, match=r"page 1 .*2\^64 major counters: map it anew under another"
        ):
            attempt()
        assert device.read(0, device.size) == before
    region.write(PAGE + 2 * LINE, b"y" * LINE)
    region.write(0, b"z" * PAGE)
    assert region.read(0, PAGE) == b"z" * PAGE
    assert region.read(PAGE + LINE, 2 * LINE) == bytes(LINE) + b"y" * LINE


# ctr-deuce


def test_within_an_epoch_only_modified_words_change_on_the_medium(controller: Controller) -> None:
    region, rng = mapped(controller, "ctr-deuce"), np.random.default_rng(6)
    plain = bytearray(rng.bytes(LINE))
    region.write(LINE, plain)
    counter = 32  # a line's first write begins an epoch
    modified: set[int] = set()
    for _ in range(100):
        before, word = media(region, 1), int(rng.integers(0, 32)) if counter % 3 else None
        changed = {int(rng.integers(0, 32)), int(rng.integers(0, 32))} if word is None else {word}
        for one in changed:
            old = plain[2 * one : 2 * one + 2]
            while plain[2 * one : 2 * one + 2] == old:
                plain[2 * one : 2 * one + 2] = rng.bytes(2)
        region.write(LINE, plain)
        counter += 1
        modified = modified | changed if counter % 32 else set()
        after = media(region, 1)
        leading, trailing = pad(counter, START // LINE + 1), pad(counter // 32 * 32, START // LINE + 1)
        for one in range(32):
            at = slice(2 * one, 2 * one + 2)
            if counter % 32 and one not in modified:
                assert after[at] == before[at]
            used = leading if one in modified else trailing
            assert after[at] == xor(bytes(plain[at]), used[at])
        bits = sum(1 << one for one in modified)
        assert words(region, "<u4")[2:4].tolist() == [counter, bits]
        assert region.read(LINE, LINE) == plain
    assert counter == 132


def test_at_the_32nd_write_of_an_epoch_the_whole_line_is_encrypted_anew(controller: Controller) -> None:
    region = mapped(controller, "ctr-deuce")
    data = np.random.default_rng(7).bytes(LINE)
    region.write(0, data)
    assert words(region, "<u4")[:2].tolist() == [32, 0]
    still = media(region, 0)
    assert still == xor(data, pad(32, START // LINE))
    for _ in range(31):
        region.write(0, data)
        assert media(region, 0) == still  # nothing was modified, so nothing changes
    region.write(0, data)
    assert media(region, 0) == xor(data, pad(64, START // LINE))
    assert words(region, "<u4")[:2].tolist() == [64, 0]


def test_lines_of_one_request_have_counters_of_their_own(controller: Controller) -> None:
    region, rng = mapped(controller, "ctr-deuce"), np.random.default_rng(8)
    model, writes = bytearray(region.read(0, region.size)), [0] * (region.size // LINE)
    for _ in range(150):
        first, count = int(rng.integers(0, 200)), int(rng.integers(1, 50))
        data = bytearray(model[LINE * first : LINE * (first + count)])
        for at in rng.integers(0, len(data), 5).tolist():
            data[at] ^= 1
        region.write(LINE * first, data)
        model[LINE * first : LINE * (first + count)] = data
        for line in range(first, first + count):
            writes[line] += 1
    counters = [31 + count if count else 0 for count in writes]  # the first write begins an epoch
    assert words(region, "<u4")[: 2 * len(writes) : 2].tolist() == counters
    assert region.read(0, region.size) == model


def test_a_leading_counter_at_its_end_is_refused_with_nothing_written(controller: Controller) -> None:
    region, device = mapped(controller, "ctr-deuce"), controller.device
    region.write(0, bytes(region.size))
    device.write(META + 8 * 70, ((1 << 32) - 1).to_bytes(4, "little"))
    before = device.read(0, device.size)
    for attempt in (
        lambda: region.write(70 * LINE, bytes(LINE)),
        lambda: region.write(70 * LINE + 1, b"x"),
        lambda: region.write(5, bytes(70 * LINE)),
        lambda: region.write(0, bytes(region.size)),
        lambda: controller.write(START - 64, bytes(100 * LINE)),
        lambda: controller.write_lines([START, START + 70 * LINE], np.ones((2, LINE), np.uint8)),
    ):
        with pytest.raises(
            CountersExhausted, match=r"a line has been written 2\^32 times: map the range anew"
        ):
            attempt()
        assert device.read(0, device.size) == before
    region.write(69 * LINE, b"a" * LINE)
    assert region.read(69 * LINE, LINE) == b"a" * LINE


# Pads and drawn IVs


@pytest.mark.parametrize("name", ["ctr-global", "ctr-split", "ctr-deuce"])
def test_no_pad_is_ever_used_for_two_plaintexts(controller: Controller, name: str) -> None:
    """Zeros are written, so that the medium is the pad itself, word by word of DEUCE's."""
    region, rng = mapped(controller, name, size=2 * PAGE), np.random.default_rng(9)
    region.write(0, bytes(region.size))
    seen: dict[bytes, tuple[int, bytes]] = {}

    def collect(line: int, plain: bytes) -> None:
        cipher = media(region, line)
        for block in range(4):
            used = xor(cipher[16 * block :][:16], plain[16 * block :][:16])
            place = (line, plain[16 * block :][:16])
            if name == "ctr-deuce":  # an unmodified word stays as it is, so plaintext may recur with its pad
                assert seen.setdefault(used, place)[0] == line
            else:
                assert seen.setdefault(used + bytes([block]), place) == place

    if name == "ctr-deuce":
        plain = bytes(LINE)
        for step in range(300):
            plain = bytes([step & 255]) * LINE  # all words are modified each time
            region.write(LINE, plain)
            collect(1, plain)
        assert len(seen) == 4 * 300
        return
    for line in range(region.size // LINE):
        collect(line, bytes(LINE))
    for step in range(400):
        line, plain = int(rng.integers(0, 4)), step.to_bytes(2, "little") * 32
        region.write(LINE * line, plain)
        collect(line, plain)
    assert len(seen) == 4 * (region.size // LINE + 400)


@pytest.mark.parametrize("name", ["ctr-global", "ctr-split"])
def test_the_ivs_under_which_a_region_encrypts_never_repeat(
    controller: Controller, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    region, rng = mapped(controller, name, size=2 * PAGE), np.random.default_rng(10)
    path: Any = region.lines()
    used: dict[bytes, bytes] = {}
    cipher = path._cipher

    class Watching:
        def units(self, back: bool, unit: int, ivs: Words, source: Any, to: Any, skip: int = 0) -> None:
            texts = source.reshape(-1, unit)
            if not back:
                for row, text in zip(ivs, texts, strict=True):
                    assert used.setdefault(row.tobytes(), text.tobytes()) == text.tobytes()
            cipher.units(back, unit, ivs, source, to, skip)

    monkeypatch.setattr(path, "_cipher", Watching())
    model = bytearray(region.size)
    region.write(0, model)
    for step in range(350):
        length = int(rng.integers(1, 200))
        at = int(rng.integers(0, 500)) if step % 3 else int(rng.integers(0, region.size - length))
        data = rng.bytes(length)
        region.write(at, data)
        model[at : at + length] = data
    assert region.read(0, region.size) == model
    assert len(used) > 350 + region.size // LINE


@pytest.mark.parametrize("unit", [512, 1024, 4096])
def test_random_ivs_are_fresh_at_each_write_and_stored_beside(controller: Controller, unit: int) -> None:
    region, seen = mapped(controller, "random", unit=unit), set()
    data = np.random.default_rng(11).bytes(region.size)
    region.write(0, data)
    count = region.size // unit
    for step in range(20):
        kept = words(region).tobytes()[: 16 * count]
        ivs = [kept[16 * i : 16 * i + 16] for i in range(count)]
        fresh = range(count) if step == 0 else [step % count]
        for i in fresh:
            assert ivs[i] not in seen
            seen.add(ivs[i])
        assert set(ivs) <= seen
        for i in (0, step % count, count - 1):
            ctr = Cipher(algorithms.AES(MATERIAL), modes.CTR(ivs[i])).encryptor()
            assert region.device.read(START + unit * i, unit) == ctr.update(data[unit * i :][:unit])
        change = (step + 1) % count
        region.write(unit * change + 17, data[unit * change + 17 :][:5])  # a part of the unit, the same bytes
    assert region.read(0, region.size) == data
    assert not any(words(region).tobytes()[16 * count :])


def test_stores_keep_no_copy_of_what_is_on_the_device(controller: Controller) -> None:
    for name in ("random", "ctr-global", "ctr-split", "ctr-deuce"):
        region, device = mapped(controller, name), controller.device
        region.write(0, b"a" * region.size)
        then = device.read(0, device.size)
        region.write(0, b"b" * region.size)
        assert region.read(0, region.size) == b"b" * region.size
        device.write(0, then)
        assert region.read(0, region.size) == b"a" * region.size
        controller.unmap(region)
        again = mapped(controller, name)
        assert again.read(0, region.size) == b"a" * region.size
        controller.unmap(again)


def test_every_store_says_how_much_it_keeps() -> None:
    for store, expected in (
        (RandomIvs, (1 << 20) // 512 * 16),
        (GlobalCounters, PAGE + (1 << 20) // 8),
        (SplitCounters, (1 << 20) // 64),
        (DeuceCounters, (1 << 20) // 8),
    ):
        assert store.size(1 << 20, 512 if store is RandomIvs else LINE) == expected


# A sparse device


@pytest.mark.parametrize("integrity", [False, True])
@pytest.mark.parametrize("name", ["random", "ctr-global", "ctr-split", "ctr-deuce"])
def test_metadata_is_reserved_only_where_something_was_written(
    tmp_path: Path, name: str, integrity: bool
) -> None:
    size, chunk = 1 << 30, 1 << 16
    beside = mktme.metadata_bytes(name, size, integrity=integrity)
    with pmem.create(tmp_path / "sparse.img", size + beside) as device:
        controller = Controller(device)
        keyid = controller.program_key(Key.from_bytes("aes-ctr-128", MATERIAL))
        region = controller.map(0, size, keyid, iv=name, metadata=size, integrity=integrity)
        assert device.path.stat().st_blocks == 0
        unit = region.unit
        region.write(size - unit, b"e" * unit)  # data, its counter, its MAC, and the page of the next one
        places = 2 + integrity + (name == "ctr-global")
        assert device.path.stat().st_blocks * 512 <= places * chunk
        per = unit // LINE
        ends = np.concatenate([np.arange(per), size // 2 // LINE + np.arange(per)]) * LINE
        controller.write_lines(ends, np.full((ends.size, LINE), 7, np.uint8))
        assert device.path.stat().st_blocks * 512 <= (3 * places + 1) * chunk
        assert region.read(size - unit, unit) == b"e" * unit
        assert region.read(size // 2, unit) == b"\7" * unit
        assert region.read(0, unit) == b"\7" * unit
