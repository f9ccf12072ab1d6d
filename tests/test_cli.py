"""The command: results files, refusals, exit codes."""

from __future__ import annotations

import csv
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from mktme import __version__, cli
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


def refused(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    """What a command says that is refused before its experiments run."""
    for runs in ("iv.run", "overhead.run"):
        monkeypatch.setattr(f"mktme.cli.{runs}", lambda *a, **k: pytest.fail("the experiments ran"))
    monkeypatch.setattr(sys, "argv", ["mktme", *arguments])
    with pytest.raises(SystemExit) as exit_:
        cli.main()
    assert exit_.value.code
    said = capsys.readouterr()
    assert not said.out
    assert "Traceback" not in said.err
    return " ".join(said.err.replace("\u2502", " ").split())


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--schemes", "null,essiv", "--explain", "xe"], "'xe' is not compared, so it can't be explained"),
        (["--schemes", "null,essiv", "--explain", "xe"], "take null, null/aes-cbc-256, essiv, essiv/aes"),
        (["--explain", "xe/aes-xts-128"], "'xe/aes-xts-128' is not compared"),
        (["--explain", "xe/aes-xts-128"], "take xe, xe/aes-xe-128"),
        (["--seed", "-1"], "--seed"),
        (["--rounds", "0"], "--rounds"),
    ],
)
def test_compare_iv_refuses_before_it_runs(
    arguments: list[str], says: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert says in refused(monkeypatch, capsys, "compare-iv", *arguments)


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["compare-iv", "--json", "no/r.json"], "--json no/r.json: there is no folder no: make it"),
        (["compare-iv", "--csv", "no/r.csv"], "--csv no/r.csv: there is no folder no"),
        (["compare-iv", "--json", "there"], "--json there is a folder: name a file in it"),
        (["compare-iv", "--json", "r", "--csv", "./r"], "--json and --csv name one file: give each its own"),
        (["compare-iv", "--plot", "file"], "--plot file: file is a file: name a folder"),
        (["compare-iv", "--plot", "file/figures"], "file is a file: name a folder"),
        (["bench", "--json", "no/r.json"], "there is no folder no"),
        (["bench", "--csv", "there"], "--csv there is a folder"),
        (["bench", "--seed", "-1"], "--seed"),
        (["info", "--json", "there"], "--json there is a folder"),
    ],
)
def test_places_that_cant_be_written_are_refused_before_anything_runs(
    arguments: list[str],
    says: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "there").mkdir()
    (tmp_path / "file").touch()
    assert says in refused(monkeypatch, capsys, *arguments)
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["file", "there"]
    assert not (tmp_path / "file").read_bytes()


@pytest.mark.parametrize(("option", "name"), [("--json", "r"), ("--json", "old"), ("--plot", "new/figures")])
def test_a_place_without_the_right_to_write_is_refused(
    option: str,
    name: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
) -> None:
    """The answer of the system is set, since root may write anywhere."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "old").touch()
    asked: list[Path] = []
    monkeypatch.setattr("mktme.console.os.access", lambda path, mode: asked.append(path) or mode != os.W_OK)
    said = refused(monkeypatch, capsys, "compare-iv", option, name)
    assert f"{option} {name}: {asked[0]} can't be written to: name another place" in said
    assert asked[0].resolve() == (tmp_path / "old" if name == "old" else tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["old"]


def test_plots_without_matplotlib_are_refused_before_anything_runs(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    said = refused(monkeypatch, capsys, "compare-iv", "--plot", str(tmp_path / "figures"))
    assert said == "mktme: plots need matplotlib: pip install 'mktme[plot]'"
    assert not list(tmp_path.iterdir())


def test_without_a_terminal_the_matrix_is_wide_and_the_progress_silent(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv("COLUMNS", raising=False)
    monkeypatch.setattr(
        sys, "argv", ["mktme", "compare-iv", "--schemes", "null", "--experiments", "secrecy,tampering"]
    )
    with pytest.raises(SystemExit) as exit_:
        cli.main()
    assert not exit_.value.code
    said = capsys.readouterr()
    assert not said.err
    assert any("OBSERVER" in line and "ATTACKER" in line for line in said.out.splitlines())
    assert "\u2026" not in said.out


@pytest.mark.parametrize("command", ["bench", "compare-iv", "info"])
def test_help_is_wrapped_at_the_width_of_the_terminal(
    command: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.setattr("typer.rich_utils.MAX_WIDTH", 80)
    monkeypatch.setattr(sys, "argv", ["mktme", command, "--help"])
    with pytest.raises(SystemExit):
        cli.main()
    lines = [line.strip() for line in capsys.readouterr().out.partition("\u256d")[0].splitlines()]
    assert max(map(len, lines)) <= 80
    for line, following in pairwise(lines):  # a line ends where the next word has no room
        if line and following and not following.startswith("mktme "):
            assert len(line) + 1 + len(following.split()[0]) > 76


def test_info_names_the_backend_that_runs(tmp_path: Path) -> None:
    run = mktme("info", "--json", str(tmp_path / "info.json"), MKTME_BACKEND="portable")
    assert run.returncode == 0, run.stderr
    assert json.loads((tmp_path / "info.json").read_text())["backend"] == "portable"
    assert "portable" in run.stdout


def test_the_version_is_the_packages() -> None:
    done = CliRunner().invoke(cli.app, ["--version"])
    assert (done.exit_code, done.output) == (0, f"mktme {__version__}\n")


def test_an_error_is_one_line_and_exit_code_one(tmp_path: Path) -> None:
    run = mktme("info", "--json", str(tmp_path / "no" / "info.json"))
    assert run.returncode == 1
    assert run.stderr.startswith("mktme: ")
    assert len(run.stderr.splitlines()) == 1


def test_a_mount_whose_key_is_refused_makes_no_image(tmp_path: Path) -> None:
    (tmp_path / "loose.key").write_bytes(bytes(64))
    (tmp_path / "loose.key").chmod(0o644)
    (tmp_path / "mnt").mkdir()
    image, mnt, key = (str(tmp_path / name) for name in ("new.img", "mnt", "loose.key"))
    run = mktme("mount", image, mnt, "--as", "alice", "--key", key, "--create", "64MiB")
    assert run.returncode == 1
    assert "can be read by others" in run.stderr or "mktme[fuse]" in run.stderr
    assert sorted(path.name for path in tmp_path.iterdir()) == ["loose.key", "mnt"]


def commands() -> list[tuple[str, ...]]:
    """Every command of the program, by its words."""
    import typer

    def below(group: Any, words: tuple[str, ...]) -> Iterator[tuple[str, ...]]:
        yield words
        for name, command in getattr(group, "commands", {}).items():
            yield from below(command, (*words, name))

    return list(below(typer.main.get_command(cli.app), ()))


@pytest.mark.parametrize("words", commands(), ids=" ".join)
def test_the_help_of_every_command_has_an_example_that_begins_with_it(words: tuple[str, ...]) -> None:
    done = CliRunner().invoke(cli.app, [*words, "--help"], env={"COLUMNS": "200"})
    assert done.exit_code == 0
    _, _, examples = done.output.partition("For example:")
    assert " ".join(("mktme", *words)) in examples


def test_a_shell_completes_commands() -> None:
    code = "import sys; sys.argv[0] = 'mktme'; from mktme.cli import main; main()"
    run = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "_MKTME_COMPLETE": "complete_bash", "COMP_WORDS": "mktme re", "COMP_CWORD": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert set(run.stdout.split()) == {"replay", "report"}
