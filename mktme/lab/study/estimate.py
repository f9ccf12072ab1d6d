"""What a study would cost: a sample of each kind of cells, and what all would take at that rate."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mktme.errors import TimingError, TraceError
from mktme.lab.study.cells import FAILED, machine, perform, trace
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
    study: Study,
    output: Path,
    *,
    retry: bool = False,
    progress: Progress = lambda what, done, total: None,
) -> list[Estimate]:
    """Run one cell of each kind, keeping nothing, and reckon what the rest would take.

    `retry`: as if failed cells were to run again. Replays are reckoned by records, at the rate of SAMPLE
    records; dealing out large traces comes to that. Raises StudyError, TraceError.
    """
    there = {cell for cell, status in _done(output).items() if not retry or status != FAILED}
    groups: dict[tuple[Any, ...], list[Cell]] = {}
    for cell in study.cells:
        if cell.id not in there:
            values = cell.values
            what = tuple(
                values.get(key) for key in ("path", "workload", "experiment", "engine", "cipher", "unit")
            )
            groups.setdefault((cell.kind, *what), []).append(cell)
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
    took, seen, records, unknown, error = 0.0, 0, 0, False, ""
    for cell in cells:
        try:
            found = trace(cell.values, cell.seed)
            if not seen:
                machine(cell.values).run(_Head(trace(cell.values, cell.seed)).chunks())  # compiles
                head, begin = _Head(found), time.perf_counter()
                machine(cell.values).run(head.chunks())
                took, seen = time.perf_counter() - begin, max(1, head.seen)
            known = _records(found)
            unknown |= known is None
            records += seen if known is None else known
        except (TraceError, TimingError, OSError) as raised:
            error = f"{type(raised).__name__}: {raised}"
    if unknown:
        error = error or "at least: how many records a text has is known when it is read"
    return Estimate(MODELLED, len(cells), str(cells[0]), took, took * records / max(1, seen), error)


def _records(found: Any) -> int | None:
    """Records of a trace, as far as that is known without reading it."""
    if hasattr(found, "records"):
        return int(found.records)
    return int(found.about()) if hasattr(found, "about") else None
