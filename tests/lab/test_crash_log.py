"""pmemcheck's store log, and pmreorder's states: read, written, explored."""

from __future__ import annotations

import io
import itertools
import json
import os
import random
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
from mktme import storelog
from mktme.lab import crash
from mktme.lab.crash.engines import ENGINES, engine_of
from mktme.storelog import Event, Fence, Flush, Label, RegisterFile, Store
from pmem import LINE, PAGE

BASE = 0x7F0000000000
FILE = RegisterFile("POOL", BASE, PAGE, 0)
VECTORS = Path(__file__).parents[1] / "vectors" / "pmreorder"
ENGINE_OF = {
    "full": "ReorderFull",
    "none": "NoReorderDoCheck",
    "accumulative": "ReorderAccumulative",
    "reverse-accumulative": "ReorderReverseAccumulative",
}


class Reorder:
    """What pmreorder (pmdk 1.12) does with a log, by its own rules: the images that it checks.

    Stores are collected; a flush marks those that it overlaps; a fence after a flush replays the marked
    ones in each sequence of the engine, then makes them durable; the others are kept.
    """

    def __init__(self, engine: str) -> None:
        self._engine = engine
        self.images: list[set[bytes]] = []

    def run(self, events: list[Event], size: int) -> None:
        image, waiting, flushed, armed = bytearray(size), [], set(), False
        for event in events:
            if isinstance(event, Store):
                waiting.append(event)
            elif isinstance(event, Flush):
                armed = True
                for store in waiting:
                    apart = (
                        store.address + len(store.data) <= event.address
                        or store.address >= event.address + event.length
                    )
                    if not apart:
                        flushed.add(id(store))
            elif isinstance(event, Fence) and armed:
                armed = False
                ready = [store for store in waiting if id(store) in flushed]
                waiting = [store for store in waiting if id(store) not in flushed]
                seen = set()
                for sequence in self._sequences(ready):
                    state = bytearray(image)
                    for store in sequence:
                        self._store(state, store)
                    seen.add(bytes(state))
                self.images.append(seen)
                for store in ready:
                    self._store(image, store)

    @staticmethod
    def _store(image: bytearray, store: Store) -> None:
        image[store.address - BASE : store.address - BASE + len(store.data)] = store.data

    def _sequences(self, stores: list[Store]) -> Iterator[list[Store]]:
        n = len(stores)
        if self._engine == "ReorderFull":
            for length in range(n + 1):
                yield from map(list, itertools.permutations(stores, length))
        elif self._engine == "NoReorderDoCheck":
            yield stores
        elif self._engine == "ReorderAccumulative":
            yield from (stores[:i] for i in range(n + 1))
        else:
            yield from (stores[::-1][:i] for i in range(n + 1))


def ours(events: list[Event], engine: str) -> list[set[bytes]]:
    """The images that the explorer checks, by fence; the last one's after all of them."""
    seen: list[bytes] = []
    result = crash.explore_log(events, lambda device: seen.append(device.read(0, PAGE)), engine=engine)
    assert result.states == len(seen)
    made, at = [], 0
    sizes = [sum(p.flushed for p in point) for point in pieces_of(events)]
    for n in sizes:
        count = engine_of(engine).count(n) if engine != "full" else 2**n
        made.append(set(seen[at : at + count]))
        at += count
    assert at == len(seen)
    return made


def pieces_of(events: list[Event]) -> list[list[Any]]:
    from mktme.lab.crash.recording import of_log

    recording = of_log(events, np.zeros(PAGE, np.uint8), {FILE.path: 0})

    class Flushed:
        def __init__(self, flushed: bool) -> None:
            self.flushed = flushed

    return [[Flushed(flushed) for _, flushed in point.pieces] for point in recording.points]


def stores(*places: int) -> list[Event]:
    return [Store(BASE + at, bytes([n + 1]) * 8) for n, at in enumerate(places)]


LOGS = sorted(VECTORS.glob("*.log"))
CHECKED = json.loads((VECTORS / "states.json").read_text())


