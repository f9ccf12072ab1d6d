"""The command: results files, refusals, exit codes."""

from __future__ import annotations

import csv
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from mktme.crypto import backend


def mktme(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "mktme.cli", *arguments],
        env={**os.environ, "COLUMNS": "80", **environment},
        capture_output=True,
        text=True,
        check=False,
    )


def test_bench_prints_a_table_and_writes_its_results(tmp_path: Path) -> None:
    made_json, made_csv = tmp_path / "r.json", tmp_path / "r.csv"
    run = mktme(
        *("bench", "--size", "1MiB", "--workload", "zipfian", "--rounds", "1", "--directory", str(tmp_path)),
        *("--json", str(made_json), "--csv", str(made_csv)),
    )
    assert run.returncode == 0, run.stderr
    assert "zipfian, 70/30" in run.stdout
    assert max(len(line) for line in run.stdout.splitlines()) <= 80
    outcome = json.loads(made_json.read_text())
    assert outcome["machine"]["backend"] == backend.chosen
    assert outcome["settings"]["size"] == 1 << 20
    assert outcome["settings"]["seed"] == 1
    with made_csv.open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["configuration"] for row in rows] == [row["configuration"] for row in outcome["results"]]
    assert sorted(tmp_path.iterdir()) == [made_csv, made_json]


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--size", "100"], "a positive multiple"),
        (["--size", "5MB"], "is not a size"),
        (["--workload", "nothing"], "none of files"),
        (["--threads", "0"], "--threads"),
    ],
)
def test_bad_options_are_refused_by_name(arguments: list[str], says: str) -> None:
    run = mktme("bench", *arguments)
    assert run.returncode != 0
    assert says in " ".join(run.stderr.replace("│", " ").split())
    assert "Traceback" not in run.stderr


def test_compare_iv_prints_a_matrix_and_writes_its_results(tmp_path: Path) -> None:
    made_json, made_csv, figures = tmp_path / "iv.json", tmp_path / "iv.csv", tmp_path / "figures"
    run = mktme(
        *("compare-iv", "--schemes", "pmem-line, ctr-split,essiv", "--size", "256KiB", "--rounds", "1"),
        *("--json", str(made_json), "--csv", str(made_csv), "--plot", str(figures)),
    )
    assert run.returncode == 0, run.stderr
    assert max(len(line) for line in run.stdout.splitlines()) <= 80
    assert "\u2026" not in run.stdout  # nothing is cut off
    assert "Fewest attacks that break" in run.stdout
    outcome = json.loads(made_json.read_text())
    names = [row["name"] for row in outcome["schemes"]]
    assert names == [
        "pmem-line/aes-xts-128", "pmem-line/sm4-xts", "pmem-line/aes-xts-128+mac",
        "ctr-split/aes-ctr-128", "ctr-split/aes-ctr-128+mac", "essiv/aes-cbc-256",
    ]  # fmt: skip
    with made_csv.open(newline="") as file:
        cells = {(row["scheme"], row["experiment"]): row["grade"] for row in csv.DictReader(file)}
    assert cells["essiv", "relocation"] == "breaks"
    assert cells["ctr-split", "times"] == "good"
    pictures = sorted(path.name for path in figures.iterdir())
    assert pictures == ["bit-flips.png", "cost-protection.png", "matrix.png"]
    assert all((figures / name).read_bytes().startswith(b"\x89PNG") for name in pictures)


def test_compare_iv_explains_a_scheme_in_sentences() -> None:
    run = mktme("compare-iv", "--explain", "xe", "--size", "256KiB", "--experiments", "tampering")
    assert run.returncode == 0, run.stderr
    said = " ".join(run.stdout.split())
    assert "moved by attacker: x 100% masked" in said
    assert "she had 100.0% of Alice's bytes, after xoring the known mask" in said


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--schemes", "nothing"], "there is no IV scheme 'nothing'"),
        (["--explain", "nothing"], "there is no IV scheme 'nothing'"),
        (["--experiments", "magic"], "'magic' is no group of experiments"),
        (["--size", "1GiB"], "take 262144 to 2097152 bytes"),
    ],
)
def test_compare_iv_refuses_what_there_is_not(arguments: list[str], says: str) -> None:
    run = mktme("compare-iv", *arguments)
    assert run.returncode == 1
    assert says in run.stderr
    assert len(run.stderr.splitlines()) == 1


def test_info_names_the_backend_that_runs(tmp_path: Path) -> None:
    run = mktme("info", "--json", str(tmp_path / "info.json"), MKTME_BACKEND="portable")
    assert run.returncode == 0, run.stderr
    assert json.loads((tmp_path / "info.json").read_text())["backend"] == "portable"
    assert "portable" in run.stdout


def test_an_error_is_one_line_and_exit_code_one(tmp_path: Path) -> None:
    run = mktme("info", "--json", str(tmp_path / "no" / "info.json"))
    assert run.returncode == 1
    assert run.stderr.startswith("mktme: ")
    assert len(run.stderr.splitlines()) == 1
