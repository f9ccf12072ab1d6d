"""The `mktme` command: a thin skin over `mktme.lab`."""

from __future__ import annotations

import json
import os
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
from mktme.lab import iv, machine, overhead
from mktme.lab.iv import plots
from mktme.lab.iv.show import check_explained, show_matrix, show_scheme
from mktme.lab.show import show_bench
from mktme.lab.workloads import GROUPS
from pmem.errors import PmemError
from pmem.geometry import PAGE, parse_size

app = typer.Typer(
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="markdown",  # paragraphs are wrapped at the width of the terminal
    help="A laboratory for encrypted persistent memory.",
)
WIDE = 200  # columns of what is written to a file or a pipe
JsonPath = Annotated[Path | None, typer.Option("--json", help="Write the results to this file, as JSON.")]
Seed = Annotated[int, typer.Option(min=0, help="Of everything that is drawn at random.")]


class OutputError(MktmeError, OSError):
    """A file or folder for results that can't be written."""


@app.command()
def bench(
    size: Annotated[str, typer.Option(help='Bytes of each image, such as "64MiB".')] = "256MiB",
    workload: Annotated[
        list[str] | None, typer.Option(help=f"Only these: {', '.join(GROUPS)} (may be repeated).")
    ] = None,
    threads: Annotated[
        int, typer.Option(min=1, help="Threads that the controller may use for a long request.")
    ] = 1,
    seed: Seed = 1,
    rounds: Annotated[int, typer.Option(min=1, help="Turns that each configuration gets.")] = overhead.ROUNDS,
    directory: Annotated[
        Path | None, typer.Option(exists=True, file_okay=False, help="Where the images lie while it runs.")
    ] = None,
    json_path: JsonPath = None,
    csv_path: Annotated[Path | None, typer.Option("--csv", help="Write the results as CSV.")] = None,
) -> None:
    """Measure what encryption costs against a plain memory-mapped file.

    Stores the Python standard library's files, reads them back and compares them by hash, then
    reads and writes in order and at random: without encryption, through the memory controller,
    and by hand with the cryptography package, in turns.

    For example:

    mktme bench --json results.json

    mktme bench --size 64MiB --workload sequential --threads 1
    """
    count = parse_size(size)
    if count == 0 or count % PAGE:
        raise typer.BadParameter(
            f"{count} bytes are not a positive multiple of the page, {PAGE}", param_hint="--size"
        )
    groups = tuple(workload or GROUPS)
    for name in groups:
        if name not in GROUPS:
            raise typer.BadParameter(f"{name!r} is none of {', '.join(GROUPS)}", param_hint="--workload")
    _check_files({"--json": json_path, "--csv": csv_path})
    with _progress() as (console, progress):
        outcome = overhead.run(
            count, groups, threads=threads, seed=seed, rounds=rounds, folder=directory, progress=progress
        )
    _write_json(outcome, json_path)
    if csv_path is not None:
        overhead.write_csv(outcome, csv_path)
    show_bench(outcome, _console())
    for path in (json_path, csv_path):
        if path is not None:
            console.print(f"results: {path}", highlight=False)


