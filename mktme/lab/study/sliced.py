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

from mktme.errors import TraceError
from mktme.lab.study import durable, slices
from mktme.lab.study.cells import DONE, Outcomes, failure, metrics
from mktme.lab.study.grid import Cell, StudyError, digest
from mktme.lab.study.workers import Cluster, Lost, Processes, Task
from pmem.geometry import parse_size

Progress = Callable[[str, int, int], None]


def outcomes(cells: list[Cell], workers: Processes | Cluster, output: Path, progress: Progress) -> Outcomes:
    """Deal the traces of cells out, replay each slice, merge: each cell and its outcome."""
    if isinstance(workers, Cluster):
        _check_shared(workers, output)
    plans: dict[str, _Plan] = {}
    for cell in cells:
        try:
            plans[cell.id] = _Plan(cell, output / "slices")
        except (TraceError, OSError) as error:
            yield cell, failure(f"{type(error).__name__}: {error}")
    deals = {task.key: task for plan in plans.values() for task in plan.deals()}
    for number, (task, result) in enumerate(workers.run(list(deals.values())), 1):
        progress(f"dealing out {Path(task.arguments[1]).name}", number, len(deals))
        if result is not None:  # why it couldn't be
            why = result.reason if isinstance(result, Lost) else result
            for name in [name for name, plan in plans.items() if str(plan.folder) == task.arguments[-1]]:
                yield plans.pop(name).cell, failure(why)
    tasks = [task for plan in plans.values() for task in plan.replays()]
    for plan in [plan for plan in plans.values() if not plan.waiting]:  # all of whose slices were there
        yield plan.cell, plan.merged()
    for number, (task, result) in enumerate(workers.run(tasks), 1):
        name, _, slice_ = task.key.partition("/")
        progress(f"replaying slices of {Path(task.arguments[0]['trace']).name}", number, len(tasks))
        if name not in plans:
            continue
        if isinstance(result, Lost | str):
            yield plans.pop(name).cell, failure(result.reason if isinstance(result, Lost) else result)
        elif plans[name].take(int(slice_), result):
            yield plans[name].cell, plans.pop(name).merged()


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
        self.waiting: set[int] = set()

    def deals(self) -> Iterator[Task]:
        """The segments that aren't dealt out yet."""
        for number, part in enumerate(self._parts):
            if durable.read(self.folder / f"{number}.json") is None:
                arguments = (self._values["digest"], str(self._path), part, number, self._slices, self._grain)
                yield Task(f"{self.folder.name}/{number}", deal, (*arguments, str(self.folder)))

    def replays(self) -> Iterator[Task]:
        """The slices that aren't replayed yet."""
        self._partial.mkdir(parents=True, exist_ok=True)
        self.waiting = set()
        for number in range(self._slices):
            if durable.read(self._partial / f"{number}.json") is None:
                self.waiting.add(number)
                arguments = (self._values, str(self.folder), number, len(self._parts))
                yield Task(f"{self.cell.id}/{number}", replay, arguments)

    def take(self, number: int, found: dict[str, Any]) -> bool:
        """Keep what a slice came to. Returns whether it was the last one."""
        durable.write(self._partial / f"{number}.json", found)
        self.waiting.discard(number)
        return not self.waiting

    def merged(self) -> dict[str, Any]:
        """The cell's outcome."""
        found = [durable.read(self._partial / f"{number}.json") for number in range(self._slices)]
        try:
            once = slices.told(self.folder, len(self._parts))
        except TraceError as error:
            return failure(str(error))
        result = slices.merged([one["values"] for one in found], once)
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
    except Exception as error:  # whatever it is, the other cells go on
        return f"{type(error).__name__}: {error}"
    return None


def replay(values: dict[str, Any], folder: str, number: int, segments: int) -> dict[str, Any] | str:
    """A task: replay a slice. Returns its counts, or why it couldn't."""
    begin = time.perf_counter()
    try:
        found = slices.replay(values, Path(folder), number, segments)
    except Exception as error:  # whatever it is, the other cells go on
        again = f"; to deal the trace out again delete {folder}, and use --retry"
        return f"{type(error).__name__}: {error}" + (again if isinstance(error, TraceError) else "")
    return {"values": found, "seconds": time.perf_counter() - begin, "host": platform.node()}


def _check_shared(workers: Cluster, output: Path) -> None:
    """Slices are files: all workers must see the study's folder. Raises StudyError."""
    output.mkdir(parents=True, exist_ok=True)
    token = output.resolve() / f".seen-{os.urandom(8).hex()}"
    token.touch()
    try:
        for worker, there in workers.everywhere(os.path.exists, str(token)).items():
            if not there:
                raise StudyError(
                    f"the worker at {worker} doesn't see {output.resolve()}: slices of a trace need an "
                    "--output that all workers share"
                )
    finally:
        token.unlink()
