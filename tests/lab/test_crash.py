"""The crash explorer: which states it looks at, what it finds, how it says so."""

from __future__ import annotations

import itertools
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import mktme
import pmem
from mktme.lab import crash
from mktme.lab.crash.explorer import _recorded as recorded
from mktme.lab.crash.states import States
from mktme.lab.iv.subjects import subjects
from pmem import LINE, PAGE

SUBJECTS = [subject.name for subject in subjects()]


def states_of(program: Any, **given: Any) -> tuple[crash.Result, list[bytes]]:
    """The states that are looked at, as the first bytes of each line."""
    seen: list[bytes] = []

    def check(device: Any) -> None:
        seen.append(device.read(0, 4 * LINE)[::LINE])

    return crash.explore(program, check, **given), seen


def two_lines(device: Any) -> None:
    device.write(0, b"\1" * LINE)
    device.write(0, b"\2" * LINE)
    device.write(LINE, b"\3" * LINE)
    device.flush(0, LINE)
    device.drain()
    device.write(2 * LINE, b"\4" * LINE)


def test_every_line_is_as_any_store_left_it_or_as_it_was() -> None:
    result, seen = states_of(two_lines, size=PAGE)
    before_fence = {bytes([a, b, 0, 0]) for a in (0, 1, 2) for b in (0, 3)}
    at_end = {bytes([2, b, c, 0]) for b in (0, 3) for c in (0, 4)}
    assert set(seen[:6]) == before_fence
    assert set(seen[6:]) == at_end
    assert (result.states, result.points, result.stores, result.failures) == (10, 2, 4, 0)
    assert result.consistent


def test_without_evictions_only_what_was_flushed_may_be_there() -> None:
    _, seen = states_of(two_lines, size=PAGE, evictions=False)
    assert set(seen[:3]) == {bytes([a, 0, 0, 0]) for a in (0, 1, 2)}
    assert set(seen[3:]) == {bytes([2, 0, 0, 0])}


def test_stores_apart_are_there_or_not_by_themselves() -> None:
    def program(device: Any) -> None:
        device.write(0, b"\1" * LINE)
        device.write(0, b"\2" * LINE)
        device.persist()

    _, seen = states_of(program, size=PAGE, atomicity="store")
    assert sorted(s[0] for s in seen[:4]) == [0, 1, 2, 2]


def test_under_eadr_stores_persist_in_their_order() -> None:
    _, seen = states_of(two_lines, size=PAGE, domain="eadr")
    assert list(dict.fromkeys(seen)) == [
        bytes([0, 0, 0, 0]),
        bytes([1, 0, 0, 0]),
        bytes([2, 0, 0, 0]),
        bytes([2, 3, 0, 0]),
        bytes([2, 3, 4, 0]),
    ]


def test_in_a_page_cache_lines_of_a_page_share_their_fate() -> None:
    def program(device: Any) -> None:
        device.write(0, b"\1" * 2 * LINE)
        device.write(PAGE, b"\2" * LINE)

    seen = set()

    def check(device: Any) -> None:
        seen.add((device.read(0, 1), device.read(LINE, 1), device.read(PAGE, 1)))

    crash.explore(program, check, size=2 * PAGE, domain="page")
    # The two lines of one store are two pieces, in order: between them the page may have been written.
    assert seen == {
        (a, b, c) for a, b in ((b"\0", b"\0"), (b"\1", b"\0"), (b"\1", b"\1")) for c in (b"\0", b"\2")
    }


def test_lines_are_torn_between_two_stores_where_8_bytes_persist_whole() -> None:
    def program(device: Any) -> None:
        device.write(0, b"\1" * 8)
        device.write(8, b"\2" * 8)

    seen = set()

    def check(device: Any) -> None:
        seen.add((device.read(0, 1), device.read(8, 1)))

    crash.explore(program, check, size=PAGE, atomicity=8)
    assert seen == {(b"\0", b"\0"), (b"\1", b"\0"), (b"\1", b"\2")}  # one word a store: none of them tears

    def wide(device: Any) -> None:
        device.write(0, b"\1" * 16)

    seen.clear()
    crash.explore(wide, check, size=PAGE, atomicity=8)
    assert seen == {(a, b) for a in (b"\0", b"\1") for b in (b"\0", b"\1")}


