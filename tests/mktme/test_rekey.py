"""A range under a new key, in place, whatever happens on the way."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import mktme
import pmem
from mktme.lab import crash
from mktme.lab.iv.subjects import Subject, subjects
from mktme.rekey import CHUNK, JOURNAL, Rekeying
from pmem import LINE, PAGE

SUBJECTS = {subject.name: subject for subject in subjects()}
DATA = np.random.default_rng(7).bytes(2 * CHUNK + PAGE)


def new_key(subject: Subject, seed: int = 5) -> mktme.Key:
    size = sum(len(bytes(part)) for part in mktme.Key.generate(subject.algorithm).parts())
    return mktme.Key.from_bytes(subject.algorithm, np.random.default_rng(seed).bytes(size))


@pytest.mark.parametrize("domain", [None, "adr", "eadr", "page"])
@pytest.mark.parametrize("name", SUBJECTS)
def test_a_range_gets_another_key(tmp_path: Path, name: str, domain: str | None) -> None:
    subject = SUBJECTS[name]
    size = crash.room(subject, len(DATA))
    with pmem.create(tmp_path / "image", size + JOURNAL, domain=domain) as device:
        region = crash.world(subject, len(DATA))(device)
        controller = region.mapping()
        region.write(0, DATA)
        made = controller.rekey(region, new_key(subject), size)
        assert not region.mapped
        assert (made.address, made.size, made.unit, made.keyid) == (0, len(DATA), region.unit, 2)
        controller.clear_key(1)
        assert made.read(0, len(DATA)) == DATA
        made.write(100, b"more")
        assert made.read(100, 4) == b"more"
        made.write(100, DATA[100:104])
        made.persist()
        controller.power_cycle()
        again = crash.world(subject, len(DATA))(device)  # under the old key
        try:
            assert again.read(0, len(DATA)) != DATA
        except mktme.PoisonError:
            assert subject.integrity


def rekeyed(subject: Subject, size: int, journal: int) -> Callable[[mktme.Region], mktme.Region]:
    return lambda region: region.mapping().rekey(region, new_key(subject), journal)


@pytest.mark.parametrize("name", ["pmem-line/aes-xts-128", "essiv/aes-cbc-256", "ctr-split/aes-ctr-128+mac"])
@pytest.mark.parametrize("atomicity", [64, 8])
def test_it_is_taken_up_again_after_a_power_failure_at_any_moment(
    name: str, atomicity: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Several chunks; at each state the old key is programmed and the call made again."""
    monkeypatch.setattr("mktme.rekey.CHUNK", PAGE)
    subject, size = SUBJECTS[name], 2 * PAGE
    journal = crash.room(subject, size)
    again, data = rekeyed(subject, size, journal), DATA[:size]

    def program(region: mktme.Region) -> None:
        again(region)

    def check(region: mktme.Region) -> None:
        made = again(region)
        assert made.read(0, size) == data
        made.write(LINE, b"x" * LINE)
        assert made.read(0, 3 * LINE) == data[:LINE] + b"x" * LINE + data[2 * LINE : 3 * LINE]

    result = crash.explore(
        program,
        check,
        setup=crash.world(subject, size),
        prepare=lambda region: region.write(0, data),
        size=journal + JOURNAL,
        atomicity=atomicity,
        limit=24,
    )
    assert result.consistent, result.smallest
    assert result.points >= 8
    assert result.states > 60


def test_without_its_journal_a_failure_would_lose_data(monkeypatch: pytest.MonkeyPatch) -> None:
    """The test above can fail: a journal that isn't durable before the lines change is found."""
    monkeypatch.setattr("mktme.rekey.CHUNK", PAGE)
    journalled = Rekeying._write_entries

    def late(self: Rekeying, entries: Any) -> None:
        self._apply(entries)
        journalled(self, entries)

    monkeypatch.setattr(Rekeying, "_write_entries", late)
    subject = SUBJECTS["pmem-line/aes-xts-128"]
    again = rekeyed(subject, PAGE, PAGE)

    def check(region: mktme.Region) -> None:
        intact = again(region).read(0, PAGE) == DATA[:PAGE]  # in the assertion, pages take a minute to diff
        assert intact

    def program(region: mktme.Region) -> None:
        again(region)

    result = crash.explore(
        program,
        check,
        setup=crash.world(subject, PAGE),
        prepare=lambda region: region.write(0, DATA[:PAGE]),
        size=PAGE + JOURNAL,
        limit=24,
    )
    assert result.failures > 0


@pytest.fixture
def region(tmp_path: Path) -> mktme.Region:
    device = pmem.create(tmp_path / "image", "1MiB")
    controller = mktme.Controller(device, 2)
    made = controller.map(
        0, 4 * PAGE, controller.program_key(new_key(SUBJECTS["per-file-key/aes-xts-256"], 1))
    )
    made.write(0, DATA[: 4 * PAGE])
    return made


def other(seed: int = 5) -> mktme.Key:
    return mktme.Key.from_bytes("aes-xts-256", np.random.default_rng(seed).bytes(64))


