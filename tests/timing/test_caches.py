"""The caches against a model that keeps every set as a dictionary in the order of use."""

from __future__ import annotations

from collections import OrderedDict

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mktme.errors import TimingError
from mktme.timing.access import FLUSH, READ, WRITE, chunk
from mktme.timing.caches import Cache
from mktme.timing.machine import Machine

LINE = 64
SMALL = {
    "l1.size": 4 * LINE,
    "l1.ways": 2,
    "l2.size": 8 * LINE,
    "l2.ways": 2,
    "llc.size": 32 * LINE,
    "llc.ways": 4,
}


class Level:
    """A set-associative cache: lines to whether they are dirty, the last used one last."""

    def __init__(self, size: int, ways: int) -> None:
        self.ways, self.count = ways, size // LINE // ways
        self.sets: list[OrderedDict[int, bool]] = [OrderedDict() for _ in range(self.count)]
        self.hits = self.misses = 0

    def of(self, line: int) -> OrderedDict[int, bool]:
        return self.sets[line % self.count]

    def use(self, line: int, dirty: bool) -> bool:
        lines = self.of(line)
        if line not in lines:
            self.misses += 1
            return False
        self.hits += 1
        lines[line] = lines[line] or dirty
        lines.move_to_end(line)
        return True

    def insert(self, line: int, dirty: bool) -> int | None:
        lines, victim = self.of(line), None
        if len(lines) == self.ways:
            old, was = lines.popitem(last=False)
            victim = old if was else None
        lines[line] = dirty
        return victim


class Hierarchy:
    """Three levels: what leaves one dirty goes to the next, and from the last to memory."""

    def __init__(self) -> None:
        self.levels = [Level(SMALL[f"{name}.size"], SMALL[f"{name}.ways"]) for name in ("l1", "l2", "llc")]
        self.reads, self.writes, self.flushed = 0, 0, 0

    def put(self, level: int, line: int | None) -> None:
        if line is None:
            return
        if level == 3:
            self.writes += 1
            return
        lines = self.levels[level].of(line)
        if line in lines:
            lines[line] = True
        else:
            self.put(level + 1, self.levels[level].insert(line, True))

    def access(self, line: int, dirty: bool) -> None:
        one, two, three = self.levels
        if one.use(line, dirty):
            return
        if not two.use(line, False):
            if not three.use(line, False):
                self.reads += 1
                self.put(3, three.insert(line, False))
            self.put(2, two.insert(line, False))
        self.put(1, one.insert(line, dirty))

    def flush(self, line: int) -> None:
        dirty = False
        for level in self.levels:
            if level.of(line).get(line):
                level.of(line)[line] = False
                dirty = True
        self.flushed += dirty
        self.writes += dirty

    @property
    def dirty(self) -> int:
        return sum(sum(lines.values()) for level in self.levels for lines in level.sets)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(st.sampled_from([READ, WRITE, FLUSH]), st.integers(0, 80)), max_size=400))
def test_hits_misses_and_write_backs_are_those_of_the_model(accesses: list[tuple[int, int]]) -> None:
    model = Hierarchy()
    for kind, line in accesses:
        if kind == FLUSH:
            model.flush(line)
        else:
            model.access(line, kind == WRITE)
    machine = Machine.preset("optane", size=1 << 20).with_values(SMALL)
    columns = np.array(accesses, np.int64).reshape(-1, 2)
    result = machine.run([chunk(columns[:, 0], columns[:, 1] * LINE, LINE)])
    for name, level in zip(("l1", "l2", "llc"), model.levels, strict=True):
        assert (result[f"caches.{name}.hits"], result[f"caches.{name}.misses"]) == (level.hits, level.misses)
    assert result["memory.reads"] == model.reads
    assert result["memory.writes"] == model.writes
    assert result["accesses.written_by_flushes"] == model.flushed
    assert result["dirty_at_end.lines"] == model.dirty


@pytest.mark.parametrize(
    ("values", "says"),
    [
        (
            {"size": 3 << 10, "ways": 4},
            "12 sets of 64-byte lines: it must be a power of two, as 2KiB or 4KiB give",
        ),
        ({"size": 1000}, "has 1.875 sets"),
        ({"ways": 0}, "Cache.ways = 0: it must be at least 1 and at most 16"),
        ({"latency_ns": -1.0}, "Cache.latency_ns = -1.0 ns: it must be at least 0"),
        ({"latency_ns": float("nan")}, "is no number"),
        ({"size": 0}, "Cache.size = 0 B: it must be at least 64"),
    ],
)
def test_a_cache_that_can_not_be_is_refused(values: dict[str, float], says: str) -> None:
    with pytest.raises(TimingError) as refused:
        Cache(**values)  # type: ignore[arg-type]
    assert says in str(refused.value)
