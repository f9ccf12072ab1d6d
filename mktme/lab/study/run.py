"""Running a study: what is still to do, where, and what it came to."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from mktme.lab.study import sliced
from mktme.lab.study.cells import FAILED, Outcomes, failure, perform
from mktme.lab.study.dataset import Dataset
from mktme.lab.study.grid import MEASURED, MODELLED, Cell, Study
from mktme.lab.study.workers import Cluster, Lost, Processes, Task

Progress = Callable[[str, int, int], None]


@dataclass(frozen=True)
class Outcome:
    """What a run of a study did: cells done and failed in it, and those that were there before."""

    done: int
    failed: tuple[tuple[Cell, str], ...]
    before: int
    seconds: float


def run(
    study: Study,
    output: Path,
    *,
    jobs: int = 0,
    scheduler: str = "",
    retry: bool = False,
    progress: Progress = lambda what, done, total: None,
) -> Outcome:
    """Run the cells of a study that have no result yet; each is in the dataset as soon as it is known.

    `output`: the study's folder. `jobs`: processes on this machine, 0 for one a processor. `scheduler`: the
    address of a Dask scheduler, whose workers do it instead. `retry`: run failed cells again.

    First come cells that measure time, one at a time on each machine, then the others, all at once. A cell
    that fails, or whose worker dies twice, is kept as failed and stops nothing. Interrupted, it goes on where
    it was. Raises StudyError for a study or a cluster that can't be run, TraceError, OSError.
    """
    begin = time.perf_counter()
    with Dataset(output) as dataset:
        if retry:
            dataset.forget(dataset.failed())
        dataset.merge()
        waiting = [cell for cell in study.cells if cell.id not in dataset.done]
        before = len(study.cells) - len(waiting)
        if not waiting:
            return Outcome(0, (), before, time.perf_counter() - begin)
        workers: Processes | Cluster = Cluster(scheduler) if scheduler else Processes(jobs or processors())
        bad: list[tuple[Cell, str]] = []
        try:
            for number, (cell, outcome) in enumerate(_outcomes(waiting, workers, output, progress), 1):
                dataset.add(cell, outcome)
                if outcome["status"] == FAILED:
                    bad.append((cell, outcome["error"]))
                progress(str(cell), number, len(waiting))
        finally:
            workers.close()
        dataset.merge()
    return Outcome(len(waiting) - len(bad), tuple(bad), before, time.perf_counter() - begin)


def processors() -> int:
    """Processors that this process may use."""
    return len(os.sched_getaffinity(0))


def _outcomes(
    waiting: list[Cell], workers: Processes | Cluster, output: Path, progress: Progress
) -> Outcomes:
    measured = [cell for cell in waiting if cell.how == MEASURED]
    whole = [cell for cell in waiting if cell.how == MODELLED and cell.values.get("slices", 1) == 1]
    large = [cell for cell in waiting if cell.values.get("slices", 1) > 1]
    # On a cluster each worker may have one that measures: those of one host wait for each other.
    at_a_time = workers.count if isinstance(workers, Cluster) else 1
    yield from _plain(measured, workers, at_a_time)
    yield from _plain(whole, workers)
    if large:
        yield from sliced.outcomes(large, workers, output, progress)


def _plain(cells: list[Cell], workers: Processes | Cluster, at_a_time: int = 0) -> Outcomes:
    by_key = {cell.id: cell for cell in cells}
    for task, result in workers.run((Task(cell.id, perform, (cell,)) for cell in cells), at_a_time):
        yield by_key[task.key], failure(result.reason) if isinstance(result, Lost) else result