@pytest.mark.parametrize("subject", SUBJECTS)
def test_states_of_encrypted_regions_are_those_of_plain_memory(subject: str) -> None:
    """Three lines in any combination of their stores, under each scheme; without the key garbage."""

    def program(region: mktme.Region) -> None:
        region[0:8] = b"\1" * 8
        region[LINE : LINE + 8] = b"\2" * 8
        region[0:8] = b"\3" * 8
        region[2 * LINE : 2 * LINE + 8] = b"\4" * 8
        region.flush(0, LINE)
        region.drain()
        region[LINE] = 5

    seen = []

    def check(region: mktme.Region) -> None:
        data = region.read(0, PAGE)
        assert not any(data[8:LINE])
        assert not any(data[3 * LINE :])
        seen.append((data[0], data[LINE], data[2 * LINE]))

    result = crash.explore(
        program,
        check,
        setup=crash.world(subject, PAGE),
        prepare=crash.zeroed,
        size=crash.room(subject, PAGE),
    )
    assert result.consistent, result.smallest
    first = set(itertools.product((0, 1, 3), (0, 2), (0, 4)))
    second = set(itertools.product((3,), (0, 2, 5), (0, 4)))
    assert len(seen) == len(first) + len(second) == result.states
    assert set(seen[: len(first)]) == first
    assert set(seen[len(first) :]) == second


def test_without_the_keys_a_check_sees_ciphertext() -> None:
    def program(region: mktme.Region) -> None:
        region[0:LINE] = b"A" * LINE
        region.persist()

    def check(device: pmem.Device) -> None:
        assert b"AAAA" not in device.read(0, PAGE)

    opened = crash.world("pmem-line", PAGE)
    result = crash.explore(program, check, setup=opened, reopen=lambda device: device, size=PAGE)
    assert result.consistent
    assert result.states == 3


def flagged(region: mktme.Region, flush_data: bool = True) -> Iterator[str]:
    region[LINE : LINE + 4] = b"data"
    if flush_data:
        region.flush(LINE, 4)
    region[0] = 1
    region.flush(0, 1)
    region.drain()
    yield "data"


def ordered(region: mktme.Region) -> Iterator[str]:
    region[LINE : LINE + 4] = b"data"
    region.persist(LINE, 4)
    region[0] = 1
    region.persist(0, 1)
    yield "data"


def flag_means_data(region: mktme.Region, promised: list[str]) -> None:
    assert region[0] in (0, 1), "the flag is garbage"
    if region[0]:
        assert region[LINE : LINE + 4] == b"data", "the flag is set and the data isn't there"
    assert not promised or region[0], "what was promised is not there"


EVERYWHERE: dict[str, Any] = {
    "setup": crash.world("pmem-line", PAGE),
    "prepare": crash.zeroed,
    "size": PAGE,
}


def test_a_flag_that_overtakes_its_data_is_found_and_the_call_is_named() -> None:
    result = crash.explore(flagged, flag_means_data, **EVERYWHERE)
    assert result.failures == 1
    found = result.smallest
    assert found is not None
    assert [m.address for m in found.missing] == [LINE]
    assert found.missing[0].flushed
    assert "test_crash.py" in found.missing[0].source
    assert found.missing[0].source.endswith("in flagged")
    assert [line.address for line in found.present] == [0]
    assert found.before.endswith("in flagged")
    assert found.promised == 0
    assert "the data isn't there" in found.error
    assert crash.explore(ordered, flag_means_data, **EVERYWHERE).consistent


def test_a_missing_flush_is_found_even_where_nothing_was_evicted() -> None:
    def program(region: mktme.Region) -> Iterator[str]:
        yield from flagged(region, flush_data=False)

    result = crash.explore(program, flag_means_data, evictions=False, **EVERYWHERE)
    assert result.smallest is not None
    everything = crash.explore(program, flag_means_data, **EVERYWHERE)
    assert everything.smallest is not None
    assert [m.flushed for m in everything.smallest.missing] == [False]