def image(runs: list[list[Any]]) -> bytes:
    """An image of the vectors: what isn't zero."""
    made = bytearray(PAGE)
    for at, text in runs:
        data = bytes.fromhex(text)
        made[at : at + len(data)] = data
    return bytes(made)


@pytest.mark.parametrize("engine", ENGINE_OF)
@pytest.mark.parametrize("log", LOGS, ids=[log.stem for log in LOGS])
def test_the_states_are_those_that_pmreorder_checks(log: Path, engine: str) -> None:
    """Against what its own code was shown, and against its rules written anew."""
    events = list(storelog.read(log))
    checked = [{image(runs) for runs in images} for images in CHECKED[log.stem][ENGINE_OF[engine]]]
    anew = Reorder(ENGINE_OF[engine])
    anew.run(events, PAGE)
    assert anew.images == checked
    made = ours(events, engine)[:-1]  # it doesn't look at what comes after the last fence
    kept = [states for states, armed in zip(made, armed_fences(events), strict=True) if armed]
    if log.stem == "overlapping-stores" and engine in ("full", "reverse-accumulative"):
        last_first = b"aab".ljust(PAGE, b"\0")  # the first store after the second, on one line
        assert kept == [checked[0] - {last_first} | ({b"abb".ljust(PAGE, b"\0")})]
    else:
        assert kept == checked


def armed_fences(events: list[Event]) -> list[bool]:
    """For each fence whether a flush came since the last one that replayed."""
    made, armed = [], False
    for event in events:
        armed = armed or isinstance(event, Flush)
        if isinstance(event, Fence):
            made.append(armed)
            armed = False
    return made


def test_stores_that_overlap_stay_in_order_as_the_processor_keeps_them() -> None:
    events: list[Event] = [FILE, Store(BASE, b"aa"), Store(BASE + 1, b"bb"), Flush(BASE, 64), Fence()]
    theirs = Reorder("ReorderFull")
    theirs.run(events, PAGE)
    made = ours(events, "full")[0]
    assert {state[:3] for state in made} == {b"\0\0\0", b"aa\0", b"\0bb", b"abb"}
    assert {state[:3] for state in theirs.images[0] - made} == {b"aab"}  # the first store after the second


@settings(max_examples=60, deadline=None)
@given(
    steps=st.lists(
        st.one_of(
            st.tuples(st.just("store"), st.integers(0, 5)),
            st.tuples(st.just("flush"), st.integers(0, 5)),
            st.tuples(st.just("fence"), st.just(0)),
        ),
        max_size=14,
    ),
    engine=st.sampled_from(sorted(ENGINE_OF)),
)
def test_random_logs_give_the_states_of_pmreorder(steps: list[tuple[str, int]], engine: str) -> None:
    events: list[Event] = [FILE]
    for n, (kind, place) in enumerate(steps):
        if kind == "store":
            at = BASE + place * LINE + n * 8 % 64  # no two of an epoch at one place, in 8 steps
            if any(isinstance(e, Store) and e.address == at for e in events):
                continue
            events.append(Store(at, bytes([n + 1]) * 8))
        elif kind == "flush":
            events.append(Flush(BASE + place * LINE, LINE))
        else:
            events.append(Fence())
    if sum(isinstance(e, Store) for e in events) > 6:
        return
    theirs = Reorder(ENGINE_OF[engine])
    theirs.run(events, PAGE)
    made = ours(events, engine)[:-1]
    assert [s for s, armed in zip(made, armed_fences(events), strict=True) if armed] == theirs.images


def test_a_log_is_read_as_it_was_written(tmp_path: Path) -> None:
    events: list[Event] = [FILE, Label("a.BEGIN"), *stores(0, 64), Flush(BASE, 64), Fence(), Label("a.END")]
    events.append(Store(BASE + 8, b"\0\1\2\0", "main.c:12;lib.c:3"))
    storelog.write(tmp_path / "log", events)
    assert list(storelog.read(tmp_path / "log")) == events


