"""The loop over a chunk of accesses: from records to lines."""

from __future__ import annotations

from typing import Any

import numpy as np

from mktme.crypto.kernel import inline, kernel, part
from mktme.timing import (
    access,
    caches,
    cells,
    controller,
    core,
    counters,
    engine,
    growing,
    histogram,
    media,
    pagecache,
)
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
    State,
    Vector,
    bytes_at,
    words_at,
)
from pmem.geometry import LINE, PAGE

READ, WRITE, FLUSH, FENCE = access.READ, access.WRITE, access.FLUSH, access.FENCE
NONTEMPORAL, WORK, PREAD, PWRITE = access.NONTEMPORAL, access.WORK, access.PREAD, access.PWRITE
FSYNC, DEPENDENT = access.FSYNC, access.DEPENDENT
FINE, BEYOND, ROOM, UNKNOWN, MORE = range(5)  # why a loop ended
MOST = 1 << 40  # lines of a record: all
AHEAD = 8  # records between a line's announcement to the host's caches and its use
BURST = 4  # lines of a record before another thread has its turn


@part
def _mask(low: int, high: int) -> int:
    """The bytes of a line from `low` to `high` as bits."""
    return -1 if high - low == LINE else ((1 << (high - low)) - 1) << low


@kernel()
def run(
    state: Vector,
    table: Vector,
    kinds: Any,
    addresses: Any,
    sizes: Any,
    threads: Any,
    times: Any,
    data: Any,
    offsets: Any,
    heads: Any,
    following: Any,
    at: int,
) -> tuple[int, int]:
    """Run the records from number `at` on; or, where there are `heads`, of each thread the record that it
    names, and what `following` says comes after it, always that of the thread that is least far.

    Returns why it ended, and at which record; to go on call it again with that. Columns that a trace hasn't
    are empty; addresses are signed.
    """
    s, g = words_at(state.ctypes.data), words_at(table.ctypes.data)
    d, o = bytes_at(data.ctypes.data), words_at(offsets.ctypes.data)
    if heads.size == 0:
        for record in range(at, kinds.size):
            if record + AHEAD < kinds.size:
                caches.soon(s, s[LLC], addresses[record + AHEAD] // LINE)
            kind: Any = np.int64(kinds[record])
            size: Any = np.int64(sizes[record])
            thread: Any = np.int64(threads[record]) if threads.size else 0
            b = core.block_of(s, thread)
            if times.size:
                _not_before(s, b, times[record])
            reason = _record(s, g, b, kind, addresses[record], size, d, o, record, MOST)
            if reason != FINE:
                return reason, record
        return FINE, kinds.size
    while True:
        record = _least(s, heads)
        if record < 0:
            return FINE, kinds.size
        kind, size, thread = np.int64(kinds[record]), np.int64(sizes[record]), np.int64(threads[record])
        b = core.block_of(s, thread)
        if times.size:
            _not_before(s, b, times[record])
        reason = _record(s, g, b, kind, addresses[record], size, d, o, record, BURST)
        if reason == FINE:
            heads[thread] = following[record]
        elif reason != MORE:
            return reason, record


@inline
def _not_before(s: State, b: int, time: int) -> None:
    """A record that isn't begun yet waits for its time, in ns."""
    if s[b + core.RESUME] == 0:
        s[b + core.CLOCK] = max(s[b + core.CLOCK], time * 1000)


@part
def _least(s: State, heads: Any) -> int:
    """The next record of the thread whose clock is behind all others; -1 when none has any."""
    found = -1
    least = 0
    for thread in range(heads.size):
        if heads[thread] >= 0:
            clock = s[core.block_of(s, thread) + core.CLOCK]
            if found < 0 or clock < least:
                found, least = heads[thread], clock
    return found


@part
def _record(
    s: State,
    g: State,
    b: int,
    kind: int,
    address: int,
    size: int,
    data: State,
    offsets: State,
    record: int,
    most: int,
) -> int:
    """So many lines of a record, from the one on at which its thread is; MORE or ROOM if some are left."""
    if kind == WORK:
        core.work(s, b, size)
        return FINE
    if kind == FENCE:
        core.fence(s, g, b)
        return FINE
    if kind == FSYNC:
        core.fsync(s, g, b)
        return FINE
    if kind > DEPENDENT:
        return UNKNOWN
    if address < 0 or address > s[SIZE] - size:
        return BEYOND
    stores = kind in (WRITE, NONTEMPORAL, PWRITE)
    calls = kind in (PREAD, PWRITE)
    keeps = stores and s[s[CELLS] + cells.ACTIVE] > 0
    if growing.full(g, 1):
        return ROOM
    end = address + size
    if calls and s[PAGES] > 0:
        if growing.full(g, size // PAGE + 2):
            return ROOM
        if keeps:
            _store(g, address, end, data, offsets, record)
        core.transfer(s, g, b, address, size, 1 if stores else 0)
        return FINE
    if calls and s[b + core.RESUME] == 0:
        core.call(s, b)
    first = address // LINE
    begin = first + s[b + core.RESUME]
    for line in range(begin, (end - 1) // LINE + 1 if size else 0):
        if line - begin == most or growing.full(g, 1):
            s[b + core.RESUME] = line - first
            return MORE if line - begin == most else ROOM
        low, high = max(address, line * LINE), min(end, line * LINE + LINE)
        if keeps:
            _store_line(g, low, high, data, offsets, record, low - address)
        if kind in (READ, PREAD):
            core.load(s, g, b, line, False)
        elif kind == DEPENDENT:
            core.load(s, g, b, line, line == first)
        elif kind == WRITE:
            core.store(s, g, b, line)
        elif kind == FLUSH:
            core.flush(s, g, b, line)
        else:
            core.stream(s, g, b, line, _mask(low - line * LINE, high - line * LINE))
    s[b + core.RESUME] = 0
    return FINE


@part
def _store_line(g: State, low: int, high: int, data: State, offsets: State, record: int, skip: int) -> None:
    """What a record stores to part of a line, if the trace says it."""
    growing.slot(g, low // PAGE)
    if offsets[record + 1] > offsets[record]:
        cells.store(g, low, high - low, data, offsets[record] + skip)


@part
def _store(g: State, address: int, end: int, data: State, offsets: State, record: int) -> None:
    for line in range(address // LINE, (end - 1) // LINE + 1 if end > address else 0):
        low, high = max(address, line * LINE), min(end, line * LINE + LINE)
        _store_line(g, low, high, data, offsets, record, low - address)


@kernel()
def settle(state: Vector) -> int:
    """The warm-up is over: threads meet, and counts begin anew. When that is, in ps."""
    s = words_at(state.ctypes.data)
    over = core.finished(s)
    for thread in range(access.THREADS):
        b = core.block_of(s, thread)
        s[b + core.CLOCK] = over
    _clear(s, s[L1] + caches.HITS, 3)
    _clear(s, s[L2] + caches.HITS, 3)
    _clear(s, s[LLC] + caches.HITS, 3)
    _clear(s, s[CORE] + core.LOADS, 8)
    _clear(s, s[LATENCIES], histogram.HEADER + histogram.BINS)
    _clear(s, s[CELLS] + cells.LINES, 2)
    _clear(s, s[ENGINE] + engine.READS, 4)
    if s[s[ENGINE] + engine.COUNTERS]:
        c = s[s[ENGINE] + engine.COUNTERS]
        _clear(s, s[c + counters.CACHE] + caches.HITS, 3)
        _clear(s, c + counters.FETCHED, 6)
    for memory in (s[PMEM], s[DRAM]):
        if memory:
            _clear(s, memory + controller.READS, 5)
            _clear(s, s[memory + controller.MEDIA] + media.READS, 5)
    if s[PAGES]:
        _clear(s, s[PAGES] + pagecache.FAULTS, 6)
    return over


@part
def _clear(s: State, first: int, count: int) -> None:
    for i in range(first, first + count):
        s[i] = 0


@kernel()
def finish(state: Vector, table: Vector) -> tuple[int, int, int]:
    """The end of a trace: when it is over in ps, and how many lines and pages are dirty in caches.

    What combines writes is emptied before, and the buffers of the media afterwards, for the counts.
    """
    s, g = words_at(state.ctypes.data), words_at(table.ctypes.data)
    for thread in range(access.THREADS):
        core.combine(s, g, core.block_of(s, thread))
    over = core.finished(s)
    lines = caches.dirty_lines(s, s[L1]) + caches.dirty_lines(s, s[L2]) + caches.dirty_lines(s, s[LLC])
    pages = caches.dirty_lines(s, s[s[PAGES] + pagecache.CACHE]) if s[PAGES] else 0
    media.drain(s, s[s[PMEM] + controller.MEDIA])
    if s[DRAM]:
        media.drain(s, s[s[DRAM] + controller.MEDIA])
    return over, lines, pages
