"""Results files: what kind they are of, and whether they are whole."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mktme.errors import MktmeError
from mktme.lab import crash, overhead
from mktme.lab.iv import study as iv
from mktme.lab.paths import study as paths
from mktme.lab.programs import study as programs
from mktme.lab.timing import validation
from mktme.timing import replay

KINDS = {
    overhead.SCHEMA: "bench",
    paths.SCHEMA: "paths",
    programs.SCHEMA: "programs",
    iv.SCHEMA: "iv",
    crash.SCHEMA: "crash",
    crash.EXPERIMENTS_SCHEMA: "experiments",
    replay.SCHEMA: "replay",
    validation.SCHEMA: "validation",
}
WRITERS = "mktme bench, compare-iv, crash or replay with --json"


class ReportError(MktmeError, ValueError):
    """A file that no report can be made of."""


@dataclass(frozen=True)
class Results:
    """A results file: its kind (a value of KINDS), where it was, and what is in it."""

    kind: str
    path: Path
    outcome: dict[str, Any]


def load(path: Path) -> Results:
    """Read a results file. Raises ReportError if it isn't one, OSError if it can't be read."""
    try:
        outcome = json.loads(path.read_text())
    except FileNotFoundError:
        raise ReportError(f"there is no {path}: give files that {WRITERS} wrote") from None
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise ReportError(f"{path} is no JSON: {error}: give files that {WRITERS} wrote") from None
    schema = outcome.get("schema") if isinstance(outcome, dict) else None
    if not isinstance(schema, str):
        raise ReportError(f"{path} says no schema, so it holds no results: give files that {WRITERS} wrote")
    if schema not in KINDS:
        raise ReportError(
            f"{path} is of schema {schema!r}, and this version reads {', '.join(KINDS)}: write it again with "
            f"{WRITERS}"
        )
    return Results(KINDS[schema], path, outcome)