@settings(max_examples=60, deadline=None)
@given(at=st.integers(0, 2**48), data=st.binary(min_size=1, max_size=40))
def test_long_stores_are_written_in_aligned_parts(at: int, data: bytes) -> None:
    file = io.StringIO()
    storelog.write(file, [Store(at, data)])
    parts = list(storelog.read(io.StringIO(file.getvalue())))
    assert all(isinstance(part, Store) for part in parts)
    assert b"".join(part.data for part in parts if isinstance(part, Store)) == data
    for part in parts:
        assert isinstance(part, Store)
        assert 1 <= len(part.data) <= 8
        assert part.address // 8 == (part.address + len(part.data) - 1) // 8


def test_a_log_of_valgrind_is_read_with_what_it_says_around(tmp_path: Path) -> None:
    text = (
        "==71== pmemcheck-1.0, a simple persistent store checker\n==71== Command: ./a.out\n==71== \n"
        "START|REGISTER_FILE;/mnt/pool;0x4000000;0x1000;0x0|STORE;0x4000000;0x1122;0x2;main.c:3;start.c:1|"
        "FLUSH;0x4000000;0x40|FENCE|lib.BEGIN|lib.END|STOP\n==71== Number of stores not made persistent: 0\n"
    )
    (tmp_path / "log").write_text(text)
    assert list(storelog.read(tmp_path / "log")) == [
        RegisterFile("/mnt/pool", 0x4000000, 0x1000, 0),
        Store(0x4000000, b"\x22\x11", "main.c:3;start.c:1"),
        Flush(0x4000000, 0x40),
        Fence(),
        Label("lib.BEGIN"),
        Label("lib.END"),
    ]


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "no START"),
        ("STORE;0x0;0x1;0x1|", "no START"),
        ("START|FENCE|", "no STOP"),
        ("START|STORE;0x0;0x1|STOP", "record 1"),
        ("START|STORE;0x0;0x100;0x1|STOP", "record 1"),
        ("START|STORE;zero;0x1;0x1|STOP", "record 1"),
        ("START|FENCE|MFENCE|STOP", "record 2, 'MFENCE'"),
        ("START|FLUSH;0x0|STOP", "record 1"),
        ("START|REGISTER_FILE;a;0x0|STOP", "record 1"),
    ],
)
def test_refuses_what_is_no_store_log(text: str, says: str) -> None:
    with pytest.raises(mktme.StoreLogError, match=says):
        list(storelog.read(io.StringIO(text)))


def test_refuses_names_that_a_log_can_not_hold() -> None:
    with pytest.raises(mktme.StoreLogError, match="a bar or a semicolon"):
        storelog.write(io.StringIO(), [RegisterFile("a|b", 0, 1, 0)])


def test_refuses_logs_and_images_that_do_not_fit(tmp_path: Path) -> None:
    with pytest.raises(mktme.CrashError, match="registers no file"):
        crash.explore_log([Fence()], lambda device: None)
    with pytest.raises(mktme.CrashError, match="no file 'other'"):
        crash.explore_log([FILE, Fence()], lambda device: None, images={"other": tmp_path / "x"})


def test_files_begin_as_they_were_and_lie_one_after_another(tmp_path: Path) -> None:
    (tmp_path / "old").write_bytes(b"old content".ljust(PAGE, b"."))
    second = RegisterFile("second", BASE + (1 << 30), 100, 0)
    events: list[Event] = [FILE, second, Store(BASE, b"new"), Store(second.address + 1, b"2")]
    events += [Flush(BASE, 64), Flush(second.address, 64), Fence()]
    seen = set()

    def check(device: Any, places: dict[str, int]) -> None:
        seen.add((device.read(places[FILE.path], 11), device.read(places["second"], 3)))

    crash.explore_log(events, check, images={FILE.path: tmp_path / "old"})
    assert seen == set(itertools.product((b"old content", b"new content"), (b"\0\0\0", b"\0" + b"2\0")))


