"""The comparison of the paths: every workload runs on every path, and costs what it must in bytes."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from mktme.lab import paths
from mktme.lab.paths import study
from mktme.lab.paths.plots import save
from mktme.lab.paths.show import show_paths
from mktme.lab.paths.study import PathsError

ALL = ("none", "line", "line-file", "inline", "inline-lba", "bounce")


@pytest.fixture(scope="module")
def outcome(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(study, "STEP", 0.0005)  # seconds: nothing here depends on times
        return paths.run(ALL, size=1 << 20, rounds=1, folder=tmp_path_factory.mktemp("paths"))


def row(outcome: dict[str, Any], workload: str, request: str, path: str) -> dict[str, Any]:
    (found,) = [
        r for r in outcome["results"] if (r["workload"], r["request"], r["path"]) == (workload, request, path)
    ]
    return found  # type: ignore[no-any-return]


def amounts(outcome: dict[str, Any], workload: str, request: str, path: str) -> tuple[float, float, float]:
    found = row(outcome, workload, request, path)
    return found["copied_per_byte"], found["encrypted_per_byte"], found["decrypted_per_byte"]


def test_every_workload_ran_on_every_path(outcome: dict[str, Any]) -> None:
    assert outcome["schema"] == "mktme-paths/1"
    assert {r["path"] for r in outcome["results"]} == set(ALL)
    assert {r["group"] for r in outcome["results"]} == set(paths.GROUPS)
    for each in outcome["results"]:
        assert each["bytes_per_second"] > 0
        assert 0 < each["median_us"] <= each["p99_us"]
        assert each["ratio_low"] <= each["ratio"] <= each["ratio_high"]
    json.dumps(outcome)


@pytest.mark.parametrize(
    ("workload", "request_", "expected"),
    [
        ("update, persist", "64B", {
            "none": (1, 0, 0), "line": (0, 1, 0), "line-file": (0, 1, 0), "inline": (1, 64, 64),
            "inline-lba": (1, 8, 8), "bounce": (2 * 64 + 1, 64, 64),
        }),
        ("counter, persist", "8B", {
            "none": (1, 0, 0), "line": (1, 8, 8), "line-file": (1, 8, 8), "inline": (1, 512, 512),
            "inline-lba": (1, 64, 64), "bounce": (2 * 512 + 1, 512, 512),
        }),
        ("in order, write", "4KiB", {
            "none": (1, 0, 0), "line": (0, 1, 0), "line-file": (0, 1, 0), "inline": (0, 1, 0),
            "inline-lba": (0, 1, 0), "bounce": (2, 1, 0),
        }),
        ("random, read", "1MiB", {
            "none": (1, 0, 0), "line": (0, 0, 1), "line-file": (0, 0, 1), "inline": (0, 0, 1),
            "inline-lba": (0, 0, 1), "bounce": (2, 0, 1),
        }),
        ("mapped, lines", "64B", {
            "none": (1, 0, 0), "line": (0, 0, 1), "line-file": (0, 0, 1), "inline": (1, 0, 64),
            "inline-lba": (1, 0, 8), "bounce": (65, 0, 64),
        }),
    ],
)  # fmt: skip
def test_bytes_for_each_byte_asked_are_exact(
    outcome: dict[str, Any], workload: str, request_: str, expected: dict[str, tuple[float, float, float]]
) -> None:
    assert {path: amounts(outcome, workload, request_, path) for path in ALL} == expected


def test_keys_come_and_go_where_they_are_few(outcome: dict[str, Any]) -> None:
    for path in ("line", "inline"):
        found = row(outcome, "create, read, delete", "4KiB", path)
        assert found["keys_programmed"] == found["requests_counted"] == 64  # a key a file
    for path in ("none", "bounce"):
        assert row(outcome, "create, read, delete", "4KiB", path)["keys_programmed"] == 0


@pytest.mark.parametrize("width", [80, 120])
def test_the_tables_fit(outcome: dict[str, Any], width: int) -> None:
    names = ("none", "line", "inline", "bounce")
    shown = dict(outcome, settings=dict(outcome["settings"], paths=list(names)))
    shown["results"] = [r for r in outcome["results"] if r["path"] in names]
    console = Console(width=width, record=True, file=io.StringIO())
    show_paths(shown, console)
    text = console.export_text()
    assert "…" not in text
    assert max(map(len, text.splitlines())) <= width
    for word in (*names, "create, read, delete", "129/64/64"):
        assert word in text


def test_csv_and_plots(outcome: dict[str, Any], tmp_path: Path) -> None:
    paths.write_csv(outcome, tmp_path / "paths.csv")
    with (tmp_path / "paths.csv").open() as file:
        assert len([*csv.DictReader(file)]) == len(outcome["results"])
    pytest.importorskip("matplotlib")
    made = save(outcome, tmp_path / "plots")
    assert [path.name for path in made] == ["overhead.png", "bytes.png"]
    assert all(path.read_bytes().startswith(b"\x89PNG") for path in made)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"paths": "lines"}, "'lines' is not a path: they are none, line"),
        ({"paths": []}, "no path is given"),
        ({"groups": "seq"}, "'seq' is not a workload"),
        ({"size": 4096}, "a size of 1048576 bytes at least"),
        ({"rounds": 0}, "one round"),
        ({"seed": -1}, "isn't negative"),
    ],
)
def test_what_cannot_be_run_is_refused(given: dict[str, Any], message: str, tmp_path: Path) -> None:
    with pytest.raises(PathsError, match=message):
        paths.run(**given, folder=tmp_path)
    assert not [*tmp_path.iterdir()]
