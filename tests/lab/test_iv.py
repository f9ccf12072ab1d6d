"""The comparison of IV schemes: each attack succeeds where theory says so, and fails elsewhere."""

from __future__ import annotations

import ast
import gc
import json
import mmap
import re
from collections import deque
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from types import FunctionType, ModuleType
from typing import Any

import numpy as np
import pytest

from mktme import Controller, IvReuseWarning, Key, Region, SchemeError, iv
from mktme.crypto.algorithms import ALGORITHMS
from mktme.fscrypt.kdf import per_file_key
from mktme.lab.iv import EXPERIMENTS, attacks, corpus, dimm, matrix, run, write_csv
from mktme.lab.iv.explain import sentence
from mktme.lab.iv.limits import birthday
from mktme.lab.iv.study import ExperimentError
from mktme.lab.iv.subjects import subjects
from mktme.lab.iv.tamper import KEPT
from mktme.lab.iv.world import ALICE, MALLORY, World, predicted_ivs
from mktme.stack.slot import Slot

NAMES = sorted(iv.schemes())
PREDICTED_CBC = {"plain", "plain64be", "benbi", "null"}
SEALED_CBC = {"essiv", "eboiv"}
COVERED = {"MACs", "page counters", "line counters", "drawn IVs"}  # kinds of metadata that MACs cover
COUNTERS = {"ctr-global", "ctr-split", "ctr-deuce"}
LOGICAL = {"file-block", "per-file-key", "direct-key", "ino-lblk-64", "ino-lblk-32"}
PHYSICAL = {"spa-line", "xe", "xex"}
MOVES = ("move, unlocked", "move, locked", "defragment")


@pytest.fixture(scope="module")
def outcomes() -> dict[str, dict[str, Any]]:
    """Everything but the speed, on every scheme, by the subject's name."""
    groups = [name for name in EXPERIMENTS if name != "cost"]
    made = run(experiments=groups, size="256KiB")
    return {row["name"]: row for row in made["schemes"]}


def evidence(row: dict[str, Any], column: str) -> dict[str, Any]:
    found: dict[str, Any] = row["cells"][column]["evidence"]
    return found