def test_a_failure_is_reproduced() -> None:
    result = crash.explore(flagged, flag_means_data, **EVERYWHERE)
    found = result.smallest
    assert found is not None
    with pytest.raises(AssertionError, match="the data isn't there"):
        crash.reproduce(flagged, flag_means_data, found.point, found.cut, **EVERYWHERE)
    crash.reproduce(flagged, flag_means_data, found.point, tuple(1 for _ in found.cut), **EVERYWHERE)
    with pytest.raises(mktme.CrashError, match="no point 9"):
        crash.reproduce(flagged, flag_means_data, 9, found.cut, **EVERYWHERE)
    with pytest.raises(mktme.CrashError, match="no state"):
        crash.reproduce(flagged, flag_means_data, found.point, (7, 7), **EVERYWHERE)


def test_recovery_in_a_check_is_undone() -> None:
    def program(region: mktme.Region) -> None:
        region[0] = 1
        region[LINE] = 2

    def check(region: mktme.Region) -> None:
        assert region[3 * LINE] == 0
        region[3 * LINE] = 7
        region.array(np.uint8)[5 * LINE : 9 * LINE : 3] = 9
        region.persist()
        assert region[3 * LINE] == 7

    for subject in ("pmem-line", "ctr-split", "essiv", "per-file-key/aes-cbc-essiv-128"):
        result = crash.explore(
            program,
            check,
            setup=crash.world(subject, PAGE),
            prepare=crash.zeroed,
            size=crash.room(subject, PAGE),
        )
        assert (result.states, result.failures) == (4, 0), result.smallest


@pytest.mark.parametrize("subject", ["pmem-line", "ctr-split+mac", "essiv", "random", "ctr-global"])
def test_recovery_over_many_pages_is_undone(subject: str) -> None:
    """By every way in which a region can be written."""
    size = 20 * PAGE

    def program(region: mktme.Region) -> None:
        region[0] = 1

    def check(region: mktme.Region) -> None:
        seen = region.read(0, size)
        assert seen[0] in (0, 1)
        assert not any(seen[1:])
        array = region.array(np.uint8)
        array[2 * PAGE : 9 * PAGE : 5] = 7
        region.array(np.uint8, (20, PAGE))[:, 100:200] = 8
        region.array(np.uint8, (PAGE, 20))[:, 3] = 6
        region.fill(9, 10 * PAGE, 4 * PAGE)
        region.write(15 * PAGE + 1, b"x" * 3 * PAGE)
        lines = np.arange(0, size, 5 * LINE, dtype=np.uint64) + np.uint64(region.address)
        region.mapping().write_lines(lines, np.full((lines.size, LINE), 5, np.uint8))
        region.mapping().write(region.address + 700, b"y" * 9000)

    result = crash.explore(
        program,
        check,
        setup=crash.world(subject, size),
        prepare=crash.zeroed,
        size=crash.room(subject, size),
    )
    assert (result.states, result.failures) == (2, 0), result.smallest


def test_a_check_may_return_false_and_raise_anything() -> None:
    def program(device: Any) -> None:
        device.write(0, b"\1")

    def refuses(device: Any) -> bool:
        return device.read(0, 1) == b"\0"

    def breaks(device: Any) -> None:
        raise KeyError("lost")

    assert crash.explore(program, refuses, size=PAGE).failures == 1
    broken = crash.explore(program, breaks, size=PAGE)
    assert broken.failures == 2
    assert broken.smallest is not None
    assert broken.smallest.error == "KeyError: 'lost'"
    assert broken.smallest.missing == ()


