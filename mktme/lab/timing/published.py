"""Published figures that the timing model is held against, and the experiments that give ours.

A figure is "calibrated" where a parameter was set from it, so that it only shows that the model composes as
meant; "predicted" where nothing was set from it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
from typing import Any

from mktme.timing import generators
from mktme.timing.access import Trace
from mktme.timing.generators import Generated
from mktme.timing.machine import Machine
from mktme.timing.replay import replay
from mktme.timing.results import Result

IZRAELEVITZ = "Izraelevitz et al. 2019 (arXiv 1903.05714)"
YANG = "Yang et al., FAST 2020"
OSIRIS = "Ye et al., MICRO 2018 (Osiris)"
SECPM = "Zuo and Hua, HotStorage 2018 (SecPM)"
DEUCE = "Young et al., ASPLOS 2015 (DEUCE)"
FSENCR = "Zubair et al., HPCA 2022 (FsEncr)"
CLOSE = 0.15
ONE_DIMM = {"queues.channels": 1}


@dataclass(frozen=True, slots=True)
class Figure:
    """A published figure beside ours. `low` to `high` is what ours may be, `kind` calibrated or predicted."""

    group: str
    name: str
    published: float
    modelled: float
    low: float
    high: float
    unit: str
    kind: str
    source: str

    @property
    def holds(self) -> bool:
        """Whether ours is where it is to be."""
        return self.low <= self.modelled <= self.high

    def to_json(self) -> dict[str, Any]:
        """As plain data."""
        return {**asdict(self), "holds": self.holds}


def _near(group: str, name: str, published: float, ours: float, unit: str, kind: str, source: str) -> Figure:
    return Figure(
        group, name, published, ours, published * (1 - CLOSE), published * (1 + CLOSE), unit, kind, source
    )


def run(machine: Machine, trace: Generated, warm: float = 0.5) -> Result:
    """A machine over a trace, the first part of which is to warm it up."""
    records = sum(len(chunk) for chunk in trace.chunks()) if warm else 0
    return machine.run(trace.chunks(), int(records * warm))


def per_operation(result: Result, trace: Generated, warm: float = 0.5) -> float:
    """Nanoseconds an operation."""
    return result.time_ns / (trace.count * (1 - warm))


def bandwidth(machine: Machine, trace: Generated, size: int, warm: float = 0.5) -> float:
    """Bytes that the trace's operations of `size` bytes moved, in GB/s."""
    return trace.count * (1 - warm) * size / run(machine, trace, warm).time_ns


def optane(**values: Any) -> Machine:
    """Six DIMMs, without encryption."""
    return Machine.preset("optane").with_values(values)


def latencies() -> list[Figure]:
    """Idle latencies: a load that depends on the one before; a store that is made durable."""
    found = []
    for memory, random, ordered, flushed, streamed, kind in (
        ("optane", 305.0, 169.0, 62.0, 90.0, "calibrated"),
        ("dram", 101.0, 81.0, 57.0, 86.0, "calibrated"),
    ):
        machine = Machine.preset(memory)
        chase = generators.pointer_chase(100_000, space="4GiB")
        walk = generators.sequential(100_000, kind="dependent", space="4GiB")
        store = generators.sequential(40_000, kind="write", space="16KiB")
        stream = generators.sequential(40_000, kind="nontemporal", space="16KiB")
        for name, trace, published in (
            ("load, random", chase, random),
            ("load, in order", walk, ordered),
            ("store, CLWB, fence", store, flushed),
            ("nontemporal store, fence", stream, streamed),
        ):
            ours = per_operation(run(machine, trace), trace)
            found.append(_near("latency", f"{memory}: {name}", published, ours, "ns", kind, YANG))
    return found


SIZES = (64, 128, 256, 512, 1024, 4096)
PATTERNS: dict[str, Callable[..., Generated]] = {
    "in order": generators.sequential,
    "at random": generators.random,
}


