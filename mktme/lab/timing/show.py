"""Replays and the validation on a terminal."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table

from mktme.lab.show import figure
from mktme.timing.parameters import Row
from mktme.timing.results import Result

ACROSS = 5  # configurations beside the baseline, in one table
# What is shown: a label, where it is in a result, by what it is divided, and whether a ratio makes sense.
LINES: tuple[tuple[str, str, float, bool], ...] = (
    ("time, ms", "time_ns", 1e6, True),
    ("load latency, mean, ns", "read_latency.mean_ns", 1, True),
    ("load latency, 99 %, ns", "read_latency.p99_ns", 1, False),
    ("L1 hit rate, %", "caches.l1.hit_rate", 0.01, False),
    ("last-level hit rate, %", "caches.llc.hit_rate", 0.01, False),
    ("reads of memory, k lines", "memory.reads", 1e3, True),
    ("writes of memory, k lines", "memory.writes", 1e3, True),
    ("memory reads, GB/s", "memory.read_gb_per_s", 1, False),
    ("memory writes, GB/s", "memory.write_gb_per_s", 1, False),
    ("media reads, MB", "memory.media.read_bytes", 1e6, True),
    ("media writes, MB", "memory.media.written_bytes", 1e6, True),
    ("write amplification", "memory.media.write_amplification", 1, False),
    ("lines through the engine, k", "engine.lines", 1e3, False),
    ("counter cache hit rate, %", "engine.counters.cache.hit_rate", 0.01, False),
    ("counter lines fetched, k", "engine.counters.fetched", 1e3, False),
    ("counter lines written, k", "engine.counters.written", 1e3, False),
    ("tree nodes fetched, k", "engine.counters.tree_fetched", 1e3, False),
    ("tree nodes written, k", "engine.counters.tree_written", 1e3, False),
    ("page faults, k", "page_cache.faults", 1e3, False),
    ("bytes copied, MB", "page_cache.copied_bytes", 1e6, False),
    ("bytes through the cipher, MB", "page_cache.crypted_bytes", 1e6, False),
    ("bits changed, % of those written", "bit_flips.share", 0.01, True),
    ("energy, uJ", "energy_nj.total", 1e3, True),
)


def show_replay(results: Sequence[Result], console: Console, title: str) -> None:
    """Results beside the first of them, which is the baseline."""
    baseline, others = results[0], list(results[1:])
    groups = [others[i : i + ACROSS] for i in range(0, len(others), ACROSS)] or [[]]
    for number, group in enumerate(groups):
        table = Table(
            title=title if number == 0 else "",
            caption="modelled, not measured; with an x: against the first column" if group else "modelled",
            box=box.SIMPLE_HEAD,
            padding=(0, 1, 0, 0),
            show_edge=False,
        )
        table.add_column("", no_wrap=True)
        shown = [baseline, *group]
        for result in shown:
            table.add_column(result.name, justify="right")
        for label, place, scale, ratio in LINES:
            values = [_at(result, place) for result in shown]
            if not any(values):
                continue
            table.add_row(
                label, *(_cell(value, values[0], scale, ratio and i > 0) for i, value in enumerate(values))
            )
        console.print(table)


def _at(result: Result, place: str) -> float | None:
    try:
        return float(result[place])
    except KeyError:
        return None


def _cell(value: float | None, base: float | None, scale: float, ratio: bool) -> str:
    if value is None:
        return ""
    text = "0" if value == 0 else figure(value / scale)
    return f"{text} [dim]{figure(value / base)}x[/]" if ratio and base and value else text


def show_parameters(rows: Iterable[Row], console: Console) -> None:
    """Name, value, unit and source of each parameter."""
    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), show_edge=False)
    for head in ("parameter", "value", "unit", "source"):
        table.add_column(head, no_wrap=head != "source", justify="right" if head == "value" else "left")
    for row in rows:
        table.add_row(row.name, str(row.value), row.unit, row.source)
    console.print(table)


def show_validation(outcome: dict[str, Any], console: Console) -> None:
    """The figures beside ours, by group, and what is outside."""
    table = Table(
        title="The timing model beside published figures",
        box=box.SIMPLE_HEAD,
        padding=(0, 1, 0, 0),
        show_edge=False,
    )
    for head in ("", "published", "ours", "", "unit", "", "", "source"):
        table.add_column(head, justify="right" if head in ("published", "ours") else "left")
    group = ""
    for row in outcome["figures"]:
        if row["group"] != group:
            group = row["group"]
            table.add_section()
        table.add_row(
            row["name"],
            *(_number(row[key]) for key in ("published", "modelled")),
            _change(row),
            row["unit"],
            row["kind"],
            "" if row["holds"] else "[bold red]outside[/]",
            row["source"],
        )
    console.print(table)
    held = sum(row["holds"] for row in outcome["figures"])
    console.print(f"{held} of {len(outcome['figures'])} figures are where they are to be.", highlight=False)


def _number(value: float) -> str:
    return "0" if value == 0 else figure(value)


def _change(row: dict[str, Any]) -> str:
    return f"{row['modelled'] / row['published'] - 1:+.0%}" if row["published"] else ""


def markdown(outcome: dict[str, Any]) -> str:
    """The figures as tables of a document, a group each."""
    lines: list[str] = []
    group = ""
    for row in outcome["figures"]:
        if row["group"] != group:
            group = row["group"]
            lines += [
                "",
                f"**{group.capitalize()}**",
                "",
                "| | published | ours | | | source |",
                "|---|--:|--:|--:|---|---|",
            ]
        cells = (row["name"], _number(row["published"]), _number(row["modelled"]), _change(row))
        mark = row["kind"] + ("" if row["holds"] else ", **outside**")
        unit = f" {row['unit']}" if row["unit"] else ""
        lines.append(
            f"| {cells[0]} | {cells[1]}{unit} | {cells[2]}{unit} | {cells[3]} | {mark} | {row['source']} |"
        )
    return "\n".join(lines).strip() + "\n"
