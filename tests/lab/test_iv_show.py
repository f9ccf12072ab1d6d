"""The comparison's results for people: tables that fit, figures that can be read, runs that repeat."""

from __future__ import annotations

import io
import json
import re
from typing import Any

import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.transforms import Bbox
from rich.console import Console

from mktme.lab.iv import matrix, plots, run
from mktme.lab.iv.show import GROUPS, LOOK, cell, show_matrix, show_scheme

Outcome = dict[str, Any]


@pytest.fixture(scope="module")
def everything() -> Outcome:
    return run(size="256KiB", rounds=1)


def shown(outcome: Outcome, width: int) -> list[str]:
    """The lines of the matrix on a console of so many columns."""
    text = io.StringIO()
    show_matrix(outcome, Console(file=text, width=width))
    return text.getvalue().splitlines()


def label(row: dict[str, Any]) -> str:
    """The words by which the matrix names a row."""
    cipher = row["algorithm"].removeprefix("aes-") + ("+mac" if row["integrity"] else "")
    return f"{row['scheme']} {cipher}"


@pytest.mark.parametrize("width", [60, 80, 120, 200])
def test_every_cell_is_whole_at_any_usual_width(everything: Outcome, width: int) -> None:
    lines = shown(everything, width)
    assert max(map(len, lines)) <= width
    assert not any("\u2026" in line for line in lines)
    for row in everything["schemes"]:
        name = label(row).split()
        mine = (re.split(r"  +", line.rstrip()) for line in lines if line.split()[:2] == name)
        found = [text for texts in mine for text in texts if text[:2] in {f"{m} " for m, _ in LOOK.values()}]
        assert found == [
            cell(row["cells"][column]).plain for columns in GROUPS.values() for column in columns
        ]


def test_groups_share_a_table_where_there_is_room(everything: Outcome) -> None:
    def heads(width: int) -> list[list[str]]:
        found = [[group for group in GROUPS if group in line] for line in shown(everything, width)]
        return [groups for groups in found if groups]

    assert [len(groups) for groups in heads(80)] == [1] * len(heads(80))
    assert ["OBSERVER", "ATTACKER"] in heads(120)
    assert len(heads(200)) < len(heads(120)) < len(heads(80))
    assert heads(400) == [list(GROUPS)]


def test_every_experiment_has_a_column_on_the_terminal() -> None:
    assert sorted(column for columns in GROUPS.values() for column in columns) == sorted(matrix.COLUMNS)


def test_the_best_schemes_are_those_with_the_fewest_breaks(everything: Outcome) -> None:
    columns = {"attacks": matrix.ATTACKS, "operations": matrix.OPERATIONS}
    columns["of both"] = columns["attacks"] + columns["operations"]
    lines = shown(everything, 2000)
    for what, counted in columns.items():
        breaks = {
            label(row): sum(row["cells"][c]["grade"] == matrix.BREAKS for c in counted)
            for row in everything["schemes"]
        }
        least = min(breaks.values())
        (line,) = (line for line in lines if line.startswith(f"Fewest {what} "))
        begin = f"Fewest {what} that break, {least} of {len(counted)}: "
        assert line.startswith(begin)
        said = set()
        for part in line.removeprefix(begin).removesuffix(").").split("), "):
            scheme, _, ciphers = part.partition(" (")
            said |= {f"{scheme} {cipher}" for cipher in ciphers.split(", ")}
        assert said == {name for name, count in breaks.items() if count == least}


def test_a_scheme_is_explained_whole_at_80_columns(everything: Outcome) -> None:
    for row in everything["schemes"]:
        text = io.StringIO()
        show_scheme(everything, row["name"], Console(file=text, width=80))
        lines = text.getvalue().splitlines()
        assert max(map(len, lines)) <= 80
        assert "\u2026" not in text.getvalue()
        assert sum(line.startswith("  ") and line[2] != " " for line in lines) == len(row["cells"])


