"""Traces in slices: what is dealt out, and that counts add up exactly."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mktme.errors import TraceError
from mktme.lab.study import slices
from mktme.timing import access, generators, histogram
from mktme.timing.access import Chunk
from mktme.timing.machine import Machine
from mktme.timing.traces import columns
from pmem.geometry import PAGE

pytest.importorskip("pyarrow")

GRAIN = 16 * PAGE
VALUES: dict[str, Any] = {"memory": "optane", "engine": "ctr-wb", "size": "1GiB", "parameters": {}}


def written(path: Path, chunks: Any, rows: int = 1000) -> Path:
    """A trace's file with groups of few rows, so that it has segments."""
    old, columns.ROWS = columns.ROWS, rows
    try:
        columns.write(path, chunks)
    finally:
        columns.ROWS = old
    return path


def in_slices(
    path: Path, folder: Path, count: int, segments: int, values: dict[str, Any] = VALUES
) -> dict[str, Any]:
    parts = slices.segments(path, segments)
    for number, part in reversed(list(enumerate(parts))):  # in any order
        slices.deal(path, part, number, count, GRAIN, folder)
    found = [slices.replay(values, folder, one, len(parts)) for one in range(count)]
    return slices.merged(found, slices.told(folder, len(parts)))


def whole(path: Path, values: dict[str, Any] = VALUES) -> dict[str, Any]:
    machine = Machine.preset(values["memory"], values["engine"], size=1 << 30)
    return machine.with_values(values["parameters"]).run(columns.Columns(path).chunks()).values


def kept(found: dict[str, Any]) -> dict[str, Any]:
    """What is no time."""
    drop = {"slices", "slowest_slice_ns", "sum_of_slices_ns", *slices.TIMED}
    return {
        key: kept(value) if isinstance(value, dict) else value
        for key, value in found.items()
        if key not in drop
    }


def test_one_slice_is_the_whole(tmp_path: Path) -> None:
    path = written(tmp_path / "t.parquet", generators.ycsb(2000, space="64MiB").chunks())
    assert kept(in_slices(path, tmp_path / "s", 1, 7)) == kept(whole(path))


@pytest.mark.parametrize("segments", [1, 2, 5, 100])
def test_the_number_of_segments_changes_nothing(segments: int, tmp_path: Path) -> None:
    path = written(tmp_path / "t.parquet", generators.btree(1000, space="64MiB").chunks())
    one = in_slices(path, tmp_path / "one", 4, 1)
    several = in_slices(path, tmp_path / "several", 4, segments)
    assert kept(several) == kept(one)
    assert one["slices"] == 4


@pytest.mark.parametrize("generator", ["ycsb_a", "log_append", "hash_table", "pointer_chase", "stencil"])
def test_what_the_program_did_is_counted_as_in_the_whole(generator: str, tmp_path: Path) -> None:
    made = generators.GENERATORS[generator](1500, space="64MiB")
    path = written(tmp_path / "t.parquet", made.chunks())
    ours, theirs = in_slices(path, tmp_path / "s", 5, 3), whole(path)
    without = {"written_by_flushes"}  # depends on what is in a cache
    assert {k: v for k, v in ours["accesses"].items() if k not in without} == {
        k: v for k, v in theirs["accesses"].items() if k not in without
    }
    assert ours["read_latency"]["count"] == theirs["read_latency"]["count"]


def test_where_slices_do_not_compete_for_caches_all_counts_of_lines_are_those_of_the_whole(
    tmp_path: Path,
) -> None:
    lines = np.random.default_rng(3).integers(0, 1 << 12, 20_000, np.uint64) * np.uint64(64)
    kinds = np.where(np.arange(20_000) % 3 == 0, access.WRITE, access.READ)
    path = written(tmp_path / "t.parquet", [access.chunk(kinds, lines, 64)])
    values = VALUES | {"engine": "xts", "parameters": {"l1.size": "512KiB", "l2.size": "1MiB"}}
    ours, theirs = in_slices(path, tmp_path / "s", 4, 4, values), whole(path, values)
    for name in ("caches", "engine", "dirty_at_end"):
        assert kept(ours[name]) == kept(theirs[name])
    assert ours["memory"]["reads"] == theirs["memory"]["reads"]


def test_an_access_over_several_ranges_is_cut_and_counted_once(tmp_path: Path) -> None:
    chunk = access.chunk(
        [access.WRITE, access.WORK, access.FLUSH, access.FENCE, access.PREAD],
        [GRAIN - 64, 0, GRAIN - 64, 0, 0],
        [2 * GRAIN, 1000, 2 * GRAIN, 0, 3 * GRAIN],
    )
    path = written(tmp_path / "t.parquet", [chunk])
    ours, theirs = in_slices(path, tmp_path / "s", 3, 1), whole(path)
    for name in ("records", "stores", "flushes", "fences", "instructions", "system_calls", "loads"):
        assert ours["accesses"][name] == theirs["accesses"][name], name
    sizes = []
    for number in range(3):
        (own,) = slices.Segments(tmp_path / "s", number, 1).chunks()
        sizes.append(int(own.size[own.kind == access.WRITE].sum()))
    assert sizes == [64, GRAIN, GRAIN - 64]


