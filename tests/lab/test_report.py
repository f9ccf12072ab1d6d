"""The report: one page of results, in a real browser; two results side by side."""

from __future__ import annotations

import json
import re
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
from typer.testing import CliRunner

from mktme.cli import app
from mktme.lab import measure
from mktme.lab.report import ReportError, load, measured, write
from mktme.lab.report.compare import compare
from mktme.lab.timing.published import Figure

pytest.importorskip("plotly")
pytest.importorskip("jinja2")

EXAMPLE = Path(__file__).parents[2] / "examples/crash/append_log.py"
RUNS = {
    "bench": ("bench", "--size", "1MiB", "--rounds", "2", "--workload", "sequential"),
    "paths": (
        "bench",
        "--paths",
        "none,line,bounce",
        "--size",
        "1MiB",
        "--rounds",
        "1",
        "--workload",
        "small",
    ),
    "iv": ("compare-iv", "--schemes", "pmem-line,xe,ctr-split", "--size", "256KiB", "--rounds", "1"),
    "crash": ("crash", str(EXAMPLE), "--program", "missing_flush", "--limit", "8"),
    "experiments": ("crash", "--iv", "pmem-line,ctr-split"),
    "replay": ("replay", "ycsb_a:count=500,space=1MiB", "--engine", "xts,ctr-wb,bounce"),
}


def run(*arguments: str) -> Any:
    with mock.patch.object(sys, "argv", ["mktme", *arguments]):
        return CliRunner().invoke(app, list(arguments))


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A file of each kind, of small runs."""
    folder = tmp_path_factory.mktemp("results")
    made = {}
    for kind, arguments in RUNS.items():
        made[kind] = folder / f"{kind}.json"
        done = run(*arguments, "--json", str(made[kind]))
        assert done.exit_code == (kind == "crash"), done.output
    figures = [
        Figure("latency", "load", 100.0, 102.0, 85.0, 115.0, "ns", "calibrated", "a table"),
        Figure("latency", "store <b>", 100.0, 140.0, 85.0, 115.0, "ns", "predicted", "a paper"),
    ]
    made["validation"] = folder / "validation.json"
    made["validation"].write_text(
        json.dumps({"schema": "mktme-validation/1", "figures": [figure.to_json() for figure in figures]})
    )
    return made


@pytest.fixture(scope="module")
def page(results: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("page") / "report.html"
    done = run("report", *map(str, results.values()), "-o", str(made))
    assert done.exit_code == 0, done.output
    assert list(made.parent.iterdir()) == [made]
    return made


def without_plotly(page: Path) -> str:
    """The page but for the library that draws."""
    return re.sub(r"<script>/\*\*.*?</script>", "", page.read_text(), flags=re.DOTALL)


def test_a_page_answers_each_question_with_the_figures_of_its_results(
    page: Path, results: dict[str, Path]
) -> None:
    text = without_plotly(page)
    bench = json.loads(results["bench"].read_text())["results"]
    wanted = [r for r in bench if r["configuration"] == "aes-xts-128" and r["workload"] == "in order, read"]
    assert f"{wanted[-1]['ratio']:.2f} times as long with aes-xts-128" in text
    assert "line copies 0 and encrypts 1; bounce copies 129 and encrypts 64 bytes" in text
    iv = json.loads(results["iv"].read_text())["schemes"]
    fastest = next(row for row in iv if row["name"].startswith("ctr-split"))
    assert fastest["cells"]["cost"]["text"] in text
    assert "No: under 1 of 1 schemes there are states that the check refuses" in text
    assert "Under 0 of " in text
    assert "Modelled, not measured" in text
    assert "1 of 2 published figures are within their band" in text
    assert "predicts, and wasn&#39;t set to, 0 of 1" in text


def test_workloads_of_several_request_sizes_are_seen_first(results: dict[str, Path], tmp_path: Path) -> None:
    outcome = json.loads(results["bench"].read_text())
    single = outcome["results"][0] | {"workload": "files, write", "request": "9 files"}
    outcome["results"].insert(0, single)
    (tmp_path / "bench.json").write_text(json.dumps(outcome))
    (section,) = measured.bench(load(tmp_path / "bench.json"))
    seen = [row["workload"] for row in section.charts[0]["rows"]]
    assert (seen[0], seen[-1]) == ("in order, read", "files, write")


def test_a_page_says_how_to_repeat_each_file_and_on_what_it_ran(page: Path) -> None:
    text = without_plotly(page)
    machine = json.loads(run_json("info"))
    assert machine["processor"] in text
    assert "mktme bench --size 1MiB --rounds 2 --workload sequential --json" in text


def run_json(*arguments: str) -> str:
    from tempfile import TemporaryDirectory

    with TemporaryDirectory() as folder:
        path = Path(folder) / "out.json"
        assert run(*arguments, "--json", str(path)).exit_code == 0
        return path.read_text()


def test_a_page_loads_nothing(page: Path) -> None:
    text = without_plotly(page)
    assert not re.findall(r"""(?:src|href)\s*=\s*["'](?!#|data:)""", text)
    assert "@import" not in text
    assert "url(" not in text


