"""What the commands share: consoles, progress bars, and files for results."""

from __future__ import annotations

import json
import os
import shlex
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Column

from mktme.errors import MktmeError

WIDE = 200  # columns of what is written to a file or a pipe
JsonPath = Annotated[Path | None, typer.Option("--json", help="Write the results to this file, as JSON.")]
Seed = Annotated[int, typer.Option(min=0, help="Of everything that is drawn at random.")]


class OutputError(MktmeError, OSError):
    """A file or folder for results that can't be written."""


def listed(text: str) -> list[str]:
    return [name.strip() for name in text.split(",") if name.strip()]


def output_console() -> Console:
    """Standard output: as wide as the terminal (or COLUMNS says), and wide where there is none."""
    told = sys.stdout.isatty() or "COLUMNS" in os.environ
    return Console(width=None if told else WIDE)


def check_files(paths: dict[str, Path | None]) -> None:
    """Refuse files for results, by their options, that can't be written. Raises OutputError."""
    given = {option: path for option, path in paths.items() if path is not None}
    if len({path.resolve() for path in given.values()}) < len(given):
        raise OutputError(f"{' and '.join(given)} name one file: give each its own")
    for option, path in given.items():
        if path.is_dir():
            raise OutputError(f"{option} {path} is a folder: name a file in it")
        if not path.parent.is_dir():
            raise OutputError(f"{option} {path}: there is no folder {path.parent}: make it, or name another")
        check_access(option, path, path if path.exists() else path.parent)


def check_folder(option: str, path: Path) -> None:
    """Refuse a folder that can't be made or written to. Raises OutputError."""
    there = next(place for place in (path, *path.absolute().parents) if place.exists())
    if not there.is_dir():
        raise OutputError(f"{option} {path}: {there} is a file: name a folder")
    check_access(option, path, there)


def check_access(option: str, path: Path, place: Path) -> None:
    if not os.access(place, os.W_OK):
        raise OutputError(f"{option} {path}: {place} can't be written to: name another place")


@contextmanager
def progress_bar() -> Iterator[tuple[Console, Callable[[str, int, int], None]]]:
    """A bar on a terminal's stderr: the console, and what moves the bar (what, done, total)."""
    console = Console(stderr=True)
    with Progress(
        TextColumn("{task.description}", table_column=Column(ratio=1, no_wrap=True, overflow="ellipsis")),
        BarColumn(bar_width=20),
        TextColumn("{task.percentage:>3.0f}%"),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        console=console,
        transient=True,
        expand=True,
        disable=not console.is_terminal,
    ) as bar:
        task = bar.add_task("preparing", total=None)
        yield (
            console,
            lambda what, done, total: bar.update(task, description=what, completed=done, total=total or None),
        )


def write_json(outcome: dict[str, Any], path: Path | None) -> None:
    """Write results to a file, with the command that they came of."""
    if path is not None:
        command = shlex.join([Path(sys.argv[0]).name, *sys.argv[1:]])
        path.write_text(json.dumps({**outcome, "command": command}, indent=1) + "\n")
