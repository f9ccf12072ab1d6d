"""The command `mktme report`: results files as a page."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from mktme.console import check_files


def report(
    results: Annotated[
        list[Path] | None,
        typer.Argument(
            metavar="RESULTS...", help="Files that bench, compare-iv, crash, replay wrote (--json)."
        ),
    ] = None,
    output: Annotated[Path, typer.Option("--output", "-o", help="The page.")] = Path("report.html"),
    compare: Annotated[
        tuple[Path, Path] | None,
        typer.Option(
            metavar="A B", help="Two files of one kind side by side; changes beyond the noise are marked."
        ),
    ] = None,
) -> None:
    """Make one interactive page of results: questions, answers, charts and the evidence behind them.

    The page is a single file that opens without a network. It needs the extra report.

    For example:

    mktme bench --json bench.json; mktme compare-iv --json iv.json; mktme report bench.json iv.json

    mktme report --compare before.json after.json -o changes.html
    """
    from mktme.lab import report as made

    made.require()
    if not results and compare is None:
        raise typer.BadParameter(
            "name results files, or two with --compare; mktme bench --json bench.json makes one",
            param_hint="RESULTS",
        )
    check_files({"--output": output})
    for path in (*(results or ()), *(compare or ())):
        if path.resolve() == output.resolve():
            raise typer.BadParameter(
                f"{output} is one of the results: name another file", param_hint="--output"
            )
    loaded = [made.load(path) for path in results or ()]
    pair = None if compare is None else (made.load(compare[0]), made.load(compare[1]))
    made.write(output, loaded, pair)
    Console(stderr=True).print(f"report: {output}", highlight=False)
