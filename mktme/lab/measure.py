"""Paired, interleaved measurement: A B C A B C ..., medians, ratios of what ran side by side.

Machines drift (clock, neighbours, page cache), so contestants take turns in every round, and a
ratio is taken within its round before the median over the rounds.
"""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

Run = Callable[[], int]  # does some work and returns the bytes that it moved


@dataclass(frozen=True)
class Sample:
    """One contestant's rounds: bytes a second in each, in the order they ran."""

    rates: tuple[float, ...]

    @property
    def rate(self) -> float:
        """The median, in bytes a second."""
        return statistics.median(self.rates)


@dataclass(frozen=True)
class Ratio:
    """How many times longer a contestant takes than another: median and quartiles, and each round's."""

    median: float
    low: float
    high: float
    rounds: tuple[float, ...]


def interleave(
    contestants: Mapping[str, Run], rounds: int, after: Callable[[], None] = lambda: None
) -> dict[str, Sample]:
    """Measure contestants in turns, after one round that is not counted.

    `after` is called after each contestant's turn (to move a progress bar).
    """
    rates: dict[str, list[float]] = {name: [] for name in contestants}
    for number in range(rounds + 1):
        for name, run in contestants.items():
            begin = time.perf_counter()
            moved = run()
            took = time.perf_counter() - begin
            if number:
                rates[name].append(moved / took)
            after()
    return {name: Sample(tuple(values)) for name, values in rates.items()}


def slowdown(sample: Sample, baseline: Sample) -> Ratio:
    """How many times longer than the baseline, round by round."""
    ratios = [b / a for a, b in zip(sample.rates, baseline.rates, strict=True)]
    low, middle, high = (
        statistics.quantiles(ratios, n=4, method="inclusive") if len(ratios) > 1 else ratios * 3
    )
    return Ratio(middle, low, high, tuple(ratios))


def apart(one: Sequence[float], other: Sequence[float]) -> bool:
    """Whether every round of one lies on the same side of every round of another.

    If both came from one distribution, that happens with a probability of `chance`.
    """
    return max(one) < min(other) or max(other) < min(one)


def chance(rounds: int, other: int) -> float:
    """How likely `apart` is where nothing differs: 2 of the ways to choose which rounds are whose.

    That is the two-sided level of Mann and Whitney's test (1947) at the extreme of its statistic.
    """
    return min(1.0, 2 / math.comb(rounds + other, rounds))
