"""A controller against a model of plain bytes, through random sequences of what a script may do."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    Bundle,
    RuleBasedStateMachine,
    consumes,
    invariant,
    rule,
    run_state_machine_as_test,
)

import pmem
from mktme import Controller, Key, MappingError, Region, pconfig

PAGE, PAGES = 4096, 12
MATERIAL = [bytes([n]) * 16 + bytes([n + 100]) * 16 for n in range(4)]


class Laboratory(RuleBasedStateMachine):
    """The model: for every page the plaintext last written to it, by the key it was written under.

    Under another key a page reads as something else, which stays what it is until it is written.
    """

    regions = Bundle("regions")

    def __init__(self) -> None:
        super().__init__()
        self.folder = tempfile.TemporaryDirectory()
        self.device = pmem.create(Path(self.folder.name) / "pool.img", PAGE * PAGES)
        self.controller = Controller(self.device, keyid_bits=2)
        self.keys: dict[int, int] = {}  # KeyID to the number of its material
        self.owner = np.full(PAGES, -1)  # what each page was last written under; -1 is plaintext
        self.model = bytearray(PAGE * PAGES)
        for keyid in (1, 2, 3):
            self.rekey(keyid, keyid)

    def teardown(self) -> None:
        self.device.close()
        self.folder.cleanup()

    @rule(keyid=st.integers(1, 3), material=st.integers(0, 3))
    def rekey(self, keyid: int, material: int) -> None:
        self.controller.program_key(Key.from_bytes("aes-xts-128", MATERIAL[material]), keyid=keyid)
        self.keys[keyid] = material

    @rule(target=regions, page=st.integers(0, PAGES - 1), count=st.integers(1, 4), keyid=st.integers(0, 3))
    def map(self, page: int, count: int, keyid: int) -> Region | None:
        wanted = range(page, page + count)
        taken = {
            p for r in self.controller.regions for p in range(r.address // PAGE, (r.address + r.size) // PAGE)
        }
        try:
            region = self.controller.map(page * PAGE, count * PAGE, keyid)
        except MappingError:
            assert taken & set(wanted) or page + count > PAGES
            return None
        assert not taken & set(wanted)
        return region

    @rule(region=consumes(regions))
    def unmap(self, region: Region | None) -> None:
        if region is not None and region.mapped:
            self.controller.unmap(region)

    @rule()
    def cycle(self) -> None:
        self.controller.power_cycle()
        for keyid in (1, 2, 3):
            self.rekey(keyid, keyid)

    def under(self, keyid: int) -> int:
        return self.keys[keyid] if keyid else -1

    def settle(self, region: Region, first: int, last: int) -> None:
        """Pages that hold another key's bytes now count as what they read as."""
        for page in range(first // PAGE, -(-last // PAGE)):
            if self.owner[page] != self.under(region.keyid):
                self.owner[page] = self.under(region.keyid)
                start = page * PAGE - region.address
                self.model[page * PAGE : (page + 1) * PAGE] = region.read(start, PAGE)

    @rule(region=regions, data=st.binary(min_size=1, max_size=3 * PAGE), place=st.floats(0, 1))
    def write(self, region: Region | None, data: bytes, place: float) -> None:
        if region is None or not region.mapped:
            return
        data = data[: region.size]
        offset = int(place * (region.size - len(data)))
        first = region.address + offset
        self.settle(region, first, first + len(data))
        region.write(offset, data)
        self.model[first : first + len(data)] = data

    @rule(region=regions, size=st.integers(1, 3 * PAGE), seed=st.integers(0, 9), place=st.floats(0, 1))
    def write_long(self, region: Region | None, size: int, seed: int, place: float) -> None:
        self.write(region, np.random.default_rng(seed).bytes(size), place)

    @rule(region=regions)
    def read(self, region: Region | None) -> None:
        if region is None or not region.mapped:
            return
        for page in range(region.address // PAGE, (region.address + region.size) // PAGE):
            want = bytes(self.model[page * PAGE : (page + 1) * PAGE])
            got = region.read(page * PAGE - region.address, PAGE)
            assert (got == want) == (self.owner[page] == self.under(region.keyid))

    @invariant()
    def every_page_reads_as_it_was_last_written(self) -> None:
        for page in range(PAGES):
            keyids = [
                r.keyid for r in self.controller.regions if r.address <= page * PAGE < r.address + r.size
            ]
            keyid = keyids[0] if keyids else 0
            if self.owner[page] == self.under(keyid):
                assert self.controller.read(page * PAGE, PAGE) == self.model[page * PAGE : (page + 1) * PAGE]


Laboratory.TestCase.settings = settings(
    derandomize=True, deadline=None, max_examples=60, stateful_step_count=30
)
TestLaboratory = Laboratory.TestCase


LINE = 64
LINES = PAGES * PAGE // LINE
PLAIN = b""  # the material of a KeyID that doesn't encrypt
MIXED = [MATERIAL[1], MATERIAL[2], bytes(range(64)), PLAIN]


class Medium(RuleBasedStateMachine):
    """The model: the bytes of the medium themselves, each line through OpenSSL, and three tables.

    Every way to write is in it, over regions, gaps and KeyIDs that are changed in use, so that the
    garbage of a wrong key is predicted too, and a byte beside a write shows.
    """

    def __init__(self, folder: Path) -> None:
        super().__init__()
        self.path = folder / "pool.img"
        self.device = pmem.create(self.path, PAGE * PAGES)
        self.controller = Controller(self.device, keyid_bits=2, threads=1)
        self.media = bytearray(PAGE * PAGES)
        self.keys: dict[int, bytes] = {}
        self.pages = [0] * PAGES
        self.regions: list[Region] = []
        for keyid in (1, 2):
            self.program(keyid, MIXED[keyid], direct=False)

    def teardown(self) -> None:
        self.device.close()
        self.path.unlink()

    # The model

    def line(self, number: int, data: bytes, back: bool) -> bytes:
        material = self.keys.get(self.pages[number * LINE // PAGE], PLAIN)
        if not material:
            return data
        cipher = Cipher(algorithms.AES(material), modes.XTS(number.to_bytes(16, "little")))
        return (cipher.decryptor() if back else cipher.encryptor()).update(data)

    def expect(self, start: int, length: int) -> bytes:
        first, last = start // LINE, -(-(start + length) // LINE)
        whole = b"".join(
            self.line(n, bytes(self.media[n * LINE : n * LINE + LINE]), True) for n in range(first, last)
        )
        return whole[start - first * LINE :][:length]

    def store(self, start: int, data: bytes) -> None:
        while data:
            number, skip = divmod(start, LINE)
            part = data[: LINE - skip]
            whole = bytearray(self.expect(number * LINE, LINE))
            whole[skip : skip + len(part)] = part
            self.media[number * LINE : number * LINE + LINE] = self.line(number, bytes(whole), False)
            start, data = start + len(part), data[len(part) :]

    # What a script does

    @rule(keyid=st.integers(1, 3), material=st.sampled_from(MIXED), direct=st.booleans())
    def program(self, keyid: int, material: bytes, direct: bool) -> None:
        self.keys[keyid] = material
        algorithm, half = ("aes-xts-128", "aes-xts-256")[len(material) > 32], len(material) // 2
        if direct or not material:
            command = pconfig.Command.SET_KEY_DIRECT if material else pconfig.Command.NO_ENCRYPT
            struct = pconfig.pack(keyid, command, algorithm, material[:half], material[half:])
            assert self.controller.pconfig(struct) is pconfig.Status.PROG_SUCCESS
        else:
            self.controller.program_key(Key.from_bytes(algorithm, material), keyid=keyid)

    @rule(keyid=st.integers(1, 3))
    def clear(self, keyid: int) -> None:
        if self.keys.pop(keyid, None) is not None:
            self.controller.clear_key(keyid)
        assert self.controller.keyids == tuple(sorted(self.keys))

    @rule(page=st.integers(0, PAGES - 1), count=st.integers(1, 4), keyid=st.integers(0, 3))
    def map(self, page: int, count: int, keyid: int) -> None:
        taken = {p for r in self.regions for p in range(r.address // PAGE, (r.address + r.size) // PAGE)}
        wanted = range(page, page + count)
        if keyid and keyid not in self.keys:
            with pytest.raises(LookupError):
                self.controller.map(0, PAGE, keyid)
        elif taken.intersection(wanted) or page + count > PAGES:
            with pytest.raises(MappingError):
                self.controller.map(page * PAGE, count * PAGE, keyid)
        else:
            self.regions.append(self.controller.map(page * PAGE, count * PAGE, keyid))
            for one in wanted:
                self.pages[one] = keyid

    @rule(data=st.data())
    def unmap(self, data: Any) -> None:
        if self.regions:
            region = self.regions.pop(data.draw(st.integers(0, len(self.regions) - 1)))
            for page in range(region.address // PAGE, (region.address + region.size) // PAGE):
                self.pages[page] = 0
            self.controller.unmap(region)

    @rule()
    def cycle(self) -> None:
        self.controller.power_cycle()
        self.keys, self.pages, self.regions = {}, [0] * PAGES, []
        for keyid in (1, 2):
            self.program(keyid, MIXED[keyid], direct=True)

    @rule(
        data=st.data(),
        size=st.integers(1, 2500),
        seed=st.integers(0, 9),
        how=st.sampled_from(["region", "region", "slice", "fill", "controller", "raw", "medium"]),
    )
    def write(self, data: Any, size: int, seed: int, how: str) -> None:
        value = np.random.default_rng(seed).bytes(size)
        region = data.draw(st.sampled_from(self.regions)) if self.regions else None
        if how in ("region", "slice", "fill") and region is not None:
            value = value[: region.size]
            offset = data.draw(st.integers(0, region.size - len(value)))
            start = region.address + offset
            if how == "region":
                region.write(offset, value)
            elif how == "slice":
                region[offset : offset + len(value)] = value
            else:
                value = value[:1] * len(value)
                region.fill(value[0], offset, len(value))
        else:
            start = data.draw(st.integers(0, PAGES * PAGE - size))
            if how == "raw":
                self.device.write(start, value)
                self.media[start : start + size] = value
                return
            if how == "medium":
                source = data.draw(st.integers(0, PAGES * PAGE - size))
                value = bytes(self.media[source : source + size])
                self.controller.write(start, self.device.media[source : source + size])
            else:
                self.controller.write(start, value)
        self.store(start, value)

    @rule(numbers=st.lists(st.integers(0, LINES - 1), max_size=40), seed=st.integers(0, 9))
    def scatter(self, numbers: list[int], seed: int) -> None:
        lines = np.random.default_rng(seed).integers(0, 256, (len(numbers), LINE), dtype=np.uint8)
        addresses = np.array(numbers, np.uint64) * np.uint64(LINE)
        self.controller.write_lines(addresses, lines)
        for number, line in zip(numbers, lines, strict=True):
            self.store(number * LINE, line.tobytes())
        read = self.controller.read_lines(addresses)
        assert read.tobytes() == b"".join(self.expect(n * LINE, LINE) for n in numbers)

    @rule(data=st.data(), value=st.integers(0, 255))
    def column(self, data: Any, value: int) -> None:
        if not self.regions:
            return
        region = data.draw(st.sampled_from(self.regions))
        width = data.draw(st.integers(20, 300))
        offset = data.draw(st.integers(0, 200))
        table = region.array(np.uint16, (10, width // 2), offset)
        table[::3, 1] = value
        for row in range(0, 10, 3):
            at = region.address + offset + (row * (width // 2) + 1) * 2
            self.store(at, value.to_bytes(2, "little"))

    @rule(data=st.data())
    def read(self, data: Any) -> None:
        start = data.draw(st.integers(0, PAGES * PAGE))
        length = min(data.draw(st.integers(0, 3000)), PAGES * PAGE - start)
        assert self.controller.read(start, length) == self.expect(start, length)
        for region in self.regions:
            assert region[5:77] == self.expect(region.address + 5, 72)

    @invariant()
    def the_medium_is_the_models(self) -> None:
        assert self.device.media.tobytes() == self.media

    @invariant()
    def the_page_map_is_the_models(self) -> None:
        regions = sorted(self.regions, key=lambda r: r.address)
        assert self.controller.regions == tuple(regions)
        assert [self.pages[r.address // PAGE] for r in regions] == [r.keyid for r in regions]


def test_the_medium_is_to_the_byte_what_a_model_on_openssl_predicts(tmp_path: Path, engine: str) -> None:
    run_state_machine_as_test(
        lambda: Medium(tmp_path),
        settings=settings(derandomize=True, deadline=None, max_examples=40, stateful_step_count=30),
    )
