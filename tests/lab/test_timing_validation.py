"""The model beside published figures: all that hold, and which don't, are known."""

from __future__ import annotations

from pathlib import Path

from mktme.lab.timing.limits import limits
from mktme.lab.timing.show import markdown
from mktme.lab.timing.validation import validate

DOCUMENT = Path(__file__).parents[2] / "docs" / "timing.md"
# Discussed in the document, under "Where it differs".
OUTSIDE = {
    "one DIMM, reads, 2 threads",
    "six DIMMs, reads, 1 threads",
    "six DIMMs, reads, 2 threads",
    "six DIMMs, reads, 8 threads",
    "write-through: overhead",
    "pcm: in the memory controller, over encrypted memory",
    "pcm: in software, the largest of all workloads",
    "optane: in the memory controller, over encrypted memory",
}


def test_the_model_is_where_the_document_says_it_is() -> None:
    outcome = validate()
    figures = outcome["figures"]
    assert {row["name"] for row in figures if not row["holds"]} == OUTSIDE
    assert {row["kind"] for row in figures} == {"calibrated", "predicted", "exact"}
    assert sum(row["kind"] == "predicted" for row in figures) > 50
    assert len(outcome["files"]["pcm"]) >= 8
    assert markdown(outcome) in DOCUMENT.read_text()


def test_limits_are_exact() -> None:
    assert [figure.name for figure in limits() if not figure.holds] == []
