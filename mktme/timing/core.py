"""A core with its caches: what loads, stores, flushes and fences cost a thread.

Each thread has a clock. A load is issued when the clock comes to it, the access `window` places before it has
retired (in order), and, where its address depends on the load before, that one has its data; one
that misses the last-level cache also needs one of `outstanding` line-fill buffers. Stores retire at once
and fetch their line behind the thread's back; a fence waits for what was flushed. All threads of a trace
share the caches, without the cost of coherence, and are served in the order of the trace.
"""

from __future__ import annotations

from dataclasses import dataclass

from mktme.crypto.kernel import inline, part
from mktme.timing import caches, engine, histogram, pagecache, slots
from mktme.timing.access import THREADS
from mktme.timing.caches import DELAY, HIT
from mktme.timing.controller import Controller
from mktme.timing.parameters import Component, parameter
from mktme.timing.words import CORE, L1, L2, LATENCIES, LLC, PAGES, State, Words, ps

# Words of the header. LOADS, STORES, ...: lines, not records.
(OUTSTANDING, WINDOW, ISSUE, NONTEMPORAL, INSTRUCTION, REORDER, BLOCK, CALL, STREAMS) = range(9)
(LOADS, STORES, STREAMED, FLUSHES, FENCES, WORK, FLUSHED, CALLS) = range(9, 17)
HEADER = 24
# A thread's block. CAME: when the last load had its data; STORED: when the last store had its line; DURABLE:
# when all that was flushed will be; RETIRED: when all loads so far have retired; COMBINED, MASK: the line
# that nontemporal stores are filling, plus one, and which bytes of it they have filled; MARKED: how many
# pages of the page cache it has flushed since its last fence; WAITED: how long the last access waited
# for a line-fill buffer; RESUME: at which line of its record it is to go on.
(CLOCK, CAME, STORED, DURABLE, RETIRED, NEXT, NEXT_FILL, NEXT_STREAM) = range(8)
(COMBINED, MASK, MARKED, WAITED, RESUME) = range(8, 13)
# Then those pages; when each line-fill buffer comes free; when each of the window has retired; when each of
# the nontemporal lines in flight is durable.
MARKS, RINGS = 16, 80
FULL = -1  # a mask of 64 bytes


