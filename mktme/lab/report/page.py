"""One self-contained page of sections and comparisons: nothing is loaded from anywhere."""

from __future__ import annotations

import importlib.resources
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from mktme.errors import LibraryMissing
from mktme.lab.report import measured, modelled, protection
from mktme.lab.report.compare import Comparison, compare
from mktme.lab.report.results import ReportError, Results
from mktme.lab.report.sections import Section

MAKERS = {
    "bench": measured.bench,
    "paths": measured.paths,
    "programs": measured.programs,
    "iv": protection.iv,
    "crash": protection.crash,
    "experiments": protection.experiments,
    "replay": modelled.replay,
    "validation": modelled.validation,
}
QUESTION = "Where should persistent memory be encrypted, under which IV, and at what cost?"


def require() -> None:
    """Raises LibraryMissing if what draws pages isn't installed."""
    try:
        import jinja2  # noqa: F401
        import plotly.offline  # noqa: F401
    except ImportError:
        raise LibraryMissing("reports need plotly and jinja2: pip install 'mktme[report]'") from None


def write(path: Path, results: Sequence[Results], pair: tuple[Results, Results] | None = None) -> None:
    """Write a page on results, and on a pair of them side by side. The file appears whole, or not at all.

    Raises ReportError for results that can't be read, LibraryMissing, OSError.
    """
    require()
    text = page(results, pair)
    made = path.with_name(path.name + ".part")
    try:
        made.write_text(text, encoding="utf-8")
        made.replace(path)
    finally:
        made.unlink(missing_ok=True)


def page(results: Sequence[Results], pair: tuple[Results, Results] | None = None) -> str:
    """The page's text."""
    import jinja2
    import plotly.offline

    sections = [section for one in results for section in _sections(one)]
    compared = None if pair is None else _compared(*pair)
    files = importlib.resources.files(__package__)
    environment = jinja2.Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True)
    environment.undefined = jinja2.StrictUndefined
    template = environment.from_string((files / "page.html").read_text(encoding="utf-8"))
    return template.render(
        question=QUESTION,
        sections=sections,
        compared=compared,
        machines=_machines(results, pair),
        data=_script([{"charts": s.charts, "matrix": s.matrix} for s in sections]),
        style=(files / "page.css").read_text(encoding="utf-8"),
        script=(files / "page.js").read_text(encoding="utf-8"),
        plotly=plotly.offline.get_plotlyjs(),
    )


def _sections(results: Results) -> list[Section]:
    try:
        return MAKERS[results.kind](results)
    except (KeyError, IndexError, TypeError, AttributeError) as error:
        raise _damaged(results, error) from error


def _compared(before: Results, after: Results) -> Comparison:
    try:
        return compare(before, after)
    except (KeyError, IndexError, TypeError, AttributeError) as error:
        raise _damaged(before, error, after) from error


def _damaged(results: Results, error: Exception, other: Results | None = None) -> ReportError:
    which = f"{results.path}" + (f" or {other.path}" if other else "")
    return ReportError(
        f"{which} is not as this version writes it ({type(error).__name__}: {error}): run the command again"
    )


def _machines(results: Sequence[Results], pair: tuple[Results, Results] | None) -> list[dict[str, Any]]:
    """The files: machine, settings, and the command to repeat each."""
    return [
        {
            "path": str(one.path),
            "machine": one.outcome.get("machine", {}),
            "settings": one.outcome.get("settings", {}),
            "command": one.outcome.get("command", ""),
        }
        for one in (*results, *(pair or ()))
    ]


def _script(data: Any) -> str:
    """JSON that may stand in a script element, whatever texts it holds."""
    return json.dumps(data, separators=(",", ":")).replace("<", "\\u003c")