def by_size(
    machine: Machine, kind: str, threads: int, sizes: Iterable[int] = SIZES
) -> dict[str, list[float]]:
    """Bandwidth in GB/s of each pattern, by access size."""
    return {
        pattern: [
            bandwidth(
                machine,
                make(
                    max(2000, (4 << 20) // size) * 2,
                    kind=kind,
                    size=size,
                    space="4GiB",
                    threads=threads,
                    persist=False,
                ),
                size,
            )
            for size in sizes
        ]
        for pattern, make in PATTERNS.items()
    }


def bandwidths() -> list[Figure]:
    """Peaks, the knee at 256 bytes, and how many threads reach the peak."""
    six, one = optane(), Machine.preset("optane").with_values(ONE_DIMM)
    found = []
    for name, machine, reads, writes, kind in (
        ("one DIMM", one, 6.6, 2.3, "calibrated"),
        ("six DIMMs", six, 39.4, 13.9, "predicted"),
    ):
        read, write = by_size(machine, "read", 24), by_size(machine, "nontemporal", 8)
        peak = {"read": max(read["in order"]), "write": max(write["in order"])}
        for what, published in (("read", reads), ("write", writes)):
            found.append(
                _near("bandwidth", f"{name}: peak {what}", published, peak[what], "GB/s", kind, YANG)
            )
        found.append(
            _near(
                "bandwidth",
                f"{name}: peak read over peak write",
                reads / writes,
                peak["read"] / peak["write"],
                "x",
                "calibrated",
                YANG,
            )
        )
        for what, table in (("read", read), ("write", write)):
            small = table["in order"][0] / table["at random"][0]
            knee = table["in order"][2] / table["at random"][2]
            found.append(
                _near(
                    "bandwidth",
                    f"{name}: {what}s of 64 B, in order over at random",
                    4.0,
                    small,
                    "x",
                    "predicted",
                    IZRAELEVITZ,
                )
            )
            found.append(
                _near(
                    "bandwidth",
                    f"{name}: {what}s of 256 B, in order over at random",
                    1.0,
                    knee,
                    "x",
                    "predicted",
                    IZRAELEVITZ,
                )
            )
    return found


def scaling(kind: str, threads: Iterable[int], size: int = 256, persist: bool = False) -> list[float]:
    """Bandwidth in GB/s of six DIMMs, in order, by the number of threads."""
    machine = optane()
    return [
        bandwidth(
            machine,
            generators.sequential(
                4000 * count, kind=kind, size=size, space="4GiB", threads=count, persist=persist
            ),
            size,
        )
        for count in threads
    ]


def saturation() -> list[Figure]:
    """How many threads saturate reads and writes: the first to reach 95 % of the most."""
    found = []
    for name, kind, most, published, persist in (
        ("reads", "read", 24, 17, False),
        ("writes", "nontemporal", 12, 4, True),
    ):
        counts = list(range(1, most + 1))
        rates = scaling(kind, counts, persist=persist)
        reached = next(c for c, rate in zip(counts, rates, strict=True) if rate >= 0.95 * max(rates))
        slack = max(1.0, CLOSE * published)
        found.append(
            Figure(
                "bandwidth",
                f"six DIMMs: threads that saturate {name}",
                published,
                reached,
                published - slack,
                published + slack,
                "",
                "predicted",
                IZRAELEVITZ,
            )
        )
    return found


def write_amplification(units: int) -> float:
    """Half of each of some XPLines is written, then the other halves, again and again, on one DIMM."""
    machine = Machine.preset("optane").with_values(ONE_DIMM)
    result = run(machine, _halves(units, 200))
    return float(result["memory.media.write_amplification"])


def _halves(units: int, rounds: int) -> Generated:
    def operations(rng: Any, numbers: Any) -> generators.Rows:
        unit, half = numbers % units, numbers // units % 2
        return [(generators.NONTEMPORAL, unit * 256 + half * 128, 128), (generators.FENCE, 0, 0)]

    return Generated("halves", 2 * units * rounds, 1 << 30, 1, 1, operations)


def buffering() -> list[Figure]:
    """The write-combining buffer: where write amplification jumps, and the effective write ratio."""
    one = Machine.preset("optane").with_values(ONE_DIMM)
    sizes = [8, 16, 32, 48, 56, 64, 72, 80, 96, 128]
    jump = next(n for n, bigger in zip(sizes, sizes[1:], strict=False) if write_amplification(bigger) > 1.5)
    found = [_near("buffer", "XPLines that it combines", 64, jump, "", "calibrated", YANG)]
    for name, make, size, published in (
        ("nontemporal stores in order", generators.sequential, 64, 0.98),
        ("nontemporal stores of 64 B at random", generators.random, 64, 0.25),
    ):
        trace = make(40_000, kind="nontemporal", size=size, space="4GiB")
        ratio = 1 / float(run(one, trace)["memory.media.write_amplification"])
        found.append(
            _near("buffer", f"effective write ratio: {name}", published, ratio, "", "predicted", YANG)
        )
    return found


# What stands for "memory-intensive programs" of SPEC and DOE: accesses that miss, of which a part are
# stores, that reach memory as write-backs.
def intensive(count: int = 300_000) -> dict[str, Trace]:
    """Traces without flushes: writes reach memory when lines leave the caches."""
    return {
        "streams": generators.zipfian(count, theta=0.2, writes=0.3, space="256MiB"),
        "hot and cold": generators.zipfian(count, theta=0.8, writes=0.3, space="512MiB"),
        "skewed": generators.zipfian(count, theta=0.95, writes=0.4, space="1GiB"),
        "in order": generators.sequential(count, kind="write", size=64, space="64MiB", persist=False),
    }


def durable(count: int = 60_000) -> dict[str, Generated]:
    """Workloads whose stores are made durable one by one."""
    return {
        "hash table": generators.hash_table(count, updates=1.0, space="256MiB", work=0),
        "B+tree": generators.btree(count // 4, inserts=1.0, space="256MiB", work=0),
        "log of 1 KiB": generators.log_append(count, record=1024, space="256MiB", work=0),
        "log of 4 KiB": generators.log_append(count // 4, record=4096, space="256MiB", work=0),
        "YCSB A": generators.ycsb(count, mix="a", space="256MiB", work=0),
    }


# The processors that those papers simulate: small caches, so that lines leave them.
SMALL_CACHES = {"llc.size": 4 << 20, "llc.ways": 16, "l2.size": 512 << 10, "l2.ways": 8}


def compared(
    memory: str, configurations: list[str], trace: Any, warm: float = 0.5, **values: Any
) -> dict[str, Result]:
    """Some configurations over one trace."""
    records = sum(len(chunk) for chunk in trace.chunks())
    machines = [Machine.preset(memory, name).with_values(values) for name in configurations]
    results = replay(trace, machines, jobs=2, warm_up=int(records * warm))
    return dict(zip(configurations, results, strict=True))


def _mean(values: Iterable[float]) -> float:
    listed = list(values)
    return sum(listed) / len(listed)