@pytest.mark.parametrize("name", [subject.name for subject in subjects()])
class TestEachScheme:
    @pytest.fixture
    def row(self, outcomes: dict[str, dict[str, Any]], name: str) -> dict[str, Any]:
        return outcomes[name]

    def test_equal_data_elsewhere_is_linked_only_without_a_coordinate_that_differs(
        self, row: dict[str, Any]
    ) -> None:
        found = evidence(row, "places")
        open_ = row["scheme"] in {"null", "file-block"}
        assert found["lines"] >= 8192
        assert found["linked"] == (found["lines"] if open_ else 0)
        assert found["wrong"] == 0

    def test_a_value_that_comes_back_is_recognised_unless_writes_are_counted(
        self, row: dict[str, Any]
    ) -> None:
        found = evidence(row, "times")
        fresh = row["scheme"] in COUNTERS | {"random"}
        assert found["recurring"] > 50
        assert found["recognised"] == (0 if fresh else found["recurring"])
        if fresh and row["scheme"] != "ctr-deuce":
            assert found["kept_seen"] == 0
        elif row["grain"] <= 64:
            assert found["kept_seen"] == found["kept"]
        else:  # some of them lie in units that changed elsewhere
            assert 0 < found["kept_seen"] < found["kept"]
        assert found["wrong"] == 0

    def test_moved_ciphertext_is_data_garbage_masked_or_detected(self, row: dict[str, Any]) -> None:
        found, scheme = evidence(row, "relocation"), row["scheme"]
        assert found["detected"] == row["integrity"]
        if scheme in PREDICTED_CBC | {"random", "file-block", "xe", "xex"}:
            assert found["recovered"] == 1
        elif scheme in SEALED_CBC:  # all but the first block of each sector, 16 bytes of 512
            assert found["recovered"] == pytest.approx(1 - 16 / 512, abs=0.003)
        else:
            assert found["recovered"] < 0.01
        assert found["masked"] == (scheme in PREDICTED_CBC - {"null"} | {"xe", "xex"})

    def test_a_replay_is_accepted_unless_something_beside_it_was_left_behind(
        self, row: dict[str, Any]
    ) -> None:
        found = evidence(row, "replay")
        assert found["data and metadata"] == {"outcome": "accepted", "restored": 1, "as_old": 1}
        alone, scheme = found["data"], row["scheme"]
        if row["integrity"]:
            assert alone["outcome"] == "detected"
        elif scheme == "random":  # the first of 32 blocks that a unit has is garbage
            assert alone["outcome"] == "partly"
            assert alone["restored"] == pytest.approx(31 / 32, abs=0.02)
            assert alone["as_old"] == pytest.approx(31 / 32, abs=0.002)
        elif scheme in COUNTERS:
            assert alone["outcome"] == "garbage"
            assert alone["restored"] < 0.02
            if scheme == "ctr-deuce":  # what she had not changed has its pad still
                assert 0.5 < alone["as_old"] < 1
            else:
                assert alone["as_old"] < 0.02
        else:
            assert alone == found["data and metadata"]

    def test_a_flipped_bit_changes_what_the_mode_of_operation_says(self, row: dict[str, Any]) -> None:
        found, algorithm = evidence(row, "flips"), row["algorithm"]
        if row["integrity"]:
            assert found["detected"] == found["tries"]
            return
        assert found["detected"] == 0
        if algorithm.startswith("aes-ctr"):
            assert (found["bits"], found["span"], found["alone"]) == (1, 1, found["tries"])
        elif algorithm.startswith("aes-cbc"):
            assert 17 <= found["span"] <= 32
            assert found["chosen_next"] > found["tries"] * 0.8  # but in a unit's last block
            assert 50 < found["bits"] < 80
        elif algorithm in ("adiantum", "aes-hctr2-256"):
            assert found["bits"] == pytest.approx(4096 * 4, rel=0.02)
            assert found["span"] > 4000
        else:
            assert found["span"] <= 16
            assert 55 < found["bits"] < 75
            assert found["alone"] == found["chosen_next"] == 0

    def test_a_flipped_bit_of_what_is_kept_beside_is_garbage_unless_a_mac_covers_it(
        self, row: dict[str, Any]
    ) -> None:
        found, scheme = evidence(row, "flips")["beside"], row["scheme"]
        kinds = list(KEPT.get(iv.find(scheme).state, ())) + ["MACs"] * row["integrity"]
        assert list(found) == kinds
        for name, kind in found.items():
            assert kind["tries"] == kind["detected"] + kind["nothing"] + kind["garbage"] >= 48
            if row["integrity"] and name in COVERED:
                assert kind["detected"] == kind["tries"]
                continue
            assert kind["detected"] == 0
            if name == "next counter":  # takes part in writes only
                assert kind["nothing"] == kind["tries"]
            else:
                assert kind["garbage"] == kind["tries"]
            # CBC: a bit of the IV is a bit of the first block, of the attacker's choice.
            assert kind["alone"] == (kind["tries"] if name == "drawn IVs" else 0)

    def test_a_block_moves_free_only_without_its_address(self, row: dict[str, Any]) -> None:
        free = row["scheme"] in LOGICAL | {"null", "random"}
        for column, otherwise in zip(MOVES, ("re-encrypts", "needs key", "re-encrypts"), strict=True):
            found = evidence(row, column)
            assert found["verified"]
            assert found["outcome"] == ("free" if free else otherwise)
            pieces = 3 if column == "defragment" else 1
            assert found["bytes"] == (pieces * 65536 if found["outcome"] == "re-encrypts" else 0)

    def test_a_block_is_shared_unless_the_file_is_in_its_iv_or_key_and_both_files_read(
        self, row: dict[str, Any]
    ) -> None:
        found, scheme = evidence(row, "share (reflink)"), row["scheme"]
        assert found["verified"]
        assert found["clones"] == 2
        if scheme == "file-block":  # at the same offset, and not at another one
            assert (found["outcome"], found["shared"], found["changed"]) == ("same offset", 1, ["block"])
        elif scheme in LOGICAL:
            assert (found["outcome"], found["shared"]) == ("needs copy", 0)
            assert found["changed"] == {
                "per-file-key": ["key"], "direct-key": ["nonce_low", "nonce_high"],
                "ino-lblk-64": ["inode"], "ino-lblk-32": ["inode_hash"],
            }[scheme]  # fmt: skip
        else:
            assert (found["outcome"], found["shared"], found["changed"]) == ("free", 2, [])
        assert found["bytes"] == (2 - found["shared"]) * 65536

    def test_hardware_moves_free_unless_its_addresses_are_in_the_iv(self, row: dict[str, Any]) -> None:
        scheme, bound = row["scheme"], row["scheme"] in PHYSICAL | {"dimm-line"}
        assert evidence(row, "copy the image")["outcome"] == ("needs key" if bound else "free")
        assert evidence(row, "DIMM to another slot")["outcome"] == ("lost" if scheme in PHYSICAL else "free")
        assert evidence(row, "grow the interleave set")["outcome"] == ("re-encrypts" if bound else "free")
        assert all(
            evidence(row, column)["verified"]
            for column in ("copy the image", "DIMM to another slot", "grow the interleave set")
        )

    def test_evidence_says_what_was_moved_and_which_coordinates_changed(self, row: dict[str, Any]) -> None:
        for column, pieces in (*zip(MOVES, (1, 1, 3), strict=True), ("grow the interleave set", 0)):
            found = evidence(row, column)
            assert found["moved"] == pieces * 65536
            assert ("Nothing was moved" in sentence(column, found)) == (pieces == 0)
            assert (found["changed"] == []) == (found["outcome"] == "free") == (found["seen"] == "as it was")
        assert evidence(row, "move, locked")["seen"] != ("garbage" if row["integrity"] else "refused")
        if row["scheme"] == "dimm-line":
            grown = evidence(row, "grow the interleave set")
            assert grown["changed"] == ["device_address", "dimm_serial"]

    def test_ivs_repeat_only_where_a_coordinate_is_missing_or_wraps(self, row: dict[str, Any]) -> None:
        found, scheme = evidence(row, "reuse"), row["scheme"]
        repeated = {"null": 65535, "file-block": 65536 - 512, "plain": 32768}
        assert found["repeated"] == repeated.get(scheme, 0)
        assert found["equal_in_two_files"] == (scheme in {"null", "file-block"})
        assert found["equal_past_2^32_sectors"] == (scheme in {"null", "file-block", "plain"})
        if scheme == "ctr-split":
            assert found["pages_encrypted_anew"] == 1  # of 160 writes: at the 128th

    def test_a_watermark_is_found_only_where_what_is_xored_in_is_predicted(self, row: dict[str, Any]) -> None:
        found = evidence(row, "watermark")
        predicted = row["scheme"] in PREDICTED_CBC | {"xe", "xex"}
        assert found["found"] == (found["marked"] if predicted else 0)
        assert found["marked"] >= 64

    def test_lost_state_gives_plaintext_away_only_in_counter_mode(self, row: dict[str, Any]) -> None:
        found = evidence(row, "lost state")
        assert found["changed"] > 2000
        if row["scheme"] in COUNTERS:
            assert found["recovered"] == 1
        else:
            assert found["recovered"] < 0.02

    def test_a_counter_at_its_end_is_refused(self, row: dict[str, Any]) -> None:
        found = evidence(row, "overflow")
        if row["scheme"] in COUNTERS:
            assert found["outcome"] == "refused"
        else:
            assert found == {"counter": None}

    def test_each_cell_has_a_grade_and_a_sentence(self, row: dict[str, Any]) -> None:
        for column, cell in row["cells"].items():
            assert (cell["grade"], cell["text"]) == matrix.grade(column, cell["evidence"])
            assert cell["grade"] in (matrix.GOOD, matrix.COSTS, matrix.BREAKS)
            assert len(cell["text"]) <= 20
            text = sentence(column, cell["evidence"])
            assert text.endswith(".")
            assert not re.search(r"\b1 (lines|bytes|pages|units|times)\b", text)

    def test_nothing_is_said_to_be_lost_where_nothing_is_kept(self, row: dict[str, Any]) -> None:
        found = evidence(row, "lost state")
        kept = row["integrity"] or row["scheme"] in COUNTERS | {"random"}
        assert (found["kept"] > 0) == kept
        assert sentence("lost state", found).startswith("A power failure lost" if kept else "Nothing is kept")


