"""All experiments on all schemes, as plain data."""

from __future__ import annotations

import csv
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from mktme.errors import MktmeError
from mktme.lab.iv import corpus, cost, limits, matrix, operations, secrecy, tamper
from mktme.lab.iv.subjects import Subject, subjects
from mktme.lab.iv.world import SLOT, Bytes
from mktme.lab.machine import describe
from pmem.geometry import Size, parse_size

SCHEMA = "mktme-iv/1"
SMALL = 64 << 10  # bytes of the experiments that look at single bytes
Progress = Callable[[str, int, int], None]
Cells = Iterator[tuple[str, Callable[[], dict[str, Any]]]]
EXPERIMENTS = ("secrecy", "tampering", "operations", "limits", "cost")


class ExperimentError(MktmeError, ValueError):
    """An experiment that doesn't exist, or settings and data that it can't run with."""


@dataclass(frozen=True)
class Inputs:
    """What the experiments run on: files, versions of a database, a folder, a seed."""

    folder: Path
    files: Bytes
    versions: list[Bytes]
    seed: int
    rounds: int


def run(
    schemes: str | Iterable[str] | None = None,
    experiments: str | Iterable[str] = EXPERIMENTS,
    *,
    size: Size = "1MiB",
    seed: int = 1,
    rounds: int = 5,
    folder: Path | None = None,
    progress: Progress = lambda what, done, total: None,
) -> dict[str, Any]:
    """Run groups of experiments on IV schemes (by default all that are registered).

    `schemes`, `experiments`: names, or one name. `size`: bytes of real data, of the standard
    library's files and of a SQLite database made from them, 256 KiB to 2 MiB in multiples of
    64 KiB. `seed`: of the database's changes and the attacks, 0 or more. `rounds`: turns of each
    scheme when speed is measured. `folder`: where images lie meanwhile.

    Returns plain data: "schema", "machine", "settings" and "schemes",
    a list with, for each scheme and cipher, its name, properties and "cells": for each experiment
    a "grade" (good, costs, breaks), a "text" of a few words and the "evidence" it comes from.
    Equal settings give equal results but for what is timed, and for the averages of the scheme
    "random", whose IVs the operating system draws.

    Raises ExperimentError, SchemeError for what there isn't, before anything runs.
    """
    chosen, count = _names(experiments), parse_size(size)
    for name in chosen:
        if name not in EXPERIMENTS:
            raise ExperimentError(f"{name!r} is no group of experiments: {', '.join(EXPERIMENTS)}")
    if not chosen:
        raise ExperimentError(f"no experiments: take some of {', '.join(EXPERIMENTS)}")
    if not isinstance(seed, int) or seed < 0:
        raise ExperimentError(f"seed {seed!r}: take a whole number, 0 or more")
    if not isinstance(rounds, int) or rounds < 1:
        raise ExperimentError(f"{rounds!r} rounds: take a whole number, 1 or more")
    if not SMALL * 4 <= count <= SLOT or count % SMALL:
        raise ExperimentError(f"{count} bytes: take {SMALL * 4} to {SLOT} bytes, in multiples of {SMALL}")
    who = subjects(None if schemes is None else list(_names(schemes)))
    if not who:
        raise ExperimentError("no schemes: name some, or None for all that are registered")
    begin = time.perf_counter()
    with tempfile.TemporaryDirectory(prefix="mktme-", dir=folder or _shared_memory()) as inside:
        place = Path(inside)
        inputs = Inputs(place, corpus.files(count), corpus.database(place, count, seed), seed, rounds)
        rows = _rows(who, chosen, inputs, progress)
    return {
        "schema": SCHEMA,
        "machine": describe(),
        "settings": {
            "size": count, "seed": seed, "rounds": rounds, "experiments": list(chosen),
            "versions": corpus.VERSIONS, "seconds": round(time.perf_counter() - begin, 1),
        },
        "schemes": rows,
    }  # fmt: skip


