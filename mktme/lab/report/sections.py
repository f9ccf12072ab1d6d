"""What a report says of each kind of results: the question, the answer with its figure, charts, tables.

A chart is plain data, which the page's script draws and filters: `rows`, of which `facets` are chosen by
the reader, `x` and `series` lay out, and `measures` are shown.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

Rows = list[dict[str, Any]]
NONE = "none"


@dataclass(frozen=True)
class Section:
    """A part of the page. `charts` and `tables` are plain data; `matrix` that of an IV comparison."""

    title: str
    question: str
    answer: str
    source: Path
    outcome: dict[str, Any]
    charts: Rows = field(default_factory=list)
    tables: Rows = field(default_factory=list)
    matrix: dict[str, Any] | None = None


def measure(key: str, label: str, *, log: bool = False, band: bool = False) -> dict[str, Any]:
    """A column of a chart that can be looked at; `band`: KEY_low and KEY_high are its quartiles."""
    return {"key": key, "label": label, "log": log, "band": band}


def facet(key: str, label: str) -> dict[str, str]:
    """A column of a chart by whose values the reader chooses."""
    return {"key": key, "label": label}


def chart(kind: str, title: str, rows: Rows, **shape: Any) -> dict[str, Any]:
    """A chart's plain data."""
    return {"kind": kind, "title": title, "rows": rows, "facets": [], "series": "", "measures": [], **shape}


def table(title: str, heads: list[str], rows: list[list[Any]], marked: int = -1) -> dict[str, Any]:
    """A table; column `marked` holds grades, shown by mark, word and colour."""
    return {"title": title, "heads": heads, "rows": rows, "marked": marked}


def steps(bins: list[list[float]]) -> list[list[float]]:
    """A histogram as a line of steps: from [low, high, count] of bins that aren't empty to [x, count].

    Where bins are missing in between, and behind the last one, it is down at 0.
    """
    made: list[list[float]] = []
    for number, (low, high, count) in enumerate(bins):
        made.append([low, count])
        following = bins[number + 1][0] if number + 1 < len(bins) else math.inf
        if following > high * 1.001:
            made.append([high, 0])
    return made


def times(ratio: float) -> str:
    """How many times as long, in words."""
    return f"{ratio:.2f}" if ratio < 10 else f"{ratio:.0f}"


def percent(part: int, whole: int) -> str:
    return f"{part} of {whole}"
