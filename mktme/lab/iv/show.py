"""The comparison on a terminal: the matrix, one table for each group; the evidence of a scheme."""

from __future__ import annotations

from typing import Any

from rich import box
from rich.console import Console
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from mktme.lab.iv.explain import sentence
from mktme.lab.iv.matrix import ATTACKS, BREAKS, COLUMNS, COSTS, GOOD, OPERATIONS
from pmem.geometry import format_size

# A mark beside the colour, for those who can't tell colours.
LOOK = {GOOD: ("+", "green"), COSTS: ("~", "yellow"), BREAKS: ("x", "bold red")}
GROUPS = {
    "What an observer sees": ("places", "times"),
    "What an attacker can do": ("relocation", "replay", "flips"),
    "What a file system wants to do": (
        "move, unlocked", "move, locked", "defragment",
    ),
    "... and an administrator": (
        "share (reflink)", "copy the image", "DIMM to another slot", "grow the interleave set",
    ),
    "Collisions and limits": ("reuse", "watermark", "lost state", "overflow"),
    "Cost": ("cost", "room", "amplification", "bit flips"),
}  # fmt: skip


def cell(found: dict[str, Any]) -> Text:
    mark, style = LOOK[found["grade"]]
    return Text(f"{mark} {found['text']}", style)


def show_matrix(outcome: dict[str, Any], console: Console) -> None:
    """Print the results of `mktme.lab.iv.run`."""
    rows, settings = outcome["schemes"], outcome["settings"]
    for title, columns in GROUPS.items():
        columns = tuple(c for c in columns if rows and c in rows[0]["cells"])
        if not columns:
            continue
        table = Table(title=title, box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), show_edge=False)
        table.add_column("", no_wrap=True)
        for column in columns:
            table.add_column(COLUMNS[column][0], no_wrap=True)
        for row in rows:
            table.add_row(_name(row), *(cell(row["cells"][column]) for column in columns))
        console.print(table, "")
    legend = "  ".join(f"{mark} {grade}" for grade, (mark, _) in LOOK.items())
    console.print(f"{legend}.  --explain SCHEME says what was done and found.", highlight=False)
    for line in answer(outcome):
        console.print(line, highlight=False)
    where = outcome["machine"]
    console.print(
        f"{format_size(settings['size'])} of the standard library and of a SQLite database of it, "
        f"{settings['seconds']:.0f} s on {where['processor']}.",
        highlight=False,
    )


def _name(row: dict[str, Any]) -> str:
    cipher = row["algorithm"] + ("+mac" if row["integrity"] else "")
    return f"{row['scheme']:<12} {cipher}"


def answer(outcome: dict[str, Any]) -> list[str]:
    """Which schemes broke least, by attacks and by what a file system can do."""
    lines = []
    for what, columns in (("attacks", ATTACKS), ("operations", OPERATIONS)):
        scores = {
            row["name"]: sum(row["cells"][c]["grade"] == BREAKS for c in columns if c in row["cells"])
            for row in outcome["schemes"]
        }
        if not any(c in row["cells"] for c in columns for row in outcome["schemes"]):
            continue
        least = min(scores.values())
        best = [name for name, score in scores.items() if score == least]
        lines.append(f"Fewest {what} that break ({least}): {', '.join(best)}.")
    return lines


def show_scheme(outcome: dict[str, Any], name: str, console: Console) -> None:
    """Print the evidence of each cell of a scheme (by its name, or with its cipher)."""
    for row in outcome["schemes"]:
        if name not in (row["scheme"], row["name"]):
            continue
        console.print(Text(f"\n{row['name']}: {row['summary']}", "bold"))
        coordinates = ", ".join(row["coordinates"]) or "none"
        console.print(
            f"Source: {row['source']}. Coordinates: {coordinates}. Data unit: {row['unit']} bytes. "
            f"The IV's function runs {'compiled' if row['runs'] == 'compiled' else 'on arrays'}.",
            highlight=False,
        )
        for column, found in row["cells"].items():
            head = COLUMNS[column][0].replace("-\n", "").replace("\n", " ")
            console.print(Text.assemble(f"  {head}: ", cell(found)))
            console.print(Padding(Text(sentence(column, found["evidence"])), (0, 0, 0, 4)))