def test_every_registered_scheme_is_compared() -> None:
    assert {subject.scheme.name for subject in subjects()} == set(NAMES)


def test_an_operation_that_loses_a_file_breaks_whatever_it_costs() -> None:
    for column in ("share (reflink)", *MOVES):
        lost = {"outcome": "free", "verified": False}
        assert matrix.grade(column, lost) == (matrix.BREAKS, "free")
        assert matrix.grade(column, lost | {"verified": True}) == (matrix.GOOD, "free")


def test_macs_that_miss_metadata_are_no_full_protection() -> None:
    whole = {"tries": 48, "detected": 48, "garbage": 0, "alone": 0, "chosen_next": 0}
    forged = {"tries": 48, "detected": 47, "garbage": 1}
    assert matrix.grade("flips", whole | {"beside": {"MACs": whole}}) == (matrix.GOOD, "detected")
    found = whole | {"beside": {"MACs": whole, "page counters": forged}}
    assert matrix.grade("flips", found) == (matrix.COSTS, "data detected")


def test_attackers_know_no_keys() -> None:
    """Nothing that holds or makes keys is imported by them."""
    for module, allowed in (
        (attacks, {"__future__", "mktme.lab.iv.dimm"}),
        (dimm, {"__future__", "collections.abc", "dataclasses", "pmem"}),
    ):
        tree = list(ast.walk(ast.parse(Path(module.__file__ or "").read_text())))
        assert {node.module for node in tree if isinstance(node, ast.ImportFrom)} <= allowed
        names = {alias.name for node in tree if isinstance(node, ast.Import) for alias in node.names}
        assert names <= {"numpy", "numpy.typing"}


