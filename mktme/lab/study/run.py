"""Running a study: what is still to do, where, and what it came to."""

from __future__ import annotations

import os
import shutil
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import mktme
from mktme.lab.overhead import shared_memory
from mktme.lab.study import sliced
from mktme.lab.study.cells import FAILED, Outcomes, failure, perform, room
from mktme.lab.study.dataset import Dataset
from mktme.lab.study.grid import MEASURED, MODELLED, Cell, Study, StudyError
from mktme.lab.study.workers import Cluster, Lost, Processes, Task

SCRATCH = "mktme-study-"  # how names of folders for images begin
Progress = Callable[[str, int, int], None]


@dataclass(frozen=True)
class Outcome:
    """What a run of a study did: cells done and failed in it, those that were there before, and of those the
    ones that had failed, each with its error.
    """

    done: int
    failed: tuple[tuple[Cell, str], ...]
    before: int
    earlier: tuple[tuple[Cell, str], ...]
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
            own = {cell.id for cell in study.cells}
            dataset.forget(own & set(dataset.failed()))
        dataset.merge()
        waiting = [cell for cell in study.cells if cell.id not in dataset.done]
        before = len(study.cells) - len(waiting)
        there = [cell for cell in study.cells if dataset.done.get(cell.id) == FAILED]
        earlier = tuple((cell, dataset.errors.get(cell.id, "")) for cell in there)
        if not waiting:
            return Outcome(0, (), before, earlier, time.perf_counter() - begin)
        workers: Processes | Cluster = Cluster(scheduler) if scheduler else Processes(jobs or processors())
        scratch = None if scheduler else _scratch(waiting, output)  # of workers that are killed, too
        bad: list[tuple[Cell, str]] = []
        missing = {cell.id: cell for cell in waiting}
        try:
            for number, (cell, outcome) in enumerate(
                _outcomes(waiting, workers, output, scratch, progress), 1
            ):
                if outcome.get("version", mktme.__version__) != mktme.__version__:
                    outcome = failure(
                        f"a worker of version {outcome['version']} ran it: install the same, --retry"
                    )
                dataset.add(cell, outcome)
                missing.pop(cell.id, None)
                if outcome["status"] == FAILED:
                    bad.append((cell, outcome["error"]))
                progress(str(cell), number, len(waiting))
        finally:
            workers.close()
            if scratch is not None:
                scratch.cleanup()
                (output / "images").unlink(missing_ok=True)
        dataset.merge()
        if missing:
            raise StudyError(
                f"{len(missing)} cells came to nothing, as {next(iter(missing.values()))}: run it again"
            )
    return Outcome(len(waiting) - len(bad), tuple(bad), before, earlier, time.perf_counter() - begin)


def _scratch(cells: list[Cell], output: Path) -> tempfile.TemporaryDirectory[str] | None:
    """A folder for images of cells on this machine, if any makes some; in shared memory where it has room.

    The study's folder notes its name, so that what a killed run left goes with the next one.
    """
    note = output / "images"
    if note.exists():
        left = Path(note.read_text())
        if left.name.startswith(SCRATCH):
            shutil.rmtree(left, ignore_errors=True)
        note.unlink()
    images = [cell for cell in cells if cell.kind != "replay"]
    if not images:
        return None
    place = shared_memory(max(map(room, images)))
    made = tempfile.TemporaryDirectory(prefix=SCRATCH, dir=place, ignore_cleanup_errors=True)
    note.write_text(made.name)
    return made


def processors() -> int:
    """Processors that this process may use."""
    return len(os.sched_getaffinity(0))


def _outcomes(
    waiting: list[Cell], workers: Processes | Cluster, output: Path, scratch: Any, progress: Progress
) -> Outcomes:
    folder = "" if scratch is None else scratch.name
    measured = [cell for cell in waiting if cell.how == MEASURED]
    whole = [cell for cell in waiting if cell.how == MODELLED and cell.values.get("slices", 1) == 1]
    large = [cell for cell in waiting if cell.values.get("slices", 1) > 1]
    # On a cluster each worker may have one that measures: those of one host wait for each other.
    at_a_time = workers.count if isinstance(workers, Cluster) else 1
    yield from _plain(measured, workers, folder, at_a_time)
    yield from _plain(whole, workers, folder)
    if large:
        yield from sliced.outcomes(large, workers, output, progress)


def _plain(cells: list[Cell], workers: Processes | Cluster, folder: str, at_a_time: int = 0) -> Outcomes:
    by_key = {cell.id: cell for cell in cells}
    for task, result in workers.run((Task(cell.id, perform, (cell, folder)) for cell in cells), at_a_time):
        yield by_key[task.key], failure(result.reason) if isinstance(result, Lost) else result
