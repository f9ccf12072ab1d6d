"""What a cell does, in whatever process it runs: from a cell to rows of results."""

from __future__ import annotations

import fcntl
import json
import os
import platform
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import mktme
from mktme.lab.study.grid import MEASURED, POLICY, Cell, StudyError
from pmem.geometry import parse_size

Rows = list[dict[str, Any]]  # each with a metric, and a value (a number) or a text
DONE, FAILED = "done", "failed"
Outcomes = Iterator[tuple[Cell, dict[str, Any]]]
ROOM = 48 << 20  # bytes beside a file of a volume


def perform(cell: Cell, folder: str = "") -> dict[str, Any]:
    """Run a cell. Returns plain data: status, error, seconds, host and rows; it raises nothing of a cell's.

    `folder`: where images lie meanwhile; by default shared memory, where it has the room.

    A cell that measures time waits until no other one does on this host.
    """
    begin = time.perf_counter()
    try:
        with ExitStack() as stack:
            if cell.how == MEASURED:
                stack.enter_context(_alone())
                begin = time.perf_counter()
            rows, status, error = KINDS[cell.kind](cell, folder), DONE, ""
    except Exception as raised:  # whatever a cell does, the others go on
        rows, status, error = [], FAILED, f"{type(raised).__name__}: {raised}"
    return {
        "status": status,
        "error": error,
        "seconds": time.perf_counter() - begin,
        "host": platform.node(),
        "version": mktme.__version__,
        "rows": rows,
    }


def failure(error: str) -> dict[str, Any]:
    """The outcome of a cell that has none."""
    return {"status": FAILED, "error": error, "seconds": 0.0, "host": "", "rows": []}


@contextmanager
def _alone() -> Iterator[None]:
    """One at a time on this host, over all processes: a lock on the folder for temporary files."""
    handle = os.open(tempfile.gettempdir(), os.O_RDONLY | os.O_DIRECTORY)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)


def room(cell: Cell) -> int:
    """Bytes of the images that a cell makes."""
    return 2 * (parse_size(cell.values["size"]) + ROOM) if cell.kind == "files" else ROOM


def _files(cell: Cell, folder: str) -> Rows:
    """A path with a scheme, cipher and data unit, in turns with no encryption."""
    import pmem
    from mktme.crypto.algorithms import ALGORITHMS
    from mktme.fscrypt import modes
    from mktme.lab.overhead import shared_memory
    from mktme.lab.paths.study import measure
    from mktme.lab.paths.subjects import Subject
    from mktme.lab.paths.workloads import workloads

    values, size = cell.values, parse_size(cell.values["size"])
    pairs = {
        modes.MODES[contents].algorithm: (contents, names) for contents, names in reversed(modes.PAIRS_V2)
    }
    if values["cipher"] not in pairs:
        known = (
            "no cipher that there is"
            if values["cipher"] not in ALGORITHMS
            else "no cipher of files' contents"
        )
        raise StudyError(f"{values['cipher']!r} is {known}: {', '.join(pairs)}")
    unit = values["unit"]
    if unit & (unit - 1):
        raise StudyError(f"data units of {unit} bytes: they are powers of two, 512 to 4096")
    contents, names = pairs[values["cipher"]]
    rows: Rows = []
    with ExitStack() as stack:
        place = folder or shared_memory(room(cell))
        inside = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="mktme-", dir=place)))
        found = {}
        for name in ("none", values["path"]):
            device = stack.enter_context(pmem.create(inside / f"{name}.img", size + ROOM))
            found[name] = Subject(
                name,
                device,
                iv="" if name == "none" or values["scheme"] == POLICY else values["scheme"],
                contents=contents,
                names=names,
                log2_unit=unit.bit_length() - 1,
            )
            stack.callback(found[name].volume.close)
        for workload in workloads([values["workload"]], size, cell.seed):
            for row in measure(workload, found, values["rounds"]):
                if row["path"] == values["path"]:
                    rows += metrics(
                        row, row["workload"], row["request"], ("group", "workload", "request", "path")
                    )
        found.clear()
    return rows


def _iv(cell: Cell, folder: str) -> Rows:
    """The experiments of a group on a scheme, with one cipher or each that it has."""
    from mktme.lab import iv

    values = cell.values
    name = values["scheme"] + (f"/{values['cipher']}" if values["cipher"] else "")
    outcome = iv.run(
        name,
        values["experiment"],
        size=values["size"],
        seed=cell.seed,
        rounds=values["rounds"],
        folder=Path(folder) if folder else None,
    )
    rows: Rows = []
    for found in outcome["schemes"]:
        for column, one in found["cells"].items():
            rows.append(_row(f"{column}.grade", one["grade"], found["name"]))
            rows.append(_row(f"{column}.text", one["text"], found["name"]))
            rows += metrics({column: one["evidence"]}, found["name"])
    return rows


def _replay(cell: Cell, folder: str) -> Rows:
    """A trace on a modelled machine."""
    values = cell.values
    result = machine(values).run(trace(values, cell.seed).chunks(), values["warm_up"])
    return metrics(result.values)


def machine(values: Any) -> Any:
    """The modelled machine of a replay's cell. Raises TimingError."""
    from mktme.timing.machine import Machine

    made = Machine.preset(values["memory"], values["engine"], size=parse_size(values["size"]))
    return made.with_values(values["parameters"], "the study")


def trace(values: Any, seed: int) -> Any:
    """The trace of a replay's cell. Raises TraceError."""
    if values["file"]:
        from mktme.timing.traces import open_trace

        return open_trace(Path(values["file"]))
    from mktme.timing.traces.generated import generated

    name, _, arguments = values["trace"].partition(":")
    return generated(name, [text for text in arguments.split(",") if text], seed=seed)


KINDS = {"files": _files, "iv": _iv, "replay": _replay}


def _row(metric: str, value: Any, subject: str = "", request: str = "") -> dict[str, Any]:
    number = None if isinstance(value, str) else float(value)
    exact = isinstance(value, int) and abs(value) > 1 << 53  # more than a float has
    text = value if isinstance(value, str) else str(value) if exact else ""
    return {"subject": subject, "request": request, "metric": metric, "value": number, "text": text}


def metrics(
    found: Any, subject: str = "", request: str = "", without: tuple[str, ...] = (), prefix: str = ""
) -> Rows:
    """Nested plain data as rows, a metric by its names with dots between; lists as JSON."""
    rows: Rows = []
    for key, value in found.items():
        name = f"{prefix}.{key}" if prefix else str(key)
        if key in without:
            continue
        if isinstance(value, dict):
            rows += metrics(value, subject, request, prefix=name)
        elif isinstance(value, list | tuple):
            rows.append(_row(name, json.dumps(value), subject, request))
        elif value is not None:
            rows.append(_row(name, value, subject, request))
    return rows
