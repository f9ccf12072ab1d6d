"""Studies: how they scale over processors, what a task costs, and what a large trace takes in slices.

python bench/figures.py --only studies
"""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

from figure import Figure

from mktme.lab.study import grid, run, slices
from mktme.timing import cells, generators, growing
from mktme.timing.traces.columns import Columns, write

CELLS = 24
RECORDS = 10_000_000
SLICES = 8
GRAIN = 2 << 20


def studies(folder: Path, rounds: int) -> Iterator[Figure]:
    """Every figure, with studies in a folder."""
    yield from scaling(folder, max(3, rounds // 5))
    yield ceiling(max(3, rounds // 5))
    yield tasks(folder)
    yield from sliced(folder)
    yield footprint()


def scaling(folder: Path, rounds: int) -> Iterator[Figure]:
    """One process against two, in turns: replays of half a second each."""
    values = [n * 10 for n in range(CELLS)]
    found: dict[int, list[float]] = {1: [], 2: []}
    for number in range(rounds + 1):
        for jobs, times in found.items():
            made = grid.make(
                {
                    "seed": number + 1,
                    "replay": {
                        "traces": "ycsb_b:count=400000,space=256MiB",
                        "parameters": {"media.read_ns": values},
                    },
                }
            )
            begin = time.perf_counter()
            outcome = run(made, folder / f"scaling-{jobs}-{number}", jobs=jobs)
            if outcome.failed:
                raise RuntimeError(outcome.failed[0][1])
            if number:
                times.append(time.perf_counter() - begin)
    ratios = sorted(one / two for one, two in zip(found[1], found[2], strict=True))
    yield Figure(
        "studies",
        f"study of {CELLS} replays, 2 processes over 1",
        ratios[len(ratios) // 2],
        "x",
        0,
        spread=(ratios[0], ratios[-1]),
        note=f"{min(found[1]):.1f} s and {min(found[2]):.1f} s, with the start of the processes",
    )


BY_HAND = """
import sys, time
from mktme.timing import generators
from mktme.timing.machine import Machine
trace = generators.ycsb(400_000, mix="b", space="256MiB")
Machine.preset("optane").run(generators.ycsb(1000, mix="b").chunks())
print("ready", flush=True)
sys.stdin.readline()
begin = time.perf_counter()
for _ in range(int(sys.argv[1])):
    Machine.preset("optane").run(trace.chunks())
print(time.perf_counter() - begin)
"""


def ceiling(rounds: int) -> Figure:
    """What the machine gives: the same replays in two programs that know nothing of each other, over one."""
    ratios = []
    for _ in range(rounds):
        alone = max(by_hand(CELLS))
        beside = max(by_hand(CELLS // 2, CELLS // 2))
        ratios.append(alone / beside)
    ratios.sort()
    return Figure(
        "studies",
        "the same in programs by hand, 2 over 1",
        ratios[len(ratios) // 2],
        "x",
        0,
        spread=(ratios[0], ratios[-1]),
        note="what two processors of this machine are worth to this work; without the start of the processes",
    )


def by_hand(*counts: int) -> list[float]:
    """Seconds that programs take that begin together, each with so many replays."""
    started = [
        subprocess.Popen(
            [sys.executable, "-c", BY_HAND, str(count)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for count in counts
    ]
    for each in started:
        assert each.stdout is not None
        each.stdout.readline()
    for each in started:
        assert each.stdin is not None
        each.stdin.write("\n")
        each.stdin.flush()
    return [float(each.communicate()[0]) for each in started]


def tasks(folder: Path) -> Figure:
    """What a cell costs beside its work: cells of ten accesses."""
    count = 400
    made = grid.make({"replay": {"traces": [f"ycsb_b:count=1,space={64 + n}KiB" for n in range(count)]}})
    run(grid.make({"replay": {"traces": "ycsb_b:count=1"}}), folder / "warm", jobs=1)
    begin = time.perf_counter()
    run(made, folder / "tasks", jobs=1)
    return Figure(
        "studies",
        "a cell beside its work",
        (time.perf_counter() - begin) / count * 1e3,
        "ms",
        0,
        note="to a process and back, a machine laid out, its Parquet file made durable; start included",
    )


def sliced(folder: Path) -> Iterator[Figure]:
    """Dealing a trace out, and replaying a slice of it, on one core."""
    path = folder / "large.parquet"
    write(path, generators.ycsb(RECORDS // 7, space="4GiB").chunks())
    trace = Columns(path)
    size = path.stat().st_size
    values = {"memory": "optane", "engine": "xts", "size": "1TiB", "parameters": {}}
    parts = slices.segments(path, 8)
    slices.deal(path, parts[0], 0, SLICES, GRAIN, folder / "warm-slices")
    begin = time.perf_counter()
    for number, part in enumerate(parts):
        slices.deal(path, part, number, SLICES, GRAIN, folder / "slices")
    dealing = time.perf_counter() - begin
    yield Figure(
        "studies",
        f"a trace dealt out to {SLICES} slices",
        trace.records / dealing / 1e6,
        "M/s",
        0,
        note=f"records; {size / trace.records:.2f} bytes each in its file, {size / dealing / 1e6:.0f} MB/s",
    )
    slices.replay(values, folder / "slices", 0, 1)
    took, counted = [], 0
    for one in range(SLICES):
        begin = time.perf_counter()
        found = slices.replay(values, folder / "slices", one, len(parts))
        took.append(time.perf_counter() - begin)
        counted += found["accesses"]["records"]
    yield Figure(
        "studies",
        "slices replayed, with AES-XTS",
        counted / sum(took) / 1e6,
        "M/s",
        0,
        spread=(counted / SLICES / max(took) / 1e6, counted / SLICES / min(took) / 1e6),
        note=f"records, of {len(parts)} segments; the slowest slice takes "
        f"{max(took) * SLICES / sum(took):.2f} of the mean",
    )


def footprint() -> Figure:
    """What the model keeps of each page that a trace touches: its table full, and just grown."""
    table = growing.new(cells.WITHOUT_DATA, 1 << 20)
    full = table.nbytes / int(table[growing.LIMIT])
    return Figure(
        "studies",
        "the model's memory, a page touched",
        2 * full,
        "B",
        0,
        spread=(full, 2 * full),
        note="at most: its table doubles when it is full",
    )