def test_stored_bytes_go_where_their_addresses_do(tmp_path: Path) -> None:
    path = written(tmp_path / "t.parquet", generators.overwrites(500, space="512KiB").chunks())
    before: dict[int, bytes] = {}
    for chunk in columns.Columns(path).chunks():
        _store(before, chunk)
    slices.deal(path, (0, columns.Columns(path).groups), 0, 3, PAGE, tmp_path / "s")
    after: dict[int, bytes] = {}
    for number in range(3):
        own: dict[int, bytes] = {}
        for chunk in slices.Segments(tmp_path / "s", number, 1).chunks():
            _store(own, chunk)
        assert all((at // PAGE) % 3 == number for at in own)
        after |= own
    assert after == before


def _store(memory: dict[int, bytes], chunk: Chunk) -> None:
    assert chunk.data is not None
    assert chunk.offsets is not None
    for at, begin, end in zip(chunk.address, chunk.offsets, chunk.offsets[1:], strict=False):
        for number in range(int(begin), int(end)):
            memory[int(at) + number - int(begin)] = chunk.data[number : number + 1].tobytes()


KINDS = st.sampled_from([access.WRITE, access.FLUSH, access.FENCE, access.READ, access.FSYNC])
FENCES = st.lists(
    st.tuples(KINDS, st.integers(0, 5)),
    min_size=1,
    max_size=60,
)  # fmt: skip


@settings(max_examples=40, deadline=None)
@given(FENCES)
def test_a_slice_gets_each_fence_behind_its_own_stores_and_every_fsync(
    tmp_path_factory: pytest.TempPathFactory, steps: list[tuple[int, int]]
) -> None:
    dealer = slices._Dealer(2, PAGE)
    kinds = [kind for kind, _ in steps]
    chunk = access.chunk(kinds, [place * PAGE for _, place in steps], 64)
    got = {0: [], 1: []} | {number: list(own.kind) for number, own in dealer.deal(chunk)}
    for number in range(2):
        expected, stored = [], True
        for kind, place in steps:
            if kind == access.FENCE:
                if stored:
                    expected.append(kind)
                stored = False
            elif kind == access.FSYNC:
                expected.append(kind)
            elif place % 2 == number:
                expected.append(kind)
                stored |= kind != access.READ
        assert got[number] == expected
    assert dealer.told["fences"] == kinds.count(access.FENCE)


def test_a_slice_that_gets_little_holds_little(tmp_path: Path) -> None:
    """Nor does it hold the records of others, in whose midst its own were."""
    addresses = np.zeros(50_000, np.uint64)
    addresses[::1000] = PAGE
    dealt = dict(slices._Dealer(2, PAGE).deal(access.chunk(access.READ, addresses, 8)))
    assert len(dealt[1]) == 50
    for column in (dealt[1].kind, dealt[1].address, dealt[1].size):
        assert column.base is None


def test_histograms_add_up_to_that_of_all_values() -> None:
    whole_one = Machine.preset("optane").run(generators.ycsb(300).chunks())["read_latency"]
    assert histogram.merged([whole_one]) == whole_one
    twice = histogram.merged([whole_one, whole_one])
    assert twice["count"] == 2 * whole_one["count"]
    assert twice["sum_ps"] == 2 * whole_one["sum_ps"]
    assert twice["p99_ns"] == whole_one["p99_ns"]
    assert [count for _, count in twice["bins"]] == [2 * count for _, count in whole_one["bins"]]


def test_the_order_of_slices_changes_no_count(tmp_path: Path) -> None:
    path = written(tmp_path / "t.parquet", generators.ycsb(500, space="64MiB").chunks())
    slices.deal(path, (0, columns.Columns(path).groups), 0, 3, GRAIN, tmp_path / "s")
    found = [slices.replay(VALUES, tmp_path / "s", one, 1) for one in range(3)]
    once = slices.told(tmp_path / "s", 1)
    results = [kept(slices.merged(order, once)) for order in itertools.permutations(found)]
    for other in results[1:]:
        assert {k: v for k, v in other.items() if k != "energy_nj"} == {
            k: v for k, v in results[0].items() if k != "energy_nj"
        }


def test_a_segment_that_is_missing_is_named(tmp_path: Path) -> None:
    path = written(tmp_path / "t.parquet", generators.ycsb(200).chunks())
    slices.deal(path, (0, 1), 0, 2, GRAIN, tmp_path / "s")
    with pytest.raises(TraceError, match="segment 1 of the trace isn't dealt out"):
        slices.told(tmp_path / "s", 2)