def test_what_results_say_is_text_and_no_markup(results: dict[str, Path], tmp_path: Path) -> None:
    outcome = json.loads(results["bench"].read_text())
    for row in outcome["results"]:
        row["workload"] = "</script><b>bold</b>"
    (tmp_path / "bench.json").write_text(json.dumps(outcome))
    made = tmp_path / "page.html"
    write(made, [load(tmp_path / "bench.json")])
    text = without_plotly(made)
    assert "<b>bold" not in text
    assert "\\u003c/script>\\u003cb>bold" in text


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("{", "is no JSON"),
        ("[1]", "says no schema"),
        ('{"schema": []}', "says no schema"),
        ('{"results": []}', "says no schema"),
        ('{"schema": "mktme-bench/0"}', "this version reads mktme-bench/1"),
        ('{"schema": "mktme-bench/1", "results": []}', "is not as this version writes it"),
        ('{"schema": "mktme-paths/1"}', "is not as this version writes it (KeyError: 'results')"),
    ],
)
def test_files_that_hold_no_results_are_refused_and_no_page_appears(
    text: str, says: str, tmp_path: Path
) -> None:
    (tmp_path / "r.json").write_text(text)
    with pytest.raises(ReportError, match=re.escape(says)):
        write(tmp_path / "page.html", [load(tmp_path / "r.json")])
    assert [one.name for one in tmp_path.iterdir()] == ["r.json"]


def test_the_command_says_what_is_missing(results: dict[str, Path], tmp_path: Path) -> None:
    nothing = run("report", "-o", str(tmp_path / "page.html"))
    assert nothing.exit_code == 2
    assert "mktme bench --json bench.json makes one" in re.sub(r"\s+", " ", nothing.output.replace("│", ""))
    two = run(
        "report", "--compare", str(results["bench"]), str(results["iv"]), "-o", str(tmp_path / "p.html")
    )
    assert isinstance(two.exception, ReportError)
    assert "compare two of one kind" in str(two.exception)
    assert not list(tmp_path.iterdir())


def test_a_histogram_is_down_at_zero_where_nobody_was() -> None:
    from mktme.lab.report.sections import steps

    assert steps([[1, 2, 5], [2, 3, 7], [10, 11, 1]]) == [[1, 5], [2, 7], [3, 0], [10, 1], [11, 0]]
    assert steps([]) == []


def test_a_page_is_not_written_over_its_results(results: dict[str, Path]) -> None:
    before = results["bench"].read_bytes()
    done = run("report", str(results["bench"]), "-o", str(results["bench"]))
    assert done.exit_code == 2
    assert results["bench"].read_bytes() == before


# Two results side by side


def changed(results: dict[str, Path], kind: str, folder: Path, change: Any) -> Any:
    """A file and the same with a change, compared."""
    outcome = json.loads(results[kind].read_text())
    change(outcome)
    (folder / "other.json").write_text(json.dumps(outcome))
    return compare(load(results[kind]), load(folder / "other.json"))


@pytest.mark.parametrize("kind", ["bench", "paths", "iv", "crash", "experiments", "replay", "validation"])
def test_results_beside_themselves_show_no_change(
    kind: str, results: dict[str, Path], tmp_path: Path
) -> None:
    found = changed(results, kind, tmp_path, lambda outcome: None)
    assert found.changes
    assert found.marked == 0
    assert not found.alone


def test_a_measured_change_is_marked_when_all_rounds_are_apart_and_it_is_above_the_spread(
    results: dict[str, Path], tmp_path: Path
) -> None:
    def slower(outcome: Any) -> None:
        rows = [row for row in outcome["results"] if row["configuration"] not in ("none", "memcpy")]
        for number, row in enumerate(rows):  # all differ by some 1 percent; one by half
            factor = 1.5 if number == 3 else 1 + 0.01 * (-1) ** number
            row["ratios"] = [factor * max(row["ratios"])] * 2 if number == 3 else row["ratios"]
            row["ratio"] *= factor

    found = changed(results, "bench", tmp_path, slower)
    assert [change.verdict for change in found.changes].count("more") == 1
    assert found.marked == 1
    assert any("more than 4%" in note or "more than 5%" in note for note in found.notes)


