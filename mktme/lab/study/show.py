"""A study on a terminal: its estimate, and what a run did."""

from __future__ import annotations

from collections.abc import Sequence

from rich import box
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from mktme.lab.study.estimate import Estimate
from mktme.lab.study.grid import MEASURED, Study
from mktme.lab.study.run import Outcome

SHOWN = 10  # failed cells


def duration(seconds: float) -> str:
    """A time for people: "0.4 s", "12 s", "3 min 20 s", "5 h 10 min", "12 d 4 h"."""
    if seconds < 60:
        return f"{seconds:.1f} s" if seconds < 10 else f"{seconds:.0f} s"
    for size, name, small, part in ((86400, "d", 3600, "h"), (3600, "h", 60, "min"), (60, "min", 1, "s")):
        if seconds >= size:
            return f"{seconds // size:.0f} {name} {seconds % size // small:.0f} {part}"
    raise AssertionError(seconds)


def show_estimate(study: Study, found: Sequence[Estimate], workers: int, console: Console) -> None:
    """Print what is to do, and what it would cost on so many workers."""
    todo = sum(one.cells for one in found)
    table = Table(
        title=f"{study.name}: {len(study.cells)} cells, {todo} to do",
        caption="each kind by a sample, run now and not kept; measured cells run one at a time on a machine",
        box=box.SIMPLE_HEAD,
        padding=(0, 1, 0, 0),
        show_edge=False,
    )
    for column in ("sample", "how", "cells", "sample took", "all of one worker"):
        table.add_column(column, justify="left" if column in ("sample", "how") else "right", overflow="fold")
    for one in found:
        told = duration(one.seconds) + (f"\n{escape(one.error)}" if one.error else "")
        table.add_row(escape(one.sample), one.kind, str(one.cells), duration(one.sample_seconds), told)
    console.print(table)
    measured = sum(one.seconds for one in found if one.kind == MEASURED)
    modelled = sum(one.seconds for one in found if one.kind != MEASURED)
    console.print(
        f"about {duration(measured + modelled / workers)} on {workers} worker{'s' * (workers > 1)}: "
        f"{duration(measured)} measured, one after the other, and {duration(modelled)} of shared work",
        highlight=False,
    )


def show_outcome(study: Study, outcome: Outcome, console: Console) -> None:
    """Print what a run did, and which cells failed."""
    again = f", {outcome.before} were there" if outcome.before else ""
    console.print(
        f"{study.name}: {outcome.done} cells done{again}, {len(outcome.failed)} failed, "
        f"in {duration(outcome.seconds)}",
        highlight=False,
    )
    if outcome.earlier:
        console.print(f"{len(outcome.earlier)} cells failed in an earlier run: --retry runs them again")
    for cell, error in (outcome.failed or outcome.earlier)[:SHOWN]:
        console.print(f"  [red]failed[/red] {escape(str(cell))}: {escape(error)}", highlight=False)
    if len(outcome.failed) > SHOWN:
        console.print(f"  and {len(outcome.failed) - SHOWN} more: status is 'failed' in the dataset")
