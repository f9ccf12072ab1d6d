"""A study's file, and the cells of its grids.

A study is a TOML file with a name, a seed, a number of repetitions, and grids of three kinds:

    files    paths x schemes x ciphers x units x workloads, measured against no encryption
    iv       schemes x ciphers x experiments
    replay   traces x memories x engines x parameters, modelled

Every list is an axis; what isn't given has one value. A grid may be a list of grids ([[replay]]).
"""

from __future__ import annotations

import hashlib
import itertools
import json
import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import mktme
from mktme.errors import MktmeError
from mktme.lab import iv
from mktme.lab.paths import GROUPS, PATHS
from mktme.timing.presets import CONFIGURATIONS, MEMORIES
from pmem.errors import SizeError
from pmem.geometry import PAGE, parse_size

MEASURED, MODELLED = "measured", "modelled"
MOST = 1 << 24  # cells of a study
POLICY = "policy"  # the IV scheme of a files cell that is the path's own


class StudyError(MktmeError, ValueError):
    """A study that can't be run."""


@dataclass(frozen=True)
class Axis:
    """A key of a grid: its default, what its values may be ("": any of the type), whether it is a list."""

    default: Any
    known: tuple[str, ...] = ()
    many: bool = True


GRIDS: dict[str, dict[str, Axis]] = {
    "files": {
        "paths": Axis("line", tuple(name for name in PATHS if name != "none")),
        "schemes": Axis(POLICY),
        "ciphers": Axis("aes-xts-256"),
        "units": Axis(PAGE),
        "workloads": Axis("small", GROUPS),
        "size": Axis("4MiB", many=False),
        "rounds": Axis(5, many=False),
    },
    "iv": {
        "schemes": Axis(None),
        "ciphers": Axis(""),
        "experiments": Axis("tampering", iv.EXPERIMENTS),
        "size": Axis("1MiB", many=False),
        "rounds": Axis(5, many=False),
    },
    "replay": {
        "traces": Axis(None),
        "memories": Axis("optane", tuple(MEMORIES)),
        "engines": Axis("none", tuple(CONFIGURATIONS)),
        "size": Axis("1TiB", many=False),
        "warm_up": Axis(0, many=False),
        "slices": Axis(1, many=False),
        "slice_range": Axis("2MiB", many=False),
        "segments": Axis(64, many=False),
    },
}
SINGULAR = {
    "paths": "path", "schemes": "scheme", "ciphers": "cipher", "units": "unit", "workloads": "workload",
    "experiments": "experiment", "traces": "trace", "memories": "memory", "engines": "engine",
}  # fmt: skip


@dataclass(frozen=True)
class Cell:
    """One task: what is run, on its own, from its own seed. `values` are plain data.

    `id` is a digest of all of it and of the package's version, so that equal cells are known again.
    """

    kind: str
    values: Mapping[str, Any]
    repetition: int
    seed: int

    @property
    def id(self) -> str:
        """16 hexadecimal digits."""
        values = {key: value for key, value in self.values.items() if key != "file"}  # which may move
        text = json.dumps([mktme.__version__, self.kind, values, self.repetition, self.seed], sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:16]

    @property
    def how(self) -> str:
        """MEASURED: by the clock, so nothing else may run beside it; or MODELLED, or counted."""
        timed = self.kind == "files" or self.values.get("experiment") == "cost"
        return MEASURED if timed else MODELLED

    def __str__(self) -> str:
        shown = (value for key, value in self.values.items() if key in SINGULAR.values() and value)
        changed = (f"{name}={value}" for name, value in self.values.get("parameters", {}).items())
        return " ".join(map(str, (self.kind, *shown, *changed, f"#{self.repetition}")))


@dataclass(frozen=True)
class Study:
    """A study's name, its seed, and its cells in order."""

    name: str
    seed: int
    cells: tuple[Cell, ...] = field(repr=False)


def read(path: Path) -> Study:
    """Read a study's file. Raises StudyError, which names the key, what it can be; OSError."""
    try:
        found = tomllib.loads(path.read_text())
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise StudyError(f"{path} is no TOML: {error}") from None
    return make(found, path.stem, path.resolve().parent)


def make(found: Mapping[str, Any], name: str = "study", folder: Path | None = None) -> Study:
    """A study from what its file says. `folder`: where names of traces begin. Raises StudyError."""
    rest = dict(found)
    name, seed, repetitions = (
        rest.pop(key, default) for key, default in (("name", name), ("seed", 1), ("repetitions", 1))
    )
    _check("seed", seed, 0)
    _check("repetitions", repetitions, 1)
    if not isinstance(name, str) or not name:
        raise StudyError(f"name = {name!r}: it must be text")
    if unknown := sorted(set(rest) - set(GRIDS)):
        raise StudyError(
            f"{unknown[0]!r} is nothing that a study has: name, seed, repetitions, {', '.join(GRIDS)}"
        )
    grids = [
        (kind, grid)
        for kind, given in rest.items()
        for grid in (given if isinstance(given, list) else [given])
    ]
    if not grids:
        raise StudyError(f"there is no grid: a study has some of [{'], ['.join(GRIDS)}]")
    count = sum(_count(kind, grid) for kind, grid in grids) * repetitions
    if count > MOST:
        raise StudyError(f"{count} cells: a study has at most {MOST}; make it several")
    cells: dict[str, Cell] = {}
    for kind, grid in grids:
        for values in _expanded(kind, grid, folder or Path()):
            for repetition in range(repetitions if _repeats(kind, values) else 1):
                cell = Cell(kind, values, repetition, _seed(seed, repetition))
                cells[cell.id] = cell
    return Study(name, seed, tuple(cells.values()))


