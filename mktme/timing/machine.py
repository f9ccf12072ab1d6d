"""A machine: components, composed; and a run of it over a trace."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Self

import numpy as np

from mktme.errors import TimingError, TraceError
from mktme.timing import cells, growing, histogram, presets, simulate
from mktme.timing.access import KINDS, Chunk, Column, for_kernels
from mktme.timing.caches import Cache
from mktme.timing.controller import Controller
from mktme.timing.core import Core
from mktme.timing.counters import Counters
from mktme.timing.engine import Engine
from mktme.timing.media import Media
from mktme.timing.pagecache import PageCache
from mktme.timing.parameters import GIVEN, Component, Row
from mktme.timing.results import Result, collect
from mktme.timing.words import (
    CELLS,
    CORE,
    DRAM,
    ENGINE,
    L1,
    L2,
    LATENCIES,
    LLC,
    PAGES,
    PMEM,
    SIZE,
    Vector,
    Words,
)
from pmem.geometry import LINE, PAGE, format_size

PLACES = ("line", "page")
MOST = 1 << 46  # bytes of a device: lines, counters and nodes are numbered in 41 bits
_NONE = np.empty(0, np.uint8)
_NO_TIMES = np.empty(0, np.int64)


@dataclass(frozen=True, kw_only=True)
class Machine:
    """Processor, caches, encryption and memory. Immutable, thread-safe.

    `place`: where files are encrypted: "line" (DAX; the engine, if it has a mode, is in the memory
    controller) or "page" (through the page cache, see `PageCache.crypt`). `size`: bytes of the device.
    `dram` and `dram_queues`: what the page cache lies in. Raises TimingError for what can't be.
    """

    name: str = "none"
    size: int = 1 << 40
    place: str = "line"
    core: Core = field(default_factory=Core)
    l1: Cache = presets.LEVELS["l1"]
    l2: Cache = presets.LEVELS["l2"]
    llc: Cache = presets.LEVELS["llc"]
    engine: Engine = field(default_factory=Engine)
    counters: Counters = field(default_factory=Counters)
    queues: Controller = presets.OPTANE[0]
    media: Media = presets.OPTANE[1]
    pages: PageCache = field(default_factory=PageCache)
    dram_queues: Controller = presets.DRAM[0]
    dram: Media = presets.DRAM[1]

    def __post_init__(self) -> None:
        if self.place not in PLACES:
            raise TimingError(f"place = {self.place!r}: it must be one of {', '.join(PLACES)}")
        if not PAGE <= self.size <= MOST or self.size % PAGE:
            raise TimingError(
                f"a device of {self.size} bytes: it must be a multiple of {PAGE}, at most {format_size(MOST)}"
            )
        if self.place == "page" and self.engine.mode != "none":
            raise TimingError(
                "files in the page cache are encrypted by PageCache.crypt: Engine.mode is none then"
            )
        if not self.l1.size <= self.l2.size <= self.llc.size:
            raise TimingError(
                "a cache is larger than the one behind it: l1.size, l2.size, llc.size must rise"
            )

    @classmethod
    def preset(cls, memory: str = "optane", configuration: str = "none", **values: Any) -> Self:
        """A machine with one of the known memories and ways to encrypt. Raises TimingError."""
        if memory not in presets.MEMORIES:
            raise TimingError(f"{memory!r} is no memory that is known: {', '.join(presets.MEMORIES)}")
        if configuration not in presets.CONFIGURATIONS:
            raise TimingError(
                f"{configuration!r} is no configuration that is known: {', '.join(presets.CONFIGURATIONS)}"
            )
        queues, media = presets.MEMORIES[memory]
        made = cls(name=configuration, queues=queues, media=media, **values)
        return made.with_values(presets.CONFIGURATIONS[configuration], "what is compared")

    def parts(self) -> dict[str, Component]:
        """Its components by name."""
        return {
            one.name: value
            for one in dataclasses.fields(self)
            if isinstance(value := getattr(self, one.name), Component)
        }

    def with_values(self, values: Mapping[str, Any], source: str = GIVEN) -> Self:
        """The same with other parameters, by names as in `rows`: {"media.read_ns": 250}.

        Raises TimingError for a name that there isn't, or a value that can't be.
        """
        parts, changed = self.parts(), dict[str, Any]()
        groups: dict[str, dict[str, Any]] = {}
        for name, value in values.items():
            if name == "place":
                changed["place"] = value
                continue
            component, dot, own = name.partition(".")
            if not dot or component not in parts:
                raise TimingError(
                    f"there is no parameter {name!r}: it begins with one of {', '.join(parts)}, and a dot"
                )
            groups.setdefault(component, {})[own] = value
        for component, own_values in groups.items():
            changed[component] = parts[component].with_values(own_values, source)
        return dataclasses.replace(self, **changed)

    def rows(self) -> Iterator[Row]:
        """Every parameter: name, value, unit, source."""
        for name, component in self.parts().items():
            yield from component.rows(name)

    def lay(self, data: bool) -> Vector:
        """Its state before a trace; `data`: whether the trace carries what is stored."""
        words = Words()
        words[SIZE] = self.size
        words[L1], words[L2], words[LLC] = self.l1.lay(words), self.l2.lay(words), self.llc.lay(words)
        words[CORE] = self.core.lay(words, self.queues)
        words[ENGINE] = self.engine.lay(words, self.counters, self.size // LINE)
        words[PMEM] = self.queues.lay(words, self.media)
        if self.place == "page":
            words[DRAM] = self.dram_queues.lay(words, self.dram)
            words[PAGES] = self.pages.lay(words)
        words[LATENCIES] = histogram.lay(words)
        model = cells.XTS if self.place == "page" and self.pages.crypt != "none" else self.engine.cells
        words[CELLS] = cells.lay(words, model, data)
        return words.vector()

    def run(self, chunks: Iterable[Chunk], warm_up: int = 0) -> Result:
        """Replay a trace, the first `warm_up` records of which aren't counted.

        Raises TraceError at a record that can't be: none of it counts then.
        """
        run = Run(self, warm_up)
        for chunk in chunks:
            run.feed(chunk)
        return run.finish()


def _queues(thread: Column | None, first: int, end: int) -> tuple[Column, Column]:
    """Of each thread its first record, and of each record its thread's next one; -1: none."""
    if thread is None:
        return _NO_TIMES, _NO_TIMES
    own = thread[first:end]
    order = np.argsort(own, kind="stable")
    sorted_threads = own[order]
    following, heads = np.full(end, -1, np.int64), np.full(int(own.max(initial=0)) + 1, -1, np.int64)
    same = sorted_threads[1:] == sorted_threads[:-1]
    following[first + order[:-1][same]] = first + order[1:][same]
    begins = np.concatenate([[True], ~same]) if len(own) else np.empty(0, bool)
    heads[sorted_threads[begins]] = first + order[begins]
    return heads, following


