"""The example structures in the explorer: sound in every state under every scheme, each planted bug found."""

from __future__ import annotations

from pathlib import Path

import pytest

from mktme.lab import crash
from mktme.lab.iv.subjects import subjects

FOLDER = Path(__file__).parents[2] / "examples" / "crash"
SUBJECTS = [subject.name for subject in subjects()]
STATES = {"append_log": 145, "hash_map": 135, "btree": 1114}
BUGS = {"append_log": "missing_flush", "hash_map": "wrong_order", "btree": "missing_undo_flush"}
WHOLLY = ("pmem-line/aes-xts-128", "ctr-split/aes-ctr-128+mac", "essiv/aes-cbc-256", "direct-key/adiantum")
COUNTED = [subject.name for subject in subjects() if subject.scheme.state]


@pytest.mark.parametrize("subject", SUBJECTS)
@pytest.mark.parametrize("name", STATES)
def test_a_structure_is_sound_in_every_state(name: str, subject: str) -> None:
    """All states; of the tree's, which are many, under most schemes some that are drawn."""
    wholly = name != "btree" or subject in WHOLLY
    result, again = crash.Script(FOLDER / f"{name}.py").explore(subject, limit=4096 if wholly else 4)
    assert result.consistent, again
    assert (result.states == STATES[name]) is wholly
    assert (result.drawn == 0) is wholly


@pytest.mark.parametrize("subject", ["pmem-line", "ctr-split+mac", "essiv", "direct-key/adiantum"])
@pytest.mark.parametrize("name", BUGS)
def test_a_planted_bug_is_found_and_reproduced(name: str, subject: str, tmp_path: Path) -> None:
    script = crash.Script(FOLDER / f"{name}.py")
    result, again = script.explore(subject, program=BUGS[name], limit=8)
    assert result.failures > 0
    assert result.smallest is not None
    lines = result.smallest.missing + result.smallest.present
    assert all(f"{name}.py" in line.source for line in lines)
    found = tmp_path / "again.py"
    found.write_text(again)
    with pytest.raises(AssertionError):
        exec(compile(again, str(found), "exec"), {})


@pytest.mark.parametrize("subject", COUNTED)
@pytest.mark.parametrize("name", STATES)
def test_counters_that_do_not_persist_with_the_data_are_found(name: str, subject: str) -> None:
    script = crash.Script(FOLDER / f"{name}.py")
    result, again = script.explore(subject, counter_cache="write-back", limit=4)
    assert result.failures > 0
    found = result.smallest
    assert found is not None
    assert found.counters_lost or any(line.counters for line in found.missing)
    assert "counters" in again
    assert "counter_cache='write-back'" in again


def test_an_8_byte_store_is_not_atomic_under_a_block_cipher() -> None:
    script = crash.Script(FOLDER / "append_log.py")
    assert not script.explore("pmem-line", atomicity=8, limit=64)[0].consistent