@pytest.mark.parametrize(
    ("journal", "says"),
    [(2 * PAGE, "overlap a region"), (100, "multiple of the page"), (1 << 20, "not all on the device")],
)
def test_refuses_a_journal_that_has_no_room(region: mktme.Region, journal: int, says: str) -> None:
    controller, before = region.mapping(), region.device.read(0, 1 << 20)
    with pytest.raises(mktme.MappingError, match=says):
        controller.rekey(region, other(), journal)
    assert region.device.read(0, 1 << 20) == before
    assert controller.keyids == (1,)
    assert region.mapped


def test_refuses_keys_that_do_not_fit_and_keyids_in_use(region: mktme.Region) -> None:
    controller = region.mapping()
    before = region.device.read(0, 1 << 20)
    counting = controller.program_key(mktme.Key.generate("aes-ctr-128"))
    counted = controller.map(128 * PAGE, PAGE, counting, iv="ctr-split", metadata=129 * PAGE)
    with pytest.raises(mktme.SchemeError):
        controller.rekey(counted, other(), 4 * PAGE)
    controller.unmap(counted)
    controller.clear_key(counting)
    with pytest.raises(mktme.RekeyError, match="holds a key"):
        controller.rekey(region, other(), 4 * PAGE, keyid=1)
    with pytest.raises(mktme.KeyIDError):
        controller.rekey(region, other(), 4 * PAGE, keyid=9)
    controller.program_key(other(2))
    controller.program_key(other(3))
    with pytest.raises(mktme.KeyTableFull):
        controller.rekey(region, other(), 4 * PAGE)
    assert controller.keyids == (1, 2, 3)
    assert region.device.read(0, 1 << 20) == before
    plain = controller.map(64 * PAGE, PAGE, 0)
    with pytest.raises(mktme.RekeyError, match="no key to decrypt"):
        controller.rekey(plain, other(), 4 * PAGE)
    controller.unmap(region)
    with pytest.raises(mktme.RegionUnmapped):
        controller.rekey(region, other(), 4 * PAGE)


def test_refuses_a_journal_of_another_range_that_is_not_done(
    region: mktme.Region, monkeypatch: pytest.MonkeyPatch
) -> None:
    controller, device = region.mapping(), region.device
    with monkeypatch.context() as patch:
        patch.setattr("mktme.rekey.CHUNK", PAGE)
        patch.setattr("mktme.rekey.Rekeying._apply", _fail)
        with pytest.raises(OSError, match="pulled"):
            controller.rekey(region, other(), 4 * PAGE)
    assert controller.keyids == (1,)
    assert region.read(0, 4 * PAGE) == DATA[: 4 * PAGE]  # the journal is written, the lines are not
    before = device.read(0, 1 << 20)
    with pytest.raises(mktme.RekeyError, match="isn't done"):
        controller.rekey(region, other(6), 4 * PAGE)
    assert controller.keyids == (1,)
    assert device.read(0, 1 << 20) == before
    made = controller.rekey(region, other(), 4 * PAGE)
    assert made.read(0, 4 * PAGE) == DATA[: 4 * PAGE]
    once_more = controller.rekey(made, other(6), 4 * PAGE)  # a journal that is done is free
    assert once_more.read(0, 4 * PAGE) == DATA[: 4 * PAGE]


def _fail(self: object, entries: object) -> None:
    raise OSError("the plug was pulled")


def test_a_range_that_is_all_done_is_only_mapped(region: mktme.Region) -> None:
    controller, device = region.mapping(), region.device
    controller.rekey(region, other(), 4 * PAGE)
    controller.power_cycle()
    old = controller.program_key(new_key(SUBJECTS["per-file-key/aes-xts-256"], 1))
    before = device.read(0, 1 << 20)
    made = controller.rekey(controller.map(0, 4 * PAGE, old), other(), 4 * PAGE)
    assert device.read(0, 1 << 20) == before
    assert made.read(0, 4 * PAGE) == DATA[: 4 * PAGE]


def test_nothing_of_a_key_is_in_the_journal(region: mktme.Region) -> None:
    controller, key = region.mapping(), other()
    parts = [bytes(part) for part in key.parts()]
    controller.rekey(region, key, 4 * PAGE)
    image = region.device.read(0, 1 << 20)
    assert all(part[:16] not in image for part in parts)
    assert DATA[:LINE] not in image


@pytest.mark.parametrize("domain", [None, "adr"])
def test_a_range_over_several_dimms_gets_another_key(tmp_path: Path, domain: str | None) -> None:
    subject = SUBJECTS["ctr-split/aes-ctr-128+mac"]
    size = crash.room(subject, 8 * PAGE)
    paths = [tmp_path / "one", tmp_path / "two"]
    with pmem.InterleaveSet.create(
        paths, (size + JOURNAL) // 2 // PAGE * PAGE + PAGE, domain=domain
    ) as dimms:
        region = crash.world(subject, 8 * PAGE)(dimms)
        region.write(0, DATA[: 8 * PAGE])
        made = region.mapping().rekey(region, new_key(subject), size)
        assert made.read(0, 8 * PAGE) == DATA[: 8 * PAGE]
        if domain is not None:
            made.write(0, b"lost".ljust(LINE))
            with dimms.crash("none") as after:
                again = crash.world(subject, 8 * PAGE)(after)  # as before, under the old key
                done = again.mapping().rekey(again, new_key(subject), size)
                assert done.read(0, 8 * PAGE) == DATA[: 8 * PAGE]