class Run:
    """A machine at work. Not thread-safe; other runs may go on in other threads (the GIL is released)."""

    def __init__(self, machine: Machine, warm_up: int = 0) -> None:
        self.machine, self.warm_up = machine, warm_up
        self._s: Vector | None = None
        self._g = growing.new(cells.WITHOUT_DATA)
        self._records, self._time, self._began, self._data = 0, 0, 0, False

    def feed(self, chunk: Chunk) -> None:
        """The next accesses. Raises TraceError, which names the record; the run is of no use then."""
        if self._s is None:  # whether there is data is known with the first chunk
            self._data = chunk.offsets is not None
            self._s = self.machine.lay(self._data)
            if self._data:
                self._g = growing.new(cells.WITH_DATA)
        if self._data != (chunk.offsets is not None):
            has = "no data" if self._data else "data"
            raise TraceError(f"from record {chunk.first} on the trace has {has}: all of it, or none")
        self._check_times(chunk)
        cold = min(len(chunk), self.warm_up - self._records)
        if cold > 0:
            self._run(chunk, self._s, 0, cold)
            if self._records == self.warm_up:
                self._began = simulate.settle(self._s)
        self._run(chunk, self._s, max(0, cold), len(chunk))

    def _run(self, chunk: Chunk, s: Vector, first: int, end: int) -> None:
        empty, seen = _NO_TIMES, for_kernels
        heads, following = _queues(chunk.thread, first, end)
        at = first
        while True:
            reason, at = simulate.run(
                s,
                self._g,
                seen(chunk.kind[:end]),
                seen(chunk.address.view(np.int64)),  # the kernel's numbers are signed
                seen(chunk.size),
                _NONE if chunk.thread is None else seen(chunk.thread),
                empty if chunk.time is None else seen(chunk.time),
                _NONE if chunk.data is None else seen(chunk.data),
                empty if chunk.offsets is None else seen(chunk.offsets),
                heads,
                following,
                at,
            )
            if reason == simulate.FINE:
                break
            if reason != simulate.ROOM:
                self._refuse(chunk, at, reason)
            self._g = growing.grown(self._g)
        self._records += end - first

    def _check_times(self, chunk: Chunk) -> None:
        times = chunk.time
        if times is None or not len(times):
            return
        before = np.concatenate([[self._time], times[:-1]])
        if (times < before).any():
            at = int((times < before).argmax())
            raise TraceError(
                f"record {chunk.first + at} is of {int(times[at])} ns, before the one in front of it, of "
                f"{int(before[at])} ns: sort the trace by time"
            )
        self._time = int(times[-1])

    def _refuse(self, chunk: Chunk, at: int, reason: int) -> None:
        record, kind = chunk.first + at, int(chunk.kind[at])
        if reason == simulate.UNKNOWN:
            raise TraceError(f"record {record} is of kind {kind}: there are 0 to {len(KINDS) - 1}")
        address, size = int(chunk.address[at]), int(chunk.size[at])
        raise TraceError(
            f"record {record}, {KINDS[kind]} of {size} bytes at {address:#x}, is beyond the device's "
            f"{format_size(self.machine.size)}: give it a larger size, or number pages as they are touched"
        )

    def finish(self) -> Result:
        """What came out. The run is over."""
        s = self.machine.lay(False) if self._s is None else self._s
        over, lines, pages = simulate.finish(s, self._g)
        if self._records < self.warm_up:
            raise TraceError(
                f"the trace ends after {self._records} records, in a warm-up of {self.warm_up}: shorten it"
            )
        return collect(self.machine, s, self._records - self.warm_up, over - self._began, lines, pages)
