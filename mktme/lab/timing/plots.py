"""Figures of the validation and of replays, by matplotlib (the extra `plot`)."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from mktme.lab.iv.plots import require
from mktme.timing.results import Result

# Okabe and Ito 2008; ours is drawn through, what is published is marked.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
PLACES = (
    ("xts", "memory controller, XTS"),
    ("ctr-wb", "memory controller, counter mode"),
    ("fsencr", "memory controller, counter mode and a file's own pad"),
    ("inline", "inline engine, page cache"),
    ("bounce", "software, page cache"),
)


def save_validation(outcome: dict[str, Any], folder: Path) -> list[Path]:
    """Write the validation's figures, as PNG; returns their paths. Raises PlotError without matplotlib."""
    require()
    from matplotlib.figure import Figure

    folder.mkdir(parents=True, exist_ok=True)
    made = []
    for name, draw, size in (
        ("bandwidth.png", _bandwidth, (9.0, 4.2)),
        ("files.png", _files, (9.0, 5.4)),
        ("work.png", _work, (6.5, 4.2)),
    ):
        figure = Figure(figsize=size, dpi=150, layout="constrained")
        draw(figure, outcome)
        figure.savefig(folder / name)
        made.append(folder / name)
    return made


def _bandwidth(figure: Any, outcome: dict[str, Any]) -> None:
    panels = figure.subplots(1, 2)
    for axes, group, label in zip(
        panels,
        ("bandwidth by size", "bandwidth by threads"),
        ("bytes of an access, at random", "threads, accesses of 256 B in order"),
        strict=True,
    ):
        series: dict[str, list[tuple[float, float, float]]] = {}
        for row in outcome["figures"]:
            if row["group"] == group:
                name, _, x = row["name"].rpartition(", ")
                series.setdefault(name, []).append((float(x.split()[0]), row["published"], row["modelled"]))
        for colour, (name, points) in zip(COLOURS, series.items(), strict=False):
            xs, published, ours = zip(*points, strict=True)
            axes.plot(xs, ours, color=colour, label=name)
            axes.plot(xs, published, "o", color=colour, markerfacecolor="none")
        axes.set_xscale("log", base=2)
        axes.set_yscale("log", base=2)
        ticks = sorted({x for points in series.values() for x, _, _ in points})
        axes.set_xticks(ticks, [f"{int(x)}" for x in ticks])
        axes.set_yticks([0.5, 1, 2, 4, 8, 16, 32], ["0.5", "1", "2", "4", "8", "16", "32"])
        axes.set_xlabel(label)
        axes.grid(alpha=0.3)
    panels[0].set_ylabel("GB/s")
    panels[0].legend(fontsize=8)
    figure.suptitle("Optane DIMMs: published (circles; Yang et al., FAST 2020) and modelled (lines)")


def _files(figure: Any, outcome: dict[str, Any]) -> None:
    panels = figure.subplots(1, 2, sharey=True)
    for axes, (memory, rows) in zip(panels, outcome["files"].items(), strict=True):
        names = [row["workload"] for row in rows]
        for colour, (key, label) in zip(COLOURS, PLACES, strict=False):
            axes.plot([row[key] for row in rows], range(len(rows)), "o", color=colour, label=label)
        axes.axvline(1, color="black", linewidth=0.8)
        axes.set_xscale("log", base=2)
        axes.set_xticks([1, 1.25, 2, 4, 8, 16], ["1", "1.25", "2", "4", "8", "16"])
        axes.set_yticks(range(len(names)), names, fontsize=8)
        axes.set_title({"pcm": "PCM", "optane": "Optane"}[memory])
        axes.set_xlabel("time against DAX without encryption")
        axes.grid(alpha=0.3)
    panels[0].invert_yaxis()
    figure.legend(*panels[1].get_legend_handles_labels(), fontsize=8, loc="outside lower center", ncols=3)


def _work(figure: Any, outcome: dict[str, Any]) -> None:
    axes = figure.subplots()
    rows = outcome["by_work"]
    for colour, (key, label) in zip(COLOURS, PLACES, strict=False):
        axes.plot([row["work"] for row in rows], [row[key] for row in rows], "o-", color=colour, label=label)
    axes.set_yscale("log", base=2)
    axes.set_yticks([1, 2, 4, 8, 16, 32], ["1", "2", "4", "8", "16", "32"])
    axes.set_xlabel("instructions between operations (YCSB A, PCM)")
    axes.set_ylabel("time against DAX without encryption")
    axes.grid(alpha=0.3)
    axes.legend(fontsize=8)


def save_replay(results: Sequence[Result], title: str, folder: Path) -> list[Path]:
    """Write a replay's figure: times and load latencies. Raises PlotError without matplotlib."""
    require()
    from matplotlib.figure import Figure

    folder.mkdir(parents=True, exist_ok=True)
    figure = Figure(figsize=(9, 4.2), dpi=150, layout="constrained")
    left, right = figure.subplots(1, 2)
    names = [result.name for result in results]
    left.barh(names, [result.time_ns / 1e6 for result in results], color=COLOURS[0])
    left.invert_yaxis()
    left.set_xlabel("modelled time, ms")
    for colour, result in zip(COLOURS * 3, results, strict=False):
        bins = result["read_latency.bins"]
        total, reached = sum(count for _, count in bins) or 1, 0
        xs, ys = [], []
        for edge, count in bins:
            reached += count
            xs.append(max(edge, 0.1))
            ys.append(100 * reached / total)
        right.step(xs, ys, where="post", color=colour, label=result.name)
    right.set_xscale("log")
    right.set_xlabel("load latency, ns")
    right.set_ylabel("% of loads")
    right.grid(alpha=0.3)
    right.legend(fontsize=8)
    figure.suptitle(title)
    path = folder / "replay.png"
    figure.savefig(path)
    return [path]