@app.command("compare-iv")
def compare_iv(
    schemes: Annotated[
        str, typer.Option(help="Only these IV schemes, separated by commas (default: all that there are).")
    ] = "",
    experiments: Annotated[
        str, typer.Option(help=f"Only these groups of experiments: {', '.join(iv.EXPERIMENTS)}.")
    ] = "",
    explain: Annotated[str, typer.Option(metavar="SCHEME", help="Say what was done and found for one.")] = "",
    size: Annotated[str, typer.Option(help='Bytes of real data, "256KiB" to "2MiB".')] = "1MiB",
    seed: Seed = 1,
    rounds: Annotated[int, typer.Option(min=1, help="Turns of each scheme when speed is measured.")] = 5,
    json_path: JsonPath = None,
    csv_path: Annotated[Path | None, typer.Option("--csv", help="Write the matrix as CSV.")] = None,
    plot: Annotated[Path | None, typer.Option(metavar="DIR", help="Write figures there.")] = None,
) -> None:
    """Compare IV schemes by experiments: which one should encrypted persistent memory use?

    Every scheme, with the cipher that it is used with, stores real files and a database; observers
    and attackers without the key try what they can, file systems do what they want to do, and the
    cost is measured.

    For example:

    mktme compare-iv --json iv.json --plot figures

    mktme compare-iv --schemes pmem-line,xe,ctr-split --experiments tampering

    mktme compare-iv --explain xe
    """
    names = _listed(schemes) if schemes else None
    if explain:
        names = names or [explain.partition("/")[0]]
        check_explained(explain, names)
    groups = _listed(experiments) if experiments else iv.EXPERIMENTS
    _check_files({"--json": json_path, "--csv": csv_path})
    if plot is not None:
        plots.require()
        _check_folder("--plot", plot)
    with _progress() as (console, progress):
        outcome = iv.run(names, groups, size=size, seed=seed, rounds=rounds, progress=progress)
    _write_json(outcome, json_path)
    if csv_path is not None:
        iv.write_csv(outcome, csv_path)
    written = [path for path in (json_path, csv_path) if path is not None]
    if plot is not None:
        written += plots.save(outcome, plot)
    if explain:
        show_scheme(outcome, explain, _console())
    else:
        show_matrix(outcome, _console())
    for path in written:
        console.print(f"results: {path}", highlight=False)


@app.command()
def info(json_path: JsonPath = None) -> None:
    """Say what runs here: processor, AES features, backend, kernel cache, versions."""
    _check_files({"--json": json_path})
    found = machine.describe()
    _write_json(found, json_path)
    console = _console()
    for name, value in found.items():
        text = ", ".join(value) if isinstance(value, list) else str(value)
        console.print(f"{name.replace('_', ' '):<14}{text}", highlight=False)


def _listed(text: str) -> list[str]:
    return [name.strip() for name in text.split(",") if name.strip()]


def _console() -> Console:
    """Standard output: as wide as the terminal (or COLUMNS says), and wide where there is none."""
    told = sys.stdout.isatty() or "COLUMNS" in os.environ
    return Console(width=None if told else WIDE)


def _check_files(paths: dict[str, Path | None]) -> None:
    """Refuse files for results, by their options, that can't be written. Raises OutputError."""
    given = {option: path for option, path in paths.items() if path is not None}
    if len({path.resolve() for path in given.values()}) < len(given):
        raise OutputError(f"{' and '.join(given)} name one file: give each its own")
    for option, path in given.items():
        if path.is_dir():
            raise OutputError(f"{option} {path} is a folder: name a file in it")
        if not path.parent.is_dir():
            raise OutputError(f"{option} {path}: there is no folder {path.parent}: make it, or name another")
        _check_access(option, path, path if path.exists() else path.parent)


def _check_folder(option: str, path: Path) -> None:
    """Refuse a folder that can't be made or written to. Raises OutputError."""
    there = next(place for place in (path, *path.absolute().parents) if place.exists())
    if not there.is_dir():
        raise OutputError(f"{option} {path}: {there} is a file: name a folder")
    _check_access(option, path, there)


def _check_access(option: str, path: Path, place: Path) -> None:
    if not os.access(place, os.W_OK):
        raise OutputError(f"{option} {path}: {place} can't be written to: name another place")


@contextmanager
def _progress() -> Iterator[tuple[Console, Callable[[str, int, int], None]]]:
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
            lambda what, done, total: bar.update(task, description=what, completed=done, total=total),
        )


def _write_json(outcome: dict[str, Any], path: Path | None) -> None:
    if path is not None:
        path.write_text(json.dumps(outcome, indent=1) + "\n")


def main() -> None:
    """Run the command; errors of this project are one line on stderr and exit code 1."""
    try:
        app()
    except (MktmeError, PmemError, OSError) as error:
        print(f"mktme: {error}", file=sys.stderr)
        sys.exit(1)


if __name__ == "__main__":
    main()
