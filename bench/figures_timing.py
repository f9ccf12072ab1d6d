"""The timing model: how fast it replays traces, and how the model stands beside published figures.

python bench/figures.py --only timing
"""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from figure import Figure

from mktme.lab.timing.validation import validate
from mktme.timing import generators
from mktme.timing.machine import Machine, Run
from mktme.timing.replay import replay
from mktme.timing.traces import open_trace
from mktme.timing.traces.columns import write

COUNT = 2_000_000
RECORDS = 10_000_000
CONFIGURATIONS = ("none", "xts", "ctr-wb")
TARGET = 20.0


def timing(folder: Path, rounds: int) -> Iterator[Figure]:
    """Every figure, with traces in a folder."""
    yield from rates(max(3, rounds // 3))
    yield from from_file(folder, max(3, rounds // 5))
    yield from validation()


def traces() -> dict[str, generators.Generated]:
    """Line accesses of some locality: how many of them miss the last cache is said beside the figure."""
    return {
        "zipfian": generators.zipfian(COUNT, writes=0.3, size=8, space="64MiB"),
        "YCSB B": generators.ycsb(COUNT // 12, mix="b", space="256MiB"),
        "B+tree": generators.btree(COUNT // 30, inserts=0.2, space="256MiB"),
        "in order, 8 bytes": generators.sequential(COUNT, size=8, space="256MiB"),
        "in order, a line": generators.sequential(COUNT, size=64, space="256MiB"),
        "at random, all miss": generators.random(COUNT, size=8, space="1GiB"),
    }


def rates(rounds: int) -> Iterator[Figure]:
    """Line accesses a second on one core: caches, controller, engine."""
    for name, trace in traces().items():
        chunks = list(trace.chunks())
        found: dict[str, list[float]] = {configuration: [] for configuration in CONFIGURATIONS}
        misses = 0.0
        for _ in range(rounds):
            for configuration in CONFIGURATIONS:
                run = Run(Machine.preset("optane", configuration))
                run.feed(chunks[0])  # laid out, compiled
                start = time.perf_counter()
                for chunk in chunks[1:]:
                    run.feed(chunk)
                took = time.perf_counter() - start
                result = run.finish()
                lines = sum(
                    result[f"accesses.{kind}"] for kind in ("loads", "stores", "nontemporal", "flushes")
                )
                found[configuration].append(lines * (1 - len(chunks[0]) / sum(map(len, chunks))) / took / 1e6)
                misses = result["caches.llc.misses"] / lines
        for configuration, values in found.items():
            yield _figure(
                f"replay, {name}, {configuration}",
                values,
                "M/s",
                TARGET,
                note=f"{misses:.0%} of the lines miss all caches",
            )


FROM_FILE = """
import resource, sys, time
start = time.perf_counter()
from pathlib import Path
from mktme.timing.machine import Machine
from mktme.timing.replay import replay
from mktme.timing.traces import open_trace
result, = replay(open_trace(Path(sys.argv[1])), [Machine.preset("optane", "xts")])
assert result["accesses.records"] == int(sys.argv[2])
print(time.perf_counter() - start, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
"""


def from_file(folder: Path, rounds: int) -> Iterator[Figure]:
    """Ten million accesses from a Parquet file, in a process of their own, imports and all; and memory."""
    memory = {}
    for records in (RECORDS // 10, RECORDS):
        path = folder / "trace.parquet"
        write(path, generators.zipfian(records, writes=0.3, size=8, space="64MiB").chunks())
        took = []
        for _ in range(rounds):
            command = [sys.executable, "-c", FROM_FILE, str(path), str(records)]
            done = subprocess.run(command, capture_output=True, text=True, check=True)
            seconds, peak = done.stdout.split()
            took.append(float(seconds))
            memory[records] = int(peak) / 1024
        if records == RECORDS:
            yield _figure(
                "10 M accesses from Parquet, end to end",
                took,
                "s",
                3.0,
                below=True,
                note=f"{path.stat().st_size / 1e6:.0f} MB; a new process, with imports",
            )
            machines = [Machine.preset("optane", name) for name in ("none", "xts", "ctr-wt", "ctr-wb")]
            gains = []
            for _ in range(rounds):
                marks = [time.perf_counter()]
                for jobs in (1, 2):
                    replay(open_trace(path), machines, jobs=jobs)
                    marks.append(time.perf_counter())
                gains.append((marks[1] - marks[0]) / (marks[2] - marks[1]))
            yield _figure("four configurations, --jobs 2 over --jobs 1", gains, "x")
        path.unlink()
    more = memory[RECORDS] - memory[RECORDS // 10]
    yield _figure(
        "memory of ten times the records, more", [more], "MB", note=f"of {memory[RECORDS]:.0f} MB at most"
    )


def validation() -> Iterator[Figure]:
    """How many published figures the model meets (mktme replay --validate)."""
    figures = validate()["figures"]
    for kind in ("calibrated", "predicted", "exact"):
        own = [row for row in figures if row["kind"] == kind]
        held = sum(row["holds"] for row in own)
        yield _figure(f"{kind} figures that hold", [float(held)], "", note=f"of {len(own)}")


def _figure(
    name: str, found: list[float], unit: str, target: float = 0.0, *, below: bool = False, note: str = ""
) -> Figure:
    low, median, high = np.percentile(found, [25, 50, 75]).tolist()
    spread = (low, high) if len(found) > 1 else None
    return Figure("timing", name, median, unit, target, below, spread, note)
