"""What the laboratory itself keeps on the medium, put through the explorer: volume, files, counters, MACs."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import mktme
import pmem
from mktme import Controller, FileSystem
from mktme.fscrypt import Keyring, Policy
from mktme.lab import crash
from mktme.stack import BlockDevice, Bounce, CryptoProfile, Inline, Line
from pmem import LINE, PAGE, dax

MASTER = bytes(range(64))
PLACES: dict[str, Callable[[pmem.Device], Any]] = {
    "bounce": Bounce,
    "inline": lambda device: Inline(BlockDevice(device, CryptoProfile(3))),
    "line": lambda device: Line(Controller(device), 3),
}


def tree(volume: dax.Volume) -> dict[str, Any]:
    """What a volume of one folder shows."""
    found: dict[str, Any] = {}
    for folder in ("/", "/d/"):
        if folder != "/" and "d" not in found:
            continue
        for entry in volume.list(folder.rstrip("/") or "/"):
            path = folder.lstrip("/") + entry.name.decode()
            if path == "d":
                found[path] = None
                continue
            with volume.open("/" + path) as file:
                found[path] = file.read()
    return found


def operations() -> list[tuple[Callable[[dax.Volume], Any], dict[str, Any]]]:
    """Operations, and what the volume shows after each."""
    shown: dict[str, Any] = {}
    made: list[tuple[Callable[[dax.Volume], Any], dict[str, Any]]] = []

    def step(run: Callable[[dax.Volume], Any], **changes: Any) -> None:
        for path, data in changes.items():
            name = path.replace("__", "/")
            if data is ...:
                del shown[name]
            else:
                shown[name] = data
        made.append((run, dict(shown)))

    def write(path: str, data: bytes) -> Callable[[dax.Volume], None]:
        def run(volume: dax.Volume) -> None:
            with volume.open(path) as file:
                file.write(0, data)

        return run

    step(lambda v: v.mkdir("/d"), d=None)
    step(lambda v: v.create("/d/a").close(), d__a=b"")
    step(write("/d/a", b"content " * 20), d__a=b"content " * 20)
    step(lambda v: v.create("/b").close(), b=b"")
    step(lambda v: v.rename("/d/a", "/b"), b=b"content " * 20, d__a=...)
    step(lambda v: v.reflink("/b", "/d/c"), d__c=b"content " * 20)
    step(lambda v: v.unlink("/b"), b=...)
    return made


@pytest.mark.parametrize("log_structured", [False, True])
@pytest.mark.parametrize("atomicity", [64, 8])
def test_a_volume_is_as_before_or_after_each_operation(log_structured: bool, atomicity: int) -> None:
    steps = operations()
    shown = [{}, *(after for _, after in steps)]

    def prepare(device: pmem.Device) -> None:
        dax.make(device, inodes=16, log_structured=log_structured, uuid=bytes(16)).close()

    def program(device: pmem.Device) -> Iterator[int]:
        with dax.mount(device) as volume:
            for number, (run, _) in enumerate(steps):
                run(volume)
                yield number

    def check(device: pmem.Device, promised: list[int]) -> None:
        with dax.mount(device) as volume:
            report = dax.check(volume)
            assert not report.problems, report.problems
            seen = tree(volume)
        assert seen in shown[len(promised) : len(promised) + 2], (len(promised), seen)

    result = crash.explore(
        program,
        check,
        prepare=prepare,
        size="4MiB" if log_structured else "1MiB",
        atomicity=atomicity,
        limit=100,
    )
    assert result.consistent, result.smallest
    assert result.points > 10
    assert result.states > 600


def test_a_volume_whose_fences_do_nothing_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """The test above can fail."""
    steps = operations()[:3]
    shown = [{}, *(after for _, after in steps)]

    def prepare(device: pmem.Device) -> None:
        dax.make(device, inodes=16, uuid=bytes(16)).close()

    def program(device: pmem.Device) -> Iterator[int]:
        with dax.mount(device) as volume:
            monkeypatch.setattr("pmem.dax.medium.TrackedMedium.flush", lambda self, address, length: None)
            for number, (run, _) in enumerate(steps):
                run(volume)
                yield number

    def check(device: pmem.Device, promised: list[int]) -> None:
        with dax.mount(device) as volume:
            assert tree(volume) in shown[len(promised) : len(promised) + 2]

    result = crash.explore(program, check, prepare=prepare, size="1MiB", limit=40)
    assert result.failures
    assert result.smallest is not None
    assert not result.smallest.missing[0].flushed


@pytest.mark.parametrize("place", PLACES)
def test_encrypted_files_are_there_once_they_are_synced(place: str) -> None:
    """A file's context, name and contents under its own key; keys given again after the failure."""
    data = np.random.default_rng(3).bytes(3000)

    def system(device: pmem.Device) -> tuple[FileSystem, str]:
        volume = dax.mount(device)
        ring = Keyring(volume.uuid)
        key = ring.add(MASTER)
        return FileSystem(volume, PLACES[place](device), keyring=ring), key

    def prepare(device: pmem.Device) -> None:
        dax.make(device, inodes=16, uuid=bytes(16)).close()
        files, key = system(device)
        files.mkdir("/d")
        files.set_policy("/d", Policy(key))
        files.volume.close()

    def program(device: pmem.Device) -> Iterator[str]:
        files, _ = system(device)
        with files.create("/d/one") as file:
            yield "made"
            file.write(0, data)
            yield "written"
        files.rename("/d/one", "/d/two")
        yield "renamed"
        files.volume.close()

    def check(device: pmem.Device, promised: list[str]) -> None:
        files, _ = system(device)
        with files.volume as volume:
            report = dax.check(volume)
            assert not report.problems, report.problems
            names = {entry.name for entry in files.list("/d")}
            assert len(names) <= 1
            if "made" in promised:
                assert names <= {"one", "two"}
                assert names
            if "renamed" in promised:
                assert names == {"two"}
            if "written" in promised:
                with files.open(f"/d/{names.pop()}") as file:
                    assert file.read() == data

    result = crash.explore(program, check, prepare=prepare, size="1MiB", limit=24)
    assert result.consistent, result.smallest
    assert result.states > 60


