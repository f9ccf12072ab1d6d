"""Real programs as workloads: each step for each path, and none that fails unseen."""

from __future__ import annotations

import csv
import ctypes.util
import json
import os
import shutil
from pathlib import Path

import pytest
from typer.testing import CliRunner

from mktme.cli import app
from mktme.errors import ClientError, LibraryMissing
from mktme.lab.programs import programs
from mktme.lab.programs.study import ProgramsError, run

MOUNTS = os.access("/dev/fuse", os.R_OK | os.W_OK) and ctypes.util.find_library("fuse3")


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in (("ROWS", 500), ("QUERIES", 20), ("UPDATES", 3), ("SCANS", 1)):
        monkeypatch.setattr(programs, name, value)
    for name, value in (("TREE", 12), ("FILE", 1 << 20), ("SYNCED", 4)):
        monkeypatch.setattr(programs, name, value)


@pytest.mark.parametrize("program", ["sqlite", "git", "fio"])
def test_every_step_on_every_path(program: str, tmp_path: Path) -> None:
    if program == "sqlite":
        pytest.importorskip("apsw")
    elif not MOUNTS or shutil.which(program) is None:
        pytest.skip(f"no mounts, or no {program}, here")
    ended: list[int] = []
    outcome = run(
        [program], ["none", "line"], rounds=1, folder=tmp_path, progress=lambda _, at, of: ended.append(at)
    )
    rows = outcome["results"]
    steps = {"sqlite": 4, "git": 5, "fio": 5}[program]
    assert [row["path"] for row in rows] == ["none", "line"] * steps
    assert len({row["step"] for row in rows}) == steps
    assert all(row["seconds"] > 0 and row["amount"] > 0 for row in rows)
    assert all(row["ratio"] == 1 for row in rows if row["path"] == "none")
    assert ended == [1, 2, 3, 4]
    assert [*tmp_path.iterdir()] == []


def test_the_command(tmp_path: Path) -> None:
    pytest.importorskip("apsw")
    results, table = tmp_path / "results.json", tmp_path / "results.csv"
    options = [
        "--workload",
        "sqlite",
        "--paths",
        "none,bounce",
        "--rounds",
        "1",
        "--directory",
        str(tmp_path),
    ]
    done = CliRunner().invoke(app, ["bench", *options, "--json", str(results), "--csv", str(table)])
    assert done.exit_code == 0, done.output + str(done.exception)
    assert "bulk load (500 rows)" in done.stdout
    outcome = json.loads(results.read_text())
    assert outcome["schema"] == "mktme-programs/1"
    with table.open() as file:
        assert len([*csv.DictReader(file)]) == len(outcome["results"]) == 8


@pytest.mark.parametrize(("option", "value"), [("--size", "64MiB"), ("--plot", "figures")])
def test_options_that_programs_have_not_are_refused(option: str, value: str) -> None:
    done = CliRunner().invoke(app, ["bench", "--workload", "sqlite", option, value])
    assert done.exit_code == 2
    assert option in done.output


def test_what_cannot_be_run(monkeypatch: pytest.MonkeyPatch) -> None:
    for programs_, paths, says in (
        (["emacs"], ["none"], "'emacs' is not a program"),
        ([], ["none"], "no program is given"),
        (["sqlite"], ["cloud"], "'cloud' is not a path"),
    ):
        with pytest.raises(ProgramsError, match=says):
            run(programs_, paths)
    with pytest.raises(ProgramsError, match="at least one"):
        run(["sqlite"], rounds=0)
    monkeypatch.setattr(shutil, "which", lambda command: None)
    with pytest.raises(LibraryMissing, match="fio isn't installed"):
        run(["fio"])


def test_a_program_that_fails_is_told(tmp_path: Path) -> None:
    with pytest.raises(ClientError, match="failed"):
        programs._command("git" if shutil.which("git") else "false", "nothing", folder=tmp_path)
