"""The `mktme` command: a thin skin over `mktme.lab`."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from mktme.errors import MktmeError
from mktme.lab import iv, machine, overhead
from mktme.lab.iv import plots
from mktme.lab.iv.show import show_matrix, show_scheme
from mktme.lab.show import show_bench
from mktme.lab.workloads import GROUPS
from pmem.errors import PmemError
from pmem.geometry import PAGE, parse_size

app = typer.Typer(
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    help="A laboratory for encrypted persistent memory.",
)
JsonPath = Annotated[Path | None, typer.Option("--json", help="Write the results to this file, as JSON.")]


@app.command()
def bench(
    size: Annotated[str, typer.Option(help='Bytes of each image, such as "64MiB".')] = "256MiB",
    workload: Annotated[
        list[str] | None, typer.Option(help=f"Only these: {', '.join(GROUPS)} (may be repeated).")
    ] = None,
    threads: Annotated[
        int, typer.Option(min=1, help="Threads that the controller may use for a long request.")
    ] = 1,
    seed: Annotated[int, typer.Option(help="Of the random requests.")] = 1,
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
    and by hand with the cryptography package, in turns. Examples:

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
    with _progress() as (console, progress):
        outcome = overhead.run(
            count, groups, threads=threads, seed=seed, rounds=rounds, folder=directory, progress=progress
        )
    _write_json(outcome, json_path)
    if csv_path is not None:
        overhead.write_csv(outcome, csv_path)
    show_bench(outcome, Console())
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
    seed: Annotated[int, typer.Option(help="Of the database's changes and the attacks.")] = 1,
    rounds: Annotated[int, typer.Option(min=1, help="Turns of each scheme when speed is measured.")] = 5,
    json_path: JsonPath = None,
    csv_path: Annotated[Path | None, typer.Option("--csv", help="Write the matrix as CSV.")] = None,
    plot: Annotated[Path | None, typer.Option(metavar="DIR", help="Write figures there.")] = None,
) -> None:
    """Compare IV schemes by experiments: which one should encrypted persistent memory use?

    Every scheme, with the cipher that it is used with, stores real files and a database; observers
    and attackers without the key try what they can, file systems do what they want to do, and the
    cost is measured. Examples:

    mktme compare-iv --json iv.json --plot figures

    mktme compare-iv --schemes pmem-line,file-block,ctr-split --experiments secrecy,tampering

    mktme compare-iv --explain xe
    """
    names = [name.strip() for name in schemes.split(",") if name.strip()]
    if explain and not names:
        names = [explain.partition("/")[0]]
    groups = [name.strip() for name in experiments.split(",") if name.strip()]
    with _progress() as (console, progress):
        outcome = iv.run(
            names or None, groups or iv.EXPERIMENTS, size=size, seed=seed, rounds=rounds, progress=progress
        )
    _write_json(outcome, json_path)
    if csv_path is not None:
        iv.write_csv(outcome, csv_path)
    written = [path for path in (json_path, csv_path) if path is not None]
    if plot is not None:
        written += plots.save(outcome, plot)
    if explain:
        show_scheme(outcome, explain, Console())
    else:
        show_matrix(outcome, Console())
    for path in written:
        console.print(f"results: {path}", highlight=False)


@app.command()
def info(json_path: JsonPath = None) -> None:
    """Say what runs here: processor, AES features, backend, kernel cache, versions."""
    found = machine.describe()
    _write_json(found, json_path)
    console = Console()
    for name, value in found.items():
        text = ", ".join(value) if isinstance(value, list) else str(value)
        console.print(f"{name.replace('_', ' '):<14}{text}", highlight=False)


@contextmanager
def _progress() -> Iterator[tuple[Console, Callable[[str, int, int], None]]]:
    """A bar on a terminal's stderr: the console, and what moves the bar (what, done, total)."""
    console = Console(stderr=True)
    with Progress(
        TextColumn("{task.description:<42}"),
        BarColumn(),
        TextColumn("{task.percentage:>3.0f}%"),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        console=console,
        transient=True,
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
