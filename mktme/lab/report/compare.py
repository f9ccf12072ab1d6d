"""Two results files side by side: what changed, and whether it is more than noise."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from mktme.lab.measure import apart, chance
from mktme.lab.report.modelled import value
from mktme.lab.report.results import ReportError, Results
from mktme.lab.timing.show import LINES

NOISE = 3  # standard deviations between two runs
FEW = 8  # figures from which a spread between runs can be told
MORE, LESS, OTHER, SAME = "more", "less", "other", "same"
BASELINES = ("none", "memcpy")
TIMED = ("cost",)  # columns of the IV matrix that are measured times, without rounds to compare
PLACES = ("workload", "program", "request", "step", "configuration", "path")
EXACT = ("copied_per_byte", "encrypted_per_byte", "decrypted_per_byte", "keys_programmed", "keys_evicted")
VERSIONS = ("processor", "cpus", "backend", "system", "python", "mktme", "numpy", "numba", "cryptography")


@dataclass(frozen=True)
class Change:
    """A figure in both files. `change`: B over A where both are numbers that say something so."""

    what: str
    before: str
    after: str
    change: float | None
    verdict: str  # more, less, other: beyond the noise; same: within it

    @property
    def marked(self) -> bool:
        """Whether it is beyond the noise."""
        return self.verdict != SAME


@dataclass(frozen=True)
class Comparison:
    """Two files: the changes, what is in one alone, and what the reader should know of them."""

    before: Results
    after: Results
    changes: list[Change]
    alone: list[str]
    notes: list[str]

    @property
    def marked(self) -> int:
        """How many figures changed beyond the noise."""
        return sum(change.marked for change in self.changes)


def compare(before: Results, after: Results) -> Comparison:
    """Compare two results of one kind.

    Measured figures are times against no encryption within each round, so that a faster machine is no
    change; one is beyond the noise if all rounds of one file lie on one side of all rounds of the other,
    and it changed by more than `NOISE` times the spread of all changes (two runs differ by more than the
    rounds of one do). Counts and modelled figures are exact: any difference is a change.

    Raises ReportError if the files are of two kinds, or one lacks the rounds.
    """
    if before.kind != after.kind:
        raise ReportError(
            f"{before.path} is of {before.kind!r} and {after.path} of {after.kind!r}: compare two of one kind"
        )
    one, other = dict(FIGURES[before.kind](before)), dict(FIGURES[after.kind](after))
    both = [name for name in one if name in other]
    if not both:
        raise ReportError(
            f"{before.path} and {after.path} have no figure in common: compare runs of the same"
        )
    spread = _spread([(one[name], other[name]) for name in both])
    changes = [_change(name, one[name], other[name], spread) for name in both]
    alone = [f"{name} (A only)" for name in one if name not in other]
    alone += [f"{name} (B only)" for name in other if name not in one]
    return Comparison(
        before, after, changes, alone, [*_notes(before, after), *_noise(one, other, both, spread)]
    )


@dataclass(frozen=True)
class Figure:
    """A value with its rounds, if it was measured; words, for what has no number."""

    number: float | None
    text: str
    rounds: tuple[float, ...] = ()


Figures = Iterator[tuple[str, Figure]]


def _spread(pairs: list[tuple[Figure, Figure]]) -> float:
    """How much measured figures differ between the runs: a robust standard deviation of log(B / A).

    1.4826 times the median absolute deviation, which a few figures that really changed don't move.
    """
    logs = [
        math.log(b.number / a.number) for a, b in pairs if a.rounds and b.rounds and a.number and b.number
    ]
    if len(logs) < FEW:
        return 0.0
    middle = statistics.median(logs)
    return 1.4826 * statistics.median(abs(one - middle) for one in logs)


def _change(what: str, a: Figure, b: Figure, spread: float) -> Change:
    ratio = b.number / a.number if a.number and b.number is not None else None
    if a.rounds and b.rounds and ratio:
        beyond = apart(a.rounds, b.rounds) and abs(math.log(ratio)) > NOISE * spread
    else:
        beyond = (a.number, a.text) != (b.number, b.text)
    verdict = SAME
    if beyond:
        verdict = OTHER
        if a.number is not None and b.number is not None and a.number != b.number:
            verdict = MORE if b.number > a.number else LESS
    return Change(what, a.text, b.text, ratio, verdict)


def _measured(results: Results) -> Figures:
    for row in results.outcome["results"]:
        name = ", ".join(row[key] for key in PLACES if key in row)
        place = row.get("configuration", row.get("path"))
        if place not in BASELINES:
            if "ratios" not in row:
                raise ReportError(
                    f"{results.path} has no rounds against no encryption: run it with none among the paths"
                )
            yield f"time: {name}", Figure(row["ratio"], f"{row['ratio']:.3g}x", tuple(row["ratios"]))
        for key in EXACT:
            if key in row:
                yield f"{key.replace('_', ' ')}: {name}", Figure(row[key], f"{row[key]:g}")


def _iv(results: Results) -> Figures:
    for row in results.outcome["schemes"]:
        for column, cell in row["cells"].items():
            if column not in TIMED:
                yield f"{row['name']}: {column}", Figure(None, f"{cell['grade']}: {cell['text']}")


def _crash(results: Results) -> Figures:
    for name, row in results.outcome["results"].items():
        for key in ("states", "failures", "points", "stores"):
            yield f"{name}: {key}", Figure(row[key], f"{row[key]}")


def _experiments(results: Results) -> Figures:
    for row in results.outcome["atomicity"]:
        for kind in ("words", "lines", "together"):
            found = row[kind]
            name = f"{row['scheme']}/{row['cipher']}" + ("+mac" if row["integrity"] else "")
            yield f"{name}, {kind}", Figure(found["broken"], f"{found['broken']} of {found['states']}")


def _replay(results: Results) -> Figures:
    for result in results.outcome["results"]:
        for label, name, unit, _ in LINES:
            number = value(result, name)
            if number is not None:
                yield f"{result['configuration']}: {label}", Figure(number / unit, f"{number / unit:.6g}")


def _validation(results: Results) -> Figures:
    for figure in results.outcome["figures"]:
        number = figure["modelled"]
        yield f"{figure['group']}: {figure['name']}", Figure(number, f"{number:.4g} {figure['unit']}")


FIGURES = {
    "bench": _measured,
    "paths": _measured,
    "programs": _measured,
    "iv": _iv,
    "crash": _crash,
    "experiments": _experiments,
    "replay": _replay,
    "validation": _validation,
}


def _notes(before: Results, after: Results) -> list[str]:
    """What else differs: the machine, versions, settings."""
    one, other = before.outcome, after.outcome
    notes = []
    for where, keys in (("machine", VERSIONS), ("settings", tuple(one.get("settings", ())))):
        a, b = one.get(where, {}), other.get(where, {})
        for key in keys:
            if a.get(key) != b.get(key) and not isinstance(a.get(key), float):
                notes.append(f"{where}, {key}: {_plain(a.get(key))} in A, {_plain(b.get(key))} in B")
    for key in ("trace", "memory"):
        if one.get(key) != other.get(key):
            notes.insert(0, f"Not the same {key}: {_plain(one.get(key))} in A, {_plain(other.get(key))} in B")
    for name, values in one.get("parameters", {}).items():
        theirs = other.get("parameters", {}).get(name, {})
        for key in [key for key in values if key in theirs and theirs[key] != values[key]]:
            notes.append(f"{name}: {key} is {values[key]} in A, {theirs[key]} in B")
    return notes


def _plain(found: Any) -> str:
    if isinstance(found, dict):
        return ", ".join(f"{key} {value}" for key, value in found.items())
    return ", ".join(map(str, found)) if isinstance(found, list) else str(found)


def _noise(one: dict[str, Figure], other: dict[str, Figure], both: list[str], spread: float) -> list[str]:
    measured = [name for name in both if one[name].rounds]
    if not measured:
        return ["These figures are exact: any difference is marked."]
    rounds = min(len(one[n].rounds) for n in measured), min(len(other[n].rounds) for n in measured)
    likely = chance(*rounds)
    likely_so = f"{rounds[0]} and {rounds[1]} rounds lie so with a probability of {likely:.2g}"
    notes = [
        (
            "Measured figures are marked if all rounds of A lie on one side of all rounds of B. "
            f"Where nothing differs {likely_so}."
        )
    ]
    if spread:
        notes.append(
            f"They are marked only if they also changed by more than {math.expm1(NOISE * spread):.0%}, "
            f"{NOISE} times the spread between these two runs."
        )
    if likely * len(measured) > 1:
        notes.append("So few rounds mark some by chance: use --rounds 7.")
    return notes
