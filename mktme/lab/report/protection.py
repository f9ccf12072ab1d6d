"""Sections on what holds and what breaks: IV schemes, and power failures."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from mktme.lab.iv.explain import sentence
from mktme.lab.iv.matrix import ATTACKS, BREAKS, COLUMNS, COSTS, GOOD
from mktme.lab.iv.show import GROUPS
from mktme.lab.report.results import Results
from mktme.lab.report.sections import NONE, Rows, Section, chart, percent, table
from pmem.geometry import format_size

MARKS = {GOOD: "+", COSTS: "~", BREAKS: "×"}  # beside the colours


def iv(results: Results) -> list[Section]:
    """Of `mktme compare-iv`."""
    rows = results.outcome["schemes"]
    columns = [column for column in COLUMNS if column in rows[0]["cells"]]
    heads = {column: COLUMNS[column][0].replace("-\n", "").replace("\n", " ") for column in columns}
    matrix = {
        "groups": [
            {"name": name.lower(), "columns": [c for c in members if c in heads]}
            for name, members in GROUPS.items()
            if any(c in heads for c in members)
        ],
        "heads": heads,
        "marks": MARKS,
        "rows": [
            {
                **{key: row[key] for key in ("name", "summary", "source", "unit", "coordinates")},
                "cells": {
                    column: {
                        **row["cells"][column],
                        "said": sentence(column, row["cells"][column]["evidence"]),
                    }
                    for column in columns
                },
            }
            for row in rows
        ],
    }
    attacks = [column for column in ATTACKS if column in heads]
    dots = _protection(rows, attacks) if attacks and "cost" in heads else []
    drawn = []
    if dots:
        drawn.append(
            chart(
                "scatter",
                "Cost against protection",
                dots,
                x="speed",
                y="resisted",
                label="scheme",
                x_label="speed against pmem-line (the slower of read and write)",
                y_label=f"attacks and observations that break nothing, of {len(attacks)}",
                measures=[],
            )
        )
    return [
        Section(
            "IV schemes",
            "Which IV should encrypted persistent memory use?",
            _iv_answer(rows, attacks, heads),
            results.path,
            results.outcome,
            drawn,
            matrix=matrix,
        )
    ]


def _protection(rows: Rows, attacks: list[str]) -> Rows:
    return [
        {
            "scheme": row["name"],
            "speed": min(row["cells"]["cost"]["evidence"][f"{way}_ratio"] for way in ("read", "write")),
            "resisted": sum(row["cells"][column]["grade"] != BREAKS for column in attacks),
            "broken by": ", ".join(c for c in attacks if row["cells"][c]["grade"] == BREAKS) or "none",
        }
        for row in rows
    ]


def _iv_answer(rows: Rows, attacks: list[str], heads: dict[str, str]) -> str:
    if not attacks:
        return f"{len(rows)} schemes were tried; the matrix says what was found."
    withstood = {row["name"]: sum(row["cells"][c]["grade"] != BREAKS for c in attacks) for row in rows}
    most = max(withstood.values())

    def speed(row: dict[str, Any]) -> float:
        evidence = row["cells"].get("cost", {}).get("evidence", {})
        return float(min(evidence.get("read_ratio", 0), evidence.get("write_ratio", 0)))

    best = max((row for row in rows if withstood[row["name"]] == most), key=speed)
    equal = sum(one == most for one in withstood.values())
    text = "No scheme withstands" if most < len(attacks) else f"{equal} of {len(rows)} schemes withstand"
    text += f" all of {len(attacks)} attacks and observations"
    if most < len(attacks):
        text += f"; {percent(equal, len(rows))} withstand{'s' * (equal == 1)} {most}, the most"
    text += f". {'The fastest of these' if equal > 1 and speed(best) else 'That'} is {best['name']}"
    if speed(best):
        text += f", at {speed(best):.2f} of the speed of pmem-line with AES-128-XTS"
    beaten = [heads[c] for c in attacks if best["cells"][c]["grade"] == BREAKS]
    if beaten:
        text += f"; what breaks it: {'; '.join(beaten)}"
    if "room" in best["cells"] and (kept := best["cells"]["room"]["evidence"]["bytes_per_gib"]):
        text += f"; it keeps {format_size(kept)} beside a GiB"
    return text + "."


def crash(results: Results) -> list[Section]:
    """Of `mktme crash SCRIPT.py`."""
    found: dict[str, Any] = results.outcome["results"]
    settings = results.outcome["settings"]
    sound = sum(not row["failures"] for row in found.values())
    states = sum(row["states"] for row in found.values())
    refused = sum(row["failures"] for row in found.values())
    what = settings["log"] or f"{settings['program']} of {Path(settings['script']).name}"
    rows, told = [], []
    for name, row in found.items():
        rows.append(
            [
                name,
                row["stores"],
                row["points"],
                row["states"],
                row["failures"],
                BREAKS if row["failures"] else GOOD,
            ]
        )
        if (least := row["smallest"]) is not None:
            missing = "; ".join(
                f"line {line['address']:#x}, stored at {line['source']}" for line in least["missing"]
            )
            told.append([name, f"before {least['before']}", missing or "nothing", least["error"]])
    tables = [table(f"States of {what}", ["scheme", "stores", "fences", "states", "refused", ""], rows, 5)]
    if told:
        tables.append(
            table("The failing state with the least missing", ["scheme", "when", "missing", "said"], told)
        )
    return [
        Section(
            "Power failures",
            f"Is {what} consistent, whenever the power fails?",
            f"No: under {percent(len(found) - sound, len(found))} schemes there are states that the check "
            f"refuses, {refused:,} of {states:,}."
            if refused
            else f"Yes: each of {states:,} states was taken, under {len(found)} schemes.",
            results.path,
            results.outcome,
            tables=tables,
        )
    ]


KEEPS = {"words": "8 bytes whole", "lines": "64 bytes whole", "together": "with metadata"}


def experiments(results: Results) -> list[Section]:
    """Of `mktme crash` alone."""
    outcome = results.outcome
    rows, atomic = [], dict.fromkeys(KEEPS, 0)
    for row in outcome["atomicity"]:
        name = "/".join(part for part in (row["scheme"], row["cipher"]) if part)
        for kind, label in KEEPS.items():
            found = row[kind]
            atomic[kind] += not found["broken"] and row["scheme"] != NONE
            told = f"{found['broken']} of {found['states']} states neither old nor new"
            if found["broken"]:
                told += ", poisoned" if found["poisoned"] else f", {found['lost']} bytes garbage"
            rows.append(
                [
                    name + ("+mac" if row["integrity"] else ""),
                    label,
                    row["changed"] + row["beside"],
                    told,
                    BREAKS if found["broken"] else GOOD,
                ]
            )
    stale = [
        [
            row["way"],
            row["evicted"],
            row["at_first"],
            row["then"],
            row["later"],
            GOOD if row["later"] == row["then"] else BREAKS,
        ]
        for row in outcome["stale_lines"]
    ]
    residual = [
        [
            row["scheme"],
            "through the controller" if row["through_controller"] else "past it",
            "leaked" if row["leaked"] else "not leaked",
            "kept" if row["kept"] else "lost",
            BREAKS if row["leaked"] else (GOOD if row["kept"] else COSTS),
        ]
        for row in outcome["residual_energy"]
    ]
    count = sum(row["scheme"] != NONE for row in outcome["atomicity"])
    return [
        Section(
            "Atomic stores",
            "Does an 8-byte store stay atomic when its line is encrypted?",
            f"Under {percent(atomic['words'], count)} schemes where the medium keeps words of 8 bytes whole, "
            f"under {atomic['lines']} where it keeps lines whole, and under {atomic['together']} where "
            "counters and MACs persist with their line.",
            results.path,
            outcome,
            tables=[
                table(
                    "An atomic store of 8 bytes",
                    ["scheme", "persists", "words that change", "found", ""],
                    rows,
                    4,
                ),
                table(
                    "A page gets another key while the cache holds a dirty line of it",
                    ["how", "dirty lines", "at first", "then", "later", ""],
                    stale,
                    5,
                ),
                table(
                    "eADR: the power fails with a secret in the CPU cache",
                    ["scheme", "residual energy writes", "the secret", "the data", ""],
                    residual,
                    4,
                ),
            ],
        )
    ]
