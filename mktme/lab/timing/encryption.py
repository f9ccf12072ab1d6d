"""What encryption costs in the model, beside what papers report: counter mode, changed bits, files."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

from mktme.lab.timing.published import (
    DEUCE,
    FSENCR,
    OSIRIS,
    PREDICTED,
    SECPM,
    Figure,
)
from mktme.timing import generators
from mktme.timing.generators import Generated
from mktme.timing.machine import Machine
from mktme.timing.replay import replay
from mktme.timing.results import Result

# Papers on counter mode simulate small caches in front of PCM; lines leave them without flushes.
SMALL_CACHES = {"l2.size": 256 << 10, "l2.ways": 8, "llc.size": 2 << 20, "llc.ways": 16}
APART = 100  # instructions from miss to miss: ten misses in 1000, what is called memory-intensive
SIZE = 2.0  # how far from a published overhead ours may be: the papers' programs aren't ours


def compared(
    memory: str, configurations: Iterable[str], trace: Generated, warm: float = 0.5, **values: Any
) -> dict[str, Result]:
    """Results of some configurations over one trace, by name; the first part of it is the warm-up."""
    names = list(configurations)
    records = sum(len(chunk) for chunk in trace.chunks())
    machines = [Machine.preset(memory, name).with_values(values) for name in names]
    results = replay(trace, machines, jobs=2, warm_up=int(records * warm))
    return dict(zip(names, results, strict=True))


def geometric(values: Iterable[float]) -> float:
    """The geometric mean."""
    logs = [math.log(value) for value in values]
    return math.exp(sum(logs) / len(logs))


def mean(values: Iterable[float]) -> float:
    """The mean."""
    listed = list(values)
    return sum(listed) / len(listed)


def intensive(count: int = 400_000) -> dict[str, Generated]:
    """Programs as of SPEC and DOE that miss their caches: solvers and stencils that stream through arrays
    and write back what they pass, one that hops through pages, one that picks objects.
    """
    stream: dict[str, Any] = {"kind": "write", "persist": False}
    traces = {
        "stream of stores": generators.sequential(count, size=64, space="64MiB", **stream),
        "stencil": generators.stencil(count, space="64MiB"),
        "strided stores": generators.strided(count, stride=320, size=64, space="64MiB", **stream),
        "pages at random": generators.random(count // 32, size=4096, space="256MiB", **stream),
        "objects": generators.zipfian(count, size=256, writes=0.3, theta=0.9, space="64MiB"),
    }
    lines = {"stencil": 2, "pages at random": 64, "objects": 4}  # new ones of an operation
    return {name: generators.spaced(trace, APART * lines.get(name, 1)) for name, trace in traces.items()}


def transactions(count: int = 20_000) -> dict[str, Generated]:
    """Programs that make every operation durable, in transactions of a few hundred bytes."""
    return {
        "queue": generators.log_append(count, record=512, space="64MiB", work=1000),
        "array": generators.random(count, kind="write", size=512, space="64MiB"),
        "hash table": generators.hash_table(count, updates=1.0, value=512, space="64MiB", work=1000),
        "B+tree": generators.btree(count, inserts=1.0, node=1024, space="64MiB", work=1000),
        "key-value store": generators.ycsb(count, mix="a", space="64MiB", work=1000),
    }


def counter_mode() -> tuple[list[Figure], list[dict[str, Any]]]:
    """Write-through against write-back counters and combined ones: figures, and a row a workload."""
    rows = []
    for kind, traces, values in (
        ("misses", intensive(), SMALL_CACHES),
        ("transactions", transactions(), {}),
    ):
        for name, trace in traces.items():
            found = compared(
                "pcm", ["none", "ctr-wt", "ctr-wt-coalesce", "ctr-wb", "ctr-battery"], trace, **values
            )
            plain, through = found["none"], found["ctr-wt"]
            rows.append(
                {
                    "kind": kind,
                    "workload": name,
                    **{f"time {c}": r.time_ns / plain.time_ns for c, r in found.items()},
                    **{
                        f"writes {c}": r["memory.writes"] / max(1, through["memory.writes"])
                        for c, r in found.items()
                    },
                    "added writes ctr-wb": found["ctr-wb"]["memory.writes"] / plain["memory.writes"] - 1,
                }
            )
    misses = [row for row in rows if row["kind"] == "misses"]
    durable = [row for row in rows if row["kind"] == "transactions"]

    def overhead(configuration: str) -> float:
        return 100 * (geometric(row[f"time {configuration}"] for row in misses) - 1)

    speed = [row["time ctr-wt"] / row["time ctr-wt-coalesce"] for row in durable]
    saved = 100 * (1 - mean(row["writes ctr-wb"] for row in misses))
    figures = [
        Figure(
            "counter mode", "write-back with stop-loss: writes saved of write-through's", 48.7, saved,
            48.7 * 0.85, 48.7 * 1.15, "%", PREDICTED, OSIRIS,
        ),
        _about("write-through: overhead", 51.5, overhead("ctr-wt"), OSIRIS),
        _about("write-back with stop-loss: overhead", 5.8, overhead("ctr-wb"), OSIRIS),
        _about("battery-backed counter cache: overhead", 6.6, overhead("ctr-battery"), OSIRIS),
        Figure(
            "counter mode", "combined in the queue: most writes saved", 50.0,
            100 * (1 - min(row["writes ctr-wt-coalesce"] for row in durable)),
            50 * 0.85, 50 * 1.15, "%", PREDICTED, SECPM,
        ),
        Figure(
            "counter mode", "combined in the queue: mean speed-up over write-through", 1.65,
            geometric(speed), 1.3, 2.0, "x", PREDICTED, f"{SECPM}: 1.3 to 2.0",
        ),
    ]  # fmt: skip
    return figures, rows


def _about(name: str, published: float, ours: float, source: str) -> Figure:
    """An overhead in percent, within a factor of SIZE."""
    return Figure(
        "counter mode", name, published, ours, published / SIZE, published * SIZE, "%", PREDICTED, source
    )


def changed_bits(count: int = 60_000) -> tuple[list[Figure], list[dict[str, Any]]]:
    """Bits that change when a record is overwritten: none, counter mode, DEUCE, XTS; in percent."""
    rows = []
    for what in generators.OVERWRITES:
        trace = generators.overwrites(count, what=what, space="64KiB")
        found = compared("pcm", ["none", "ctr-battery", "deuce", "xts"], trace)
        rows.append({"workload": what, **{c: 100 * r["bit_flips.share"] for c, r in found.items()}})
    partial = [row for row in rows if row["workload"] != "random"]
    averages = {c: mean(row[c] for row in partial) for c in ("none", "ctr-battery", "deuce")}
    figures = [
        Figure(
            "changed bits", f"{name}, mean of {len(partial)} kinds of record", published, averages[c],
            published * low, published * high, "%", PREDICTED, DEUCE,
        )
        for name, c, published, low, high in (
            ("without encryption", "none", 12.0, 0.5, 1.5),
            ("a new pad for each write", "ctr-battery", 50.0, 0.98, 1.02),
            ("DEUCE", "deuce", 24.0, 0.5, 1.5),
        )
    ]  # fmt: skip
    return figures, rows


# The workloads of the headline. Each makes its own mix of loads that miss, stores that are made durable, and
# work in between; spaces are larger than the caches.
def files(count: int = 40_000) -> dict[str, Generated]:
    """DAX workloads."""
    space = "256MiB"
    return {
        "hash table, reads": generators.hash_table(count, updates=0.05, space=space),
        "hash table, updates": generators.hash_table(count, updates=0.5, space=space),
        "B+tree, searches": generators.btree(count // 2, inserts=0.05, space=space),
        "B+tree, inserts": generators.btree(count // 2, inserts=0.5, space=space),
        "log": generators.log_append(count, record=256, space=space),
        **{f"YCSB {mix.upper()}": generators.ycsb(count // 4 if mix == "e" else count, mix=mix, space=space)
           for mix in generators.YCSB},
        "scan": generators.sequential(count * 10, space=space),
        "pointer chase": generators.pointer_chase(count * 4, space=space),
    }  # fmt: skip


HEADLINE = ("none", "xts", "ctr-wb", "fsencr", "page", "inline", "bounce")


def headline(memory: str = "pcm") -> tuple[list[Figure], list[dict[str, Any]]]:
    """File encryption in the memory controller and in software, over DAX workloads."""
    rows = []
    for name, trace in files().items():
        found = compared(memory, HEADLINE, trace)
        plain = found["none"]
        operations = trace.count / 2
        rows.append(
            {
                "workload": name,
                "ns per operation": plain.time_ns / operations,
                **{c: r.time_ns / plain.time_ns for c, r in found.items()},
                "fsencr over ctr-wb": found["fsencr"].time_ns / found["ctr-wb"].time_ns,
                "faults per operation": found["page"]["page_cache.faults"] / operations,
                "fences per us": plain["accesses.fences"] / plain.time_ns * 1000,
                "misses per us": plain["memory.reads"] / plain.time_ns * 1000,
            }
        )
    added = 100 * (mean(row["fsencr over ctr-wb"] for row in rows) - 1)
    figures = [
        Figure(
            "files", f"{memory}: in the memory controller, over encrypted memory", 3.8, added, 3.8 / SIZE,
            3.8 * SIZE, "%", PREDICTED, FSENCR,
        ),
        Figure(
            "files", f"{memory}: in software, the largest of all workloads", 5.0,
            max(row["bounce"] for row in rows), 5 / SIZE, 5 * SIZE, "x", PREDICTED, FSENCR,
        ),
    ]  # fmt: skip
    return figures, rows


def by_work(
    memory: str = "pcm", works: Iterable[int] = (0, 1000, 2000, 5000, 10_000, 20_000)
) -> list[dict[str, Any]]:
    """What drives it: overhead of YCSB A by the instructions between operations."""
    rows = []
    for work in works:
        trace = generators.ycsb(20_000, mix="a", space="256MiB", work=work)
        found = compared(memory, HEADLINE, trace)
        plain = found["none"].time_ns
        rows.append({"work": work, **{c: r.time_ns / plain for c, r in found.items()}})
    return rows
