"""A histogram of latencies: eight bins to a factor of two, so none is further off than 13 %."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from mktme.crypto.kernel import inline
from mktme.timing.words import State, Vector, Words, length

SUM, MOST = 0, 1
HEADER = 8
STEPS = 8  # bins to a factor of two
_WIDTH = STEPS.bit_length()
BINS = 64 * STEPS


def lay(words: Words) -> int:
    """Its place among the words."""
    return words.take(HEADER + BINS)


@inline
def count(s: State, h: int, value: int) -> None:
    """A value of at least 0."""
    s[h + SUM] += value
    if value > s[h + MOST]:
        s[h + MOST] = value
    shift = max(0, length(value) - _WIDTH)
    s[h + HEADER + (shift * STEPS + (value >> shift))] += 1


def edge(index: int) -> int:
    """The lowest value in a bin."""
    if index < 2 * STEPS:
        return index
    shift = index // STEPS - 1
    return (index - shift * STEPS) << shift


def result(s: Vector, place: int) -> dict[str, Any]:
    """The histogram in ns: mean, percentiles (upper edges of their bins), bins that aren't empty."""
    bins = s[place + HEADER : place + HEADER + BINS]
    return _told(bins, int(s[place + SUM]), int(s[place + MOST]))


def merged(results: Sequence[Any]) -> dict[str, Any]:
    """The histogram of what several have counted, from their `result`s. Counts add up exactly."""
    bins = np.zeros(BINS, np.int64)
    places = {edge(index) / 1000: index for index in range(BINS)}
    for found in results:
        for lowest, count in found["bins"]:
            bins[places[lowest]] += count
    total = sum(found["sum_ps"] for found in results)
    return _told(bins, total, round(max((found["max_ns"] for found in results), default=0) * 1000))


def _told(bins: Vector, summed: int, most: int) -> dict[str, Any]:
    total = int(bins.sum())
    found: dict[str, Any] = {"count": total, "sum_ps": summed, "mean_ns": summed / 1000 / max(1, total)}
    reached = bins.cumsum()
    for name, share in (("p50_ns", 0.5), ("p90_ns", 0.9), ("p99_ns", 0.99), ("p999_ns", 0.999)):
        index = int((reached >= share * total).argmax())
        found[name] = min(edge(index + 1), most) / 1000 if total else 0.0
    found["max_ns"] = most / 1000
    found["bins"] = [[edge(int(i)) / 1000, int(bins[i])] for i in bins.nonzero()[0]]
    return found
