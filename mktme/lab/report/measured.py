"""Sections on what was measured: overhead, the three places, real programs."""

from __future__ import annotations

from collections import Counter

from mktme.lab.paths.study import STEPS
from mktme.lab.report.results import Results
from mktme.lab.report.sections import NONE, Rows, Section, chart, facet, measure, steps, times


def bench(results: Results) -> list[Section]:
    """Of `mktme bench`."""
    rows = results.outcome["results"]
    shown = [
        {
            **{key: row[key] for key in ("workload", "request", "configuration", "ns_per_line")},
            **{key: row[key] for key in ("ratio", "ratio_low", "ratio_high")},
            "gb_per_s": row["bytes_per_second"] / 1e9,
        }
        for row in rows
    ]
    sizes = Counter(workload for workload, _ in {(row["workload"], row["request"]) for row in rows})
    shown.sort(key=lambda row: -sizes[row["workload"]])  # what has a curve is seen first
    drawn = chart(
        "bars",
        "Overhead by workload and request size",
        shown,
        facets=[facet("workload", "workload")],
        x="request",
        series="configuration",
        measures=[
            measure("ratio", "time, against no encryption", log=True, band=True),
            measure("gb_per_s", "GB/s", log=True),
            measure("ns_per_line", "ns a 64-byte line", log=True),
        ],
    )
    return [
        Section(
            "Overhead",
            "What does encrypting each line cost against a plain memory-mapped file, on this machine?",
            _bench_answer(rows),
            results.path,
            results.outcome,
            [drawn],
        )
    ]


def _bench_answer(rows: Rows) -> str:
    wanted = [row for row in rows if row["configuration"] == "aes-xts-128"] or rows
    ordered = [row for row in wanted if row["workload"].startswith("in order, read")] or wanted
    ordered = [row for row in ordered if row["workload"] == ordered[-1]["workload"]]
    small, large = ordered[0], ordered[-1]
    text = (
        f"{large['workload'].capitalize()} in requests of {large['request']} takes "
        f"{times(large['ratio'])} times as long with {large['configuration']} as without encryption "
        f"({large['bytes_per_second'] / 1e9:.1f} GB/s)"
    )
    if small is not large:
        text += f", in requests of {small['request']} {times(small['ratio'])} times"
    by_hand = [r for r in rows if "cryptography" in r["configuration"] and r["request"] == large["request"]]
    by_hand = [r for r in by_hand if r["workload"] == large["workload"]]
    if by_hand:
        best = min(by_hand, key=lambda row: float(row["ratio"]))
        text += f"; by hand with the cryptography package at best {times(best['ratio'])} times"
    return text + "."


PATH_MEASURES = (
    measure("ratio", "time, against no encryption", log=True, band=True),
    measure("median_us", "median latency, us", log=True),
    measure("p99_us", "99 % latency, us", log=True),
    measure("mb_per_s", "MB/s", log=True),
    measure("copied_per_byte", "bytes copied for a byte asked (exact)"),
    measure("encrypted_per_byte", "bytes encrypted for a byte asked (exact)"),
    measure("decrypted_per_byte", "bytes decrypted for a byte asked (exact)"),
)


def paths(results: Results) -> list[Section]:
    """Of `mktme bench --paths`."""
    rows = results.outcome["results"]
    measures = [one for one in PATH_MEASURES if one["key"] != "ratio" or "ratio" in rows[0]]
    hidden = ("latency_bins", "ratios")
    shown = [
        {**{k: v for k, v in row.items() if k not in hidden}, "mb_per_s": row["bytes_per_second"] / 1e6}
        for row in rows
    ]
    drawn = [
        chart(
            "bars",
            "Overhead by path and request size",
            shown,
            facets=[facet("workload", "workload")],
            x="request",
            series="path",
            measures=measures,
        ),
        chart(
            "histogram",
            "Latencies of single requests",
            [
                {key: row[key] for key in ("workload", "request", "path")}
                | {
                    "bins": steps(
                        [[low, low * 2 ** (1 / STEPS), count] for low, count in row["latency_bins"]]
                    )
                }
                for row in rows
            ],
            facets=[facet("workload", "workload"), facet("request", "request")],
            series="path",
            unit="us",
        ),
    ]
    return [
        Section(
            "Three places",
            "What does a file cost, encrypted by the memory controller, by an inline engine, in software?",
            _paths_answer(rows),
            results.path,
            results.outcome,
            drawn,
        )
    ]


def _paths_answer(rows: Rows) -> str:
    wanted = [row for row in rows if row["workload"] == "update, persist"] or rows
    first = [
        row
        for row in wanted
        if (row["workload"], row["request"]) == (wanted[0]["workload"], wanted[0]["request"])
    ]
    parts = [
        f"{row['path']} copies {row['copied_per_byte']:.3g} and encrypts {row['encrypted_per_byte']:.3g}"
        for row in first
        if row["path"] != NONE
    ] or [f"{row['path']} copies {row['copied_per_byte']:.3g}" for row in first]
    what, request = first[0]["workload"], first[0]["request"]
    text = f"For each byte of {what!r} in requests of {request}, {'; '.join(parts)} bytes"
    slow = [row for row in first if row.get("ratio", 1) != 1]
    if slow:
        longest = max(slow, key=lambda row: float(row["ratio"]))
        text += (
            f". {longest['path'].capitalize()} takes {times(longest['ratio'])} times as long here as no "
            "encryption"
        )
    return text + "."


def programs(results: Results) -> list[Section]:
    """Of `mktme bench --workload sqlite` and the like."""
    rows = [{k: v for k, v in row.items() if k != "ratios"} for row in results.outcome["results"]]
    measures = [measure("seconds", "seconds", log=True), measure("a_second", "a second", log=True)]
    if "ratio" in rows[0]:
        measures.insert(0, measure("ratio", "time, against no encryption", log=True, band=True))
    drawn = chart(
        "bars",
        "Real programs by step and path",
        rows,
        facets=[facet("program", "program")],
        x="step",
        series="path",
        measures=measures,
    )
    answer = "The steps and what they took are in the chart."
    if "ratio" in rows[0]:
        worst = max(rows, key=lambda row: float(row["ratio"]))
        answer = (
            f"At worst {times(worst['ratio'])} times as long as without encryption: {worst['step']!r} of "
            f"{worst['program']} on the path {worst['path']}."
        )
    question = "What do real programs notice of encryption?"
    return [Section("Real programs", question, answer, results.path, results.outcome, [drawn])]
