"""The persistent structures of examples/crash: they work, power failures leave them whole, their bugs don't.

The power failures here are those of a cache that is modelled in this file, a few lines long.
"""

from __future__ import annotations

import itertools
import os
import random
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import mktme
import pmem

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "examples" / "crash"
LINE, WORD, BLOCK = 64, 8, 16
LIMIT = 4096  # states of a fence


def script(name: str) -> ModuleType:
    spec = spec_from_file_location(f"crash_{name}", FOLDER / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


append_log, hash_map, btree = map(script, ("append_log", "hash_map", "btree"))


@dataclass(frozen=True)
class Structure:
    """A script, and how to use what it has."""

    script: ModuleType
    open: Callable[[Any], Any]
    contents: Callable[[Any], Any]
    apply: Callable[[Any, Any], None]  # an operation of WORK


def log_apply(log: Any, record: bytes | None) -> None:
    if record is None:
        log.clear()
    else:
        log.append(record)


def map_apply(table: Any, operation: tuple[Any, Any]) -> None:
    key, value = operation
    if value is None:
        table.delete(key)
    else:
        table.put(key, value)


LOG = Structure(append_log, append_log.Log, lambda log: log.records(), log_apply)
MAP = Structure(hash_map, hash_map.HashMap, lambda table: table.items(), map_apply)
TREE = Structure(btree, btree.BTree, lambda tree: dict(tree.items()), map_apply)
STRUCTURES = pytest.mark.parametrize("structure", [LOG, MAP, TREE], ids=["append_log", "hash_map", "btree"])
BUGS = pytest.mark.parametrize(
    ("structure", "bug"),
    [(LOG, "missing_flush"), (MAP, "wrong_order"), (TREE, "missing_undo_flush")],
    ids=["missing_flush", "wrong_order", "missing_undo_flush"],
)


# A cache in front of memory


class Cache:
    """A region that remembers each line as every store left it, until the line is flushed and fenced.

    `at_fence` is called before each fence, with this.
    """

    def __init__(self, medium: bytes, at_fence: Callable[[Cache], None] = lambda cache: None) -> None:
        self.medium, self.size, self._at_fence = bytearray(medium), len(medium), at_fence
        self.versions: dict[int, list[bytes]] = {}  # of a line since it was durable, in order
        self._flushed: dict[int, int] = {}  # of a line, how many versions

    def _line(self, at: int) -> bytes:
        return self.versions[at][-1] if at in self.versions else bytes(self.medium[at : at + LINE])

    def read(self, offset: int, length: int) -> bytes:
        assert 0 <= offset <= offset + length <= self.size
        first, end = offset // LINE * LINE, offset + length
        lines = b"".join(map(self._line, range(first, end, LINE)))
        return lines[offset - first : end - first]

    def write(self, offset: int, data: bytes) -> None:
        assert 0 <= offset <= offset + len(data) <= self.size
        while data:
            at, begin = offset // LINE * LINE, offset % LINE
            part, data = data[: LINE - begin], data[LINE - begin :]
            old = self._line(at)
            self.versions.setdefault(at, []).append(old[:begin] + part + old[begin + len(part) :])
            offset += len(part)

    def __getitem__(self, index: slice) -> bytes:
        start, stop, _ = index.indices(self.size)
        return self.read(start, stop - start)

    def flush(self, offset: int, length: int) -> None:
        for at in range(offset // LINE * LINE, offset + length, LINE):
            if at in self.versions:
                self._flushed[at] = len(self.versions[at])

    def drain(self) -> None:
        self._at_fence(self)
        for at, count in self._flushed.items():
            self.medium[at : at + LINE] = self.versions[at][count - 1]
            if left := self.versions[at][count:]:
                self.versions[at] = left
            else:
                del self.versions[at]
        self._flushed.clear()

    def persist(self, offset: int, length: int) -> None:
        self.flush(offset, length)
        self.drain()

    def state(self, lines: dict[int, bytes]) -> bytes:
        image = bytearray(self.medium)
        for at, line in lines.items():
            image[at : at + LINE] = line
        return bytes(image)

    def states(self) -> Iterator[bytes]:
        """What power failures leave: of each line, independently, the medium's or any version."""
        options = [[bytes(self.medium[at : at + LINE]), *made] for at, made in self.versions.items()]
        for chosen in itertools.product(*options):
            yield self.state(dict(zip(self.versions, chosen, strict=True)))

    def torn(self, draw: random.Random, encrypted: bool) -> bytes:
        """One state in which lines were torn between two versions, a word of 8 bytes from either.

        Encrypted, a block of 16 bytes that differs in the two is noise, unless it is of one of them.
        """
        lines = {}
        for at, made in self.versions.items():
            every = [bytes(self.medium[at : at + LINE]), *made]
            old, new = sorted(draw.choices(range(len(every)), k=2))
            pair = every[old], every[new]
            chosen = [draw.randrange(2) for _ in range(LINE // WORD)]
            words = [pair[which][i * WORD :][:WORD] for i, which in enumerate(chosen)]
            if encrypted:
                for i in range(0, len(words), 2):
                    block = slice(i * WORD, i * WORD + BLOCK)
                    if chosen[i] != chosen[i + 1] and pair[0][block] != pair[1][block]:
                        words[i : i + 2] = draw.randbytes(WORD), draw.randbytes(WORD)
            lines[at] = b"".join(words)
        return self.state(lines)


def fresh(structure: Structure) -> bytes:
    """What a region never written decrypts to."""
    return random.Random(5).randbytes(pmem.geometry.parse_size(structure.script.SIZE))


@dataclass
class Explored:
    """What was looked at; `survived`: how many operations were promised, and how many were there."""

    looked_at: set[tuple[int, bytes]] = field(default_factory=set)
    survived: set[tuple[int, int]] = field(default_factory=set)
    recoveries: int = 0  # states whose recovery stored something
    most: int = 0  # states of a fence


def explore(
    structure: Structure,
    program: str = "program",
    states: Callable[[Cache], Iterator[bytes]] = Cache.states,
    region: Callable[..., Cache] = Cache,
    failures: int = 8,
) -> Explored:
    """Check every state before every fence, and what is left if the power fails again meanwhile.

    `failures` is how often at most, one during the recovery from the other. Raises AssertionError.
    """
    found, promised = Explored(), []
    after, work = structure.script.after, structure.script.WORK

    def look(image: bytes, more: int) -> None:
        if (len(promised), image) in found.looked_at:
            return
        found.looked_at.add((len(promised), image))
        again = region(image, lambda cache: at_fence(cache, more - 1))
        structure.script.check(again, promised)
        found.recoveries += bytes(again.medium) != image
        if not structure.script.formatted(again):
            return
        quiet = Cache(again.medium)
        opened = structure.open(quiet)
        there = len(promised) + (structure.contents(opened) != after(promised))
        found.survived.add((len(promised), there))
        if there < len(work):  # and life goes on
            structure.apply(opened, work[there])
            reopened = structure.open(Cache(quiet.medium))
            assert structure.contents(reopened) == after(work[: there + 1])

    def at_fence(cache: Cache, more: int = failures) -> None:
        count = 0
        for image in itertools.islice(states(cache), LIMIT if more else 0):
            look(image, more)
            count += 1
        found.most = max(found.most, count)

    cache = region(fresh(structure), at_fence)
    for value in getattr(structure.script, program)(cache):
        promised.append(value)
    at_fence(cache)
    assert promised == work
    return found


def torn(encrypted: bool, drawn: int = 8) -> Callable[[Cache], Iterator[bytes]]:
    draw = random.Random(11)
    return lambda cache: (cache.torn(draw, encrypted) for _ in range(drawn))


@STRUCTURES
def test_every_state_that_a_power_failure_leaves_is_consistent(structure: Structure) -> None:
    found = explore(structure)
    assert found.most < LIMIT  # so none was left out
    operations = len(structure.script.WORK)
    # Each operation was seen interrupted before it took effect, and after; and kept once promised.
    assert {(n, n) for n in range(operations + 1)} | {
        (n, n + 1) for n in range(operations) if changes(structure, n)
    } == found.survived
    assert (found.recoveries > 0) == (structure is TREE)


def changes(structure: Structure, n: int) -> bool:
    """Whether operation n can be told from none."""
    after, work = structure.script.after, structure.script.WORK
    return bool(after(work[:n]) != after(work[: n + 1]))


@BUGS
def test_the_planted_bug_is_found(structure: Structure, bug: str) -> None:
    with pytest.raises(AssertionError, match=r"damaged after|promised"):
        explore(structure, bug)


@BUGS
def test_the_planted_bug_shows_in_no_other_way(structure: Structure, bug: str) -> None:
    cache, promised = Cache(fresh(structure)), []
    for value in getattr(structure.script, bug)(cache):
        promised.append(value)
        structure.script.check(Cache(cache.read(0, cache.size)), promised)


@STRUCTURES
def test_eight_bytes_would_do_without_encryption(structure: Structure) -> None:
    found = explore(structure, states=torn(encrypted=False), failures=2)
    assert len(found.looked_at) > 5 * len(structure.script.WORK)


@STRUCTURES
def test_under_a_block_cipher_lines_must_persist_whole(structure: Structure) -> None:
    with pytest.raises(AssertionError, match=r"damaged after|promised"):
        explore(structure, states=torn(encrypted=True), failures=2)


# Each flush and each fence is there for a reason


def site() -> tuple[str, int]:
    """The function of the script that is running, and the line."""
    frame = sys._getframe()
    while not frame.f_code.co_filename.startswith(str(FOLDER)):
        assert frame.f_back is not None
        frame = frame.f_back
    return frame.f_code.co_qualname, frame.f_lineno


def without(call: str, left_out: tuple[str, int] | None, seen: dict[tuple[str, int], None]) -> type[Cache]:
    """A cache that forgets "flush" or "drain" at one place in a script, and notes all places in `seen`."""

    class Forgetful(Cache):
        pass

    def made(cache: Cache, *range: int) -> None:
        seen.setdefault(site())
        if site() != left_out:
            getattr(Cache, call)(cache, *range)

    setattr(Forgetful, call, made)
    return Forgetful


@pytest.mark.parametrize(
    ("structure", "call", "spared"),
    [
        (LOG, "flush", 2),
        (MAP, "flush", 1),
        (TREE, "flush", 2),
        (LOG, "drain", 2),
        (MAP, "drain", 2),
        (TREE, "drain", 2),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_no_flush_and_no_fence_can_be_left_out(structure: Structure, call: str, spared: int) -> None:
    # What goes unnoticed is in `format`: taking the magic away, since the region is fresh; what shares the
    # magic's line, which is flushed once more; and what the first operation flushes, or fences, in any case.
    places: dict[tuple[str, int], None] = {}
    for _ in structure.script.program(without(call, None, places)(fresh(structure))):
        pass
    unnoticed = []
    for place in places:
        try:
            explore(structure, region=without(call, place, {}))
        except AssertionError:
            continue
        unnoticed.append(place[0])
    assert len(places) > spared
    assert unnoticed == ["format"] * spared


@STRUCTURES
def test_a_fresh_region_is_formatted_or_not_and_is_when_it_was_said(structure: Structure) -> None:
    seen = set()

    def at_fence(cache: Cache) -> None:
        for image in cache.states():
            again = Cache(image)
            seen.add(made := structure.script.formatted(again))
            assert not made or not structure.contents(structure.open(again))

    cache = Cache(fresh(structure), at_fence)
    structure.script.format(cache)
    assert seen == {False, True}
    assert not cache.versions
    assert structure.script.formatted(Cache(cache.medium))


@pytest.mark.parametrize("structure", [MAP, TREE], ids=["hash_map", "btree"])
def test_formatting_anew_leaves_what_was_or_an_empty_structure_or_none(structure: Structure) -> None:
    script = structure.script
    cache = Cache(fresh(structure))
    for _ in script.program(cache):
        pass
    full, seen = script.after(script.WORK), set()

    def at_fence(cache: Cache) -> None:
        for image in cache.states():
            again = Cache(image)
            if not script.formatted(again):
                seen.add("none")
                continue
            contents = structure.contents(structure.open(again))
            assert contents in (full, {})
            seen.add("full" if contents else "empty")

    script.format(Cache(cache.medium, at_fence))
    assert seen == {"full", "none", "empty"}


# They work


KEY = bytes(range(64))


def mapped(device: pmem.Device, key: bytes = KEY) -> mktme.Region:
    controller = mktme.Controller(device)
    return controller.map(0, device.size, controller.program_key(mktme.Key.from_bytes("aes-xts-256", key)))


RECORDS = st.one_of(st.none(), st.binary(max_size=200))
NAMES = st.binary(max_size=2)
PAIRS = st.tuples(NAMES, st.one_of(st.none(), st.binary(max_size=50)))
NUMBERS = st.tuples(st.integers(0, 24), st.one_of(st.none(), st.integers(0, 2**64 - 1)))


@pytest.mark.parametrize(
    ("structure", "operations"),
    [(LOG, RECORDS), (MAP, PAIRS), (TREE, NUMBERS)],
    ids=["append_log", "hash_map", "btree"],
)
def test_a_structure_is_its_model_after_every_restart(
    structure: Structure, operations: st.SearchStrategy[Any], tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = tmp_path_factory.mktemp("structure")
    numbers = itertools.count()

    @settings(max_examples=15, deadline=None, derandomize=True, database=None)
    @given(st.lists(operations, max_size=24))
    def holds(work: list[Any]) -> None:
        image = folder / f"{next(numbers)}.img"
        with pmem.create(image, "16KiB") as device:
            structure.script.format(mapped(device))
        done: list[Any] = []
        for operation in work:
            with pmem.open(image) as device:
                opened = structure.open(mapped(device))
                before = structure.script.after(done)
                assert structure.contents(opened) == before
                if structure is not LOG:
                    assert opened.get(operation[0]) == before.get(operation[0])
                    if operation[1] is None and operation[0] not in before:
                        with pytest.raises(KeyError):
                            opened.delete(operation[0])
                        continue
                structure.apply(opened, operation)
                done.append(operation)
                assert structure.contents(opened) == structure.script.after(done)
        image.unlink()

    holds()


def test_a_tree_of_several_levels_stays_a_tree(tmp_path: Path) -> None:
    draw, model = random.Random(3), {}
    with pmem.create(tmp_path / "tree.img", "128KiB") as device:
        region = mapped(device)
        btree.format(region)
        tree, levels = btree.BTree(region), set()
        for growing in (True, False):
            for i in range(500):
                key = draw.randrange(500)
                if draw.random() < (0.9 if growing else 0.25):
                    model[key] = draw.getrandbits(64)
                    tree.put(key, model[key])
                elif key in model:
                    del model[key]
                    tree.delete(key)
                if i % 50 == 0:
                    tree = btree.BTree(region)  # which looks at every node
                    levels.add(tree._load(tree._root).level)
                    assert tree.items() == sorted(model.items())
        for key in sorted(model):
            tree.delete(key)
        tree = btree.BTree(region)
        assert tree.items() == []
        assert tree._load(tree._root).level == 0
    assert max(levels) >= 3


# They refuse


@STRUCTURES
def test_another_key_finds_nothing(structure: Structure, tmp_path: Path) -> None:
    with pmem.create(tmp_path / "pool.img", "16KiB") as device:
        structure.script.format(mapped(device))
        other = mapped(device, KEY[::-1])
        assert not structure.script.formatted(other)
        with pytest.raises(ValueError, match="under another key"):
            structure.open(other)


@pytest.mark.parametrize(
    ("structure", "filler"),
    [
        (LOG, lambda i: b"x" * 100),
        (MAP, lambda i: (b"%d" % i, b"value")),
        (TREE, lambda i: (i, i)),
    ],
    ids=["append_log", "hash_map", "btree"],
)
def test_a_full_structure_says_so_and_stays_as_it_was(
    structure: Structure, filler: Callable[[int], Any]
) -> None:
    cache = Cache(fresh(structure))
    structure.script.format(cache)
    opened, done = structure.open(cache), []
    medium = b""

    def fill() -> None:
        nonlocal medium
        for i in range(10_000):
            medium = bytes(cache.medium)
            structure.apply(opened, filler(i))
            done.append(filler(i))

    with pytest.raises(ValueError, match=r"doesn't fit|are taken|no room"):
        fill()
    assert len(done) > 30
    assert bytes(cache.medium) == medium
    assert not cache.versions
    for last in (opened, structure.open(cache)):
        assert structure.contents(last) == structure.script.after(done)
    if structure is LOG:
        opened.clear()
    else:
        opened.delete(filler(3)[0])
    assert len(structure.contents(structure.open(cache))) < len(done)


def test_what_doesnt_fit_an_entry_or_a_word_is_refused() -> None:
    table, tree = Cache(fresh(MAP)), Cache(fresh(TREE))
    hash_map.format(table)
    btree.format(tree)
    with pytest.raises(ValueError, match="exceed 52"):
        hash_map.HashMap(table).put(b"key", bytes(50))
    for key, value in ((-1, 0), (2**64, 0), (0, -1), (0, 2**64)):
        with pytest.raises(ValueError, match="2\\^64"):
            btree.BTree(tree).put(key, value)
    with pytest.raises(ValueError, match="don't fit"):
        hash_map.format(table, buckets=1000)
    with pytest.raises(ValueError, match="no room"):
        btree.format(Cache(bytes(1024)))
    assert hash_map.HashMap(table).items() == {}
    assert btree.BTree(tree).items() == []


# As programs


@pytest.mark.parametrize(
    ("name", "last"),
    [
        ("append_log", "After a restart: 10 records"),
        ("hash_map", "After a restart: 11 keys"),
        ("btree", "After a restart: 8 keys"),
    ],
)
def test_a_script_runs_by_itself_and_leaves_nothing(name: str, last: str, tmp_path: Path) -> None:
    run = subprocess.run(
        [sys.executable, FOLDER / f"{name}.py"],
        env={**os.environ, "PYTHONPATH": str(ROOT), "TMPDIR": str(tmp_path)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.returncode == 0, run.stderr
    said = run.stdout.splitlines()
    assert said[-2].startswith(last)
    assert said[-3] == "Plaintext on the medium: False"
    assert said[-1].endswith("by another key: False")
    assert not list(tmp_path.iterdir())
