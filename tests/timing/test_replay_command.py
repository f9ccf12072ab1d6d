"""`mktme replay` and `mktme trace` as a person uses them."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from mktme import cli
from mktme.timing.presets import CONFIGURATIONS

VECTORS = Path(__file__).parents[1] / "vectors" / "traces"


def run(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], *arguments: str, fails: bool = False
) -> str:
    """What a command prints; where it fails, what it says on stderr."""
    monkeypatch.setattr(sys, "argv", ["mktme", *arguments])
    try:
        cli.main()
        code: object = 0
    except SystemExit as leaving:
        code = leaving.code
    assert bool(code) == fails
    output = capsys.readouterr()
    return output.err if fails else output.out


def test_a_replay_beside_the_same_trace_without_encryption(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    results = tmp_path / "results.json"
    text = run(
        monkeypatch, capsys, "replay", "ycsb_a:count=500,space=1MiB", "--engine", "all", "--json",
        str(results), "--set", "media.read_ns=200", "--plot", str(tmp_path / "figures"), "--warm-up", "100",
    )  # fmt: skip
    assert "time, ms" in text
    assert "modelled, not measured" in text
    found = json.loads(results.read_text())
    assert [one["configuration"] for one in found["results"]] == list(CONFIGURATIONS)
    assert all(one["complete"] for one in found["results"])
    assert all(values["media.read_ns"] == 200 for values in found["parameters"].values())
    assert (tmp_path / "figures" / "replay.png").stat().st_size > 10_000


def test_a_trace_of_virtual_addresses(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    source, packed = str(VECTORS / "true.lackey"), str(tmp_path / "true.parquet")
    says = run(monkeypatch, capsys, "replay", source, "--size", "1GiB", fails=True)
    assert "is beyond the device's 1GiB" in says
    assert len(says.splitlines()) == 1
    run(monkeypatch, capsys, "trace", "convert", source, packed, "--pages", "first-touch")
    text = run(monkeypatch, capsys, "replay", packed, "--size", "1MiB", "--engine", "xts")
    assert "true.parquet" in text
    text = run(monkeypatch, capsys, "trace", "info", packed)
    assert "work records" in text
    assert "lowest address          0x" in text


def test_parameters_are_printed_with_their_sources(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    text = run(monkeypatch, capsys, "replay", "--show-parameters", "--set", "engine.aes_ns=12.5")
    assert "media.unit_write_ns" in text
    assert "Yang et al., FAST 2020" in " ".join(text.split())
    assert "given by the user" in text


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["replay", "nowhere.csv"], "'nowhere.csv' is no file, and no generator: sequential"),
        (["replay", "random:size=x"], "random: size='x' is no int"),
        (["replay", "random:colour=1"], "random takes count=, kind=, size="),
        (["replay", "random", "--engine", "rot13"], "'rot13' is no configuration that is known"),
        (
            ["replay", "random", "--memory", "tape"],
            "'tape' is no memory that is known: optane, pcm, dram, cxl",
        ),
        (["replay", "random", "--set", "llc.size=3"], "Cache.size = 3 B: it must be at least 64"),
        (["replay", "random", "--set", "media"], "--set 'media': write NAME=VALUE"),
        (["replay", "random", "--size", "1MiB"], "is beyond the device's 1MiB"),
        (["replay", str(VECTORS / "three.fio"), "--range", "5"], "--range '5': write BASE+SIZE"),
        (["replay", str(VECTORS / "three.fio"), "--pages", "some"], "--pages 'some'"),
        (["replay", str(VECTORS / "README.md")], "is of no format that is known"),
    ],
)
def test_what_can_not_be_is_refused_in_a_line(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    arguments: list[str],
    says: str,
) -> None:
    results = tmp_path / "results.json"
    text = run(monkeypatch, capsys, *arguments, *(["--json", str(results)]), fails=True)
    assert says in text
    assert len(text.splitlines()) == 1
    assert not results.exists()


def test_recording_a_script(tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text(
        "import sys, pmem, mktme\n"
        "with pmem.create(sys.argv[1], '1MiB') as device:\n"
        "    controller = mktme.Controller(device)\n"
        "    keyid = controller.program_key(mktme.Key.generate('aes-xts-128'))\n"
        "    region = controller.map(0, '64KiB', keyid, iv='pmem-line')\n"
        "    region[0:3] = b'abc'\n"
        "    region.persist(0, 3)\n"
    )
    output = tmp_path / "trace.parquet"
    arguments = ["trace", "record", "-o", str(output), "--", str(script), str(tmp_path / "image")]
    done = subprocess.run(
        [sys.executable, "-m", "mktme.cli", *arguments], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert "records" in done.stderr
    assert output.exists()
    script.write_text("raise SystemExit(3)\n")
    output.unlink()
    done = subprocess.run(
        [sys.executable, "-m", "mktme.cli", *arguments], capture_output=True, text=True, check=False
    )
    assert done.returncode == 3
    assert not output.exists()