@settings(max_examples=40, deadline=None)
@given(
    steps=st.lists(
        st.one_of(
            st.tuples(st.just("store"), st.integers(0, 3)),
            st.tuples(st.just("flush"), st.integers(0, 3)),
            st.tuples(st.just("drain"), st.just(0)),
        ),
        max_size=12,
    ),
    subject=st.sampled_from([None, "pmem-line", "ctr-split", "essiv"]),
)
def test_the_states_are_those_of_the_model(
    lines_model: type[Any], steps: list[tuple[str, int]], subject: str | None
) -> None:
    expected: list[set[bytes]] = []

    def point(model: Any) -> None:
        choices = [[v[:1] for v in model.allowed(n)] for n in range(4)]
        expected.append({b"".join(some) for some in itertools.product(*choices)})

    def program(memory: Any) -> None:
        model, count = lines_model(), 0
        for kind, number in steps:
            if kind == "store":
                count += 1
                memory.write(number * LINE, bytes([count]) * LINE)
                model.store(number * LINE, bytes([count]) * LINE)
            elif kind == "flush":
                memory.flush(number * LINE, LINE)
                model.flush(number * LINE, LINE)
            else:
                point(model)
                memory.drain()
                model.drain()
        point(model)

    seen: set[bytes] = set()

    def check(memory: Any) -> None:
        seen.add(memory.read(0, 4 * LINE)[::LINE])

    given: dict[str, Any] = {"size": PAGE}
    if subject is not None:
        given = {
            "setup": crash.world(subject, PAGE),
            "prepare": crash.zeroed,
            "size": crash.room(subject, PAGE),
        }
    result = crash.explore(program, check, **given)
    assert result.points == len(expected)
    assert seen == set().union(*expected)


def test_too_many_states_are_drawn_the_extremes_among_them() -> None:
    def program(device: Any) -> None:
        device.write(0, b"\1" * PAGE)

    seen = []

    def check(device: Any) -> None:
        seen.append(device.read(0, PAGE)[::LINE])

    result = crash.explore(program, check, size=PAGE, limit=300)
    assert (result.states, result.drawn) == (300, 1)
    assert len(set(seen)) == 300
    assert bytes(64) in seen
    assert b"\1" * 64 in seen
    assert {s for s in seen if sum(s) == 63} == {bytes(i != n for i in range(64)) for n in range(64)}
    again = list(seen)
    seen.clear()
    crash.explore(program, check, size=PAGE, limit=300)
    assert seen == again


def test_counters_that_are_not_written_back_are_found() -> None:
    def program(region: mktme.Region) -> Iterator[str]:
        yield from ordered(region)

    for mode, consistent in (("write-through", True), ("write-back", False)):
        for subject in ("ctr-split", "ctr-global", "ctr-deuce", "random"):
            result = crash.explore(
                program,
                flag_means_data,
                setup=crash.world(subject, PAGE, counter_cache=mode),
                prepare=crash.zeroed,
                size=crash.room(subject, PAGE),
            )
            assert result.consistent is consistent, (mode, subject)


def test_keys_that_leave_the_table_are_kept_for_the_states_and_wiped_then() -> None:
    slots = []

    def program(region: mktme.Region) -> None:
        region[0:4] = b"data"
        region.persist()
        region[LINE : LINE + 4] = b"more"
        region.flush()
        controller = region.mapping()
        slots.append(controller.slot(region.keyid))
        controller.drain()
        controller.clear_key(region.keyid)

    seen = set()

    def check(region: mktme.Region) -> None:
        seen.add((region[0:4], region[LINE : LINE + 4]))

    crash.explore(program, check, **EVERYWHERE)
    zero = bytes(4)
    assert seen == {(zero, zero), (b"data", zero), (b"data", b"more")}
    assert bytes(slots[0]._mac_key) == bytes(len(slots[0]._mac_key))


@pytest.mark.parametrize(
    ("given_", "says"),
    [
        ({"engine": "fast"}, "accumulative"),
        ({"atomicity": "word"}, '8, 64, or "store"'),
        ({"atomicity": 32}, r"\(8, 64\)"),
        ({"domain": "dram"}, "adr, eadr, page"),
        ({"size": 100}, "positive multiple"),
    ],
)
def test_refuses_settings_that_can_not_be_before_the_program_runs(given_: dict[str, Any], says: str) -> None:
    def program(device: Any) -> None:
        raise AssertionError("it ran")

    with pytest.raises((mktme.MktmeError, pmem.PmemError), match=says):
        crash.explore(program, lambda device: True, **({"size": PAGE} | given_))


