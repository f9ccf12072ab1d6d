"""The CPU cache in front of a controller: stores stay plaintext in it until they are flushed and fenced."""

from __future__ import annotations

import gc
import weakref
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import mktme
import pmem
import pmem.faults
from mktme.lab.crash import room, world
from mktme.lab.iv.subjects import subjects
from mktme.rekey import JOURNAL
from pmem import LINE, PAGE, Domain

SUBJECTS = [subject.name for subject in subjects()]
SIZE = 2 * PAGE
SPAN = 6 * LINE  # bytes that random programs use
STEPS = st.lists(
    st.one_of(
        st.tuples(st.sampled_from(["store", "nontemporal"]), st.integers(0, SPAN - 1), st.integers(1, 150)),
        st.tuples(st.just("lines"), st.integers(0, 5), st.integers(1, 3)),
        st.tuples(st.just("array"), st.integers(0, 3), st.integers(1, 9)),
        st.tuples(st.just("flush"), st.integers(0, SPAN - 1), st.integers(1, 200)),
        st.tuples(st.just("drain"), st.just(0), st.just(0)),
    ),
    max_size=16,
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cache")


def run(region: mktme.Region, steps: list[tuple[str, int, int]], model: Any) -> None:
    """Random steps, on a region and in the model."""
    draw = np.random.default_rng(1)
    for kind, at, length in steps:
        if kind in ("store", "nontemporal"):
            data = draw.bytes(min(length, SPAN - at))
            region.write(at, data, nontemporal=kind == "nontemporal")
            model.store(at, data)
            if kind == "nontemporal":
                model.flush(at, len(data))
        elif kind == "lines":
            numbers = draw.permutation(6)[:length]
            rows = draw.integers(0, 256, (length, LINE), np.uint8)
            addresses = numbers.astype(np.uint64) * np.uint64(LINE) + np.uint64(region.address)
            region.mapping().write_lines(addresses, rows)
            for number, row in zip(numbers.tolist(), rows, strict=True):
                model.store(number * LINE, row.tobytes())
        elif kind == "array":
            values = draw.integers(0, 256, (6, length), np.uint8)
            region.array(np.uint8, (6, LINE))[:, at : at + length] = values
            for number in range(6):
                model.store(number * LINE + at, values[number].tobytes())
        elif kind == "flush":
            length = min(length, SPAN - at)
            region.flush(at, length)
            model.flush(at, length)
        else:
            region.drain()
            model.drain()


@settings(max_examples=30, deadline=None)
@given(steps=STEPS, seed=st.integers(0, 9))
@pytest.mark.parametrize("subject", SUBJECTS)
def test_nothing_fenced_is_missing_and_nothing_else_is_guaranteed(
    folder: Path, lines_model: type[Any], subject: str, steps: list[tuple[str, int, int]], seed: int
) -> None:
    path = folder / subject.replace("/", "-")
    path.unlink(missing_ok=True)
    opened = world(subject, SIZE)
    with pmem.create(path, room(subject, SIZE), domain="adr") as device:
        region, model = opened(device), lines_model()
        region.fill(0)
        region.persist()
        run(region, steps, model)
        assert region.read(0, SPAN) == bytes(model.now)[:SPAN]
        rows = region.mapping().read_lines(np.arange(0, SPAN, LINE, dtype=np.uint64))
        assert rows.tobytes() == bytes(model.now)[:SPAN]
        assert (np.asarray(region.array(np.uint8, (6, LINE))[:, 3:20]) == rows[:, 3:20]).all()
        for policy in ("none", "all", "random"):
            with device.crash(policy, seed=seed) as after:
                seen = opened(after).read(0, SPAN)
                for number in range(6):
                    line = seen[number * LINE : (number + 1) * LINE]
                    assert (
                        line
                        in {
                            "none": [model.durable(number)],
                            "all": [model.line(number)],
                            "random": model.allowed(number),
                        }[policy]
                    ), (policy, number)
        assert region.read(0, SPAN) == bytes(model.now)[:SPAN]
    with pmem.open(path) as device:
        assert opened(device).read(0, SPAN) == bytes(model.now)[:SPAN]


@pytest.fixture
def device(tmp_path: Path) -> Any:
    with pmem.create(tmp_path / "image", "1MiB", domain="adr") as device:
        yield device


def key(n: int) -> mktme.Key:
    return mktme.Key.from_bytes("aes-xts-256", np.random.default_rng(n).bytes(64))


def test_plaintext_is_in_the_cache_and_never_on_the_medium(device: pmem.Device) -> None:
    controller = mktme.Controller(device)
    region = controller.map(0, PAGE, controller.program_key(key(1)))
    secret = b"a secret of a whole line of 64 bytes, in the cache as plaintext.".ljust(LINE)
    region.write(128, secret)
    cache = controller.cache
    assert cache is not None
    assert len(cache.dirty) == 1
    assert not device.media.any()  # nothing was written back
    region.flush(128, 1)
    assert (len(cache.dirty), len(cache.queue)) == (0, 1)
    assert not device.media.any()
    region.drain()
    assert (len(cache.dirty), len(cache.queue)) == (0, 0)
    assert secret not in device.media.tobytes()
    assert np.flatnonzero(device.media).min() >= 128
    assert np.flatnonzero(device.media).max() < 192
    assert region.read(128, LINE) == secret


def test_without_the_key_a_restart_reads_garbage(device: pmem.Device) -> None:
    controller = mktme.Controller(device)
    region = controller.map(0, PAGE, controller.program_key(key(1)))
    region.write(0, b"A" * LINE)
    region.persist()
    with device.crash() as after:
        other = mktme.Controller(after)
        assert other.map(0, PAGE, other.program_key(key(2))).read(0, LINE) != b"A" * LINE
        assert after.read(0, LINE) != b"A" * LINE


def test_one_physical_line_under_two_keyids_is_two_lines_of_the_cache(device: pmem.Device) -> None:
    controller = mktme.Controller(device)
    first, second = controller.program_key(key(1)), controller.program_key(key(2))
    region = controller.map(0, PAGE, first)
    region.write(0, b"1" * LINE)
    controller.unmap(region)
    region = controller.map(0, PAGE, second)
    region.write(0, b"2" * LINE)
    assert controller.cache is not None
    assert len(controller.cache.dirty) == 2
    region.persist()
    assert region.read(0, LINE) == b"2" * LINE
    assert len(controller.cache.dirty) == 1  # the first one's, that nobody can flush any more
    controller.cache.write_back()
    assert region.read(0, LINE) != b"2" * LINE
    controller.unmap(region)
    assert controller.map(0, PAGE, first).read(0, LINE) == b"1" * LINE


def test_a_stale_line_may_overwrite_new_data_in_a_power_failure_only(device: pmem.Device) -> None:
    controller = mktme.Controller(device)
    region = controller.map(0, PAGE, controller.program_key(key(1)))
    region.write(0, b"1" * LINE)
    controller.unmap(region)
    region = controller.map(0, PAGE, controller.program_key(key(2)))
    region.write(0, b"2" * LINE)
    region.persist()
    seen = set()
    for seed in range(16):
        with device.crash(seed=seed) as after:
            again = mktme.Controller(after)
            again.program_key(key(2), 2)
            seen.add(again.map(0, PAGE, 2).read(0, LINE) == b"2" * LINE)
    assert seen == {True, False}


def test_a_line_of_an_unmapped_region_goes_the_way_it_was_mapped(device: pmem.Device) -> None:
    controller = mktme.Controller(device)
    counter = controller.program_key(mktme.Key.from_bytes("aes-ctr-128", bytes(range(32))[:16]))
    region = controller.map(0, PAGE, counter, iv="ctr-split", metadata=PAGE)
    region.write(0, b"1" * LINE)
    controller.unmap(region)
    assert controller.cache is not None
    controller.cache.write_back()
    again = controller.map(0, PAGE, counter, iv="ctr-split", metadata=PAGE)
    assert again.read(0, LINE) == b"1" * LINE


def test_a_cache_of_few_lines_evicts_the_oldest(tmp_path: Path) -> None:
    with pmem.create(tmp_path / "image", PAGE, domain=Domain(capacity=4)) as device:
        controller = mktme.Controller(device)
        region = controller.map(0, PAGE, controller.program_key(key(1)))
        for number in range(10):
            region.write(number * LINE, bytes([number + 1]) * LINE)
        assert controller.cache is not None
        assert [n % 64 for n in controller.cache.dirty.at] == [6, 7, 8, 9]
        with device.crash("none") as after:
            again = mktme.Controller(after)
            seen = again.map(0, PAGE, again.program_key(key(1))).read(0, 10 * LINE)
        assert [seen[n * LINE] == n + 1 for n in range(10)] == [True] * 6 + [False] * 4


def test_evictions_happen_in_any_order_and_lose_nothing(device: pmem.Device) -> None:
    controller = mktme.Controller(device)
    region = controller.map(0, PAGE, controller.program_key(key(1)))
    data = np.random.default_rng(1).bytes(PAGE)
    region.write(0, data)
    assert controller.cache is not None
    gone = controller.cache.evict_some(0.5, 1)
    assert 0 < gone < 64
    assert len(controller.cache.dirty) == 64 - gone
    assert region.read(0, PAGE) == data
    bus = controller.bus.address(region.keyid, 0)
    assert controller.cache.evict(bus, PAGE) == 64 - gone
    assert device.crash("none").read(0, PAGE) == device.read(0, PAGE)


def test_flushes_go_by_the_keyid_that_a_page_is_mapped_to(device: pmem.Device) -> None:
    controller = mktme.Controller(device)
    region = controller.map(PAGE, PAGE, controller.program_key(key(1)))
    region.write(0, b"in the region")
    controller.write(0, b"before it, under KeyID 0")
    assert controller.cache is not None
    assert len(controller.cache.dirty) == 2
    controller.flush(0, 2 * PAGE)
    controller.drain()
    assert len(controller.cache.dirty) == len(controller.cache.queue) == 0
    assert bytes(device.media[:24]) == b"before it, under KeyID 0"
    with device.crash("none") as after:
        again = mktme.Controller(after)
        assert again.map(PAGE, PAGE, again.program_key(key(1))).read(0, 13) == b"in the region"


def test_counters_that_a_cache_has_not_written_back_are_lost_with_the_data(tmp_path: Path) -> None:
    for kept, mode in ((True, "write-through"), (False, "write-back")):
        opened = world("ctr-split", PAGE, counter_cache=mode)
        with pmem.create(tmp_path / mode, room("ctr-split", PAGE), domain="adr") as device:
            region = opened(device)
            region.write(0, b"A" * LINE)
            region.persist()
            with device.crash("none") as after:
                assert (opened(after).read(0, LINE) == b"A" * LINE) is kept
            assert region.kept is not None
            first, last = region.kept
            device.persist(first, last - first)  # the program writes the counters back itself
            with device.crash("none") as after:
                assert opened(after).read(0, LINE) == b"A" * LINE


def test_refuses_a_counter_cache_that_does_not_exist(device: pmem.Device) -> None:
    with pytest.raises(mktme.MappingError, match="write-through or write-back"):
        mktme.Controller(device, counter_cache="none")


def test_a_power_cycle_loses_what_the_cache_holds_but_not_under_eadr(tmp_path: Path) -> None:
    for kind in ("adr", "eadr"):
        with pmem.create(tmp_path / kind, PAGE, domain=kind) as device:
            controller = mktme.Controller(device)
            controller.map(0, PAGE, controller.program_key(key(1))).write(0, b"A" * LINE)
            controller.power_cycle()
            again = controller.map(0, PAGE, controller.program_key(key(1)))
            assert (again.read(0, LINE) == b"A" * LINE) is (kind == "eadr")


def test_a_write_that_is_refused_stores_nothing(tmp_path: Path) -> None:
    opened = world("pmem-line+mac", PAGE)
    with pmem.create(tmp_path / "image", room("pmem-line+mac", PAGE), domain="adr") as device:
        region = opened(device)
        with pytest.raises(mktme.PoisonError):
            region.write(10, b"part of a line that was never written")
        cache = region.mapping().cache
        assert cache is not None
        assert len(cache.dirty) == 0
        region.write(0, bytes(LINE))
        region.write(10, b"part of a line that is in the cache")
        assert region.read(10, 4) == b"part"


def test_a_long_request_takes_memory_by_its_dirty_lines(device: pmem.Device) -> None:
    controller = mktme.Controller(device)
    region = controller.map(0, "512KiB", controller.program_key(key(1)))
    data = np.random.default_rng(1).bytes(512 << 10)
    region.write(0, data)
    cache = controller.cache
    assert cache is not None
    assert len(cache.dirty) == 8192
    assert cache.dirty.nbytes <= 2 * len(data)
    assert region.read(0, len(data)) == data
    region.persist()
    assert cache.dirty.nbytes + cache.queue.nbytes <= 128 * LINE
    assert region.read(0, len(data)) == data


def test_rekeying_flushes_what_the_cache_holds(device: pmem.Device) -> None:
    controller = mktme.Controller(device)
    region = controller.map(0, PAGE, controller.program_key(key(1)))
    region.write(0, b"1" * LINE)
    again = controller.rekey(region, key(2), PAGE)
    assert controller.cache is not None
    assert len(controller.cache.dirty) == 0
    assert again.read(0, LINE) == b"1" * LINE
    with device.crash("none") as after:
        other = mktme.Controller(after)
        assert other.map(0, PAGE, other.program_key(key(2))).read(0, LINE) == b"1" * LINE
    assert device.size >= JOURNAL + PAGE


def test_devices_and_controllers_are_let_go(tmp_path: Path) -> None:
    with pmem.create(tmp_path / "image", PAGE, domain="adr") as device:
        controller = mktme.Controller(device)
        region = controller.map(0, PAGE, controller.program_key(key(1)))
        region.write(0, b"A")
        after = device.crash()
        after.close()
    assert device.closed
    del device, controller, region, after
    gc.collect()
    pmem.open(tmp_path / "image").close()


def test_threads_that_store_evict_flush_and_fence_at_once_lose_nothing(tmp_path: Path) -> None:
    with pmem.create(tmp_path / "image", "1MiB", domain=Domain(capacity=16)) as device:
        controller = mktme.Controller(device)
        regions = [controller.map(n * PAGE, PAGE, controller.program_key(key(n))) for n in range(4)]

        def work(n: int) -> None:
            draw = np.random.default_rng(n)
            for step in range(150):
                at = int(draw.integers(0, 60)) * LINE
                regions[n].write(at, bytes([n + 1]) * 100)
                if step % 7 == 0:
                    regions[n].flush(at, 100)
                if step % 11 == 0:
                    regions[n].drain()
                if step % 13 == 0:
                    device.write((64 + n) * PAGE, bytes([step]))
                    device.persist((64 + n) * PAGE, 1)
                assert regions[n].read(at, 100) == bytes([n + 1]) * 100

        with ThreadPoolExecutor(4) as pool:
            for done in [pool.submit(work, n) for n in range(4)]:
                done.result(timeout=60)
        for n, region in enumerate(regions):
            region.persist()
            assert set(region.read(0, PAGE)) > {n + 1}


def test_a_deep_flush_of_a_region_reaches_the_file(tmp_path: Path) -> None:
    for domain in (None, "adr"):
        path = tmp_path / str(domain)
        with pmem.create(path, PAGE, domain=domain) as device:
            controller = mktme.Controller(device)
            region = controller.map(0, PAGE, controller.program_key(key(1)))
            region.write(LINE, b"deep".ljust(LINE))
            region.deep_flush(LINE, LINE)
            assert path.read_bytes()[LINE : 2 * LINE] == device.read(LINE, LINE) != bytes(LINE)
            controller.write(2 * LINE, b"more".ljust(LINE))
            controller.deep_flush(2 * LINE, LINE)
            assert path.read_bytes()[2 * LINE : 3 * LINE] == device.read(2 * LINE, LINE) != bytes(LINE)


def test_poison_on_the_medium_is_met_through_the_cache_and_cleared_by_a_whole_line(
    device: pmem.Device,
) -> None:
    controller = mktme.Controller(device)
    region = controller.map(0, PAGE, controller.program_key(key(1)))
    region.write(0, b"A" * PAGE)
    region.persist()
    faults = pmem.faults.arm(device)
    faults.poison(3 * LINE)
    with pytest.raises(pmem.PoisonError):
        region.read(3 * LINE, 1)
    with pytest.raises(pmem.PoisonError):
        region.write(3 * LINE + 1, b"a part")
    assert region.read(2 * LINE, LINE) == b"A" * LINE
    with device.crash("none") as after, pytest.raises(pmem.PoisonError):
        after.read(3 * LINE, 1)  # a restart finds it, too
    region.write(3 * LINE, b"B" * LINE)
    assert region.read(3 * LINE, LINE) == b"B" * LINE  # from the cache
    assert faults.poisoned.tolist() == [3 * LINE]  # until it is written back
    region.persist()
    assert faults.poisoned.size == 0
    assert region.read(0, PAGE) == b"A" * 3 * LINE + b"B" * LINE + b"A" * (PAGE - 4 * LINE)


def test_a_closed_device_keeps_no_controller(tmp_path: Path) -> None:
    device = pmem.create(tmp_path / "image", PAGE, domain="adr")
    controller = weakref.ref(mktme.Controller(device))
    assert controller() is not None  # its cache is the machine's: dirty lines outlive a script's variables
    device.close()
    gc.collect()
    assert controller() is None