def _names(given: str | Iterable[str]) -> tuple[str, ...]:
    return (given,) if isinstance(given, str) else tuple(given)


def _rows(who: list[Subject], chosen: tuple[str, ...], inputs: Inputs, progress: Progress) -> list[Any]:
    plans = [dict(_cells(subject, chosen, inputs)) for subject in who]
    total, done = sum(len(plan) for plan in plans) + len(who) * ("cost" in chosen), 0
    rows = []
    for subject, plan in zip(who, plans, strict=True):
        cells: dict[str, Any] = {}
        for column, experiment in plan.items():
            progress(f"{subject.name}: {column}", done, total)
            cells[column] = _cell(column, experiment())
            done += 1
        rows.append(_properties(subject) | {"cells": cells})
    if "cost" in chosen:
        progress("speed, all in turns", done, total)
        rates = cost.speed(inputs.folder, who, inputs.files, inputs.rounds)
        for row in rows:
            row["cells"]["cost"] = _cell("cost", rates[row["name"]])
    progress("done", total, total)
    return rows


def _properties(subject: Subject) -> dict[str, Any]:
    scheme = subject.scheme
    return {
        "name": subject.name,
        "scheme": scheme.name,
        "algorithm": subject.algorithm,
        "integrity": subject.integrity,
        "unit": scheme.unit,
        "grain": subject.grain,
        "coordinates": list(scheme.coordinates),
        "summary": scheme.summary,
        "source": scheme.source,
        "runs": "drawn" if scheme.state == "random" else scheme.runs,
    }


def _cell(column: str, evidence: dict[str, Any]) -> dict[str, Any]:
    grade, text = matrix.grade(column, evidence)
    return {"grade": grade, "text": text, "evidence": evidence}


def _cells(subject: Subject, chosen: tuple[str, ...], inputs: Inputs) -> Cells:
    """The experiments of some groups on a subject, by their columns."""
    at, files, versions, seed = inputs.folder, inputs.files, inputs.versions, inputs.seed
    small, old, new = files[:SMALL], versions[0][: SMALL * 4], versions[-1][: SMALL * 4]
    if "secrecy" in chosen:
        yield "places", partial(secrecy.places, at, subject, files)
        yield "times", partial(secrecy.times, at, subject, versions)
    if "tampering" in chosen:
        yield "relocation", partial(tamper.relocation, at, subject, files[: SMALL * 4])
        yield "replay", partial(tamper.replay, at, subject, old, new)
        yield "flips", partial(tamper.flips, at, subject, small, seed)
    if "operations" in chosen:
        for operation in operations.OPERATIONS:
            yield operation.name, partial(operations.perform, at, subject, files, operation)
    if "limits" in chosen:
        yield "reuse", partial(limits.reuse, at, subject, files)
        yield "watermark", partial(limits.watermark, at, subject, seed)
        yield "lost state", partial(limits.lost_state, at, subject, old, new)
        yield "overflow", partial(limits.exhaustion, at, subject)
    if "cost" in chosen:
        yield "room", lambda: {"bytes_per_gib": cost.room(subject)}
        yield "amplification", partial(cost.amplification, at, subject, files[: SMALL * 2], seed)
        yield "bit flips", partial(cost.bit_flips, at, subject, versions)


def _shared_memory() -> str | None:
    """Where no disk is in the way, if there is such a place."""
    return "/dev/shm" if Path("/dev/shm").is_dir() else None


def write_csv(outcome: dict[str, Any], path: Path) -> None:
    """The matrix as CSV: a row for each scheme and experiment."""
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(("scheme", "algorithm", "integrity", "unit", "experiment", "grade", "text"))
        for row in outcome["schemes"]:
            head = (row["scheme"], row["algorithm"], row["integrity"], row["unit"])
            for column, cell in row["cells"].items():
                writer.writerow((*head, column, cell["grade"], cell["text"]))