def test_what_the_program_raises_comes_through_and_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))

    def program(region: mktme.Region) -> None:
        region[0] = 1
        raise RuntimeError("mine")

    with pytest.raises(RuntimeError, match="mine"):
        crash.explore(program, flag_means_data, **EVERYWHERE)
    assert list(tmp_path.iterdir()) == []


SCRIPT = """
SIZE = 4096

def program(region):
    region[64:68] = b"data"
    region.persist(64, 4)
    region[0] = 1
    region.persist(0, 1)
    yield 1

def wrong_order(region):
    region[0] = 1
    region.persist(0, 1)
    region[64:68] = b"data"
    region.persist(64, 4)
    yield 1

def check(region, promised):
    assert not region[0] or region[64:68] == b"data", "no data"
"""


def run(*arguments: str, folder: Path) -> subprocess.CompletedProcess[str]:
    root = str(Path(mktme.__file__).parent.parent)
    return subprocess.run(
        [sys.executable, *arguments],
        capture_output=True,
        text=True,
        cwd=folder,
        env=os.environ | {"PYTHONPATH": root, "COLUMNS": "100"},
        check=False,
    )


def test_the_command_explores_a_script_and_writes_one_that_reproduces_what_it_found(tmp_path: Path) -> None:
    (tmp_path / "script.py").write_text(SCRIPT)
    fine = run(
        "-m",
        "mktme.cli",
        "crash",
        "script.py",
        "--iv",
        "pmem-line,ctr-split",
        "--json",
        "r.json",
        folder=tmp_path,
    )
    assert fine.returncode == 0, fine.stderr
    assert {r["failures"] for r in json.loads((tmp_path / "r.json").read_text())["results"].values()} == {0}
    bad = run(
        "-m",
        "mktme.cli",
        "crash",
        "script.py",
        "--program",
        "wrong_order",
        "--reproduce",
        "again.py",
        folder=tmp_path,
    )
    assert bad.returncode == 1
    assert "script.py:12 in wrong_order" in bad.stdout
    assert "no data" in bad.stdout
    again = run("again.py", folder=tmp_path)
    assert again.returncode == 1
    assert "AssertionError: no data" in again.stderr


def test_a_script_keeps_its_assertions_where_python_drops_them(tmp_path: Path) -> None:
    (tmp_path / "script.py").write_text(SCRIPT)
    bad = run("-O", "-m", "mktme.cli", "crash", "script.py", "--program", "wrong_order", folder=tmp_path)
    assert bad.returncode == 1
    assert "no data" in bad.stdout


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["nowhere.py"], "no script nowhere.py"),
        (["script.py", "--program", "other"], "it has check, program, wrong_order"),
        (["script.py", "--iv", "nonsense"], "nonsense"),
        (["script.py", "--engine", "nonsense"], "accumulative"),
    ],
)
def test_the_command_says_in_one_line_what_is_wrong(tmp_path: Path, arguments: list[str], says: str) -> None:
    (tmp_path / "script.py").write_text(SCRIPT)
    done = run("-m", "mktme.cli", "crash", *arguments, folder=tmp_path)
    assert done.returncode == 1
    assert done.stderr.startswith("mktme: ")
    assert says in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1


