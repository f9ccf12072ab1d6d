"""What a study would cost: a sample of each kind of cells, and what all would take at that rate."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mktme.errors import TimingError, TraceError
from mktme.lab.study.cells import machine, perform, trace
from mktme.lab.study.dataset import Dataset
from mktme.lab.study.grid import MODELLED, Cell, Study

SAMPLE = 1 << 18  # records
Progress = Callable[[str, int, int], None]


@dataclass(frozen=True)
class Estimate:
    """Of one kind of cells: how many are to do, how long one sample took, and what all would take.

    `seconds` is of one worker; cells that measure can't share a machine.
    """

    kind: str
    cells: int
    sample: str
    sample_seconds: float
    seconds: float
    error: str = ""


def estimate(
    study: Study, output: Path, progress: Progress = lambda what, done, total: None
) -> list[Estimate]:
    """Run one cell of each kind, keeping nothing, and reckon what the rest would take.

    Replays are reckoned by records, at the rate of SAMPLE records. Raises StudyError, TraceError.
    """
    done = _done(output)
    waiting = [cell for cell in study.cells if cell.id not in done]
    groups: dict[tuple[str, str, str], list[Cell]] = {}
    for cell in waiting:
        values = cell.values
        what = values.get("workload") or values.get("experiment") or values.get("engine", "")
        groups.setdefault((cell.kind, what, values.get("path", "")), []).append(cell)
    found = []
    for number, ((kind, *_), cells) in enumerate(groups.items()):
        progress(str(cells[0]), number, len(groups))
        found.append(_by_records(cells) if kind == "replay" else _by_cells(cells))
    return found


def _done(output: Path) -> dict[str, str]:
    if not (output / "results").is_dir():
        return {}
    with Dataset(output) as dataset:
        return dataset.done


def _by_cells(cells: list[Cell]) -> Estimate:
    outcome = min(
        (perform(cells[0]) for _ in range(2)), key=lambda one: float(one["seconds"])
    )  # one compiles
    took = outcome["seconds"]
    return Estimate(cells[0].how, len(cells), str(cells[0]), took, took * len(cells), outcome["error"])


class _Head:
    """The first records of a trace."""

    def __init__(self, trace: Any) -> None:
        self._trace, self.seen = trace, 0

    def chunks(self) -> Iterator[Any]:
        for chunk in self._trace.chunks():
            self.seen += len(chunk)
            yield chunk
            if self.seen >= SAMPLE:
                return


def _by_records(cells: list[Cell]) -> Estimate:
    try:
        head = _Head(trace(cells[0].values, cells[0].seed))
        machine(cells[0].values).run(_Head(trace(cells[0].values, cells[0].seed)).chunks())  # compiles
        begin = time.perf_counter()
        machine(cells[0].values).run(head.chunks())
        took = time.perf_counter() - begin
        records = sum(_records(cell, head.seen) for cell in cells)
    except (TraceError, TimingError, OSError) as error:
        return Estimate(MODELLED, len(cells), str(cells[0]), 0.0, 0.0, f"{type(error).__name__}: {error}")
    return Estimate(MODELLED, len(cells), str(cells[0]), took, took * records / max(1, head.seen))


def _records(cell: Cell, seen: int) -> int:
    """Records of a cell's trace, as far as that is known without reading it."""
    found = trace(cell.values, cell.seed)
    if hasattr(found, "records"):
        return int(found.records)
    if not hasattr(found, "about"):
        return seen  # a text: not known before it is read
    return int(found.about())
