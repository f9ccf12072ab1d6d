"""The command `mktme study`: a grid of experiments on all cores, or on a cluster."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from mktme.console import check_folder, output_console, progress_bar


def study(
    path: Annotated[
        Path, typer.Argument(metavar="STUDY.toml", exists=True, dir_okay=False, help="What is to be run.")
    ],
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", metavar="DIR", help="The study's folder (default: STUDY.results)."),
    ] = None,
    scheduler: Annotated[
        str, typer.Option(metavar="ADDRESS", help="Run on the workers of this Dask scheduler.")
    ] = "",
    jobs: Annotated[int, typer.Option(min=0, help="Processes on this machine; 0: one a processor.")] = 0,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Say what would be run and what it would cost, by samples.")
    ] = False,
    retry: Annotated[bool, typer.Option("--retry", help="Run cells again that failed before.")] = False,
) -> None:
    """Run a grid of schemes, ciphers, paths, units, workloads, traces and model parameters.

    Results stream to a Parquet dataset, DIR/results, a row for each metric. Interrupted, or on workers that
    are lost, the same command goes on where it was. The status is 0 if no cell failed, else 1. It needs the
    extra trace; a cluster needs the extra cluster, and this package on each worker.

    For example:

    mktme study examples/study.toml --dry-run

    mktme study examples/study.toml -o places

    dask scheduler & dask worker tcp://HOST:8786 &

    mktme study examples/study.toml --scheduler tcp://HOST:8786
    """
    from mktme.lab import study as made
    from mktme.lab.study import estimate, show
    from mktme.lab.study.run import processors

    found = made.read(path)
    folder = output or path.with_suffix(".results")
    check_folder("--output", folder)
    if dry_run:
        with progress_bar() as (_, tell):
            samples = estimate.estimate(found, folder, retry=retry, progress=tell)
        show.show_estimate(found, samples, jobs or processors(), output_console())
        return
    with progress_bar() as (console, tell):
        try:
            outcome = made.run(found, folder, jobs=jobs, scheduler=scheduler, retry=retry, progress=tell)
        except KeyboardInterrupt:
            console.print(f"interrupted: what is done is in {folder}; the same command goes on")
            raise
    show.show_outcome(found, outcome, output_console())
    console.print(f"results: {folder / 'results'}", highlight=False)
    if outcome.failed or outcome.earlier:
        raise typer.Exit(1)