def reachable(root: object) -> Iterator[object]:
    """Objects that hang on another one, nearest first, itself too.

    Not types, modules, or the globals of functions. Behind a cipher lies all of the compiler, so
    the search ends after the nearest 100,000.
    """
    waiting, seen = deque([root]), {id(root)}
    while waiting and len(seen) < 100_000:
        found = waiting.popleft()
        yield found
        if isinstance(found, FunctionType):
            more: list[Any] = [found.__closure__, found.__defaults__, found.__kwdefaults__, found.__dict__]
        elif isinstance(found, np.ndarray):
            more = [found.base]
        elif isinstance(found, memoryview):
            more = [found.obj]
        else:
            more = gc.get_referents(found)
        for other in more:
            if id(other) not in seen and not isinstance(other, type | ModuleType):
                seen.add(id(other))
                waiting.append(other)


def secrets_in(root: object, secrets: list[bytes]) -> set[str]:
    """What holds or makes keys among the objects that hang on another one."""
    found = set()
    for other in reachable(root):
        if isinstance(other, Key | Slot | Controller | Region | World):
            found.add(type(other).__name__)
        elif isinstance(other, bytes | bytearray | np.ndarray | mmap.mmap):
            held = other.tobytes() if isinstance(other, np.ndarray) else other[:]
            found |= {"key bytes"} if any(secret in held for secret in secrets) else set()
    return found


