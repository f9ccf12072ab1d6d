"""A controller against a model of plain bytes, through random sequences of what a script may do."""

from __future__ import annotations

import tempfile
from pathlib import Path

import numpy as np
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, invariant, rule

import pmem
from mktme import Controller, Key, MappingError, Region

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
