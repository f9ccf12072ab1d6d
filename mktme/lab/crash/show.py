"""What explorations and experiments found, on a terminal."""

from __future__ import annotations

from typing import Any

from rich import box
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from mktme.lab.crash.explorer import Result
from mktme.lab.crash.scripts import described


def _table(title: str, caption: str, *columns: str) -> Table:
    table = Table(title=title, caption=caption, box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), show_edge=False)
    for i, column in enumerate(columns):
        table.add_column(column, justify="right" if i else "left", overflow="fold")
    return table


def show_explored(script: str, program: str, found: dict[str, Result], console: Console) -> None:
    """Print what `mktme.lab.crash.explore` found, by subject."""
    table = _table(
        f"Every power failure during {program} of {script}",
        "stores: calls that stored; fences: moments at which states were looked at (* where there were too "
        "many states, so that some were drawn); refused: states that the check refused.",
        "scheme",
        "stores",
        "fences",
        "states",
        "a second",
        "refused",
    )
    for name, result in found.items():
        rate = result.states / result.seconds if result.seconds else 0
        table.add_row(
            name,
            str(result.stores),
            f"{result.points}{'*' if result.drawn else ''}",
            str(result.states),
            f"{rate:.0f}",
            f"[red]{result.failures}[/red]" if result.failures else "0",
        )
    console.print(table)
    for name, result in found.items():
        if result.smallest is not None:
            console.print(f"\n[bold]{escape(name)}[/bold], the state with the least missing that fails:")
            for line in described(result.smallest):
                console.print(f"  {escape(line)}", highlight=False)


def show_atomicity(rows: list[dict[str, Any]], console: Console) -> None:
    """Print what `mktme.lab.crash.atomicity.study` found."""
    table = _table(
        "An atomic store of 8 bytes, and the power fails while its line is written back",
        "words: of 8 bytes that change on the medium, + beside the data. Then, where 8 bytes persist whole, "
        "where lines of 64 do, and where lines do with what is kept beside them: states in which the store "
        "is neither there nor not, of those looked at, and the bytes that are garbage then at worst "
        "(MAC: the line is poisoned).",
        "scheme",
        "unit",
        "words",
        "8 bytes whole",
        "64 bytes",
        "with metadata",
    )
    for row in rows:
        name = row["scheme"] + (f"\n  {row['cipher']}" if row["cipher"] else "")
        table.add_row(
            name + ("+mac" if row["integrity"] else ""),
            str(row["unit"] or ""),
            f"{row['changed']}" + (f"+{row['beside']}" if row["beside"] else ""),
            *(_outcome(row[kind]) for kind in ("words", "lines", "together")),
        )
    console.print(table)


def _outcome(found: dict[str, int]) -> str:
    if not found["broken"]:
        return "[green]atomic[/green]"
    worst = "poisoned" if found["poisoned"] else f"{found['lost']} bytes"
    return f"{found['broken']} of {found['states']}\n{worst}"


def show_stale(rows: list[dict[str, Any]], console: Console) -> None:
    """Print what `mktme.lab.crash.hazards.stale_lines` found."""
    table = _table(
        "A page gets another key while the cache holds a dirty line of it",
        "What the new key's owner reads: before writing, after writing and a fence, and once the cache has "
        "evicted the lines that were still dirty under the old KeyID.",
        "how",
        "dirty",
        "at first",
        "then",
        "later",
    )
    for row in rows:
        later = row["later"] if row["later"] == "new data" else f"[red]{row['later']}[/red]"
        table.add_row(row["way"], str(row["evicted"]), row["at_first"], row["then"], later)
    console.print(table)


def show_residual(rows: list[dict[str, Any]], console: Console) -> None:
    """Print what `mktme.lab.crash.hazards.residual` found."""
    table = _table(
        "eADR: the power fails with a secret in the CPU cache",
        "Whether who holds the DIMM finds it there, and whether its owner reads it after a restart.",
        "scheme",
        "residual energy writes lines",
        "leaked",
        "kept",
    )
    for row in rows:
        way = "through the controller" if row["through_controller"] else "past it, as they are"
        table.add_row(
            row["scheme"],
            way,
            "[red]yes[/red]" if row["leaked"] else "no",
            "yes" if row["kept"] else "[red]no[/red]",
        )
    console.print(table)
