"""The comparison on a terminal: the matrix in tables that fit its width; the evidence of a scheme."""

from __future__ import annotations

from typing import Any

from rich import box
from rich.console import Console
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from mktme.lab.iv.explain import sentence
from mktme.lab.iv.matrix import ATTACKS, BREAKS, COLUMNS, COSTS, GOOD, OPERATIONS
from mktme.lab.iv.study import ExperimentError
from mktme.lab.iv.subjects import subjects
from pmem.geometry import format_size

# A mark beside the colour, for those who can't tell colours.
LOOK = {GOOD: ("+", "green"), COSTS: ("~", "yellow"), BREAKS: ("x", "bold red")}
# What is seen or wanted by whom, and what it takes: columns that belong together.
GROUPS = {
    "OBSERVER": ("places", "times"),
    "ATTACKER": ("relocation", "replay", "flips"),
    "FILE SYSTEM": ("move, unlocked", "move, locked", "defragment"),
    "ADMINISTRATOR": (
        "share (reflink)", "copy the image", "DIMM to another slot", "grow the interleave set",
    ),
    "LIMITS": ("reuse", "watermark", "lost state", "overflow"),
    "COST": ("cost", "room", "amplification", "bit flips"),
}  # fmt: skip
HEAD_LINES = 2  # of a column, under the name of its group
GAP = 2  # characters between columns
Heads = dict[str, str]  # of some columns, by their experiments


def cell(found: dict[str, Any]) -> Text:
    mark, style = LOOK[found["grade"]]
    return Text(f"{mark} {found['text']}", style)


def show_matrix(outcome: dict[str, Any], console: Console) -> None:
    """Print the results of `mktme.lab.iv.run`, in tables as wide as the console at most."""
    rows, settings = outcome["schemes"], outcome["settings"]
    names = _names(rows)
    for heads in _tables(rows, console.width - max(map(len, names))):
        table = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False, show_edge=False)
        table.add_column("", overflow="fold")
        for head in heads.values():
            table.add_column(Text(head), overflow="fold")
        for name, row in zip(names, rows, strict=True):
            table.add_row(Text(name), *(cell(row["cells"][column]) for column in heads))
        console.print(table, "")
    where = outcome["machine"]
    legend = "  ".join(f"{mark} {grade}" for grade, (mark, _) in LOOK.items())
    advice = "Ciphers are without their aes- here. --explain SCHEME says what was done and found."
    ran = (
        f"{format_size(settings['size'])} of the standard library and of a SQLite database of it, "
        f"{settings['seconds']:.0f} s on {where['processor']}."
    )
    for line in (f"{legend}. {advice}", *answer(outcome), ran):
        console.print(Text(line))


def _tables(rows: list[dict[str, Any]], room: int) -> list[Heads]:
    """The columns of each table: whole groups beside each other as far as there is room.

    A group that is too wide for a table of its own is cut into equal parts.
    """

    def width(heads: Heads) -> int:
        cells = {c: [cell(row["cells"][c]).plain for row in rows] for c in heads}
        return sum(GAP + max(map(len, (*head.split("\n"), *cells[c]))) for c, head in heads.items())

    tables: list[Heads] = []
    for group, every in GROUPS.items():
        columns = [column for column in every if column in rows[0]["cells"]]
        parts: list[Heads] = []
        for count in range(1, len(columns) + 1):
            size = -(-len(columns) // count)
            parts = [_heads(group, columns[at : at + size]) for at in range(0, len(columns), size)]
            if max(map(width, parts)) <= room:
                break
        for part in parts:
            if tables and width(tables[-1] | part) <= room:
                tables[-1] |= part
            else:
                tables.append(part)
    return tables


def _heads(group: str, columns: list[str]) -> Heads:
    """The heads of neighbouring columns, the group's name over the first."""
    heads = {}
    for column in columns:
        lines = COLUMNS[column][0].split("\n")
        heads[column] = "\n".join([group] + [""] * (HEAD_LINES - len(lines)) + lines)
        group = ""
    return heads


def _cipher(row: dict[str, Any]) -> str:
    return f"{row['algorithm'].removeprefix('aes-')}{'+mac' if row['integrity'] else ''}"


def _names(rows: list[dict[str, Any]]) -> list[str]:
    """Scheme and cipher, the ciphers below each other."""
    width = max(len(row["scheme"]) for row in rows)
    return [f"{row['scheme']:<{width}} {_cipher(row)}" for row in rows]


def answer(outcome: dict[str, Any]) -> list[str]:
    """Which schemes broke least: by attacks, by what a file system can do, and by both."""
    rows, lines = outcome["schemes"], []
    chosen = {"attacks": ATTACKS, "operations": OPERATIONS, "of both": ATTACKS + OPERATIONS}
    ran = {what: [c for c in columns if c in rows[0]["cells"]] for what, columns in chosen.items()}
    if not (ran["attacks"] and ran["operations"]):
        del ran["of both"]
    for what, columns in ran.items():
        if not columns:
            continue
        scores = [sum(row["cells"][c]["grade"] == BREAKS for c in columns) for row in rows]
        best: dict[str, list[str]] = {}
        for row, score in zip(rows, scores, strict=True):
            if score == min(scores):
                best.setdefault(row["scheme"], []).append(_cipher(row))
        named = ", ".join(f"{scheme} ({', '.join(ciphers)})" for scheme, ciphers in best.items())
        lines.append(f"Fewest {what} that break, {min(scores)} of {len(columns)}: {named}.")
    return lines


def check_explained(name: str, schemes: list[str] | None) -> None:
    """Refuse a name that `show_scheme` won't find among the schemes that are to be compared.

    Raises ExperimentError, and SchemeError for a scheme that there isn't.
    """
    compared = subjects(schemes)
    known = dict.fromkeys(name for s in compared for name in (s.scheme.name, s.name))
    if name not in known:
        raise ExperimentError(f"{name!r} is not compared, so it can't be explained: take {', '.join(known)}")


HOW = {"compiled": "The IV's function runs compiled.", "drawn": "IVs are drawn by the operating system."}


def show_scheme(outcome: dict[str, Any], name: str, console: Console) -> None:
    """Print the evidence of each cell of a scheme (by its name, or with its cipher)."""
    for row in outcome["schemes"]:
        if name not in (row["scheme"], row["name"]):
            continue
        console.print(Text(f"\n{row['name']}: {row['summary']}", "bold"))
        coordinates = ", ".join(row["coordinates"]) or "none"
        console.print(
            Text(
                f"Source: {row['source']}. Coordinates: {coordinates}. Data unit: {row['unit']} bytes. "
                + HOW.get(row["runs"], "The IV's function runs on arrays.")
            )
        )
        for column, found in row["cells"].items():
            head = COLUMNS[column][0].replace("-\n", "").replace("\n", " ")
            console.print(Text.assemble(f"  {head}: ", cell(found)))
            console.print(Padding(Text(sentence(column, found["evidence"])), (0, 0, 0, 4)))
