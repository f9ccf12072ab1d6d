"""Cells whose traces are replayed in slices: deal out, replay, merge. What is done stays in the folder."""

from __future__ import annotations

import hashlib
import json
import os
import platform
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from mktme.errors import TimingError, TraceError
from mktme.lab.study import slices
from mktme.lab.study.cells import DONE, Outcomes, failure, metrics
from mktme.lab.study.grid import Cell, StudyError, digest
from mktme.lab.study.workers import Cluster, Lost, Processes, Task
from pmem.geometry import parse_size

Progress = Callable[[str, int, int], None]


def outcomes(cells: list[Cell], workers: Processes | Cluster, output: Path, progress: Progress) -> Outcomes:
    """Deal the traces of cells out, replay each slice, merge: each cell and its outcome."""
    if isinstance(workers, Cluster):
        _check_shared(workers, output)
    work = output / "slices"
    plans = {cell.id: _Plan(cell, work) for cell in cells}
    refused: dict[str, str] = {}
    deals = {task.key: task for plan in plans.values() for task in plan.deals()}
    for number, (task, result) in enumerate(workers.run(list(deals.values())), 1):
        progress(f"dealing out {Path(task.arguments[1]).name}", number, len(deals))
        if isinstance(result, Lost) or result is not None:
            error = result.reason if isinstance(result, Lost) else result
            refused |= {cell.id: error for cell in cells if str(plans[cell.id].folder) == task.arguments[-1]}
    for name, error in refused.items():
        yield plans[name].cell, failure(error)
    ready = {name: plan for name, plan in plans.items() if name not in refused}
    for plan in list(ready.values()):  # all of whose slices were there
        if plan.whole():
            yield plan.cell, plan.merged()
            del ready[plan.cell.id]
    tasks = [task for plan in ready.values() for task in plan.replays()]
    for number, (task, result) in enumerate(workers.run(tasks), 1):
        name = task.key.partition("/")[0]
        progress(f"replaying slices of {Path(task.arguments[0]['trace']).name}", number, len(tasks))
        if name not in ready:
            continue
        if isinstance(result, Lost) or result is not None:
            yield ready.pop(name).cell, failure(result.reason if isinstance(result, Lost) else result)
        elif ready[name].whole():
            plan = ready.pop(name)
            yield plan.cell, plan.merged()


class _Plan:
    """The steps of a sliced cell, and where they leave what they did.

    The folder of a trace is named for what is in the trace, and how it is sliced, so cells share it.
    """

    def __init__(self, cell: Cell, work: Path) -> None:
        values = self._values = dict(cell.values)
        self.cell, self._path = cell, Path(values["file"])
        self._slices, self._grain = values["slices"], parse_size(values["slice_range"])
        self._parts = slices.segments(self._path, values["segments"])
        name = json.dumps([values["digest"], self._slices, self._grain, len(self._parts)])
        self.folder = work / hashlib.sha256(name.encode()).hexdigest()[:16]
        self._partial = self.folder / "results" / cell.id

    def deals(self) -> Iterator[Task]:
        """The segments that aren't dealt out yet."""
        for number, part in enumerate(self._parts):
            if not (self.folder / f"{number}.json").exists():
                arguments = (self._values["digest"], str(self._path), part, number, self._slices, self._grain)
                yield Task(f"{self.folder.name}/{number}", deal, (*arguments, str(self.folder)))

    def replays(self) -> Iterator[Task]:
        """The slices that aren't replayed yet."""
        self._partial.mkdir(parents=True, exist_ok=True)
        for number in range(self._slices):
            path = self._partial / f"{number}.json"
            if not path.exists():
                arguments = (self._values, str(self.folder), number, len(self._parts), str(path))
                yield Task(f"{self.cell.id}/{number}", replay, arguments)

    def whole(self) -> bool:
        """Whether all slices are there."""
        return all((self._partial / f"{number}.json").exists() for number in range(self._slices))

    def merged(self) -> dict[str, Any]:
        """The cell's outcome."""
        found = [json.loads((self._partial / f"{n}.json").read_text()) for n in range(self._slices)]
        result = slices.merged([one["values"] for one in found], slices.told(self.folder, len(self._parts)))
        return {
            "status": DONE,
            "error": "",
            "seconds": sum(one["seconds"] for one in found),
            "host": ",".join(sorted({one["host"] for one in found})),
            "rows": metrics(result),
        }


def deal(
    before: str, path: str, part: tuple[int, int], number: int, count: int, grain: int, folder: str
) -> str | None:
    """A task: deal a segment out. Returns why it couldn't."""
    try:
        if digest(Path(path)) != before:
            return f"{path} changed while the study ran: run it again"
        slices.deal(Path(path), part, number, count, grain, Path(folder))
    except (TraceError, OSError) as error:
        return f"{type(error).__name__}: {error}"
    return None


def replay(values: dict[str, Any], folder: str, number: int, segments: int, path: str) -> str | None:
    """A task: replay a slice, and leave its counts in a file. Returns why it couldn't."""
    begin = time.perf_counter()
    try:
        found = slices.replay(values, Path(folder), number, segments)
    except (TraceError, TimingError, OSError) as error:
        return f"{type(error).__name__}: {error}"
    seconds = time.perf_counter() - begin
    temporary = Path(f"{path}.{os.getpid()}.tmp")
    temporary.write_text(json.dumps({"values": found, "seconds": seconds, "host": platform.node()}))
    temporary.replace(path)
    return None


def _check_shared(workers: Cluster, output: Path) -> None:
    """Slices are files: all workers must see the study's folder. Raises StudyError."""
    output.mkdir(parents=True, exist_ok=True)
    for worker, there in workers.everywhere(os.path.isdir, str(output.resolve())).items():
        if not there:
            raise StudyError(
                f"the worker at {worker} has no folder {output.resolve()}: slices of a trace need an "
                "--output that all workers share"
            )
