"""The comparison of programs on a terminal."""

from __future__ import annotations

from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table

from mktme.lab.programs.programs import PROGRAMS
from mktme.lab.show import figure


def show_programs(outcome: dict[str, Any], console: Console) -> None:
    """Print the results of `mktme.lab.programs.run`."""
    where, settings, results = outcome["machine"], outcome["settings"], outcome["results"]
    paths = settings["paths"]
    table = Table(
        title=f"Real programs on {where['processor']} ({where['backend']} kernels)",
        caption="Each cell: ms"
        + (", and the time against none" if "none" in paths else "")
        + f" (medians of {settings['rounds']} rounds in turns); images in {settings['images']}",
        box=box.SIMPLE_HEAD,
        padding=(0, 1, 0, 0),
        show_edge=False,
    )
    table.add_column("", no_wrap=True)
    for path in paths:
        table.add_column(path, justify="right", no_wrap=True)
    before = ""
    for at in range(0, len(results), len(paths)):
        row = results[at : at + len(paths)]
        if row[0]["program"] != before:
            before = row[0]["program"]
            table.add_section()
            table.add_row(f"[bold]{PROGRAMS[before].summary}[/]")
        table.add_row(f"{row[0]['step']} ({row[0]['amount']:.0f} {row[0]['unit']})", *map(_cell, row))
    console.print(table)


def _cell(row: dict[str, Any]) -> str:
    text = figure(row["seconds"] * 1e3)
    return f"{text} {figure(row['ratio'])}x" if "ratio" in row and row["path"] != "none" else text
