"""Traces that are made up: the same from a seed, inside their space, and distributed as they say."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from mktme.errors import TraceError
from mktme.timing import generators
from mktme.timing.access import DEPENDENT, FENCE, FLUSH, KINDS, NONTEMPORAL, READ, WORK, WRITE, Chunk
from mktme.timing.generators import GENERATORS, Generated


def whole(trace: Generated) -> Chunk:
    chunks = list(trace.chunks())
    first = 0
    for one in chunks:
        assert one.first == first
        first += len(one)
    joined = [np.concatenate([getattr(one, name) for one in chunks]) for name in ("kind", "address", "size")]
    return Chunk(*joined)


@pytest.mark.parametrize("name", sorted(GENERATORS))
def test_the_same_seed_gives_the_same_trace_inside_its_space(name: str) -> None:
    space = 8 << 20
    one, two = GENERATORS[name](20_000, space=space, seed=5), GENERATORS[name](20_000, space=space, seed=5)
    a, b = whole(one), whole(two)
    for column in ("kind", "address", "size"):
        assert np.array_equal(getattr(a, column), getattr(b, column))
    placed = ~np.isin(a.kind, (FENCE, WORK))
    assert (a.address[placed] + a.size[placed]).max() <= space == one.space
    assert set(np.unique(a.kind).tolist()) <= set(range(len(KINDS)))
    stored = np.isin(a.kind, (WRITE, NONTEMPORAL))
    flushed = np.isin(a.kind, (FLUSH,))
    if stored.any() and name not in ("stencil", "zipfian", "sequential", "strided", "random"):
        fences = np.flatnonzero(a.kind == FENCE)
        for at in np.flatnonzero(flushed)[:100]:  # what is flushed has been stored, and is fenced
            before = (a.kind[:at] == WRITE) & (a.address[:at] == a.address[at])
            assert before.any()
            assert (fences > at).any()


def test_zipfian_ranks_are_as_likely_as_they_should_be() -> None:
    items, count = 1000, 400_000
    ranks = generators.zipf(np.random.default_rng(3), items, count)
    weights = 1 / np.arange(1, items + 1) ** generators.THETA
    expected = weights / weights.sum()
    found = np.bincount(ranks, minlength=items) / count
    assert found[:2] == pytest.approx(expected[:2], rel=0.03)
    assert found[:100].sum() == pytest.approx(expected[:100].sum(), rel=0.05)
    assert found[500:].sum() == pytest.approx(expected[500:].sum(), rel=0.1)
    assert generators._zeta(20_000, 0.99) == pytest.approx((1 / np.arange(1, 20_001) ** 0.99).sum(), rel=1e-9)


def test_a_pointer_chase_visits_every_line_once() -> None:
    trace = whole(generators.pointer_chase(1 << 14, space=1 << 20, seed=9))
    assert (trace.kind == DEPENDENT).all()
    assert np.array_equal(np.sort(trace.address), np.arange(1 << 14) * 64)
    assert np.count_nonzero(np.diff(trace.address.astype(np.int64)) == 64) < 100


@pytest.mark.parametrize("mix", sorted(generators.YCSB))
def test_the_mixes_of_ycsb(mix: str) -> None:
    count = 40_000
    trace = whole(generators.ycsb(count, mix=mix, space="16MiB", seed=2))
    reads, updates, inserts, scans, modifies, _ = generators.YCSB[mix]
    sizes = trace.size
    assert np.count_nonzero(trace.kind == WORK) == count
    whole_records = np.count_nonzero((trace.kind == READ) & (sizes == generators.RECORD))
    fields = np.count_nonzero((trace.kind == WRITE) & (sizes == generators.FIELD))
    assert fields / count == pytest.approx(updates + modifies, abs=0.01)
    assert np.count_nonzero(trace.kind == NONTEMPORAL) / count == pytest.approx(inserts, abs=0.01)
    assert whole_records / count == pytest.approx(reads + modifies + scans / 99, abs=0.02)


def test_sequential_and_strided() -> None:
    assert whole(generators.sequential(5, size=64)).address.tolist() == [0, 64, 128, 192, 256]
    assert whole(generators.strided(4, stride=4096, space="8KiB")).address.tolist() == [0, 4096, 0, 4096]
    trace = whole(generators.sequential(2, kind="write", size=100))
    assert trace.kind.tolist() == [WRITE, FLUSH, FENCE] * 2
    many = next(generators.sequential(8000, space="1MiB", threads=4).chunks())
    assert many.thread is not None
    for thread in range(4):
        own = many.address[many.thread == thread].astype(np.int64)
        assert (own // (1 << 18) == thread).all()


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda: generators.random(-1), "a trace of -1 operations"),
        (lambda: generators.random(5, kind="peek"), "'peek' is no kind of access: read, write"),
        (lambda: generators.random(5, size=0), "accesses of 0 bytes"),
        (lambda: generators.random(5, threads=300), "300 threads: there may be 1 to 256"),
        (lambda: generators.random(5, space=1000), "random in 1000 bytes: it must be a multiple of 64"),
        (lambda: generators.strided(5, stride=1 << 40), "doesn't fit"),
        (lambda: generators.zipfian(5, theta=1.0), "theta 1.0 must be between 0 and 1"),
        (lambda: generators.ycsb(5, mix="z"), "'z' is none of YCSB's core workloads: a, b, c, d, e, f"),
        (lambda: generators.btree(5, node=100), "nodes of 100 bytes"),
        (lambda: generators.log_append(5, record=0), "records of 0 bytes"),
        (lambda: generators.overwrites(5, what="poem"), "'poem' is no record that is known"),
        (lambda: generators.stencil(5, space="128KiB"), "a stencil in 131072 bytes"),
    ],
)
def test_a_trace_that_can_not_be_made_is_refused(make: Any, says: str) -> None:
    with pytest.raises(TraceError) as refused:
        make()
    assert says in str(refused.value)
