"""The loop over a chunk of accesses: from records to lines."""

from __future__ import annotations

from typing import Any

import numpy as np

from mktme.crypto.kernel import kernel, part
from mktme.timing import access, caches, cells, controller, core, growing, media, pagecache
from mktme.timing.words import CELLS, DRAM, L1, L2, LLC, PAGES, PMEM, SIZE, Vector, words_at
from pmem.geometry import LINE, PAGE

READ, WRITE, FLUSH, FENCE = access.READ, access.WRITE, access.FLUSH, access.FENCE
NONTEMPORAL, WORK, PREAD, PWRITE = access.NONTEMPORAL, access.WORK, access.PREAD, access.PWRITE
FSYNC, DEPENDENT = access.FSYNC, access.DEPENDENT
FINE, BEYOND, ROOM, UNKNOWN = range(4)  # why a loop ended


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
    at: int,
    line_at: int,
) -> tuple[int, int, int]:
    """Run the records from number `at` on, the first of them from its line number `line_at` on.

    Returns why it ended, and the record and line that come next. Columns that a trace hasn't are empty;
    addresses are signed.
    """
    s, g = words_at(state.ctypes.data), words_at(table.ctypes.data)
    limit, paged = s[SIZE], s[PAGES] > 0
    active = s[s[CELLS] + cells.ACTIVE] > 0
    for i in range(at, kinds.size):
        kind, size, address = np.int64(kinds[i]), np.int64(sizes[i]), addresses[i]
        b = core.block_of(s, np.int64(threads[i]) if threads.size else 0)
        if line_at == 0 and times.size and times[i] * 1000 > s[b + core.CLOCK]:
            s[b + core.CLOCK] = times[i] * 1000
        if kind == WORK:
            core.work(s, b, size)
            continue
        if kind == FENCE:
            core.fence(s, g, b)
            continue
        if kind == FSYNC:
            core.fsync(s, g, b)
            continue
        if kind > DEPENDENT:
            return UNKNOWN, i, 0
        if address < 0 or address > limit - size:
            return BEYOND, i, 0
        stores = kind == WRITE or kind == NONTEMPORAL or kind == PWRITE
        calls = kind == PREAD or kind == PWRITE
        end = address + size
        if calls and paged:
            if growing.full(g, size // PAGE + 2):
                return ROOM, i, 0
            if active and stores:
                _store(g, address, end, data, offsets, i)
            core.transfer(s, g, b, address, size, 1 if stores else 0)
            continue
        if calls and line_at == 0:
            core.call(s, b)
        first = address // LINE
        for line in range(first + line_at, (end - 1) // LINE + 1 if size else 0):
            if growing.full(g, 1):
                return ROOM, i, line - first
            low, high = max(address, line * LINE), min(end, line * LINE + LINE)
            if active and stores:
                _store_line(g, low, high, data, offsets, i, low - address)
            if kind == READ or kind == PREAD:
                core.load(s, g, b, line, False)
            elif kind == DEPENDENT:
                core.load(s, g, b, line, line == first)
            elif kind == WRITE:
                core.store(s, g, b, line)
            elif kind == FLUSH:
                core.flush(s, g, b, line)
            else:
                core.stream(s, g, b, line, _mask(low - line * LINE, high - line * LINE))
        line_at = 0
    return FINE, kinds.size, 0


@part
def _store_line(g: Vector, low: int, high: int, data: Any, offsets: Any, record: int, skip: int) -> None:
    """What a record stores to part of a line, if the trace says it."""
    growing.slot(g, low // PAGE)
    if offsets.size and offsets[record + 1] > offsets[record]:
        cells.store(g, low, high - low, data, offsets[record] + skip)


@part
def _store(g: Vector, address: int, end: int, data: Any, offsets: Any, record: int) -> None:
    for line in range(address // LINE, (end - 1) // LINE + 1 if end > address else 0):
        low, high = max(address, line * LINE), min(end, line * LINE + LINE)
        _store_line(g, low, high, data, offsets, record, low - address)


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