def test_an_exact_figure_is_marked_at_any_difference(results: dict[str, Path], tmp_path: Path) -> None:
    def copied(outcome: Any) -> None:
        outcome["results"][2]["copied_per_byte"] += 0.5

    def time(outcome: Any) -> None:
        outcome["results"][1]["time_ns"] *= 0.999

    def grade(outcome: Any) -> None:
        outcome["schemes"][0]["cells"]["replay"]["grade"] = "good"

    found = changed(results, "paths", tmp_path, copied)
    assert [change.what.split(":")[0] for change in found.changes if change.marked] == ["copied per byte"]
    found = changed(results, "replay", tmp_path, time)
    assert [(change.what, change.verdict) for change in found.changes if change.marked] == [
        ("xts: time, ms", "less")
    ]
    found = changed(results, "iv", tmp_path, grade)
    assert [change.what for change in found.changes if change.marked] == ["pmem-line/aes-xts-128: replay"]


def test_replays_of_two_traces_are_said_to_be_that(results: dict[str, Path], tmp_path: Path) -> None:
    def another(outcome: Any) -> None:
        outcome["trace"]["source"] = "ycsb_a:count=501"
        outcome["parameters"]["xts"]["engine.aes_ns"] = 41

    found = changed(results, "replay", tmp_path, another)
    assert found.notes[0].startswith("Not the same trace: name ycsb_a, source ycsb_a:count=500")
    assert "xts: engine.aes_ns is 40.0 in A, 41 in B" in found.notes


def test_the_chance_of_a_mark_where_nothing_differs_is_counted() -> None:
    from itertools import combinations

    ranks = range(6)
    apart = sum(
        measure.apart(chosen, [rank for rank in ranks if rank not in chosen])
        for chosen in combinations(ranks, 3)
    )
    assert apart / len(list(combinations(ranks, 3))) == measure.chance(3, 3) == 0.1


# In a browser


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    selenium = pytest.importorskip("selenium.webdriver")
    from selenium.webdriver.chrome.service import Service

    chromium, driver = shutil.which("chromium"), shutil.which("chromedriver")
    if chromium is None or driver is None:
        pytest.skip("chromium and chromedriver aren't installed")
    options = selenium.ChromeOptions()
    options.binary_location = chromium
    profile = tmp_path_factory.mktemp("profile")
    for argument in ("--headless=new", "--no-sandbox", "--disable-dev-shm-usage", "--window-size=1200,900"):
        options.add_argument(argument)
    options.add_argument(f"--user-data-dir={profile}")
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    made = selenium.Chrome(options=options, service=Service(driver))
    yield made
    made.quit()


@pytest.fixture
def opened(browser: Any, page: Path) -> Any:
    browser.get(page.as_uri())
    assert browser.execute_script("return document.documentElement.dataset.ready") == "yes"
    yield browser
    assert browser.get_log("browser") == []


def find(browser: Any, selector: str) -> Any:
    return browser.find_element("css selector", selector)


def found(browser: Any, selector: str) -> list[Any]:
    return list(browser.find_elements("css selector", selector))


def choose(browser: Any, selector: str, value: str) -> None:
    script = (
        "const e = arguments[0]; e.value = arguments[1]; for (const n of ['input', 'change'])"
        " e.dispatchEvent(new Event(n, {bubbles: true}));"
    )
    browser.execute_script(script, find(browser, selector), value)


def test_every_chart_is_drawn(opened: Any) -> None:
    figures = found(opened, "figure.chart")
    assert len(figures) == 7
    for figure in figures:
        assert figure.find_elements("css selector", ".plot .main-svg"), figure.text
        marks = figure.find_elements("css selector", ".plot .point, .plot .points path")
        assert marks, figure.text


def test_filters_change_what_is_drawn_and_its_table(opened: Any) -> None:
    bars = "#s0 .plot .bars .point"
    before = len(found(opened, bars))
    find(opened, '#s0 fieldset input[value="memcpy"]').click()
    assert len(found(opened, bars)) == before * 5 // 6
    find(opened, "#s0 details summary").click()
    rows = found(opened, "#s0 details tbody tr")
    assert len(rows) == before * 5 // 6
    choose(opened, '#s0 select[data-facet="workload"]', "in order, write")
    assert find(opened, "#s0 details tbody td").text == "in order, write"
    choose(opened, "#s0 select[data-measure]", "1")
    assert "GB/s" in find(opened, "#s0 .plot .ytitle").text


