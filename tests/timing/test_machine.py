"""What a machine counts: laws that hold for every trace, and exact numbers for some."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mktme.errors import TimingError, TraceError
from mktme.timing import access, generators, simulate
from mktme.timing.access import (
    DEPENDENT,
    FENCE,
    FLUSH,
    FSYNC,
    KINDS,
    NONTEMPORAL,
    PREAD,
    PWRITE,
    READ,
    WORK,
    WRITE,
    Chunk,
    chunk,
)
from mktme.timing.counters import starts
from mktme.timing.machine import Machine
from mktme.timing.presets import CONFIGURATIONS, EXPLAINED, MEMORIES
from mktme.timing.replay import replay

LINE, PAGE = 64, 4096
SIZE = 1 << 20
TINY = {
    "l1.size": 256,
    "l1.ways": 2,
    "l2.size": 512,
    "l2.ways": 2,
    "llc.size": 2048,
    "llc.ways": 4,
    "counters.size": 256,
    "counters.ways": 2,
    "pages.size": 16 * PAGE,
}
record = st.tuples(
    st.sampled_from(range(len(KINDS))), st.integers(0, SIZE - 9000), st.integers(0, 9000), st.integers(0, 3)
)


def small(configuration: str, memory: str = "optane", **more: Any) -> Machine:
    return Machine.preset(memory, configuration, size=SIZE).with_values({**TINY, **more})


def made(records: list[tuple[int, int, int, int]], threads: bool) -> Chunk:
    columns = np.array(records, np.int64).reshape(-1, 4)
    return chunk(columns[:, 0], columns[:, 1], columns[:, 2], thread=columns[:, 3] if threads else None)


def lines_of(records: list[tuple[int, int, int, int]], *kinds: int) -> int:
    return sum(
        (address + size - 1) // LINE - address // LINE + 1
        for kind, address, size, _ in records
        if kind in kinds and size
    )


@settings(max_examples=40, deadline=None)
@given(
    st.lists(record, max_size=60),
    st.sampled_from(sorted(CONFIGURATIONS)),
    st.sampled_from(sorted(MEMORIES)),
    st.booleans(),
)
def test_nothing_is_lost(
    records: list[tuple[int, int, int, int]], configuration: str, memory: str, threads: bool
) -> None:
    machine = small(configuration, memory)
    result = machine.run([made(records, threads)])
    paged = machine.place == "page"
    accesses = result["accesses"]
    assert accesses["records"] == len(records)
    assert accesses["instructions"] == sum(size for kind, _, size, _ in records if kind == WORK)
    reads = (READ, DEPENDENT) if paged else (READ, DEPENDENT, PREAD)
    streams = (NONTEMPORAL,) if paged else (NONTEMPORAL, PWRITE)
    assert accesses["loads"] == lines_of(records, *reads) == result["read_latency.count"]
    assert accesses["nontemporal"] == lines_of(records, *streams)
    stores = lines_of(records, WRITE) + (lines_of(records, NONTEMPORAL) if paged else 0)
    assert accesses["stores"] == stores
    one, two, three = (result[f"caches.{name}"] for name in ("l1", "l2", "llc"))
    assert one["hits"] + one["misses"] == accesses["loads"] + stores
    assert two["hits"] + two["misses"] == one["misses"]
    assert three["hits"] + three["misses"] == two["misses"]
    memory_, engine = result["memory"], result["engine"]
    if paged:
        cache = result["page_cache"]
        assert memory_["reads"] == 64 * cache["pages_read"]
        assert memory_["writes"] == 64 * cache["pages_written"]
        assert result["dram.reads"] == three["misses"]
        crypted = cache["pages_read"] + cache["pages_written"]
        assert cache["crypted_bytes"] == (crypted * PAGE if machine.pages.crypt != "none" else 0)
        assert cache["slots_programmed"] == (machine.pages.crypt == "inline" and crypted > 0)
    else:
        partial = engine["partial_writes"]
        extra = partial if engine["mode"] != "none" else 0  # read before they are written
        assert engine["line_reads"] == three["misses"] + extra
        sent = engine["line_writes"] - three["dirty_victims"] - accesses["written_by_flushes"]
        assert partial <= sent
        assert sent <= 2 * accesses["nontemporal"]  # and what a nontemporal store drives out
        counters = engine.get(
            "counters", dict.fromkeys(("fetched", "written", "tree_fetched", "tree_written", "overflows"), 0)
        )
        again = 63 * counters["overflows"]
        assert (
            memory_["reads"] == engine["line_reads"] + counters["fetched"] + counters["tree_fetched"] + again
        )
        assert (
            memory_["writes"]
            == engine["line_writes"] + counters["written"] + counters["tree_written"] + again
        )
        assert engine["lines"] == (
            engine["line_reads"] + engine["line_writes"] if engine["mode"] != "none" else 0
        )
    cells = memory_["media"]
    if (
        machine.media.whole_units
    ):  # each unit that was written is written back, when its lines are all there or at the end
        assert cells["written_bytes"] % 256 == 0
        assert (
            cells["written_bytes"] >= 64 * (memory_["writes"] - cells["merged_writes"])
            or memory_["writes"] == 0
        )
    else:
        assert cells["written_bytes"] == 64 * (memory_["writes"] - cells["merged_writes"])


@settings(max_examples=25, deadline=None)
@given(st.lists(record, min_size=1, max_size=60), st.sampled_from(sorted(CONFIGURATIONS)), st.data())
def test_chunks_of_any_size_give_the_same(
    records: list[tuple[int, int, int, int]], configuration: str, data: st.DataObject
) -> None:
    whole = made(records, False)
    cuts = sorted(data.draw(st.sets(st.integers(0, len(records)), max_size=4)) | {0, len(records)})
    parts = [
        chunk(whole.kind[a:b], whole.address[a:b], whole.size[a:b], first=a)
        for a, b in itertools.pairwise(cuts)
    ]
    machine = small(configuration)
    assert machine.run(parts).values == machine.run([whole]).values


def test_results_do_not_depend_on_jobs_and_are_the_same_again() -> None:
    trace = generators.ycsb(2000, mix="a", space="4MiB", threads=3)
    machines = [Machine.preset("optane", name) for name in CONFIGURATIONS]
    one = replay(trace, machines, jobs=1)
    two = replay(trace, machines, jobs=2)
    assert [result.values for result in one] == [result.values for result in two]
    assert [result.name for result in one] == list(CONFIGURATIONS) == list(EXPLAINED)


def test_every_parameter_has_a_source_and_a_unit_or_none() -> None:
    for memory in MEMORIES:
        for configuration in CONFIGURATIONS:
            machine = Machine.preset(memory, configuration)
            for row in machine.rows():
                assert row.source, row
            assert len({row.name for row in machine.rows()}) == len(list(machine.rows()))
    changed = Machine.preset("optane").with_values({"media.read_ns": "250", "l1.size": "16KiB"})
    assert changed.l1.size == 16 << 10
    assert next(row for row in changed.rows() if row.name == "media.read_ns")[1:] == (
        250.0,
        "ns",
        "given by the user",
    )


@pytest.mark.parametrize(
    ("values", "says"),
    [
        ({"media.read_ns": -3}, "Media.read_ns = -3.0 ns: it must be at least 0"),
        ({"media.unit": 300}, "Media.unit = 300: it must be a power of two"),
        ({"media.buffer_units": 24}, "a buffer of 24 units in 8 ways has no power of two of sets"),
        ({"media.buffer_units": 0}, "media that are written in whole units need a buffer"),
        ({"queues.write_queue": 0}, "Controller.write_queue = 0: it must be at least 1"),
        ({"counters.policy": "eager"}, "Counters.policy = 'eager': it must be one of write-through"),
        ({"counters.size": 3 << 12}, "must be a power of two"),
        ({"engine.mode": "cbc"}, "Engine.mode = 'cbc': it must be one of none, xts, counter"),
        ({"engine.deuce": "true"}, "Engine.deuce is a counter mode: the mode is none"),
        ({"pages.size": 3 << 20}, "must be a power of two of pages"),
        ({"place": "cloud"}, "place = 'cloud': it must be one of line, page"),
        ({"place": "page", "engine.mode": "xts"}, "files in the page cache are encrypted by PageCache.crypt"),
        ({"l1.size": 64 << 20}, "a cache is larger than the one behind it"),
        ({"medium.read_ns": 1}, "there is no parameter 'medium.read_ns': it begins with one of core, l1"),
        ({"media.red_ns": 1}, "Media has no parameter 'red_ns': it has unit"),
        ({"media.read_ns": "fast"}, "Media.read_ns = 'fast': it must be a number"),
        ({"l1.size": "48MB"}, "Cache.size = '48MB': it must be a whole number, or a size as 48KiB"),
        ({"core.window": 1.5}, "Core.window = 1.5: it must be a whole number"),
        ({"counters.tree": "maybe"}, "Counters.tree = 'maybe': it must be true or false"),
    ],
)
def test_a_machine_that_can_not_be_is_refused(values: dict[str, Any], says: str) -> None:
    with pytest.raises(TimingError) as refused:
        Machine.preset("optane").with_values(values)
    assert says in str(refused.value)


@pytest.mark.parametrize(
    ("chunks", "says"),
    [
        (
            [chunk(READ, [0, SIZE - 4], 8)],
            "record 1, read of 8 bytes at 0xffffc, is beyond the device's 1MiB",
        ),
        ([chunk(READ, [0], 8), chunk(WRITE, [2**63 + 5], 1, first=1)], "record 1, write of 1 bytes"),
        ([chunk(77, [0], 8)], "record 0 is of kind 77: there are 0 to 9"),
        (
            [chunk(READ, [0, 0], 8, time=[5, 3])],
            "record 1 is of 3 ns, before the one in front of it, of 5 ns: sort the trace by time",
        ),
        (
            [chunk(READ, [0], 8, time=[5]), chunk(READ, [0], 8, time=[4], first=1)],
            "record 1 is of 4 ns, before the one in front of it, of 5 ns",
        ),
    ],
)
def test_a_trace_that_can_not_be_is_refused(chunks: list[Chunk], says: str) -> None:
    with pytest.raises(TraceError) as refused:
        Machine.preset("optane", size=SIZE).run(chunks)
    assert says in str(refused.value)


def test_no_result_of_a_trace_that_breaks_off() -> None:
    class Broken:
        name = "broken"

        def chunks(self) -> Iterator[Chunk]:
            yield chunk(READ, [0, 64], 8)
            raise TraceError("cut short")

    with pytest.raises(TraceError, match="cut short"):
        replay(Broken(), [Machine.preset("optane")])
    with pytest.raises(TraceError, match="ends after 2 records, in a warm-up of 5"):
        Machine.preset("optane").run([chunk(READ, [0, 64], 8)], warm_up=5)


def test_what_a_warm_up_leaves_out() -> None:
    accesses = chunk(READ, [0, 64, 128, 0, 64, 128], 8)
    result = Machine.preset("optane").run([accesses], warm_up=3)
    assert result["accesses.records"] == result["accesses.loads"] == 3
    assert result["caches.l1.hits"] == 3
    assert result["memory.reads"] == result["memory.media.reads"] == 0
    assert result["read_latency.count"] == 3
    assert result.time_ns == pytest.approx(1.6 + 2 * 0.16)


def test_an_access_does_not_begin_before_its_time() -> None:
    result = Machine.preset("optane").run([chunk(READ, [0, 0], 8, time=[0, 5000])])
    assert result.time_ns == pytest.approx(5001.6)


# Counter mode, to the number


def lines(count: int, step: int = LINE) -> Any:
    return np.arange(count, dtype=np.uint64) * np.uint64(step)


def persisted(addresses: Any) -> Chunk:
    n = len(addresses)
    kinds = np.tile([NONTEMPORAL, FENCE], n)
    return chunk(kinds, np.repeat(addresses, 2), np.tile([LINE, 0], n))


def test_write_through_writes_a_counter_line_with_every_line() -> None:
    result = Machine.preset("optane", "ctr-wt", size=SIZE).run([persisted(lines(640))])
    assert result["engine.counters.written"] == result["engine.line_writes"] == 640
    assert result["engine.counters.fetched"] == 10
    assert result["memory.writes"] == 1280


def test_coalesced_counter_lines_are_those_that_wait_in_the_queue() -> None:
    burst = chunk(NONTEMPORAL, lines(640), LINE)
    result = Machine.preset("pcm", "ctr-wt-coalesce", size=SIZE).run([burst])
    assert result["engine.counters.written"] + result["memory.coalesced"] == 640
    assert 10 <= result["engine.counters.written"] < 100
    alone = Machine.preset("optane", "ctr-wt-coalesce", size=SIZE).with_values(
        {"media.unit_write_ns": 0, "queues.line_bus_ns": 0}
    )
    assert alone.run([persisted(lines(640))])["memory.coalesced"] == 0  # nothing waits


@pytest.mark.parametrize("stop_loss", [1, 2, 4, 5])
def test_the_stop_loss_writes_at_every_nth_change_of_a_counter(stop_loss: int) -> None:
    machine = Machine.preset("optane", "ctr-wb", size=SIZE).with_values({"counters.stop_loss": stop_loss})
    result = machine.run([persisted(np.zeros(20, np.uint64))])
    assert (
        result["engine.counters.written_by_stop_loss"] == 20 // stop_loss == result["engine.counters.written"]
    )


def test_a_battery_saves_all_counter_writes_but_those_of_lines_that_leave() -> None:
    result = Machine.preset("optane", "ctr-battery", size=SIZE).run([persisted(lines(4096))])
    assert result["engine.counters.written"] == 0
    small_ = Machine.preset("optane", "ctr-battery", size=SIZE).with_values(
        {"counters.size": 256, "counters.ways": 4}
    )
    result = small_.run([persisted(lines(256, PAGE))])
    assert result["engine.counters.written"] == 256 - 4
    assert result["engine.counters.fetched"] == 256


def test_a_counter_overflows_at_its_128th_write() -> None:
    for writes, overflows in ((127, 0), (128, 1), (255, 1), (256, 2)):
        result = Machine.preset("optane", "ctr-battery", size=SIZE).run(
            [persisted(np.zeros(writes, np.uint64))]
        )
        assert result["engine.counters.overflows"] == overflows
        assert result["memory.writes"] == writes + 63 * overflows


def test_a_second_pad_asks_for_a_second_counter_line() -> None:
    trace = [chunk(READ, lines(256, PAGE), 8)]
    one = Machine.preset("optane", "ctr-wb", size=SIZE).run(trace)
    two = Machine.preset("optane", "fsencr", size=SIZE).run(trace)
    assert one["engine.counters.fetched"] == 256
    assert two["engine.counters.fetched"] == 512


def test_the_tree_is_read_up_to_the_first_node_that_is_known() -> None:
    assert starts(64 * 512, 1) == [0, 512, 576, 584]
    assert starts(64, 1) == [0, 1]
    assert starts(64 * 9, 1) == [0, 9, 11]
    machine = Machine.preset("optane", "ctr-battery-tree", size=512 * PAGE)
    result = machine.run([chunk(READ, [0], 8)])
    assert (result["engine.counters.fetched"], result["engine.counters.tree_fetched"]) == (1, 2)
    result = machine.run([chunk(READ, [0, PAGE, 8 * PAGE, 64 * PAGE], 8)])
    assert (result["engine.counters.fetched"], result["engine.counters.tree_fetched"]) == (4, 2 + 0 + 1 + 2)


def test_latencies_of_a_read_by_engine() -> None:
    one = [chunk(READ, [0], 8)]
    plain = 21.0 + 284.0
    for name, expected in (
        ("none", plain),
        ("xts", plain + 40),
        ("ctr-battery", 21.0 + 2.6 + 284.0 + 40 + 0.3),  # the counter has to be fetched
    ):
        assert Machine.preset("optane", name).run(one).time_ns == pytest.approx(expected)
    again = [chunk(DEPENDENT, [0, 64], 8)]  # the counter is there, the unit open: the pad is ready before
    result = Machine.preset("optane", "ctr-battery").run(again)
    assert result.time_ns == pytest.approx(21.0 + 2.6 + 284.0 + 40 + 0.3 + 21.0 + 102.7 + 0.3)


# The page cache, to the number


def test_a_fence_writes_the_pages_that_were_flushed() -> None:
    columns = [
        (WRITE, 0, 8),
        (FLUSH, 0, 8),
        (WRITE, PAGE, 8),
        (WRITE, 100, 8),
        (FLUSH, 100, 8),
        (FENCE, 0, 0),
        (FENCE, 0, 0),
        (FSYNC, 0, 0),
    ]
    kind, address, size = (np.array(column) for column in zip(*columns, strict=True))
    trace = [chunk(kind[:7], address[:7], size[:7])]
    result = Machine.preset("optane", "bounce", size=SIZE).run(trace)
    assert result["page_cache.faults"] == result["page_cache.pages_read"] == 2
    assert result["page_cache.pages_written"] == 1
    assert result["accesses.system_calls"] == 1
    assert result["dirty_at_end.pages"] == 1
    assert result["page_cache.crypted_bytes"] == 3 * PAGE
    assert result["page_cache.copied_bytes"] == 3 * 2 * PAGE  # and once more through the bounce page
    result = Machine.preset("optane", "inline", size=SIZE).run([chunk(kind, address, size)])
    assert result["page_cache.pages_written"] == 2
    assert result["dirty_at_end.pages"] == 0
    assert result["page_cache.copied_bytes"] == 4 * PAGE
    assert result["page_cache.slots_programmed"] == 1


def test_whole_pages_that_are_written_are_not_read() -> None:
    trace = [chunk([PWRITE, PWRITE, PREAD, FSYNC], [0, 2 * PAGE + 5, 0, 0], [2 * PAGE, 10, 100, 0])]
    result = Machine.preset("optane", "bounce", size=SIZE).run(trace)
    assert result["page_cache.pages_read"] == 1
    assert result["page_cache.pages_written"] == 3
    assert result["accesses.system_calls"] == 4
    dax = Machine.preset("optane", "none", size=SIZE).run(trace)
    assert dax["accesses.nontemporal"] == 128 + 1
    assert dax["accesses.system_calls"] == 4


def test_threads_are_served_as_their_clocks_go() -> None:
    alone = generators.sequential(3000, space="16MiB")
    both = generators.sequential(6000, space="16MiB", threads=2)
    one, two = (Machine.preset("optane").run(trace.chunks()).time_ns for trace in (alone, both))
    assert two < 1.2 * one
    assert access.THREADS == 256


def test_columns_that_are_read_only_run_the_same_machine_code() -> None:
    """As Parquet gives them: to Numba they are another type, and the loop takes a minute to compile."""
    (made,) = generators.ycsb(200, space="1MiB", threads=2).chunks()
    expected = Machine.preset("optane", "xts").run([made]).values
    variants = len(simulate.run.signatures)
    columns = {name: getattr(made, name).copy() for name in ("kind", "address", "size", "thread")}
    for column in columns.values():
        column.flags.writeable = False
    assert Machine.preset("optane", "xts").run([replace(made, **columns)]).values == expected
    assert len(simulate.run.signatures) == variants
