"""Figures of the comparison, by matplotlib (the extra `plot`)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from mktme.errors import MktmeError
from mktme.lab.iv.matrix import ATTACKS, BREAKS, COLUMNS, COSTS, GOOD

# Colours that stay apart for the colour-blind (Okabe and Ito 2008), and a sign in each cell.
COLOURS = {GOOD: "#009E73", COSTS: "#F0E442", BREAKS: "#D55E00"}
DIGITS = 0.02  # of the width of the axes: a scheme's number, with air
SIGNS = {GOOD: "+", COSTS: "~", BREAKS: "\u00d7"}


class PlotError(MktmeError, ImportError):
    """matplotlib isn't installed."""


def require() -> None:
    """Raises PlotError if matplotlib isn't installed."""
    try:
        import matplotlib.figure  # noqa: F401
    except ImportError:
        raise PlotError("plots need matplotlib: pip install 'mktme[plot]'") from None


def save(outcome: dict[str, Any], folder: Path) -> list[Path]:
    """Write the figures that the results have data for, as PNG; returns their paths.

    Raises PlotError if matplotlib isn't installed.
    """
    require()
    from matplotlib.figure import Figure

    folder.mkdir(parents=True, exist_ok=True)
    rows, made = outcome["schemes"], []
    cells = rows[0]["cells"] if rows else {}
    drawers = {
        "matrix.png": (draw_matrix, bool(cells)),
        "cost-protection.png": (draw_protection, "cost" in cells and any(c in cells for c in ATTACKS)),
        "bit-flips.png": (draw_bit_flips, "bit flips" in cells),
    }
    for name, (draw, possible) in drawers.items():
        if possible:
            figure = Figure(layout="constrained", dpi=150)
            draw(figure, rows)
            figure.savefig(folder / name)
            made.append(folder / name)
    return made


def draw_matrix(figure: Any, rows: list[dict[str, Any]]) -> None:
    """Schemes by experiments: a coloured square with a sign for each grade."""
    columns = [c for c in COLUMNS if c in rows[0]["cells"]]
    figure.set_size_inches(3.2 + 0.5 * len(columns), 2 + 0.27 * len(rows))
    axes = figure.add_subplot()
    for y, row in enumerate(rows):
        for x, column in enumerate(columns):
            grade = row["cells"][column]["grade"]
            axes.add_patch(_square(x, y, COLOURS[grade]))
            axes.text(x, y, SIGNS[grade], ha="center", va="center", fontsize=9)
    axes.set_xlim(-0.5, len(columns) - 0.5)
    axes.set_ylim(len(rows) - 0.5, -0.5)
    heads = [COLUMNS[c][0].replace("-\n", "").replace("\n", " ") for c in columns]
    axes.set_xticks(range(len(columns)), heads, rotation=50, ha="left", fontsize=8)
    axes.set_yticks(range(len(rows)), [row["name"] for row in rows], fontsize=8)
    axes.xaxis.tick_top()
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)
    legend = "   ".join(f"{SIGNS[grade]} {grade}" for grade in COLOURS)
    figure.supxlabel(legend, fontsize=9)


def _square(x: int, y: int, colour: str) -> Any:
    from matplotlib.patches import Rectangle

    return Rectangle((x - 0.46, y - 0.46), 0.92, 0.92, facecolor=colour, edgecolor="none", alpha=0.85)