@pytest.mark.parametrize("name", ["pmem-line", "per-file-key", "xex", "plain", "ctr-split"])
def test_no_key_can_be_reached_from_an_attacker(name: str, tmp_path: Path) -> None:
    subject = next(s for s in subjects([name]) if not s.integrity)
    unit, xored = subject.scheme.unit, ALGORITHMS[subject.algorithm].iv_xored
    ivs = [
        predicted_ivs(subject.scheme, who, slot, 65536 // unit) for who, slot in ((MALLORY, 1), (ALICE, 0))
    ]
    with World(tmp_path, subject) as world:
        data = np.arange(65536, dtype=np.uint64).astype(np.uint8)
        world.write(ALICE, 0, data)
        mover = attacks.Mover(world.dimm, unit, xored, (ivs[0], ivs[1]))
        mover.put(0, 1, data.size)
        master = world._master
        keys = [master, *(per_file_key(master, file.nonce, 64) for file in (ALICE, MALLORY))]
        secrets = [key[:16] for key in keys]
        for attacker in (world.dimm, mover, attacks.Replayer(world.dimm, 0, data.size)):
            assert any(other is world.device for other in reachable(attacker))
            assert sum(1 for _ in reachable(attacker)) < 1000  # so all of them were looked at
            assert secrets_in(attacker, secrets) == set()
        assert {"World", "Controller", "Slot", "key bytes"} <= secrets_in(world, secrets)


def test_pairs_of_files_that_overlap_follow_the_birthday_bound() -> None:
    found = birthday(7, files=3000, units=8192)
    expected = found["expected_pairs"]
    assert expected == pytest.approx(3000 * 2999 / 2 * (2 * 8192 - 1) / 2**32)
    mean = sum(found["counted_pairs"]) / 8
    assert abs(mean - expected) < 4 * (expected / 8) ** 0.5


def test_the_versions_of_the_database_differ_in_few_lines_and_are_databases(tmp_path: Path) -> None:
    versions = corpus.database(tmp_path, 1 << 18, 1)
    assert len(versions) == corpus.VERSIONS
    for old, new in pairwise(versions):
        assert new.tobytes().startswith(b"SQLite format 3\0")
        changed = (old != new).reshape(-1, 64).any(axis=1).mean()
        assert 0 < changed < 0.5
    again = tmp_path / "again"
    again.mkdir()
    assert all((a == b).all() for a, b in zip(versions, corpus.database(again, 1 << 18, 1), strict=True))


def test_costs_are_counted_exactly() -> None:
    names = ["pmem-line", "ctr-global", "ctr-split", "direct-key", "random"]
    made = run(names, ["cost"], size="256KiB", rounds=1)
    rows = {row["name"]: row["cells"] for row in made["schemes"]}
    gib = {name: cells["room"]["evidence"]["bytes_per_gib"] for name, cells in rows.items()}
    assert gib["pmem-line/aes-xts-128"] == 0
    assert gib["pmem-line/aes-xts-128+mac"] == 2**30 // 64 * 4
    assert gib["ctr-global/aes-ctr-128"] == 2**30 // 64 * 8 + 4096
    assert gib["ctr-split/aes-ctr-128"] == 2**30 // 4096 * 64
    assert gib["random/aes-cbc-256"] == 2**30 // 512 * 16
    changed = {name: cells["amplification"]["evidence"]["lines_changed"] for name, cells in rows.items()}
    assert changed["pmem-line/aes-xts-128"] == 96
    assert changed["pmem-line/aes-xts-128+mac"] == 192
    assert changed["ctr-global/aes-ctr-128"] == 288  # the line, its counter, the next counter
    assert changed["ctr-split/aes-ctr-128"] == 192
    assert changed["direct-key/adiantum"] == changed["direct-key/aes-hctr2-256"] == 96 * 64
    assert changed["random/aes-cbc-256"] == 96 * 9
    flips = {name: cells["bit flips"]["evidence"] for name, cells in rows.items()}
    assert flips["ctr-split/aes-ctr-128"]["encrypted"] == pytest.approx(0.5, abs=0.01)
    assert flips["pmem-line/aes-xts-128"]["beside"] == 0
    plain = flips["pmem-line/aes-xts-128"]["plain"]
    assert 0 < plain < flips["pmem-line/aes-xts-128"]["encrypted"] < 0.5
    assert all(row["cost"]["evidence"]["read"] > 0 for row in rows.values())


def test_deuce_flips_fewer_bits_than_whole_lines_do() -> None:
    made = run(["ctr-deuce", "ctr-split"], ["cost"], size="256KiB", rounds=1)
    rows = {row["name"]: row["cells"]["bit flips"]["evidence"] for row in made["schemes"]}
    deuce, split = rows["ctr-deuce/aes-ctr-128"], rows["ctr-split/aes-ctr-128"]
    assert deuce["plain"] < deuce["encrypted"] < 0.8 * split["encrypted"]


def test_results_are_plain_data_and_a_matrix_in_csv(tmp_path: Path) -> None:
    seen: list[tuple[str, int, int]] = []
    made = run(["null", "xex"], ["secrecy"], size="256KiB", progress=lambda *step: seen.append(step))
    assert json.loads(json.dumps(made)) == made
    assert made["schema"] == "mktme-iv/1"
    assert [done for _, done, _ in seen] == [0, 1, 2, 3, 4]
    write_csv(made, tmp_path / "iv.csv")
    lines = (tmp_path / "iv.csv").read_text().splitlines()
    assert lines[0] == "scheme,algorithm,integrity,unit,experiment,grade,text"
    assert len(lines) == 1 + 2 * 2


def test_a_scheme_of_ones_own_is_compared_like_the_others() -> None:
    @iv.define("test-constant", unit=512)
    def constant(tenant: int) -> tuple[int, int]:
        """The same IV for a whole tenant."""
        return tenant, 0

    try:
        with pytest.warns(IvReuseWarning, match="test-constant gives 511"):
            made = run(["test-constant"], ["secrecy"], size="256KiB")
    finally:
        iv.unregister("test-constant")
    (row,) = made["schemes"]
    assert row["summary"] == "The same IV for a whole tenant."
    assert row["cells"]["places"]["grade"] == matrix.BREAKS


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"schemes": ["none-such"]}, SchemeError, "no IV scheme 'none-such'"),
        ({"experiments": ["magic"]}, ExperimentError, "'magic' is no group of experiments: secrecy"),
        ({"size": "64KiB"}, ExperimentError, "65536 bytes: take 262144 to 2097152"),
        ({"size": "3MiB"}, ExperimentError, "take 262144"),
        ({"size": 300000}, ExperimentError, "multiples of 65536"),
        ({"seed": -1}, ExperimentError, "seed -1: take a whole number, 0 or more"),
        ({"seed": 1.5}, ExperimentError, r"seed 1\.5: take a whole number"),
        ({"rounds": 0}, ExperimentError, "0 rounds: take a whole number, 1 or more"),
        ({"schemes": "xy"}, SchemeError, "no IV scheme 'xy'"),
        ({"schemes": []}, ExperimentError, "no schemes: name some"),
        ({"experiments": "costs"}, ExperimentError, "'costs' is no group of experiments"),
        ({"experiments": []}, ExperimentError, "no experiments: take some of secrecy"),
    ],
)
def test_what_there_is_not_is_refused_before_anything_runs(
    arguments: dict[str, Any], error: type[Exception], message: str, tmp_path: Path
) -> None:
    steps: list[str] = []
    with pytest.raises(error, match=message):
        run(**arguments, folder=tmp_path, progress=lambda what, done, total: steps.append(what))
    assert not steps
    assert not list(tmp_path.iterdir())


def test_one_name_may_stand_alone() -> None:
    made = run("xe", "tampering", size="256KiB")
    (row,) = made["schemes"]
    assert row["name"] == "xe/aes-xe-128"
    assert list(row["cells"]) == ["relocation", "replay", "flips"]
    assert made["settings"]["experiments"] == ["tampering"]
