"""Persistence domains of a device without a controller: what a power failure leaves, and what it takes."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import pmem
from pmem import LINE, PAGE, Domain, DomainError

LINES = 6
STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("store"), st.integers(0, LINES * LINE - 1), st.integers(1, 100)),
        st.tuples(st.just("lines"), st.integers(0, LINES - 1), st.integers(1, 3)),
        st.tuples(st.just("nontemporal"), st.integers(0, LINES * LINE - 1), st.integers(1, 100)),
        st.tuples(st.just("flush"), st.integers(0, LINES * LINE - 1), st.integers(1, 200)),
        st.tuples(st.just("drain"), st.just(0), st.just(0)),
    ),
    max_size=24,
)


def run(device: pmem.Device, steps: list[tuple[str, int, int]], model: Any) -> None:
    """Random steps, on a device and in the model."""
    draw = np.random.default_rng(1)
    for kind, at, length in steps:
        if kind in ("store", "nontemporal"):
            data = draw.bytes(min(length, LINES * LINE - at))
            device.write(at, data, nontemporal=kind == "nontemporal")
            model.store(at, data)
            if kind == "nontemporal":
                model.flush(at, len(data))
        elif kind == "lines":
            numbers = draw.permutation(LINES)[:length]
            rows = draw.integers(0, 256, (length, LINE), np.uint8)
            device.write_lines(numbers.astype(np.uint64) * np.uint64(LINE), rows)
            for number, row in zip(numbers.tolist(), rows, strict=True):
                model.store(number * LINE, row.tobytes())
        elif kind == "flush":
            length = min(length, LINES * LINE - at)
            device.flush(at, length)
            model.flush(at, length)
        else:
            device.drain()
            model.drain()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("domain")


@settings(max_examples=150, deadline=None)
@given(steps=STEPS, seed=st.integers(0, 9))
def test_nothing_fenced_is_missing_and_nothing_else_is_guaranteed(
    folder: Path, lines_model: type[Any], steps: list[tuple[str, int, int]], seed: int
) -> None:
    path = folder / "image"
    path.unlink(missing_ok=True)
    with pmem.create(path, PAGE, domain="adr") as device:
        model = lines_model()
        run(device, steps, model)
        assert device.read(0, PAGE) == bytes(model.now)
        with device.crash("none") as after:
            for number in range(LINES):
                assert after.read(number * LINE, LINE) == model.durable(number)
        with device.crash("all") as after:
            assert after.read(0, PAGE) == bytes(model.now)
        with device.crash("random", seed=seed) as after:
            for number in range(LINES):
                assert after.read(number * LINE, LINE) in model.allowed(number)
        assert device.read(0, PAGE) == bytes(model.now)
    with pmem.open(path, "r") as device:  # closing isn't a power failure
        assert device.read(0, PAGE) == bytes(model.now)


def test_every_line_that_is_not_fenced_is_lost_in_some_failure_and_kept_in_some(tmp_path: Path) -> None:
    with pmem.create(tmp_path / "image", PAGE, domain="adr") as device:
        device.write(0, b"\1" * 4 * LINE)
        device.flush(0, 2 * LINE)
        seen = set()
        for seed in range(64):
            with device.crash(seed=seed) as after:
                seen.add(tuple(after.read(n * LINE, 1)[0] for n in range(5)))
        assert seen == {(a, b, c, d, 0) for a in (0, 1) for b in (0, 1) for c in (0, 1) for d in (0, 1)}


def test_words_of_a_line_are_torn_where_only_8_bytes_persist_whole(tmp_path: Path) -> None:
    with pmem.create(tmp_path / "image", PAGE, domain=Domain("adr", atomicity=8)) as device:
        device.write(0, b"\1" * LINE)
        words = set()
        for seed in range(40):
            with device.crash(seed=seed) as after:
                line = after.read(0, LINE)
                parts = [line[i : i + 8] for i in range(0, LINE, 8)]
                assert all(part in (bytes(8), b"\1" * 8) for part in parts)
                words.add(tuple(part[0] for part in parts))
        assert len(words) > 10


def test_a_function_chooses_which_lines_survive(tmp_path: Path) -> None:
    with pmem.create(tmp_path / "image", PAGE, domain="adr") as device:
        device.write(0, b"\1" * 3 * LINE)
        device.flush(LINE, LINE)
        pending = device.domain.pending() if device.domain else None
        assert pending is not None
        assert pending.addresses.tolist() == [0, LINE, 2 * LINE]
        assert pending.flushed.tolist() == [False, True, False]
        with device.crash(lambda lines: lines.flushed) as after:
            assert after.read(0, 3 * LINE) == bytes(LINE) + b"\1" * LINE + bytes(LINE)


def test_under_eadr_every_store_is_durable(tmp_path: Path) -> None:
    with pmem.create(tmp_path / "image", PAGE, domain="eadr") as device:
        assert device.store_granularity == pmem.StoreGranularity.BYTE
        device.write(5, b"durable")
        with device.crash("none") as after:
            assert after.read(5, 7) == b"durable"


def test_in_a_page_cache_a_flush_waits_and_sectors_share_their_fate(tmp_path: Path) -> None:
    with pmem.create(tmp_path / "image", 2 * PAGE, domain=Domain("page", atomicity=512)) as device:
        assert device.store_granularity == pmem.StoreGranularity.PAGE
        device.write(0, b"\1" * 2 * PAGE)
        device.flush(100, 1)  # its whole page, at once
        with device.crash("none") as after:
            assert after.read(0, PAGE) == b"\1" * PAGE
            assert after.read(PAGE, PAGE) == bytes(PAGE)
        for seed in range(5):
            with device.crash(seed=seed) as after:
                for sector in range(PAGE, 2 * PAGE, 512):
                    assert len(set(after.read(sector, 512))) == 1


def test_what_is_remembered_goes_by_the_lines_that_are_not_durable(tmp_path: Path) -> None:
    with pmem.create(tmp_path / "image", "1GiB", domain="adr") as device:
        assert device.domain is not None
        before = device.domain.before
        device.write(1 << 29, bytes(1 << 20))
        assert len(before) == (1 << 20) // LINE
        assert before.nbytes <= 2 << 20
        device.persist()
        assert len(before) == 0
        assert before.nbytes <= 64 * LINE


def test_a_snapshot_stays_as_it_was_and_is_written_to_without_the_image(tmp_path: Path) -> None:
    with pmem.create(tmp_path / "image", 4 * PAGE, domain="adr") as device:
        device.write(0, b"one")
        device.persist()
        with device.crash("none") as after:
            device.write(0, b"two")
            device.write(PAGE, b"two")
            device.persist()
            assert after.read(0, 3) == b"one"
            assert after.read(PAGE, 3) == bytes(3)
            after.write(2 * PAGE, b"recovered")
            after.persist()
            assert after.read(2 * PAGE, 9) == b"recovered"
        assert device.read(2 * PAGE, 9) == bytes(9)
    assert (tmp_path / "image").read_bytes()[:3] == b"two"


def test_a_deep_flush_reaches_the_file(tmp_path: Path) -> None:
    with pmem.create(tmp_path / "image", PAGE, domain="adr") as device:
        device.write(0, b"deep")
        device.deep_flush(0, 4)
        with device.crash("none") as after:
            assert after.read(0, 4) == b"deep"
        assert (tmp_path / "image").read_bytes()[:4] == b"deep"


@pytest.mark.parametrize("domain", ["adr ", "ADR", "none", ""])
def test_refuses_a_domain_that_does_not_exist_and_makes_no_file(tmp_path: Path, domain: str) -> None:
    with pytest.raises(DomainError, match="adr, eadr, page"):
        pmem.create(tmp_path / "image", PAGE, domain=domain)
    assert not (tmp_path / "image").exists()


@pytest.mark.parametrize(
    ("kind", "changes", "says"),
    [
        ("adr", {"atomicity": 16}, r"\(8, 64\)"),
        ("adr", {"atomicity": 512}, r"\(8, 64\)"),
        ("page", {"atomicity": 7}, "4096"),
        ("adr", {"capacity": 0}, "at least one"),
    ],
)
def test_refuses_settings_that_can_not_be(kind: str, changes: dict[str, int], says: str) -> None:
    with pytest.raises(DomainError, match=says):
        Domain(kind, **changes)  # type: ignore[arg-type]


def test_refuses_policies_that_can_not_be(tmp_path: Path) -> None:
    with pmem.create(tmp_path / "image", PAGE) as device, pytest.raises(DomainError, match="domain="):
        device.crash()
    domain = Domain()
    with pmem.open(tmp_path / "image", domain=domain) as device:
        device.write(0, b"x")
        with pytest.raises(DomainError, match="none, all, random"):
            device.crash("some")  # type: ignore[arg-type]
        with pytest.raises(DomainError, match="for 1 lines"):
            device.crash(lambda lines: [True, False])
        with pytest.raises(DomainError, match="another device's"):
            pmem.create(tmp_path / "other", PAGE, domain=domain)
    assert not (tmp_path / "other").exists()


def test_an_interleave_set_has_a_domain_as_a_device_has(tmp_path: Path, lines_model: type[Any]) -> None:
    paths = [tmp_path / f"dimm{n}" for n in range(3)]
    with pmem.InterleaveSet.create(paths, 2 * PAGE, domain="adr") as dimms:
        assert dimms.store_granularity == pmem.StoreGranularity.CACHE_LINE
        data = np.random.default_rng(1).bytes(3 * PAGE)
        dimms.write(PAGE // 2, data)
        dimms.flush(PAGE // 2, PAGE)
        dimms.drain()
        with dimms.crash("none") as after:
            assert after.read(PAGE // 2, PAGE) == data[:PAGE]
            assert not any(after.read(PAGE // 2 + PAGE, 2 * PAGE))
            dimms.write(0, b"later")  # on the DIMMs, not in the state of before
            dimms.persist(0, 5)
            assert after.read(0, 5) == bytes(5)
            after.write(5 * PAGE, b"recovered")
        assert dimms.read(5 * PAGE, 9) == bytes(9)
        with dimms.crash(lambda lines: lines.addresses < 2 * PAGE) as after:
            assert after.read(PAGE // 2, 3 * PAGE // 2) == data[: 3 * PAGE // 2]
            assert not any(after.read(2 * PAGE, PAGE))
        with dimms.crash("all") as after:
            assert after.read(PAGE // 2, 3 * PAGE) == data
    with pmem.InterleaveSet.open(paths[::-1], domain="eadr") as dimms:
        assert dimms.read(PAGE // 2, 3 * PAGE) == data
        dimms.write(0, b"durable")
        assert dimms.crash("none").read(0, 7) == b"durable"
    with pytest.raises(DomainError, match="adr, eadr, page"):
        pmem.InterleaveSet.open(paths, domain="dram")
    pmem.InterleaveSet.open(paths).close()  # nobody holds a lock


def test_a_snapshot_notices_an_image_that_was_cut(tmp_path: Path) -> None:
    with pmem.create(tmp_path / "image", 2 * PAGE, domain="adr") as device, device.crash() as after:
        os.truncate(tmp_path / "image", PAGE)
        with pytest.raises(pmem.DeviceChanged):
            after.read(0, 1)
        os.truncate(tmp_path / "image", 2 * PAGE)
        assert after.read(0, 1) == b"\0"
