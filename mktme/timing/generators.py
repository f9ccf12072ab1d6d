"""Traces that are made up: the patterns that papers on memory and storage use, under their names.

Each is drawn from a seed, a chunk at a time; the same arguments give the same trace. Operations that
change something durable store, flush and fence as a program for persistent memory does.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt

from mktme.errors import TraceError
from mktme.timing.access import (
    DEPENDENT,
    FENCE,
    FLUSH,
    NONTEMPORAL,
    READ,
    RECORDS,
    THREADS,
    WORK,
    WRITE,
    Chunk,
)
from pmem.geometry import LINE, PAGE, Size, format_size, parse_size

Ints = npt.NDArray[np.int64]
Rows = list[tuple[Any, Any, Any]]  # of each access of an operation: kind, address, size; size -1: none
THETA = 0.99  # of YCSB's zipfian distribution (Cooper et al., SoCC 2010)
SPACE = "1GiB"


@dataclass(frozen=True, slots=True)
class Generated:
    """A trace of `count` operations, drawn from a seed. Thread-safe: each iteration draws anew.

    `operations` makes the accesses of some operations, from the generator, the first one's number and how
    many there are; `contents` the bytes that they store, if the trace is to carry them. `space` is how
    many bytes of the device it uses.
    """

    name: str
    count: int
    space: int
    seed: int
    threads: int
    operations: Callable[[np.random.Generator, Ints], Rows]
    contents: Callable[[np.random.Generator, Ints], npt.NDArray[np.uint8]] | None = None

    def chunks(self) -> Iterator[Chunk]:
        """Its accesses."""
        rng = np.random.default_rng(self.seed)
        width = len(self.operations(np.random.default_rng(0), np.arange(1)))
        step = max(1, RECORDS // width)
        first = 0
        for start in range(0, self.count, step):
            numbers = np.arange(start, min(start + step, self.count))
            made = self._chunk(rng, numbers, first)
            first += len(made)
            yield made

    def about(self) -> int:
        """About how many records it has, by its first operations."""
        some = replace(self, count=min(self.count, RECORDS // 64))
        return round(sum(map(len, some.chunks())) * self.count / max(1, some.count))

    def _chunk(self, rng: np.random.Generator, numbers: Ints, first: int) -> Chunk:
        rows = self.operations(rng, numbers)
        shape = (len(numbers), len(rows))
        kind, address, size = np.empty(shape, np.uint8), np.empty(shape, np.uint64), np.empty(shape, np.int64)
        for i, (a_kind, an_address, a_size) in enumerate(rows):
            kind[:, i], address[:, i], size[:, i] = a_kind, an_address, a_size
        there = size >= 0
        thread = None
        if self.threads > 1:
            thread = np.broadcast_to((numbers % self.threads).astype(np.uint8)[:, None], shape)[there]
        kinds = kind[there]
        data = offsets = None
        if self.contents is not None:
            stores = np.where((kinds == WRITE) | (kinds == NONTEMPORAL), size[there], 0)
            offsets = np.concatenate([[0], stores.cumsum()]).astype(np.int64)
            data = np.ascontiguousarray(self.contents(rng, numbers)).reshape(-1)
        return Chunk(kinds, address[there], size[there].astype(np.uint32), thread, None, data, offsets, first)


def _made(
    name: str, count: int, space: Size, seed: int, threads: int, operations: Any, least: int = PAGE
) -> Generated:
    size = parse_size(space)
    if count < 0:
        raise TraceError(f"a trace of {count} operations: it must be at least 0")
    if not 1 <= threads <= THREADS:
        raise TraceError(f"{threads} threads: there may be 1 to {THREADS}")
    if size < least or size % LINE:
        raise TraceError(
            f"{name} in {size} bytes: it must be a multiple of {LINE}, and at least {format_size(least)}"
        )
    return Generated(name, count, size, seed, threads, operations)


def spaced(trace: Generated, work: int) -> Generated:
    """The same with so many instructions before each operation."""
    inner = trace.operations

    def operations(rng: np.random.Generator, numbers: Ints) -> Rows:
        return [(WORK, 0, work), *inner(rng, numbers)]

    return replace(trace, operations=operations)


NAMED = {"read": READ, "write": WRITE, "nontemporal": NONTEMPORAL, "dependent": DEPENDENT}


def _access(kind: str, size: int) -> tuple[int, int]:
    if kind not in NAMED:
        raise TraceError(f"{kind!r} is no kind of access: {', '.join(NAMED)}")
    if size < 1:
        raise TraceError(f"accesses of {size} bytes: it must be at least 1")
    return NAMED[kind], size


def _persisted(kind: int, addresses: Any, size: int, persist: bool) -> Rows:
    """An access, and what makes it durable."""
    rows: Rows = [(kind, addresses, size)]
    if persist and kind == WRITE:
        rows.append((FLUSH, addresses, size))
    if persist and kind in (WRITE, NONTEMPORAL):
        rows.append((FENCE, 0, 0))
    return rows


def strided(
    count: int,
    *,
    stride: int = 4 * PAGE,
    kind: str = "read",
    size: int = 64,
    space: Size = SPACE,
    seed: int = 1,
    threads: int = 1,
    persist: bool = True,
) -> Generated:
    """One access every `stride` bytes, around and around; each thread in its own part of the space, from a
    place in it that is drawn, so that they don't all meet at one channel.
    """
    code, size = _access(kind, size)
    total = parse_size(space)
    part = total // threads // stride * stride
    if stride < 1 or part < stride or part < size:
        raise TraceError(f"a stride of {stride} bytes doesn't fit in {total} bytes of {threads} threads")

    def operations(rng: np.random.Generator, numbers: Ints) -> Rows:
        lap, turn = numbers % threads, numbers // threads
        begin = scatter(lap + seed, part // stride) * stride if threads > 1 else 0
        addresses = lap * part + (turn * stride + begin) % (part - size + 1 if size > stride else part)
        return _persisted(code, addresses, size, persist)

    return _made("strided", count, space, seed, threads, operations)


def sequential(
    count: int,
    *,
    kind: str = "read",
    size: int = 64,
    space: Size = SPACE,
    seed: int = 1,
    threads: int = 1,
    persist: bool = True,
) -> Generated:
    """One access behind the other; each thread in its own part of the space."""
    made = strided(
        count, stride=size, kind=kind, size=size, space=space, seed=seed, threads=threads, persist=persist
    )
    return replace(made, name="sequential")


def stencil(count: int, *, space: Size = SPACE, seed: int = 1) -> Generated:
    """A solver's sweep: each line of one array is read with its neighbours above and below in a grid of rows
    of 64 KiB, and a line of another array is written.
    """
    half = parse_size(space) // 2 // LINE * LINE
    row = 64 << 10
    if half <= 2 * row:
        raise TraceError(f"a stencil in {parse_size(space)} bytes: it must be more than {4 * row}")

    def operations(rng: np.random.Generator, numbers: Ints) -> Rows:
        at = row + numbers * LINE % (half - 2 * row)
        return [(READ, at - row, LINE), (READ, at, LINE), (READ, at + row, LINE), (WRITE, half + at, LINE)]

    return _made("stencil", count, space, seed, 1, operations)


def random(
    count: int,
    *,
    kind: str = "read",
    size: int = 64,
    space: Size = SPACE,
    seed: int = 1,
    threads: int = 1,
    persist: bool = True,
) -> Generated:
    """Accesses at multiples of their size (of a line at least), each place as likely."""
    code, size = _access(kind, size)
    grain = max(LINE, size)
    places = parse_size(space) // grain

    def operations(rng: np.random.Generator, numbers: Ints) -> Rows:
        return _persisted(code, rng.integers(0, places, len(numbers)) * grain, size, persist)

    return _made("random", count, space, seed, threads, operations, grain)


def scatter(numbers: Ints, places: int) -> Ints:
    """Numbers spread over 0 to places - 1, equal ones to equal places (Fibonacci hashing, Knuth 6.4)."""
    mixed = numbers.astype(np.uint64) * np.uint64(0x9E3779B97F4A7C15)
    mixed ^= mixed >> np.uint64(29)
    mixed *= np.uint64(0xBF58476D1CE4E5B9)
    return ((mixed >> np.uint64(20)) % np.uint64(places)).astype(np.int64)


def zipf(rng: np.random.Generator, items: int, count: int, theta: float = THETA) -> Ints:
    """Ranks from 0 on, the k-th as likely as 1 / (k + 1)**theta (Gray et al., SIGMOD 1994: the
    approximation that YCSB uses).
    """
    zeta_n, zeta_2 = _zeta(items, theta), 1 + 0.5**theta
    alpha, eta = 1 / (1 - theta), (1 - (2 / items) ** (1 - theta)) / (1 - zeta_2 / zeta_n)
    u = rng.random(count)
    ranks = (items * (eta * u - eta + 1) ** alpha).astype(np.int64)
    ranks[u * zeta_n < zeta_2] = 1
    ranks[u * zeta_n < 1] = 0
    return np.asarray(np.minimum(ranks, items - 1))


def _zeta(items: int, theta: float) -> float:
    """The sum of 1 / k**theta, from 1 to `items`; beyond 10 000 by the Euler-Maclaurin formula."""
    most = min(items, 10_000)
    total = float((1 / np.arange(1, most + 1) ** theta).sum())
    if items > most:
        total += (items ** (1 - theta) - most ** (1 - theta)) / (1 - theta)
        total += 0.5 * (items**-theta - most**-theta)
    return total


def zipfian(
    count: int,
    *,
    kind: str = "read",
    size: int = 64,
    theta: float = THETA,
    writes: float = 0.0,
    space: Size = SPACE,
    seed: int = 1,
    threads: int = 1,
    persist: bool = False,
) -> Generated:
    """Accesses to places of which some are much more likely; a share of `writes` stores."""
    code, size = _access(kind, size)
    if not 0 < theta < 1 or not 0 <= writes <= 1:
        raise TraceError(f"theta {theta} must be between 0 and 1, and the share of writes, {writes}, too")
    grain = max(LINE, size)
    places = parse_size(space) // grain

    def operations(rng: np.random.Generator, numbers: Ints) -> Rows:
        addresses = scatter(zipf(rng, places, len(numbers), theta), places) * grain
        stored = rng.random(len(numbers)) < writes
        rows: Rows = [(np.where(stored, WRITE, code), addresses, size)]
        if persist:
            rows += [(FLUSH, addresses, np.where(stored, size, -1)), (FENCE, 0, np.where(stored, 0, -1))]
        return rows

    return _made("zipfian", count, space, seed, threads, operations, grain)


def pointer_chase(count: int, *, space: Size = SPACE, seed: int = 1, threads: int = 1) -> Generated:
    """Each load's address comes from the load before: lines in an order that a seed draws."""
    lines = parse_size(space) // LINE
    bits = max(1, int(lines).bit_length() - 1)
    mask = np.uint64((1 << bits) - 1)
    odd = np.random.default_rng(seed).integers(0, 1 << 62, 2).astype(np.uint64) * np.uint64(2) + np.uint64(1)

    def operations(rng: np.random.Generator, numbers: Ints) -> Rows:
        x = numbers.astype(np.uint64) & mask  # a permutation of the lines: every step can be undone
        for factor in odd:
            x = (x * factor) & mask
            x ^= x >> np.uint64(bits // 2 + 1)
        x = (x * odd[0]) & mask
        return [(DEPENDENT, x * np.uint64(LINE), 8)]

    return _made("pointer_chase", count, space, seed, threads, operations)


def _draw(rng: np.random.Generator, items: int, count: int, theta: float) -> Ints:
    return rng.integers(0, items, count) if theta == 0 else scatter(zipf(rng, items, count, theta), items)


RECORD = 1024  # bytes of a YCSB record: ten fields of 100 bytes, and its key
FIELD = 100
# Instructions of an operation beside its accesses: so that a core does about a million operations a second,
# as key-value stores for persistent memory do.
OP_WORK = 5000


def hash_table(
    count: int,
    *,
    updates: float = 0.5,
    value: int = 100,
    theta: float = 0.0,
    space: Size = SPACE,
    work: int = OP_WORK,
    seed: int = 1,
    threads: int = 1,
) -> Generated:
    """Lookups and updates in a chained hash table with records of 1 KiB.

    A lookup reads the bucket, the record's header, and `value` bytes; an update writes them, flushes and
    fences, and then the header's version.
    """
    records = parse_size(space) // (RECORD + 8)
    heads = records * 8 // LINE * LINE + LINE

    def operations(rng: np.random.Generator, numbers: Ints) -> Rows:
        key = _draw(rng, records, len(numbers), theta)
        stores = rng.random(len(numbers)) < updates
        record = heads + key * RECORD
        return _get(scatter(key, records) * 8, record, value, stores, work)

    return _made("hash_table", count, space, seed, threads, operations, 64 * RECORD)


def _get(bucket: Any, record: Any, value: int, stores: Any, work: int) -> Rows:
    """An operation on a record behind a bucket: a lookup, or an update where `stores` says so."""
    field, reads = record + 24, ~stores
    return [
        (WORK, 0, work),
        (READ, bucket, 8),
        (DEPENDENT, record, 24),
        (DEPENDENT, field, np.where(reads, value, -1)),
        (WRITE, field, np.where(stores, value, -1)),
        (FLUSH, field, np.where(stores, value, -1)),
        (FENCE, 0, np.where(stores, 0, -1)),
        (WRITE, record, np.where(stores, 8, -1)),
        (FLUSH, record, np.where(stores, 8, -1)),
        (FENCE, 0, np.where(stores, 0, -1)),
    ]


def btree(
    count: int,
    *,
    inserts: float = 0.5,
    node: int = 512,
    theta: float = 0.0,
    space: Size = SPACE,
    work: int = OP_WORK,
    seed: int = 1,
    threads: int = 1,
) -> Generated:
    """Searches and inserts in a B+tree of nodes of 16-byte entries.

    A search reads, in each node from the root down, the lines that a binary search compares; an insert
    shifts half of the leaf, writes, flushes and fences, and then the leaf's count.
    """
    if node < 2 * LINE or node & (node - 1):
        raise TraceError(f"nodes of {node} bytes: it must be a power of two, and {2 * LINE} at least")
    fanout = node // 16 * 2 // 3  # nodes are two thirds full
    widths = [max(1, parse_size(space) // node)]  # nodes of each level, from the root down
    leaves = widths[0] = max(1, widths[0] - 2 * -(-widths[0] // fanout))
    while widths[0] > 1:
        widths.insert(0, -(-widths[0] // fanout))
    compared = max(1, (node // LINE).bit_length())

    def operations(rng: np.random.Generator, numbers: Ints) -> Rows:
        key = _draw(rng, leaves, len(numbers), theta)
        stores = rng.random(len(numbers)) < inserts
        rows: Rows = [(WORK, 0, work)]
        base, half = 0, node // 2
        for level, width in enumerate(widths):
            at = (base + key * width // leaves) * node
            rows += _search(at, node, compared, scatter(key + level, node // LINE))
            base += width
        return [
            *rows,
            (READ, at + half, np.where(stores, half, -1)),
            (WRITE, at + half, np.where(stores, half, -1)),
            (FLUSH, at + half, np.where(stores, half, -1)),
            (FENCE, 0, np.where(stores, 0, -1)),
            (WRITE, at, np.where(stores, 8, -1)),
            (FLUSH, at, np.where(stores, 8, -1)),
            (FENCE, 0, np.where(stores, 0, -1)),
        ]

    return _made("btree", count, space, seed, threads, operations, 64 * node)


def _search(at: Any, node: int, compared: int, goal: Any) -> Rows:
    """The lines of a node that a binary search compares: the first depends on the parent."""
    rows: Rows = [(DEPENDENT, at, 8)]
    low, high = np.zeros_like(goal), np.full_like(goal, node // LINE)
    for _ in range(compared):
        middle = (low + high) // 2
        rows.append((DEPENDENT, at + middle * LINE, 8))
        low, high = np.where(goal >= middle, middle, low), np.where(goal >= middle, high, middle)
    return rows


def log_append(
    count: int,
    *,
    record: int = 256,
    space: Size = SPACE,
    work: int = OP_WORK,
    seed: int = 1,
    threads: int = 1,
) -> Generated:
    """Records behind one another by nontemporal stores, a fence, the tail's new value, flush and fence."""
    total = parse_size(space)
    part = total // threads // LINE * LINE - PAGE
    if part < record + LINE or record < 1:
        raise TraceError(f"records of {record} bytes don't fit in {total} bytes of {threads} threads")
    slots = part // (-(-record // LINE) * LINE)
    each = -(-record // LINE) * LINE

    def operations(rng: np.random.Generator, numbers: Ints) -> Rows:
        own = numbers % threads * (part + PAGE)
        at = own + PAGE + numbers // threads % slots * each
        return [
            (WORK, 0, work),
            (NONTEMPORAL, at, record),
            (FENCE, 0, 0),
            (WRITE, own, 8),
            (FLUSH, own, 8),
            (FENCE, 0, 0),
        ]

    return _made("log_append", count, space, seed, threads, operations)


# YCSB's core workloads (Cooper et al., SoCC 2010): shares of reads, updates, inserts, scans and
# read-modify-writes, and which records are asked for.
YCSB = {
    "a": (0.5, 0.5, 0.0, 0.0, 0.0, "zipfian"),
    "b": (0.95, 0.05, 0.0, 0.0, 0.0, "zipfian"),
    "c": (1.0, 0.0, 0.0, 0.0, 0.0, "zipfian"),
    "d": (0.95, 0.0, 0.05, 0.0, 0.0, "latest"),
    "e": (0.0, 0.0, 0.05, 0.95, 0.0, "zipfian"),
    "f": (0.5, 0.0, 0.0, 0.0, 0.5, "zipfian"),
}
SCAN = 50  # records of a scan on average: 1 to 100, each as likely


def ycsb(
    count: int, *, mix: str = "a", space: Size = SPACE, work: int = OP_WORK, seed: int = 1, threads: int = 1
) -> Generated:
    """A core workload on a store of records of 1 KiB behind an index.

    A read takes a whole record; an update one field of 100 bytes (undo log, flush, fence, field, flush,
    fence); an insert a whole record and its index entry; a scan what follows in the order of keys.
    """
    if mix not in YCSB:
        raise TraceError(f"{mix!r} is none of YCSB's core workloads: {', '.join(YCSB)}")
    reads, updates, inserts, scans, _, asked = YCSB[mix]
    records = parse_size(space) // (RECORD + 8)
    heads = records * 8 // LINE * LINE + LINE
    journal = 64  # records of the undo log, at the end of the store

    def operations(rng: np.random.Generator, numbers: Ints) -> Rows:
        n = len(numbers)
        kind = np.searchsorted(np.cumsum([reads, updates, inserts, scans]), rng.random(n), side="right")
        reading, updating, inserting, scanning = (kind == i for i in range(4))
        modifying = kind == 4
        written = records - journal
        if asked == "latest":
            newest = (numbers * inserts).astype(np.int64) + written // 2
            key = (newest - zipf(rng, written // 2, n)) % written
            key = np.where(inserting, newest % written, key)
        else:
            key = scatter(zipf(rng, written, n), written)
        record = heads + key * RECORD
        field = record + 24 + rng.integers(0, 10, n) * FIELD
        log = heads + (written + numbers % journal) * RECORD
        changing = updating | modifying
        scanned = rng.integers(1, 2 * SCAN, n) * RECORD
        scanned = np.minimum(scanned, heads + written * RECORD - record)

        def when(condition: Any, size: Any) -> Any:
            return np.where(condition, size, -1)

        return [
            (WORK, 0, work),
            (READ, scatter(key, records) * 8, 8),
            (DEPENDENT, record, 24),
            (READ, record, when(reading | modifying, RECORD)),
            (READ, record, when(scanning, scanned)),
            (READ, field, when(changing, FIELD)),
            (WRITE, log, when(changing, FIELD + 24)),
            (FLUSH, log, when(changing, FIELD + 24)),
            (FENCE, 0, when(changing, 0)),
            (WRITE, field, when(changing, FIELD)),
            (FLUSH, field, when(changing, FIELD)),
            (NONTEMPORAL, record, when(inserting, RECORD)),
            (FENCE, 0, when(changing | inserting, 0)),
            (WRITE, scatter(key, records) * 8, when(inserting, 8)),
            (FLUSH, scatter(key, records) * 8, when(inserting, 8)),
            (FENCE, 0, when(inserting, 0)),
        ]

    return _made(f"ycsb_{mix}", count, space, seed, threads, operations, 256 * RECORD)


OVERWRITES = ("counter", "account", "text", "vector", "pointers", "random")


def overwrites(count: int, *, what: str = "account", space: Size = "256KiB", seed: int = 1) -> Generated:
    """Records of a line each, overwritten again and again and made durable: with their bytes.

    `what` changes from one version of a record to the next: a 64-bit counter by one ("counter"); version,
    time stamp and a balance in floating point ("account"); a text of 24 characters ("text"); four of
    eight floating-point numbers, by a percent ("vector"); two of eight pointers into a heap of 1 GiB
    ("pointers"); everything ("random").
    """
    if what not in OVERWRITES:
        raise TraceError(f"{what!r} is no record that is known: {', '.join(OVERWRITES)}")
    lines = parse_size(space) // LINE

    def operations(rng: np.random.Generator, numbers: Ints) -> Rows:
        at = _line_of(numbers, lines, seed) * LINE
        return [(WRITE, at, LINE), (FLUSH, at, LINE), (FENCE, 0, 0)]

    def contents(rng: np.random.Generator, numbers: Ints) -> npt.NDArray[np.uint8]:
        return _version(what, _line_of(numbers, lines, seed), numbers, lines)

    made = _made(f"overwrites_{what}", count, space, seed, 1, operations)
    return Generated(made.name, count, made.space, seed, 1, operations, contents)


def _line_of(numbers: Ints, lines: int, seed: int) -> Ints:
    """Which record an operation overwrites: each in turn, in an order that changes with every round."""
    return (numbers + scatter(numbers // lines + seed, lines)) % lines


def _hashed(*parts: Any) -> npt.NDArray[np.uint64]:
    """64 bits that depend on integers (SplitMix64)."""
    z = np.zeros((), np.uint64)
    for part in parts:
        z = (np.asarray(part).astype(np.uint64) ^ z) * np.uint64(0x9E3779B97F4A7C15)
        z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        z ^= z >> np.uint64(31)
    return z


def _pointer(drawn: npt.NDArray[np.uint64]) -> npt.NDArray[np.uint64]:
    """An address in a heap of 1 GiB, as of malloc's."""
    return np.uint64(0x7F00_0000_0000) + drawn % np.uint64(1 << 26) * np.uint64(16)


def _version(what: str, line: Ints, number: Ints, lines: int) -> npt.NDArray[np.uint8]:
    """What a record holds after an operation: eight words of 64 bits, from its line and its version."""
    version = number // lines
    words = np.stack([_hashed(line, i) for i in range(8)], axis=1)
    if what == "pointers":
        words = _pointer(words)
    if what == "counter":
        words[:, 0] = version.astype(np.uint64)
    elif what == "account":
        balance = (_hashed(line, version) % np.uint64(10**7)).astype(np.float64) / 100
        words[:, 1] = version.astype(np.uint64)
        words[:, 2] = (1_700_000_000_000_000 + number * 7919).astype(np.uint64)
        words[:, 3] = balance.view(np.uint64)
    elif what == "text":
        letters = np.stack([_hashed(line, version, i) % np.uint64(26) for i in range(24)], axis=1)
        words[:, 2:5] = np.ascontiguousarray(letters + np.uint64(97)).astype(np.uint8).view(np.uint64)
    elif what == "vector":
        for i in range(4):
            move = (_hashed(line, version, i) % np.uint64(2001)).astype(np.float64) / 1e5 - 0.01
            words[:, i] = ((1.0 + i) * (1 + move)).view(np.uint64)
    elif what == "pointers":
        for i in range(2):
            place = (_hashed(line, version, i) + np.uint64(i)) % np.uint64(8)
            target = np.uint64(0x7F00_0000_0000) + _hashed(line, version, i, 1) % np.uint64(
                1 << 26
            ) * np.uint64(16)
            words[np.arange(len(line)), place.astype(np.int64)] = target
        others = np.stack([_hashed(line, i) % np.uint64(1 << 26) * np.uint64(16) for i in range(8)], axis=1)
        words = np.where(words >> np.uint64(47), others + np.uint64(0x7F00_0000_0000), words)
    else:
        words = np.stack([_hashed(line, version, i) for i in range(8)], axis=1)
    return words.view(np.uint8).reshape(len(line), LINE)


GENERATORS: dict[str, Callable[..., Generated]] = {
    "sequential": sequential,
    "strided": strided,
    "stencil": stencil,
    "random": random,
    "zipfian": zipfian,
    "pointer_chase": pointer_chase,
    "hash_table": hash_table,
    "btree": btree,
    "log_append": log_append,
    **{f"ycsb_{mix}": partial(ycsb, mix=mix) for mix in YCSB},
    **{f"overwrites_{what}": partial(overwrites, what=what) for what in OVERWRITES},
}