def draw_protection(figure: Any, rows: list[dict[str, Any]]) -> None:
    """A dot for each scheme, over it its number, which a list names.

    Numbers of dots at one height that would lie on each other are stacked.
    """
    count = sum(c in rows[0]["cells"] for c in ATTACKS)
    dots: dict[int, list[tuple[float, int]]] = {}
    for number, row in enumerate(rows, 1):
        cells = row["cells"]
        resisted = sum(cells[c]["grade"] != BREAKS for c in ATTACKS if c in cells)
        ratio = min(cells["cost"]["evidence"][f"{way}_ratio"] for way in ("read", "write"))
        dots.setdefault(resisted, []).append((ratio, number))
    right = 1.05 * max(ratio for row in dots.values() for ratio, _ in row)
    stacks = {resisted: _stack(sorted(row), right * DIGITS) for resisted, row in dots.items()}
    highest = max(level for stack in stacks.values() for _, _, level in stack)
    lowest = min(dots)
    band = (24 + 9 * highest) / 72  # inches from one count of attacks to the next
    figure.set_size_inches(11, max(6.5, 0.25 * len(rows), 1 + band * (count - lowest + 1.5)))
    axes, names = figure.subplots(1, 2, width_ratios=(3, 1))
    for resisted, stack in stacks.items():
        for ratio, number, level in stack:
            axes.plot(ratio, resisted, "o", color="#0072B2", markersize=5, alpha=0.7)
            above = {"xytext": (0, 5 + 9 * level), "textcoords": "offset points", "ha": "center"}
            axes.annotate(str(number), (ratio, resisted), fontsize=7, **above)
    axes.set_xlabel("speed against pmem-line with AES-128-XTS (the slower of reading and writing)")
    axes.set_ylabel(f"attacks and observations that break nothing, of {count}")
    axes.set_xlim(-0.03 * right, right)
    axes.set_ylim(lowest - 0.5, max(count + 0.3, max(dots) + 1))
    axes.set_yticks(range(lowest, count + 1))
    axes.grid(alpha=0.3)
    listed = "\n".join(f"{number:2}  {row['name']}" for number, row in enumerate(rows, 1))
    names.text(0, 1, listed, va="top", fontsize=8, family="monospace")
    names.axis("off")


def _stack(dots: list[tuple[float, int]], apart: float) -> list[tuple[float, int, int]]:
    """Dots from left to right as (x, number, level): numbers of one level are `apart` or more."""
    ends: list[float] = []  # of each level: where its last number lies
    made = []
    for x, number in dots:
        level = next((n for n, end in enumerate(ends) if x - end >= apart), len(ends))
        ends[level : level + 1] = [x]
        made.append((x, number, level))
    return made


def draw_bit_flips(figure: Any, rows: list[dict[str, Any]]) -> None:
    """A bar for each scheme: bits that change in the written lines and elsewhere."""
    figure.set_size_inches(8, 2.2 + 0.28 * len(rows))
    axes = figure.add_subplot()
    names = [row["name"] for row in rows]
    found = [row["cells"]["bit flips"]["evidence"] for row in rows]
    inside, beside = [100 * e["encrypted"] for e in found], [100 * e["beside"] for e in found]
    axes.barh(names, inside, color="#0072B2", label="in the lines that were written")
    axes.barh(names, beside, left=inside, color="#E69F00", label="elsewhere: the unit's rest, counters, MACs")
    axes.axvline(100 * found[0]["plain"], color="black", linestyle="--", label="plaintext")
    for at, text in ((12, "12% plain"), (24, "24% DEUCE"), (50, "50% encrypted")):
        axes.axvline(at, color="grey", linewidth=0.8, linestyle=":")
        side = "right" if at == 12 else "left"
        above = {"xytext": (0, 2), "textcoords": "offset points", "fontsize": 6, "ha": side}
        axes.annotate(text, (at, 1), xycoords=("data", "axes fraction"), color="grey", **above)
    axes.set_xscale("symlog", linthresh=100)
    marks = (0, 25, 50, 75, 100, 200, 400)
    axes.set_xticks(marks, [f"{mark}%" for mark in marks])
    axes.set_xlabel("bits that change, of the bits of the written lines (dotted: published, ASPLOS 2015)")
    axes.invert_yaxis()
    axes.tick_params(axis="y", labelsize=7)
    axes.margins(y=0.5 / len(rows))
    figure.legend(fontsize=7, loc="outside lower center", ncols=3)