def test_a_cell_of_the_matrix_shows_its_evidence_by_mouse_and_by_keyboard(opened: Any) -> None:
    from selenium.webdriver.common.keys import Keys

    cell = find(opened, '.cell[data-row="0"][data-column="times"]')
    cell.click()
    evidence = find(opened, ".evidence")
    assert "pmem-line/aes-xts-128" in evidence.text
    assert "an observer of the medium recognised" in evidence.text
    assert cell.get_attribute("aria-current") == "true"
    cell.send_keys(Keys.ARROW_DOWN)
    opened.switch_to.active_element.send_keys(Keys.ENTER)
    assert evidence.text.startswith("pmem-line/sm4-xts: equal data, other time")
    opened.switch_to.active_element.send_keys(Keys.ARROW_LEFT, Keys.ARROW_LEFT)
    opened.switch_to.active_element.send_keys(Keys.ENTER)
    assert "IV: " in evidence.text


def test_a_point_of_the_chart_shows_its_scheme(opened: Any) -> None:
    opened.execute_script(
        "const p = document.querySelector('#s2 figure.chart .plot'); p.scrollIntoView();"
        "p.emit('plotly_click', {points: [{customdata: p.data[0].customdata[1]}]});"
    )
    assert find(opened, ".evidence h3").text == "pmem-line/sm4-xts"


def test_the_matrix_is_filtered_by_scheme_column_and_grade(opened: Any) -> None:
    def names() -> list[str]:
        return [
            row.get_attribute("data-scheme") for row in found(opened, "table.matrix tbody tr:not([hidden])")
        ]

    assert len(names()) > 3
    choose(opened, ".scheme-search", "xe")
    assert names() == ["xe/aes-xe-128"]
    choose(opened, ".scheme-search", "")
    choose(opened, ".column-group", "observer")
    heads = found(opened, "table.matrix thead tr:nth-child(2) th:not([hidden])")
    assert len(heads) == 3
    choose(opened, ".scheme-grade", "unbroken")
    assert all(name.startswith("ctr-split") for name in names())
    assert names()


def test_no_grade_and_no_series_is_told_by_colour_alone(opened: Any) -> None:
    marks = {"good": "+", "costs": "~", "breaks": "×"}
    for cell in found(opened, "table.matrix td .cell"):
        grade = cell.get_attribute("class").split()[1]
        assert cell.get_attribute("textContent").startswith(marks[grade])
    patterns = opened.execute_script(
        "return document.querySelector('#s0 .plot').data.map(t => t.marker.pattern.shape)"
    )
    assert len(set(patterns)) == len(patterns) == 6


def test_dark_and_light_follow_the_system_and_the_button(opened: Any) -> None:
    def scheme(name: str) -> None:
        features = [{"name": "prefers-color-scheme", "value": name}]
        opened.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": features})

    def ground() -> str:
        return str(opened.execute_script("return getComputedStyle(document.documentElement).backgroundColor"))

    scheme("dark")
    assert ground() == "rgb(20, 22, 26)"
    find(opened, "#theme").click()
    assert ground() == "rgb(255, 255, 255)"
    scheme("light")


def test_on_a_phone_nothing_is_wider_than_the_screen(opened: Any) -> None:
    metrics = {"width": 390, "height": 844, "deviceScaleFactor": 1, "mobile": True}
    opened.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)
    try:
        opened.refresh()
        wide = opened.execute_script("return document.documentElement.scrollWidth")
    finally:
        opened.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})
    assert wide <= 390


def test_a_comparison_shows_what_is_marked_and_on_request_the_rest(
    browser: Any, results: dict[str, Path], tmp_path: Path
) -> None:
    outcome = json.loads(results["replay"].read_text())
    outcome["results"][1]["time_ns"] *= 2
    (tmp_path / "b.json").write_text(json.dumps(outcome))
    made = tmp_path / "changes.html"
    done = run("report", "--compare", str(results["replay"]), str(tmp_path / "b.json"), "-o", str(made))
    assert done.exit_code == 0, done.output
    browser.get(made.as_uri())
    rows = "#changes tbody tr:not([hidden])"
    assert [row.text.split(" ")[0] for row in found(browser, rows)] == ["xts:"]
    assert "▲ larger in B" in find(browser, rows).text
    find(browser, "#marked-only").click()
    assert len(found(browser, rows)) > 50
    assert browser.get_log("browser") == []
