"""Published figures that the timing model is held against, and the experiments that give ours.

A figure is "calibrated" where a parameter was set from it, so that it only shows that the model composes as
meant; "predicted" where nothing was set from it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

from mktme.timing import generators
from mktme.timing.access import FENCE, NONTEMPORAL
from mktme.timing.generators import Generated
from mktme.timing.machine import Machine
from mktme.timing.results import Result

STUDY = "data of Yang et al., FAST 2020 (github.com/NVSL/OptaneStudy, 58e6e7d)"
OSIRIS = "Ye et al., MICRO 2018 (Osiris), abstract"
SECPM = "Zuo and Hua, HotStorage 2018 (SecPM), abstract"
DEUCE = "Young et al., ASPLOS 2015 (DEUCE), abstract"
FSENCR = "Zubair et al., HPCA 2022 (FsEncr), abstract"
CLOSE = 0.15
CALIBRATED, PREDICTED = "calibrated", "predicted"
ONE_DIMM = {"queues.channels": 1}

# Figure 2: idle latencies in ns. Figures 4 and 5: bandwidth in GB/s of one DIMM and of six; of reads, and of
# nontemporal stores; in order by threads (accesses of 256 B), and at random by bytes of an access (with 4
# and 16 threads that read, 1 and 4 that write). In the file for six DIMMs the heads of both kinds of
# stores are exchanged. Figure 9: write amplification by bytes of a region whose halves of XPLines are
# written in turn.
LATENCIES = {
    "optane": {"load, in order": 169.4, "load, at random": 305.0, "ntstore": 90.4, "clwb": 62.3},
    "dram": {"load, in order": 81.4, "load, at random": 101.5, "ntstore": 86.9, "clwb": 57.3},
}
THREADS = {
    "one DIMM, reads": {1: 2.92, 2: 5.66, 4: 6.52, 8: 6.46},
    "one DIMM, stores": {1: 2.22, 2: 2.21, 4: 2.20},
    "six DIMMs, reads": {1: 2.88, 2: 5.75, 4: 11.63, 8: 21.13, 12: 28.75, 16: 34.88, 20: 37.19, 24: 37.56},
    "six DIMMs, stores": {1: 4.13, 2: 8.19, 4: 12.50, 8: 12.00},
}
BY_SIZE = {
    "one DIMM, reads": {
        64: 1.675, 128: 3.344, 256: 6.505, 512: 6.531, 1024: 6.519, 4096: 6.559, 65536: 6.558,
    },
    "one DIMM, stores": {
        64: 0.555, 128: 1.098, 256: 2.207, 512: 2.209, 1024: 2.223, 4096: 2.231, 65536: 2.216,
    },
    "six DIMMs, reads": {
        64: 9.67, 128: 18.75, 256: 33.65, 512: 34.23, 1024: 32.29, 4096: 25.98, 65536: 33.79,
    },
    "six DIMMs, stores": {
        64: 3.166, 128: 5.833, 256: 12.188, 512: 11.875, 1024: 11.354, 4096: 9.438, 65536: 12.166,
    },
}  # fmt: skip
SIZE_THREADS = {
    "one DIMM, reads": 4,
    "one DIMM, stores": 1,
    "six DIMMs, reads": 16,
    "six DIMMs, stores": 4,
}
COMBINED = {4096: 1.034, 8192: 1.036, 16384: 1.036, 32768: 1.820, 65536: 2.043, 131072: 2.076}


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


def latencies() -> list[Figure]:
    """Idle latencies: a load that depends on the one before; a store that is made durable."""
    traces = {
        "load, at random": generators.pointer_chase(100_000, space="4GiB"),
        "load, in order": generators.sequential(100_000, kind="dependent", space="4GiB"),
        "clwb": generators.sequential(40_000, kind="write", space="16KiB"),
        "ntstore": generators.sequential(40_000, kind="nontemporal", space="1GiB"),
    }
    found = []
    for memory, rows in LATENCIES.items():
        for name, published in rows.items():
            ours = per_operation(run(Machine.preset(memory), traces[name]), traces[name])
            what = name if "load" in name else f"{name} and fence"
            found.append(_near("latency", f"{memory}: {what}", published, ours, "ns", CALIBRATED, STUDY))
    return found


def _machine(name: str) -> Machine:
    return Machine.preset("optane").with_values(ONE_DIMM if name.startswith("one") else {})


def _rate(name: str, make: Callable[..., Generated], threads: int, size: int) -> float:
    """Bandwidth in GB/s of accesses by some threads."""
    kind = "read" if name.endswith("reads") else "nontemporal"
    count = max(300, 3000 * 256 // size) * threads
    trace = make(count, kind=kind, size=size, space="4GiB", threads=threads, persist=False)
    return bandwidth(_machine(name), trace, size)


# What a parameter was set from: one DIMM's peaks, and what a core has in flight.
_SET = {
    ("one DIMM, reads", 4096),
    ("one DIMM, stores", 4096),
    ("six DIMMs, reads", 512),
    (1, "six DIMMs, stores"),
}


def by_threads() -> list[Figure]:
    """Bandwidth in order, by the number of threads."""
    return [
        _near(
            "bandwidth by threads",
            f"{name}, {threads} threads",
            published,
            _rate(name, generators.sequential, threads, 256),
            "GB/s",
            CALIBRATED if (threads, name) in _SET else PREDICTED,
            STUDY,
        )
        for name, row in THREADS.items()
        for threads, published in row.items()
    ]


def by_size() -> list[Figure]:
    """Bandwidth at random, by access size: the knee at 256 bytes."""
    return [
        _near(
            "bandwidth by size",
            f"{name}, {size} B",
            published,
            _rate(name, generators.random, SIZE_THREADS[name], size),
            "GB/s",
            CALIBRATED if (name, size) in _SET else PREDICTED,
            STUDY,
        )
        for name, row in BY_SIZE.items()
        for size, published in row.items()
    ]


def ratios(sizes: list[Figure]) -> list[Figure]:
    """What follows: the factor of four below the XPLine, and reads against writes."""
    table = {figure.name: (figure.published, figure.modelled) for figure in sizes}
    found = []
    for name, over, under in (
        ("one DIMM, reads: 256 B over 64 B", "one DIMM, reads, 256 B", "one DIMM, reads, 64 B"),
        ("one DIMM, stores: 256 B over 64 B", "one DIMM, stores, 256 B", "one DIMM, stores, 64 B"),
        ("one DIMM: reads over stores", "one DIMM, reads, 4096 B", "one DIMM, stores, 4096 B"),
        ("six DIMMs: reads over stores", "six DIMMs, reads, 65536 B", "six DIMMs, stores, 65536 B"),
    ):
        published, ours = (table[over][i] / table[under][i] for i in (0, 1))
        found.append(_near("ratios", name, published, ours, "x", PREDICTED, STUDY))
    return found


def write_amplification(units: int) -> float:
    """Half of each of some XPLines is written, then the other halves, again and again, on one DIMM."""
    return float(run(_machine("one DIMM"), _halves(units, 200))["memory.media.write_amplification"])


def _halves(units: int, rounds: int) -> Generated:
    def operations(rng: Any, numbers: Any) -> generators.Rows:
        unit, half = numbers % units, numbers // units % 2
        return [(NONTEMPORAL, unit * 256 + half * 128, 128), (FENCE, 0, 0)]

    return Generated("halves", 2 * units * rounds, 1 << 30, 1, 1, operations)


def buffering() -> list[Figure]:
    """What the write-combining buffer combines."""
    found = [
        _near(
            "write combining",
            f"write amplification in {size >> 10} KiB",
            published,
            write_amplification(size // 256),
            "x",
            PREDICTED,
            STUDY,
        )
        for size, published in COMBINED.items()
    ]
    for name, make, published in (
        ("ntstore in order: effective write ratio", generators.sequential, 0.98),
        ("ntstore of 64 B at random: effective write ratio", generators.random, 0.245),
    ):
        trace = make(40_000, kind="nontemporal", size=64, space="4GiB")
        ratio = 1 / float(run(_machine("one DIMM"), trace)["memory.media.write_amplification"])
        found.append(_near("write combining", name, published, ratio, "", PREDICTED, STUDY))
    return found