def _seed(seed: int, repetition: int) -> int:
    """A repetition's seed: cells that are compared have the same one, so the same trace and data."""
    digest = hashlib.sha256(f"{seed}:{repetition}".encode()).digest()
    return int.from_bytes(digest[:4], "little") >> 1


def _repeats(kind: str, values: Mapping[str, Any]) -> bool:
    """A trace in a file is the same each time, and so is its replay."""
    return kind != "replay" or not values["file"]


def _axes(kind: str, grid: Any) -> dict[str, list[Any]]:
    if not isinstance(grid, dict):
        raise StudyError(f"{kind} = {grid!r}: write a table, [{kind}]")
    axes, given = GRIDS[kind], {key: value for key, value in grid.items() if key != "parameters"}
    if "parameters" in grid and kind != "replay":
        raise StudyError(f"[{kind}.parameters]: only [replay] has parameters of the model")
    for key in given:
        if key not in axes:
            raise StudyError(f"[{kind}] has no {key!r}: it has {', '.join(axes)}")
    made = {}
    for key, axis in axes.items():
        value = given.get(key, axis.default)
        if value is None:
            raise StudyError(f"[{kind}] needs {key} = [...]")
        if isinstance(value, list) and not axis.many:
            raise StudyError(
                f"[{kind}] {key} = {value!r}: it has one value; make it a list of grids, [[{kind}]]"
            )
        values = value if isinstance(value, list) else [value]
        if not values:
            raise StudyError(f"[{kind}] {key} is empty: give it a value, or leave it out")
        for one in values:
            if not isinstance(one, str | int | float) or (axis.known and one not in axis.known):
                known = f"one of {', '.join(axis.known)}" if axis.known else "a value, or a list of values"
                raise StudyError(f"[{kind}] {key}: {one!r} is none that is known: {known}")
        made[key] = values
    return made


def _parameters(grid: Mapping[str, Any]) -> dict[str, list[Any]]:
    found = grid.get("parameters", {})
    if not isinstance(found, dict):
        raise StudyError(
            f'[replay] parameters = {found!r}: write a table, [replay.parameters], "media.read_ns" = [...]'
        )
    made = {name: value if isinstance(value, list) else [value] for name, value in _flat(found)}
    for name, values in made.items():
        if not values or not all(isinstance(value, str | int | float) for value in values):
            raise StudyError(f"[replay.parameters] {name} = {values!r}: give it a value, or a list of values")
    return made


def _flat(found: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Names with dots: TOML makes tables of media.read_ns = 1 where it isn't quoted."""
    for name, value in found.items():
        if isinstance(value, dict):
            yield from _flat(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value


def _count(kind: str, grid: Any) -> int:
    count = 1
    for values in (*_axes(kind, grid).values(), *(_parameters(grid).values() if kind == "replay" else ())):
        count *= len(values)
    return count


def _expanded(kind: str, grid: Any, folder: Path) -> Iterator[dict[str, Any]]:
    axes = _axes(kind, grid)
    _check_numbers(kind, axes)
    parameters = _parameters(grid) if kind == "replay" else {}
    for combination in itertools.product(*axes.values()):
        values = {SINGULAR.get(key, key): value for key, value in zip(axes, combination, strict=True)}
        for key in {"size", "slice_range"} & set(values):
            values[key] = parse_size(values[key])
        if kind == "replay":
            values["file"] = _file(str(values["trace"]), folder)
            values["digest"] = digest(Path(values["file"])) if values["file"] else ""
            if values["slices"] > 1 and not values["file"].endswith(".parquet"):
                raise StudyError(
                    f"[replay] slices = {values['slices']}: {values['trace']!r} is no Parquet trace; make it "
                    "one with mktme trace convert, or leave slices out"
                )
            for own in itertools.product(*parameters.values()):
                yield values | {"parameters": dict(zip(parameters, own, strict=True))}
        else:
            yield values


def _file(trace: str, folder: Path) -> str:
    """The trace's file, or "" for a generator. Raises StudyError if it is neither."""
    from mktme.timing.generators import GENERATORS

    if (folder / trace).is_file():
        return str((folder / trace).resolve())
    if trace.partition(":")[0] in GENERATORS:
        return ""
    raise StudyError(
        f"[replay] traces: {trace!r} is no file beside the study, and no generator: {', '.join(GENERATORS)}"
    )


def digest(path: Path) -> str:
    """What tells a trace's file from what it was before: its size, and its first and last MiB."""
    size, found = path.stat().st_size, hashlib.sha256()
    with path.open("rb") as file:
        found.update(b"%d:" % size + file.read(1 << 20))
        file.seek(max(0, size - (1 << 20)))
        found.update(file.read())
    return found.hexdigest()[:16]


def _check_numbers(kind: str, axes: Mapping[str, list[Any]]) -> None:
    for key, least in (("rounds", 1), ("slices", 1), ("segments", 1), ("warm_up", 0), ("units", 1)):
        for value in axes.get(key, ()):
            _check(f"[{kind}] {key}", value, least)
    for key in ("size", "slice_range"):
        for value in axes.get(key, ()):
            try:
                parse_size(value)
            except (SizeError, TypeError) as error:
                raise StudyError(f"[{kind}] {key}: {error}") from None
    if kind == "replay":
        grain = parse_size(axes["slice_range"][0])
        if grain == 0 or grain % PAGE:
            raise StudyError(f"[replay] slice_range = {grain}: it must be a multiple of the page, {PAGE}")
        if axes["slices"][0] > 1 and axes["warm_up"][0]:
            raise StudyError(
                "[replay] slices with a warm_up: records in front aren't those of each slice; leave one out"
            )


def _check(name: str, value: Any, least: int) -> None:
    if not isinstance(value, int) or isinstance(value, bool) or value < least:
        raise StudyError(f"{name} = {value!r}: it must be a whole number, {least} or more")