def test_our_log_of_an_encrypted_program_gives_its_states_elsewhere(tmp_path: Path) -> None:
    """What we write, explored as another's log: the same program is consistent, the same bug is found."""

    def program(region: mktme.Region) -> Iterator[int]:
        region[LINE : LINE + 4] = b"data"
        region.persist(LINE, 4)
        region[0] = 1
        region.persist(0, 1)
        yield 1

    def wrong(region: mktme.Region) -> Iterator[int]:
        region[LINE : LINE + 4] = b"data"
        region[0] = 1
        region.persist()
        yield 1

    for subject in ("pmem-line", "ctr-split", "essiv"):
        opened = crash.world(subject, PAGE)

        def check(device: Any, *, opened: Any = opened) -> None:
            region = opened(device)
            lines = region.read(0, 2 * LINE)
            assert not lines[0] or lines[LINE : LINE + 4] == b"data"

        for run, consistent in ((program, True), (wrong, False)):
            log, image = tmp_path / "log", tmp_path / "image"
            found = crash.explore(
                run,
                lambda region: not region[0] or region[LINE : LINE + 4] == b"data",
                setup=opened,
                prepare=crash.zeroed,
                size=crash.room(subject, PAGE),
                log=log,
                image=image,
            )
            assert found.consistent is consistent
            # Lines whole, as the controller writes them: all stores of a line and its counter at once.
            again = crash.explore_log(log, check, images={str(image): image}, engine="none")
            assert again.consistent
            assert again.stores > found.stores  # words of ciphertext, and what is kept beside them
            torn = crash.explore_log(log, check, images={str(image): image}, limit=500)
            assert torn.states > found.states


@pytest.mark.parametrize("n", range(7))
@pytest.mark.parametrize("name", ENGINES)
def test_engines_give_as_many_subsets_as_they_say(name: str, n: int) -> None:
    engine = ENGINES[name]
    subsets = list(engine.subsets(n, 1))
    assert len(subsets) == engine.count(n)
    assert len(set(subsets)) == len(subsets)
    assert all(list(s) == sorted(set(s)) and set(s) <= set(range(n)) for s in subsets)
    assert subsets == list(engine.subsets(n, 1))


def test_the_partial_engine_draws_from_very_many() -> None:
    subsets = list(ENGINES["partial"].subsets(200, 5))
    assert len(set(subsets)) == 3
    assert subsets != list(ENGINES["partial"].subsets(200, random.Random(6).getrandbits(16)))


CHECK = """
from mktme.lab import crash

def check(device):
    region = crash.world("pmem-line", 4096)(device)
    assert region[0] in (0, 1), "garbage"
    assert not region[0] or region[64:68] == b"data", "no data"

def program(region):
    region[64:68] = b"data"
    region.persist(64, 4)
    region[0] = 1
    region.persist(0, 1)

def sound(region):
    assert not region[0] or region[64:68] == b"data", "no data"
"""


def test_the_command_writes_a_log_and_explores_it(tmp_path: Path) -> None:
    (tmp_path / "script.py").write_text("SIZE = 4096\n" + CHECK)
    root = str(Path(mktme.__file__).parent.parent)

    def run(*arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "mktme.cli", "crash", *arguments],
            capture_output=True,
            text=True,
            cwd=tmp_path,
            env=os.environ | {"PYTHONPATH": root, "COLUMNS": "100"},
            check=False,
        )

    made = run("script.py", "--check", "sound", "--log", "log", "--image", "before")
    assert made.returncode == 0, made.stderr
    assert (tmp_path / "before").stat().st_size == PAGE
    again = run("script.py", "--pmemcheck", "log", "--image", "before", "--engine", "none")
    assert again.returncode == 0, again.stderr
    assert "what the log says" in again.stdout
    torn = run("script.py", "--pmemcheck", "log", "--image", "before")
    assert torn.returncode == 1  # by words of ciphertext
    many = run("script.py", "--iv", "pmem-line,essiv", "--log", "log")
    assert many.returncode == 1
    assert "one run" in many.stderr
    lone = run("--log", "log")
    assert lone.returncode == 1
    assert "name a script" in lone.stderr
