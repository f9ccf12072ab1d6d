"""What encryption does to atomic stores, to lines in the cache when keys change, and to what eADR saves."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import mktme
from mktme.lab import crash

ROOT = Path(mktme.__file__).parent.parent


@pytest.fixture(scope="module")
def rows() -> dict[tuple[str, str, bool, Any], dict[str, Any]]:
    found = crash.atomicity.study()
    return {(r["scheme"], r["cipher"], r["integrity"], r["unit"]): r for r in found}


def test_without_encryption_an_8_byte_store_is_atomic(rows: Any) -> None:
    row = rows["none", "", False, None]
    assert (row["changed"], row["beside"]) == (1, 0)
    for kind in ("words", "lines", "together"):
        assert row[kind] == {"states": 2, "broken": 0, "lost": 0, "poisoned": 0}


def test_under_a_16_byte_cipher_both_halves_of_the_block_are_lost(rows: Any) -> None:
    found = 0
    for (_, cipher, integrity, _), row in rows.items():
        if ("xts" in cipher or cipher in ("aes-xe-128", "aes-xex-128")) and not integrity:
            found += 1
            assert (row["changed"], row["beside"]) == (2, 0)
            assert row["words"] == {"states": 4, "broken": 2, "lost": 16, "poisoned": 0}
            assert row["lines"]["broken"] == 0
    assert found >= 12


def test_under_a_wide_block_mode_it_is_the_whole_line(rows: Any) -> None:
    for cipher in ("adiantum", "aes-hctr2-256"):
        row = rows["direct-key", cipher, False, 64]
        assert row["changed"] == 8
        assert (row["words"]["states"], row["words"]["broken"]) == (256, 254)
        assert row["words"]["lost"] == 64
        assert row["lines"]["broken"] == 0
        larger = rows["direct-key", cipher, False, 4096]
        assert larger["changed"] == 512
        assert larger["words"]["lost"] > 4000
        assert larger["lines"]["broken"] > 0


def test_data_and_counter_must_persist_together(rows: Any) -> None:
    for scheme, beside in (("ctr-global", 2), ("ctr-split", 1), ("ctr-deuce", 1)):
        row = rows[scheme, "aes-ctr-128", False, 64]
        assert row["beside"] == beside
        assert row["lines"]["broken"] > 0
        assert row["lines"]["lost"] >= 8
        assert row["together"] == {"states": 2, "broken": 0, "lost": 0, "poisoned": 0}
    deuce = rows["ctr-deuce", "aes-ctr-128", False, 64]
    assert (deuce["changed"], deuce["words"]["lost"]) == (1, 8)  # it encrypts modified words only


def test_a_mac_turns_garbage_into_poison(rows: Any) -> None:
    for scheme, cipher in (("pmem-line", "aes-xts-128"), ("ctr-split", "aes-ctr-128")):
        row = rows[scheme, cipher, True, 64]
        assert row["words"]["broken"] == row["words"]["poisoned"] > 0
        assert row["words"]["lost"] == 0


def test_every_scheme_is_there_and_atomic_with_what_is_kept_beside(rows: Any) -> None:
    assert {scheme for scheme, *_ in rows} == {"none", *mktme.iv.schemes()}
    assert all(row["together"]["broken"] == 0 for row in rows.values())


def test_a_stale_line_overwrites_new_data_unless_it_was_flushed() -> None:
    rows = {row["way"]: row for row in crash.hazards.stale_lines()}
    outcome = {way: (row["evicted"], row["at_first"], row["then"], row["later"]) for way, row in rows.items()}
    assert outcome == {
        "remap": (1, "garbage", "new data", "garbage"),
        "flush, then remap": (0, "garbage", "new data", "new data"),
        "reprogram": (
            0,
            "old data",
            "new data",
            "new data",
        ),  # the cache gives plaintext to the new key's owner
        "flush, then reprogram": (0, "garbage", "new data", "new data"),
        "rekey": (0, "old data", "new data", "new data"),
    }


def test_residual_energy_leaks_what_it_writes_past_the_controller() -> None:
    rows = crash.hazards.residual()
    assert len(rows) == 6
    for row in rows:
        assert (row["leaked"], row["kept"]) == (not row["through_controller"], row["through_controller"])


def run(*arguments: str, columns: int) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "mktme.cli", "crash", *arguments],
        capture_output=True,
        text=True,
        env=os.environ | {"PYTHONPATH": str(ROOT), "COLUMNS": str(columns)},
        check=False,
    )


@pytest.mark.parametrize("columns", [80, 120])
def test_the_command_prints_them(columns: int, tmp_path: Path) -> None:
    done = run("--iv", "pmem-line,ctr-split,direct-key", "--json", str(tmp_path / "r.json"), columns=columns)
    assert done.returncode == 0, done.stderr
    assert all(len(line) <= columns for line in done.stdout.splitlines())
    assert "…" not in done.stdout
    for text in ("254 of 256", "2 of 4", "16 bytes", "garbage", "through the controller"):
        assert text in done.stdout
    results = json.loads((tmp_path / "r.json").read_text())
    assert {"atomicity", "stale_lines", "residual_energy"} < set(results)
    assert results["schema"] == "mktme-crash-experiments/1"
    assert len(results["stale_lines"]) == 5


def test_the_command_refuses_a_scheme_that_does_not_exist() -> None:
    done = run("--iv", "nonsense", columns=80)
    assert done.returncode == 1
    assert done.stderr.startswith("mktme: ")
    assert "nonsense" in done.stderr
