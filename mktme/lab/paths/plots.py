"""Figures of the comparison of the paths, by matplotlib (the extra `plot`)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from mktme.lab.iv.plots import require
from pmem.geometry import format_size, parse_size

# Colours that stay apart for the colour-blind (Okabe and Ito 2008), and a mark for each path.
STYLES = {
    "none": ("#000000", "o"),
    "line": ("#009E73", "s"),
    "line-file": ("#56B4E9", "D"),
    "inline": ("#0072B2", "^"),
    "inline-lba": ("#CC79A7", "v"),
    "bounce": ("#D55E00", "x"),
}
SIZED = ("in order, read", "in order, write", "random, read", "random, write")
AMOUNTS = ("copied_per_byte", "encrypted_per_byte", "decrypted_per_byte")


def save(outcome: dict[str, Any], folder: Path) -> list[Path]:
    """Write the figures that the results have data for, as PNG; returns their paths.

    Raises PlotError if matplotlib isn't installed.
    """
    require()
    from matplotlib.figure import Figure

    folder.mkdir(parents=True, exist_ok=True)
    results, made = outcome["results"], []
    sized = [row for row in results if row["workload"] in SIZED]
    for name, title, scale, value in (
        ("overhead.png", "Time against no encryption", "linear", lambda row: row.get("ratio")),
        ("bytes.png", "Bytes copied, encrypted and decrypted for each byte asked", "log", _bytes),
    ):
        if any(value(row) for row in sized):
            figure = Figure(figsize=(9, 6.5), dpi=150, layout="constrained")
            _draw(figure, sized, outcome["settings"]["paths"], value, scale)
            figure.suptitle(title)
            figure.savefig(folder / name)
            made.append(folder / name)
    return made


def _bytes(row: dict[str, Any]) -> float:
    return float(sum(row[name] for name in AMOUNTS))


def _draw(figure: Any, rows: list[dict[str, Any]], names: list[str], value: Any, scale: str) -> None:
    """A panel for each workload: the value by the size of the request, a line for each path."""
    workloads = [name for name in SIZED if any(row["workload"] == name for row in rows)]
    panels = figure.subplots(
        -(-len(workloads) // 2), min(2, len(workloads)), sharex=True, sharey=True, squeeze=False
    )
    for axes in panels.flat[len(workloads) :]:
        axes.set_visible(False)
    for axes, workload in zip(panels.flat, workloads, strict=False):
        for name in names:
            found = [row for row in rows if row["workload"] == workload and row["path"] == name]
            points = [(parse_size(row["request"]), value(row)) for row in found if value(row)]
            colour, mark = STYLES[name]
            if points:
                axes.plot(*zip(*points, strict=True), color=colour, marker=mark, label=name)
        axes.set(title=workload, xscale="log", yscale=scale)
        sizes = sorted({parse_size(row["request"]) for row in rows})
        axes.set_xticks(sizes, [format_size(size) for size in sizes])
        axes.minorticks_off()
        axes.yaxis.set_major_formatter(lambda y, _: f"{y:g}x")
        axes.yaxis.set_minor_formatter(lambda y, _: "")
        axes.grid(alpha=0.3)
    for axes in panels[-1]:
        axes.set_xlabel("request")
        if scale == "linear":
            axes.set_ylim(bottom=0)
    figure.legend(*panels.flat[0].get_legend_handles_labels(), loc="outside lower center", ncols=len(names))
