"""Programs on each path, in turns: seconds of each step, and how many times those without encryption."""

from __future__ import annotations

import csv
import tempfile
from collections.abc import Callable, Iterable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from mktme.clients.daemon import Log
from mktme.errors import MktmeError
from mktme.lab.machine import describe
from mktme.lab.measure import Sample, slowdown
from mktme.lab.overhead import shared_memory
from mktme.lab.paths.subjects import DEFAULT, PATHS, subjects
from mktme.lab.programs.programs import PROGRAMS, Step

SCHEMA = "mktme-programs/1"
SIZE = 128 << 20  # bytes of each image
ROUNDS = 3

Progress = Callable[[str, int, int], None]


class ProgramsError(MktmeError, ValueError):
    """A comparison of programs that can't be run."""


def run(
    programs: Iterable[str] = PROGRAMS,
    paths: Iterable[str] = DEFAULT,
    *,
    rounds: int = ROUNDS,
    folder: Path | None = None,
    progress: Progress = lambda what, done, total: None,
) -> dict[str, Any]:
    """Run programs on a volume for each path, in turns, after a round that isn't counted.

    Returns plain data: machine, settings and results, one for each step and path: the median of the seconds,
    the amount that was done in them, and the ratio to `none` within its round (median and quartiles), if
    that is among the paths.

    Raises ProgramsError for a name that there isn't; LibraryMissing for a program or library that isn't
    here; ClientError where a program fails.
    """
    chosen, names = tuple(dict.fromkeys(programs)), tuple(dict.fromkeys(paths))
    for given, known, what in ((chosen, PROGRAMS, "program"), (names, PATHS, "path")):
        for name in given:
            if name not in known:
                raise ProgramsError(f"{name!r} is not a {what}: they are {', '.join(known)}")
        if not given:
            raise ProgramsError(f"no {what} is given: they are {', '.join(known)}")
    if rounds < 1:
        raise ProgramsError(f"{rounds} rounds: at least one")
    for name in chosen:
        PROGRAMS[name].check()
    place = shared_memory(len(names) * SIZE) if folder is None else folder
    found: dict[tuple[str, str, str], list[Step]] = {}
    total, done = len(chosen) * len(names) * (rounds + 1), 0
    with ExitStack() as stack:
        inside = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="mktme-", dir=place)))
        made = stack.enter_context(subjects(names, inside, SIZE))
        folders = _mounted(stack, made, inside) if any(PROGRAMS[name].mounted for name in chosen) else {}
        for program in chosen:
            for number in range(rounds + 1):
                for path, subject in made.items():
                    for step in PROGRAMS[program].run(subject, folders.get(path), number):
                        if number:
                            found.setdefault((program, step.name, path), []).append(step)
                    done += 1
                    progress(f"{program} on {path}", done, total)
    return {
        "schema": SCHEMA,
        "machine": describe(),
        "settings": {
            "programs": list(chosen),
            "paths": list(names),
            "rounds": rounds,
            "size": SIZE,
            "images": str(place),
        },
        "results": [_row(found, *key) for key in _in_order(found, names)],
    }


def _mounted(stack: ExitStack, made: dict[str, Any], inside: Path) -> dict[str, Path]:
    """The subjects' files as mounts, ended with the stack."""
    from mktme.clients.fuse import Mount

    quiet, folders = Log((inside / "log").open("w")), {}
    stack.callback(quiet.close)
    for path, subject in made.items():
        folders[path] = inside / f"mnt-{path}"
        folders[path].mkdir()
        mount = Mount(subject.system, folders[path], subject.folder, quiet)
        mount.start()
        stack.callback(mount.stop)
    return folders


def _in_order(found: dict[tuple[str, str, str], list[Step]], paths: tuple[str, ...]) -> list[Any]:
    steps = dict.fromkeys((program, step) for program, step, _ in found)
    return [(*step, path) for step in steps for path in paths]


def _row(found: dict[tuple[str, str, str], list[Step]], program: str, step: str, path: str) -> dict[str, Any]:
    def sample(of: str) -> Sample:
        return Sample(tuple(each.amount / each.seconds for each in found[program, step, of]))

    own, one = sample(path), found[program, step, path][0]
    row: dict[str, Any] = {
        "program": program,
        "step": step,
        "path": path,
        "amount": one.amount,
        "unit": one.unit,
        "seconds": one.amount / own.rate,
        "a_second": own.rate,
    }
    if (program, step, "none") in found:
        ratio = slowdown(own, sample("none"))
        row |= {
            "ratio": ratio.median,
            "ratio_low": ratio.low,
            "ratio_high": ratio.high,
            "ratios": list(ratio.rounds),
        }
    return row


def write_csv(outcome: dict[str, Any], path: Path) -> None:
    """The results of `run` as comma-separated values."""
    with path.open("w", newline="") as file:
        rows = [{k: v for k, v in row.items() if not isinstance(v, list)} for row in outcome["results"]]
        writer = csv.DictWriter(file, rows[0].keys())
        writer.writeheader()
        writer.writerows(rows)