@dataclass(frozen=True, kw_only=True)
class Core(Component):
    """A hardware thread, of which there are as many as the trace has threads."""

    outstanding: int = parameter(
        16,
        "",
        "Skylake's queue from L2 to the uncore (12 fill buffers, and prefetches); OptaneStudy, fig. 5",
        low=1,
        high=1 << 12,
    )
    streams: int = parameter(
        6, "", "OptaneStudy, fig. 4: 4.1 to 4.3 GB/s of nontemporal stores from a core", low=1, high=1 << 12
    )
    window: int = parameter(72, "", "load buffer, Skylake: Intel 248966-042", low=1, high=1 << 12)
    issue_ns: float = parameter(0.16, "ns", "Intel 248966-042: two loads a cycle, at 3.1 GHz")
    instruction_ns: float = parameter(0.16, "ns", "assumed: two instructions a cycle, at 3.1 GHz")
    reorder: int = parameter(224, "", "reorder buffer, Skylake: Intel 248966-042", low=1)
    call_ns: float = parameter(200.0, "ns", "assumed: a system call with mitigations; see --measure-host")

    def lay(self, words: Words, queues: Controller) -> int:
        """Its place among the words."""
        block = -(-(RINGS + self.outstanding + self.window + self.streams) // 8) * 8
        return words.take(
            HEADER + block * THREADS,
            self.outstanding,
            self.window,
            ps(self.issue_ns),
            ps(queues.nontemporal_ns),
            ps(self.instruction_ns),
            self.reorder,
            block,
            ps(self.call_ns),
            self.streams,
        )


@inline
def block_of(s: State, thread: int) -> int:
    """Where a thread's block is."""
    return s[CORE] + HEADER + thread * s[s[CORE] + BLOCK]


@inline
def miss_slot(s: State, b: int, t: int) -> int:
    """The place of a line-fill buffer for a miss at t: when it comes free; to be set by whom it serves."""
    return slots.take(s, b + RINGS, s[s[CORE] + OUTSTANDING], b + NEXT_FILL, t)


@part
def fetch(s: State, g: State, line: int, t: int) -> int:
    """A line from behind the caches."""
    if s[PAGES]:
        return pagecache.fetch(s, line, t)
    return engine.fetch(s, g, line, t)


@part
def write_back(s: State, g: State, line: int, t: int) -> int:
    """A line to what is behind the caches; when it is there."""
    if s[PAGES]:
        return pagecache.write_back(s, line, t)
    return engine.write_back(s, g, line, t)


@part
def _leave(s: State, g: State, line: int, t: int) -> int:
    """A dirty line leaves the last-level cache; when it has been taken over."""
    return write_back(s, g, line, t) if line >= 0 else t


@part
def _leave_l2(s: State, g: State, line: int, t: int) -> int:
    if line < 0:
        return t
    return _leave(s, g, caches.put(s, s[LLC], line), t)


@part
def _leave_l1(s: State, g: State, line: int, t: int) -> int:
    if line < 0:
        return t
    return _leave_l2(s, g, caches.put(s, s[L2], line), t)


@inline
def bring(s: State, g: State, b: int, line: int, dirty: int, t: int) -> int:
    """Bring a line into the caches, for a load or store that is issued at t; when it is there."""
    c = s[L1]
    victim = caches.access(s, c, line, dirty)
    if victim == HIT:
        return t + s[c + DELAY]
    return _miss(s, g, b, line, victim, t)


@part
def _miss(s: State, g: State, b: int, line: int, one: int, t: int) -> int:
    """The same for a line that wasn't in the first cache, which has taken it in for another."""
    c = s[L2]
    two = caches.access(s, c, line, 0)
    if two == HIT:
        t += s[c + DELAY]
        _leave_l1(s, g, one, t)
        return t
    c = s[LLC]
    three = caches.access(s, c, line, 0)
    if three == HIT:
        t += s[c + DELAY]
        _leave_l2(s, g, two, t)
        _leave_l1(s, g, one, t)
        return t
    slot = miss_slot(s, b, t)
    if s[slot] > t:
        s[b + WAITED] = s[slot] - t
        t = s[slot]
    t += s[c + DELAY]
    came = fetch(s, g, line, t)
    left = max(_leave(s, g, three, t), _leave_l2(s, g, two, t), _leave_l1(s, g, one, t))
    s[slot] = max(came, left)  # the buffer is kept until the victim has gone
    return came


@inline
def load(s: State, g: State, b: int, line: int, dependent: bool) -> None:
    """A thread loads from a line."""
    k = s[CORE]
    s[k + LOADS] += 1
    place = b + RINGS + s[k + OUTSTANDING] + s[b + NEXT]
    t = max(s[b + CLOCK], s[place])
    if dependent:
        t = max(t, s[b + CAME])
    s[b + CLOCK] = t + s[k + ISSUE]
    if s[PAGES]:
        t = pagecache.touch(s, g, line, 0, t)
        s[b + CLOCK] = max(s[b + CLOCK], t)
    s[b + WAITED] = 0
    came = bring(s, g, b, line, 0, t)
    s[b + CLOCK] = max(s[b + CLOCK], t + s[b + WAITED])
    s[b + CAME] = came
    if came > s[b + RETIRED]:
        s[b + RETIRED] = came
    _retire(s, k, b, place)
    histogram.count(s, s[LATENCIES], came - t - s[b + WAITED])


@inline
def _retire(s: State, k: int, b: int, place: int) -> None:
    s[place] = s[b + RETIRED]
    s[b + NEXT] += 1
    if s[b + NEXT] == s[k + WINDOW]:
        s[b + NEXT] = 0


@inline
def store(s: State, g: State, b: int, line: int) -> None:
    """A thread stores to a line."""
    k = s[CORE]
    s[k + STORES] += 1
    place = b + RINGS + s[k + OUTSTANDING] + s[b + NEXT]
    t = max(s[b + CLOCK], s[place])
    s[b + CLOCK] = t + s[k + ISSUE]
    if s[PAGES]:
        t = pagecache.touch(s, g, line, 1, t)
        s[b + CLOCK] = max(s[b + CLOCK], t)
    s[b + WAITED] = 0
    came = bring(s, g, b, line, 1, t)
    s[b + CLOCK] = max(s[b + CLOCK], t + s[b + WAITED])
    if came > s[b + STORED]:
        s[b + STORED] = came
    _retire(s, k, b, place)


@part
def flush(s: State, g: State, b: int, line: int) -> None:
    """A thread has a line written back (CLWB); it stays in the caches, clean."""
    k = s[CORE]
    s[k + FLUSHES] += 1
    t = s[b + CLOCK]
    s[b + CLOCK] = t + s[k + ISSUE]
    if s[PAGES]:
        _mark(s, g, b, line // pagecache.LINES)
        return
    if _clean(s, line):
        s[k + FLUSHED] += 1
        slot = miss_slot(s, b, s[b + CLOCK])
        s[b + CLOCK] = max(s[b + CLOCK], s[slot])
        s[slot] = write_back(s, g, line, max(t, s[b + STORED], s[slot]))
        s[b + DURABLE] = max(s[b + DURABLE], s[slot])


@part
def _clean(s: State, line: int) -> bool:
    one, two, three = (
        caches.clean(s, s[L1], line),
        caches.clean(s, s[L2], line),
        caches.clean(s, s[LLC], line),
    )
    return one or two or three


@part
def stream(s: State, g: State, b: int, line: int, mask: int) -> None:
    """A thread stores to bytes of a line, past the caches; parts of one line are combined."""
    k = s[CORE]
    s[k + STREAMED] += 1
    if s[PAGES]:
        store(s, g, b, line)
        flush(s, g, b, line)
        return
    s[b + CLOCK] += s[k + ISSUE]
    if s[b + COMBINED] != line + 1:
        combine(s, g, b)
        one, two, three = (
            caches.drop(s, s[L1], line),
            caches.drop(s, s[L2], line),
            caches.drop(s, s[LLC], line),
        )
        if one or two or three:  # a modified line is written back before
            _send(s, g, b, line, FULL)
        s[b + COMBINED], s[b + MASK] = line + 1, 0
    s[b + MASK] |= mask
    if s[b + MASK] == FULL:
        combine(s, g, b)


@part
def combine(s: State, g: State, b: int) -> None:
    """What the write-combining buffer holds leaves it."""
    if s[b + COMBINED]:
        line = s[b + COMBINED] - 1
        s[b + COMBINED] = 0
        _send(s, g, b, line, s[b + MASK])


@part
def _send(s: State, g: State, b: int, line: int, mask: int) -> None:
    k = s[CORE]
    ring = b + RINGS + s[k + OUTSTANDING] + s[k + WINDOW]
    slot = slots.take(s, ring, s[k + STREAMS], b + NEXT_STREAM, s[b + CLOCK])
    t = max(s[b + CLOCK], s[slot])
    s[b + CLOCK] = t
    there = engine.write_back(s, g, line, t) if mask == FULL else engine.write_part(s, g, line, t)
    s[slot] = there + s[k + NONTEMPORAL]
    s[b + DURABLE] = max(s[b + DURABLE], s[slot])


@part
def fence(s: State, g: State, b: int) -> None:
    """A thread waits until what it has flushed is durable."""
    s[s[CORE] + FENCES] += 1
    combine(s, g, b)
    if s[PAGES]:
        if s[b + MARKED]:
            sync(s, g, b)
        return
    s[b + CLOCK] = max(s[b + CLOCK], s[b + STORED], s[b + DURABLE])


@part
def _mark(s: State, g: State, b: int, page: int) -> None:
    """A page of the page cache is to be synced at the next fence."""
    marks = b + MARKS
    for i in range(s[b + MARKED]):
        if s[marks + i] == page:
            return
    if s[b + MARKED] == RINGS - MARKS:
        sync(s, g, b)
    s[marks + s[b + MARKED]] = page
    s[b + MARKED] += 1


@part
def sync(s: State, g: State, b: int) -> None:
    """A thread calls msync() on the pages that it has marked."""
    call(s, b)
    t = s[b + CLOCK]
    for i in range(s[b + MARKED]):
        t = pagecache.sync_page(s, g, s[b + MARKS + i], t)
    s[b + MARKED], s[b + CLOCK] = 0, t


@part
def call(s: State, b: int) -> None:
    """A thread enters the kernel, when its stores have their lines."""
    k = s[CORE]
    s[k + CALLS] += 1
    s[b + CLOCK] = max(s[b + CLOCK], s[b + STORED], s[b + RETIRED]) + s[k + CALL]


@part
def fsync(s: State, g: State, b: int) -> None:
    """A thread has the one file of the device made durable by a system call."""
    call(s, b)
    if s[PAGES]:
        s[b + MARKED] = 0
        s[b + CLOCK] = pagecache.sync_all(s, g, s[b + CLOCK])
    else:
        fence(s, g, b)


@part
def transfer(s: State, g: State, b: int, address: int, size: int, dirty: int) -> None:
    """A thread calls read() or write(), through the page cache."""
    call(s, b)
    s[b + CLOCK] = pagecache.use_range(s, g, address, size, dirty, s[b + CLOCK])


@part
def work(s: State, b: int, count: int) -> None:
    """A thread executes instructions that touch no memory of the trace."""
    k = s[CORE]
    s[k + WORK] += count
    each, most = s[k + INSTRUCTION], s[k + REORDER]
    if count < most:
        s[b + CLOCK] += count * each
    else:  # the reorder buffer fills up behind a load that hasn't come
        s[b + CLOCK] = max(s[b + CLOCK] + most * each, s[b + RETIRED]) + (count - most) * each


@part
def finished(s: State) -> int:
    """When the last thread is done."""
    last = 0
    for thread in range(THREADS):
        b = block_of(s, thread)
        last = max(last, s[b + CLOCK], s[b + RETIRED], s[b + STORED], s[b + DURABLE])
    return last