@settings(max_examples=60, deadline=None)
@given(
    steps=st.lists(
        st.tuples(
            st.sampled_from(["region", "other", "raw", "flush", "flush raw", "drain", "evict", "nt"]),
            st.integers(0, 7),
        ),
        max_size=20,
    ),
    subject=st.sampled_from(["pmem-line", "ctr-split", "ctr-global", "essiv", "pmem-line+mac"]),
    mode=st.sampled_from(["write-through", "write-back"]),
    kind=st.sampled_from(["adr", "page"]),
)
def test_what_is_durable_in_the_explorer_is_what_a_crash_leaves(
    steps: list[tuple[str, int]], subject: str, mode: str, kind: str
) -> None:
    """After every fence and eviction: the base of the states, and the medium after a crash then."""
    opened = crash.world(subject, PAGE, counter_cache=mode)
    size = crash.room(subject, PAGE)
    left: list[bytes] = []

    def program(region: mktme.Region) -> None:
        device, controller = region.device, region.mapping()
        other = controller.map(size, PAGE, controller.program_key(mktme.Key.generate("aes-xts-256")))
        cache = controller.cache
        assert cache is not None

        def leave() -> None:
            with device.crash("none") as after:
                left.append(after.read(0, after.size))

        for number, (step, line) in enumerate(steps):
            data = bytes([number + 1]) * LINE
            if step == "region":
                region.write(line * LINE, data)
            elif step == "nt":
                region.write(line * LINE, data, nontemporal=True)
                if kind == "page":
                    leave()
            elif step == "other":
                other.write(line * LINE, data)
            elif step == "raw":
                device.write(size + PAGE + line * LINE, data)
            elif step == "flush":
                region.flush(line * LINE, 2 * LINE)
                other.flush(line * LINE, LINE)
                if kind == "page":
                    leave()
            elif step == "flush raw":
                device.flush(size + PAGE + line * LINE, LINE)
                if kind == "page":
                    leave()
            elif step == "drain":
                region.drain()
                leave()
            elif step == "evict" and cache.evict(controller.bus.address(region.keyid, line * LINE), LINE):
                leave()

    domain = "adr" if kind == "adr" else "page"
    with recorded(program, opened, crash.zeroed, size + 2 * PAGE, domain, None) as (device, recording, whole):
        bases = []
        for point in recording.points:
            states = States(device, recording, point, whole, evictions=True, seed=0)
            states.settle()
            bases.append(device.bytes.tobytes())
        # Every moment at which we looked is among those of the explorer, in order.
        wanted = iter(bases)
        assert all(any(base == seen for base in wanted) for seen in left)


@settings(max_examples=40, deadline=None)
@given(
    steps=st.lists(
        st.tuples(st.sampled_from(["region", "raw", "flush", "drain", "evict"]), st.integers(0, 2)),
        max_size=9,
    ),
    seed=st.integers(0, 99),
)
def test_every_crash_is_among_the_states_that_are_explored(steps: list[tuple[str, int]], seed: int) -> None:
    """A crash at any moment, also between fences, is a state of the next moment that is explored."""
    opened, crashes, moments = crash.world("pmem-line", PAGE), [], [0]

    def program(region: mktme.Region) -> None:
        device, controller = region.device, region.mapping()
        cache = controller.cache
        assert cache is not None
        for number, (step, line) in enumerate(steps):
            if step == "region":
                region.write(line * LINE, bytes([number + 1]) * LINE)
            elif step == "raw":
                device.write(PAGE + line * LINE, bytes([number + 1]) * LINE)
            elif step == "flush":
                region.flush(line * LINE, LINE)
                device.flush(PAGE + line * LINE, LINE)
            elif step == "drain":
                region.drain()
                moments[0] += 1
            elif cache.evict(controller.bus.address(region.keyid, line * LINE), LINE):
                moments[0] += 1
            for n in range(3):
                with device.crash("random", seed=seed + n) as after:
                    crashes.append((moments[0], after.read(0, after.size)))

    with recorded(program, opened, crash.zeroed, 2 * PAGE, "adr", None) as (device, recording, whole):
        explored = []
        for point in recording.points:
            states, seen = States(device, recording, point, whole, evictions=True, seed=0), set()
            for cut in states.cuts(None, 100_000):
                states.put(cut)
                seen.add(device.bytes.tobytes())
                device.undo()
            explored.append(seen)
            states.settle()
    assert len(explored) == moments[0] + 1
    assert all(state in explored[moment] for moment, state in crashes)