@pytest.mark.parametrize("subject", ["ctr-split/aes-ctr-128", "ctr-split/aes-ctr-128+mac", "ctr-deuce"])
def test_counters_that_overflow_lose_nothing(subject: str) -> None:
    """A minor counter at its end: the page's lines are encrypted anew under the next major one."""

    def prepare(region: mktme.Region) -> None:
        region.fill(0)
        region.write(LINE, b"neighbour".ljust(LINE))
        for _ in range(140):  # up to and over 127, or DEUCE's epoch of 32
            region.mapping().drain()
            region.write(0, b"before".ljust(LINE))
            region.persist()

    def program(region: mktme.Region) -> Iterator[int]:
        for number in range(4):
            region.write(0, bytes([number]) * LINE)
            region.write(2 * LINE, bytes([number]) * LINE)
            region.persist()
            yield number

    def check(region: mktme.Region, promised: list[int]) -> None:
        assert region.read(LINE, LINE) == b"neighbour".ljust(LINE)
        for at, first in ((0, b"before".ljust(LINE)), (2 * LINE, bytes(LINE))):
            line = region.read(at, LINE)
            states = [first, *(bytes([n]) * LINE for n in range(4))]
            assert line in states[len(promised) : len(promised) + 2]

    result = crash.explore(
        program,
        check,
        setup=crash.world(subject, PAGE),
        prepare=prepare,
        size=crash.room(subject, PAGE),
    )
    assert result.consistent, result.smallest
    assert result.states == 4 * 4 + 1


def test_lines_of_a_map_that_is_closed_follow_the_file(tmp_path: Path) -> None:
    """They are written back before the blocks move, or belong to another file under another key."""
    with pmem.create(tmp_path / "image", "4MiB", domain="adr") as device, dax.make(device) as volume:
        ring = Keyring(volume.uuid)
        files = FileSystem(volume, Line(Controller(device), 3), keyring=ring)
        files.mkdir("/d")
        files.set_policy("/d", Policy(ring.add(MASTER)))
        with files.create("/d/one") as file:
            file.write(0, bytes(3 * PAGE))
            with file.map() as mapped:
                mapped.write(PAGE + 5, b"through the map")
                assert file.read(PAGE + 5, 15) == b"through the map"
                mapped.write(PAGE, b"again")
            volume.relocate(file.file)
            assert file.read(PAGE, 20) == b"again" + b"through the map"
            with file.map() as mapped:
                mapped.write(0, b"stale")
        files.unlink("/d/one")
        with files.create("/d/two") as file:
            file.write(0, b"new" * PAGE)
            cache = files.path.controller.cache  # type: ignore[attr-defined]
            assert len(cache.dirty) == 0
            cache.write_back()
            assert file.read() == b"new" * PAGE