def without_timings(value: Any) -> Any:
    if isinstance(value, list):
        return [without_timings(v) for v in value]
    if isinstance(value, dict):
        return {k: without_timings(v) for k, v in value.items() if k not in ("seconds", "cost")}
    return value


def test_equal_seeds_give_equal_results(everything: Outcome) -> None:
    first, again = (without_timings(made) for made in (everything, run(size="256KiB", rounds=1)))
    for made in first, again:  # averages over IVs that the operating system draws
        (row,) = (row for row in made["schemes"] if row["scheme"] == "random")
        row["cells"] = {column: found["grade"] for column, found in row["cells"].items()}
    assert first == again


def test_another_seed_draws_other_changes() -> None:
    first, other = (
        run("pmem-line", "cost", size="256KiB", rounds=1, seed=seed)["schemes"][0]["cells"]["bit flips"]
        for seed in (1, 2)
    )
    assert first["evidence"] != other["evidence"]


def drawn(draw: Any, rows: list[dict[str, Any]]) -> Figure:
    """A figure, laid out as when it is saved."""
    figure = Figure(layout="constrained", dpi=150)
    FigureCanvasAgg(figure)
    draw(figure, rows)
    figure.canvas.draw()
    return figure


def boxes(figure: Figure) -> list[Bbox]:
    """Where the texts of a figure lie, in pixels."""
    texts = [*figure.texts, *(text for legend in figure.legends for text in legend.get_texts())]
    for axes in figure.axes:
        texts += axes.texts
        for axis in (axes.xaxis, axes.yaxis) if axes.axison else ():
            low, high = sorted(axis.get_view_interval())
            ticks = zip(axis.get_ticklocs(), axis.get_ticklabels(), strict=True)
            texts += [axis.label, *(text for at, text in ticks if low <= at <= high)]
    return [text.get_window_extent() for text in texts if text.get_text().strip()]


DRAWERS = [plots.draw_matrix, plots.draw_protection, plots.draw_bit_flips]


@pytest.mark.parametrize("count", [1, 5, None])
@pytest.mark.parametrize("draw", DRAWERS)
def test_no_text_of_a_figure_is_cut_off_or_covered(everything: Outcome, draw: Any, count: int | None) -> None:
    figure = drawn(draw, everything["schemes"][:count])
    found = boxes(figure)
    assert len(found) > 5
    for box in found:
        assert min(box.x0, box.y0) >= 0
        assert box.x1 <= figure.bbox.x1
        assert box.y1 <= figure.bbox.y1
    if draw is not plots.draw_matrix:  # whose heads are slanted
        assert not [(a, b) for n, a in enumerate(found) for b in found[:n] if a.overlaps(b)]


def test_a_small_matrix_has_its_whole_legend() -> None:
    rows = run("null", "secrecy", size="256KiB")["schemes"]
    figure = drawn(plots.draw_matrix, rows)
    assert all(box.x0 >= 0 and box.x1 <= figure.bbox.x1 for box in boxes(figure))


@pytest.mark.parametrize("spread", [0.0, 0.002, 0.03])
def test_schemes_are_drawn_at_their_true_speed_and_their_numbers_apart(
    everything: Outcome, spread: float
) -> None:
    rows = json.loads(json.dumps(everything["schemes"]))
    for number, row in enumerate(rows):
        for column in matrix.ATTACKS:
            row["cells"][column]["grade"] = matrix.GOOD
        ratio = 1 + spread * number
        row["cells"]["cost"]["evidence"] |= {"read_ratio": ratio, "write_ratio": ratio + 0.5}
    figure = drawn(plots.draw_protection, rows)
    dots = [(line.get_xdata()[0], line.get_ydata()[0]) for line in figure.axes[0].lines]
    assert dots == [(1 + spread * number, len(matrix.ATTACKS)) for number in range(len(rows))]
    found = boxes(figure)
    assert max(box.y1 for box in found) <= figure.bbox.y1
    assert not [(a, b) for n, a in enumerate(found) for b in found[:n] if a.overlaps(b)]
