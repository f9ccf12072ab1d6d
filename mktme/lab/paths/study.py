"""The comparison of the paths: every workload on every path, in turns; and what it costs in bytes."""

from __future__ import annotations

import csv
import itertools
import tempfile
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from mktme.errors import MktmeError
from mktme.lab.machine import describe
from mktme.lab.measure import Sample, slowdown
from mktme.lab.overhead import shared_memory
from mktme.lab.paths.subjects import DEFAULT, PATHS, Subject, subjects
from mktme.lab.paths.workloads import GROUPS, Operation, Workload, workloads
from pmem.geometry import Size, parse_size

SCHEMA = "mktme-paths/1"
ROUNDS = 7
STEP = 0.02  # seconds that a turn takes at least
STEPS = 8  # bins of a histogram of latencies to a factor of two
COUNTED = 64  # requests whose bytes are counted
LEAST, ROOM = 1 << 20, 48 << 20  # bytes: of the large file, and beside it for the others and the volume

Progress = Callable[[str, int, int], None]


class PathsError(MktmeError, ValueError):
    """A comparison of paths that can't be run."""


def run(
    paths: str | Iterable[str] = DEFAULT,
    groups: str | Iterable[str] = GROUPS,
    *,
    size: Size = "64MiB",
    seed: int = 1,
    rounds: int = ROUNDS,
    folder: Path | None = None,
    progress: Progress = lambda what, done, total: None,
) -> dict[str, Any]:
    """Run workloads on files of a volume, by way of each path, in turns.

    `paths` and `groups` by their names (PATHS, GROUPS). `size`: bytes of the large file. `folder`:
    where the images lie (by default shared memory where it has the room).

    Returns plain data: machine, settings and a list of results, one for each workload and path:
    bytes a second, latencies in microseconds, the time against `none` (if it is among them; median
    and quartiles), and exact counts of bytes copied, encrypted and decrypted for each byte asked,
    and of keys programmed and evicted, over so many requests.

    Raises PathsError for a name that there isn't, or sizes out of range.
    """
    size = parse_size(size)
    names, chosen = _names(paths, PATHS, "path"), _names(groups, GROUPS, "workload")
    if size < LEAST or rounds < 1 or seed < 0:
        raise PathsError(
            f"size {size}, rounds {rounds}, seed {seed}: a size of {LEAST} bytes at least, one round, and "
            "a seed that isn't negative"
        )
    place = shared_memory(len(names) * (size + ROOM)) if folder is None else folder
    results: list[dict[str, Any]] = []
    with (
        tempfile.TemporaryDirectory(prefix="mktme-", dir=place) as inside,
        subjects(names, Path(inside), size + ROOM) as found,
    ):
        made = list(workloads(chosen, size, seed))
        total, steps = len(made) * len(names) * (rounds + 2), itertools.count(1)
        for workload in made:
            text = f"{workload.name} {workload.request}"

            def step(text: str = text) -> None:
                progress(text, next(steps), total)

            results += measure(workload, found, rounds, step)
    return {
        "schema": SCHEMA,
        "machine": describe(),
        "settings": {
            "paths": list(names),
            "workloads": list(chosen),
            "size": size,
            "seed": seed,
            "rounds": rounds,
            "images": str(place),
        },
        "results": results,
    }


def write_csv(outcome: dict[str, Any], path: Path) -> None:
    """The results of `run` as comma-separated values."""
    with path.open("w", newline="") as file:
        rows = [{k: v for k, v in row.items() if not isinstance(v, list)} for row in outcome["results"]]
        writer = csv.DictWriter(file, rows[0].keys())
        writer.writeheader()
        writer.writerows(rows)


def _names(given: str | Iterable[str], known: Iterable[str], what: str) -> tuple[str, ...]:
    names = (given,) if isinstance(given, str) else tuple(dict.fromkeys(given))
    known = tuple(known)
    for name in names:
        if name not in known:
            raise PathsError(f"{name!r} is not a {what}: they are {', '.join(known)}")
    if not names:
        raise PathsError(f"no {what} is given: they are {', '.join(known)}")
    return names


class _Turns:
    """A subject's turns at a workload, each of about STEP seconds, going on where the last one ended."""

    def __init__(self, subject: Subject, operation: Operation) -> None:
        self.subject, self._operation, self._next, self._count = subject, operation, 0, 0
        self.latencies: list[int] = []
        self.rates: list[float] = []

    def count(self) -> dict[str, int]:
        """Do some requests and count their bytes."""
        before = self.subject.counts()
        for _ in range(COUNTED):
            self._operation(self._next)
            self._next += 1
        after = self.subject.counts()
        return {name: after[name] - before[name] for name in after}

    def calibrate(self) -> None:
        """Find how many requests a turn has."""
        count = 1
        while True:
            begin = time.perf_counter()
            self._do(count)
            if time.perf_counter() - begin >= STEP:
                self._count = count
                return
            count *= 2

    def turn(self) -> None:
        """One turn that counts."""
        moved, took = self._do(self._count)
        self.latencies += took
        self.rates.append(moved / sum(took) * 1e9)

    def _do(self, count: int) -> tuple[int, list[int]]:
        operation, clock, moved, took = self._operation, time.perf_counter_ns, 0, []
        for number in range(self._next, self._next + count):
            begin = clock()
            moved += operation(number)
            took.append(clock() - begin)
        self._next += count
        return moved, took


def measure(
    workload: Workload, found: dict[str, Subject], rounds: int, step: Callable[[], None] = lambda: None
) -> list[dict[str, Any]]:
    """A workload on subjects by their names, in turns: a row for each, as `run` has them."""
    turns = {name: _Turns(subject, workload.prepare(subject)) for name, subject in found.items()}
    counts = {}
    for name, each in turns.items():
        counts[name] = each.count()
        step()
    for each in turns.values():
        each.calibrate()
        step()
    for _ in range(rounds):
        for each in turns.values():
            each.turn()
            step()
    return [_row(workload, name, turns, counts[name]) for name in turns]


def _bins(latencies: npt.NDArray[np.float64]) -> list[list[float]]:
    """A histogram: the lower edges of its bins in microseconds, 8 to a factor of two, and their counts."""
    steps, counts = np.unique(np.floor(np.log2(latencies) * STEPS).astype(int), return_counts=True)
    return [[float(2 ** (step / STEPS)), int(count)] for step, count in zip(steps, counts, strict=True)]


def _row(workload: Workload, name: str, turns: dict[str, _Turns], counts: dict[str, int]) -> dict[str, Any]:
    sample, asked = Sample(tuple(turns[name].rates)), max(1, counts["asked"])
    latencies = np.array(turns[name].latencies) / 1000
    row = {
        "group": workload.group,
        "workload": workload.name,
        "request": workload.request,
        "path": name,
        "bytes_per_second": sample.rate,
        "median_us": float(np.median(latencies)),
        "p99_us": float(np.percentile(latencies, 99)),
        "copied_per_byte": counts["copied"] / asked,
        "encrypted_per_byte": counts["encrypted"] / asked,
        "decrypted_per_byte": counts["decrypted"] / asked,
        "requests_counted": COUNTED,
        "keys_programmed": counts["programmed"],
        "keys_evicted": counts["evicted"],
        "latency_bins": _bins(latencies),
    }
    if "none" in turns:
        ratio = slowdown(sample, Sample(tuple(turns["none"].rates)))
        row |= {
            "ratio": ratio.median,
            "ratio_low": ratio.low,
            "ratio_high": ratio.high,
            "ratios": list(ratio.rounds),
        }
    return row
