"""The overhead benchmark: what encryption costs against a plain memory-mapped file, on this machine."""

from __future__ import annotations

import csv
import shutil
import tempfile
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np

from mktme.errors import MktmeError
from mktme.lab import workloads
from mktme.lab.contestants import BASELINE, CEILING, Contestant, contestants
from mktme.lab.machine import describe
from mktme.lab.measure import interleave, slowdown
from mktme.lab.workloads import Files, Turns, Workload
from pmem.geometry import LINE, PAGE, Size, parse_size

ROUNDS = 7
SCHEMA = "mktme-bench/1"

Progress = Callable[[str, int, int], None]  # what is being done, steps done, steps in all


class VerificationFailed(MktmeError, RuntimeError):
    """Files read back from a contestant differ from what was stored."""


def run(
    size: Size = "256MiB",
    groups: Iterable[str] = workloads.GROUPS,
    *,
    threads: int | None = None,
    seed: int = 1,
    rounds: int = ROUNDS,
    folder: Path | None = None,
    progress: Progress = lambda what, done, total: None,
) -> dict[str, Any]:
    """Run the workloads of some groups on every configuration, interleaved.

    `size`: bytes of each configuration's image, whole pages. `threads`: processors that a long
    request of the controller may use. `folder`: where the images lie while it runs (by default
    shared memory where it has the room, so that no disk is measured).

    Returns plain data: the schema's name, the machine, the settings and a list of results, one
    for each workload and configuration, with rates in bytes a second and the slowdown against
    no encryption (median and quartiles).

    Raises VerificationFailed if files don't read back as they were stored.
    """
    groups, size = tuple(groups), parse_size(size)
    rng = np.random.default_rng(seed)
    place = shared_memory(8 * size) if folder is None else folder
    with (
        tempfile.TemporaryDirectory(prefix="mktme-", dir=place) as inside,
        contestants(Path(inside), size, threads) as contestants_,
    ):
        made = _workloads(groups, size, rng)
        steps = len(made) * len(contestants_) * (rounds + 1)
        results: list[dict[str, Any]] = []
        done = 0
        for workload in made:
            name = f"{workload.name} {workload.request}"

            def step(name: str = name) -> None:
                nonlocal done
                done += 1
                progress(name, done, steps)

            results += _measure(workload, contestants_, rounds, step)
        if "files" in groups:
            progress("comparing hashes", steps, steps)
            files = Files(size)
            for name in (n for n in contestants_ if n != CEILING):
                if not files.verify(contestants_[name]):
                    raise VerificationFailed(f"files stored by way of {name!r} came back changed")
    return {
        "schema": SCHEMA,
        "machine": describe(),
        "settings": {
            "size": size,
            "workloads": list(groups),
            "threads": threads,
            "seed": seed,
            "rounds": rounds,
            "images": str(place),
            "verified_files": len(files.files) if "files" in groups else 0,
            "verified_bytes": files.total if "files" in groups else 0,
        },
        "results": results,
    }


def write_csv(outcome: dict[str, Any], path: Path) -> None:
    """The results of `run` as a table of comma-separated values."""
    rows = [{k: v for k, v in row.items() if not isinstance(v, list)} for row in outcome["results"]]
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, rows[0].keys() if rows else [])
        writer.writeheader()
        writer.writerows(rows)


def _workloads(groups: tuple[str, ...], size: int, rng: np.random.Generator) -> list[Workload]:
    made: list[Workload] = []
    if "files" in groups:
        made += Files(size).workloads()
    if "sequential" in groups:
        made += workloads.sequential(size)
    if "random" in groups:
        made += workloads.random(size, rng)
    if "zipfian" in groups:
        made += workloads.zipfian(size, rng)
    return made


def _measure(
    workload: Workload, found: dict[str, Contestant], rounds: int, after: Callable[[], None]
) -> list[dict[str, Any]]:
    samples = interleave({name: Turns(workload, c) for name, c in found.items()}, rounds, after)
    rows = []
    for name, sample in samples.items():
        ratio = slowdown(sample, samples[BASELINE])
        rows.append(
            {
                "workload": workload.name,
                "request": workload.request,
                "configuration": name,
                "bytes_per_second": sample.rate,
                "ns_per_line": LINE / sample.rate * 1e9,
                "ratio": ratio.median,
                "ratio_low": ratio.low,
                "ratio_high": ratio.high,
                "memcpy_bytes_per_second": samples[CEILING].rate,
                "rates": list(sample.rates),
                "ratios": list(ratio.rounds),
            }
        )
    return rows


def shared_memory(size: int) -> Path:
    """Shared memory if it has that much room, for images, else the folder for temporary files."""
    shared = Path("/dev/shm")
    try:
        if shutil.disk_usage(shared).free > size + 64 * PAGE:
            return shared
    except OSError:
        pass
    return Path(tempfile.gettempdir())
