"""Sections on what was modelled: replays, and the model against published figures."""

from __future__ import annotations

from typing import Any

from mktme.lab.report.results import Results
from mktme.lab.report.sections import Rows, Section, chart, facet, measure, percent, steps, times
from mktme.lab.timing.show import LINES
from mktme.timing import histogram

UPPER = {histogram.edge(i) / 1000: histogram.edge(i + 1) / 1000 for i in range(histogram.BINS)}


def value(result: dict[str, Any], name: str) -> Any:
    """A number of a replay's result by its dotted name; None if it has none."""
    found: Any = result
    for key in name.split("."):
        if not isinstance(found, dict) or key not in found:
            return None
        found = found[key]
    return found


def _bins(found: list[list[float]]) -> list[list[float]]:
    """Bins of the model's histograms with their upper edges."""
    return [[low, UPPER[low], count] for low, count in found]


def replay(results: Results) -> list[Section]:
    """Of `mktme replay`."""
    found = results.outcome["results"]
    base, rows, measures = found[0], Rows(), Rows()
    for result in found:
        row = {
            "configuration": result["configuration"],
            "ratio": result["time_ns"] / max(1e-9, base["time_ns"]),
        }
        for label, name, unit, _ in LINES:
            number = value(result, name)
            if number is not None:
                row[name] = number / unit
                if not any(one["key"] == name for one in measures):
                    measures.append(measure(name, label))
        rows.append(row)
    drawn = [
        chart(
            "bars",
            "Configurations side by side (modelled)",
            rows,
            x="configuration",
            measures=[measure("ratio", f"time, against {base['configuration']}"), *measures],
        ),
        chart(
            "histogram",
            "Latencies of loads (modelled)",
            [
                {"configuration": r["configuration"], "bins": steps(_bins(r["read_latency"]["bins"]))}
                for r in found
                if r["read_latency"]["bins"]
            ],
            series="configuration",
            unit="ns",
        ),
    ]
    name = results.outcome["trace"].get("source", results.outcome["trace"]["name"])
    others = sorted(rows[1:], key=lambda row: float(row["ratio"])) or rows
    least, most = others[0], others[-1]
    if len(found) < 2:
        answer = f"{base['time_ns'] / 1e6:.3g} ms with {base['configuration']}. Modelled, not measured."
    elif least is most:
        answer = (
            f"{times(least['ratio'])} times the time of {base['configuration']} with "
            f"{least['configuration']}. Modelled, not measured."
        )
    else:
        answer = (
            f"Of what was compared {least['configuration']} costs least, {times(least['ratio'])} times the "
            f"time of {base['configuration']}, and {most['configuration']} most, {times(most['ratio'])} "
            "times. Modelled, not measured."
        )
    question = f"What would {name} take on hardware with {results.outcome['memory']}?"
    return [Section("Hardware, modelled", question, answer, results.path, results.outcome, drawn)]


def validation(results: Results) -> list[Section]:
    """Of `mktme replay --validate`."""
    figures = results.outcome["figures"]
    holds = sum(figure["holds"] for figure in figures)
    rows = [
        {
            **figure,
            "ratio": figure["modelled"] / figure["published"] if figure["published"] else None,
            "ratio_low": figure["low"] / figure["published"] if figure["published"] else None,
            "ratio_high": figure["high"] / figure["published"] if figure["published"] else None,
            "within": "within" if figure["holds"] else "outside",
        }
        for figure in figures
    ]
    predicted = [figure for figure in figures if figure["kind"] == "predicted"]
    true = sum(figure["holds"] for figure in predicted)
    drawn = chart(
        "bands",
        "Ours over the published figure, and the band that it is to lie in",
        rows,
        facets=[facet("group", "subject"), facet("within", "band")],
        label="name",
        measures=[
            measure(key, key) for key in ("published", "modelled", "low", "high", "unit", "kind", "source")
        ],
    )
    return [
        Section(
            "Validation",
            "How far can the model be believed?",
            f"{percent(holds, len(figures))} published figures are within their band; of those that the "
            f"model predicts, and wasn't set to, {percent(true, len(predicted))}.",
            results.path,
            results.outcome,
            [drawn],
        )
    ]
