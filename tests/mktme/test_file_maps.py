"""Encrypted files that are mapped: who sees what, what stays where it is, and who ends it."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import pmem
from mktme import (
    Controller,
    FileSystem,
    KeyTableFull,
    KeyUnavailable,
    MappingError,
    RegionError,
    RegionUnmapped,
)
from mktme.fscrypt import Policy
from mktme.stack import Bounce, Line, Plain
from pmem import dax

BLOCK = 4096
MASTER = bytes(range(64))


@pytest.fixture
def device(tmp_path: Path) -> Iterator[pmem.Device]:
    with pmem.create(tmp_path / "volume.img", 24 << 20) as made:
        yield made


@pytest.fixture
def system(device: pmem.Device) -> Iterator[FileSystem]:
    """On the line path with two KeyIDs; /d is encrypted."""
    made = FileSystem(dax.make(device), Line(Controller(device), 2))
    made.mkdir("/d")
    made.set_policy("/d", Policy(made.keyring.add(MASTER)))
    yield made
    if not made.volume.closed:
        assert dax.check(made.volume).problems == []
        made.volume.close()


def beside(system: FileSystem) -> FileSystem:
    """The same files on the bounce path."""
    return FileSystem(system.volume, Bounce(system.volume.device), keyring=system.keyring)


def test_each_map_is_closed_by_its_own_user(system: FileSystem) -> None:
    first, second = system.create("/d/x"), system.open("/d/x")
    first.write(0, b"shared")
    kept = second.map()
    with first.map() as mapped:
        assert mapped.regions == kept.regions
    mapped.close()
    first.close()
    assert mapped.closed
    assert not kept.closed
    assert kept.read(0, 6) == b"shared"
    second.close()
    assert kept.closed
    assert system.path.controller.regions == ()
    with pytest.raises(dax.FileClosed):
        first.map()


def test_a_file_that_grew_is_mapped_as_long_as_it_is(system: FileSystem) -> None:
    with system.create("/d/x") as file:
        file.write(0, b"x" * 100)
        short = file.map()
        file.write(3 * BLOCK, b"y" * 100)
        long = file.map()
        assert (short.size, long.size) == (100, 3 * BLOCK + 100)
        long.write(50, b"z" * (3 * BLOCK))
        assert file.read() == long.read(0, long.size)
        assert long.read(0, 100) == short.read(0, 100) == b"x" * 50 + b"z" * 50
        with pytest.raises(RegionError, match="outside of the file, which has 100 bytes"):
            short.read(90, 20)
        assert sum(region.size for _, region in long.regions) == 4 * BLOCK
    with beside(system).open("/d/x") as file:
        assert file.read() == b"x" * 50 + b"z" * (3 * BLOCK) + b"y" * 50


def test_holes_of_a_mapped_file_are_zeros_on_the_medium(system: FileSystem) -> None:
    with system.create("/d/x") as file:
        file.truncate(BLOCK)
        file.write(5 * BLOCK, b"data")
        file.fallocate(8 * BLOCK, BLOCK)
        file.truncate(700_000)
        asked = system.path.traffic.asked
        with file.map() as mapped:
            assert system.path.traffic.asked == asked
            model = bytearray(700_000)
            model[5 * BLOCK : 5 * BLOCK + 4] = b"data"
            assert mapped.read(0, 700_000) == model
            assert sum(region.size for _, region in mapped.regions) == -(-700_000 // BLOCK) * BLOCK
            with beside(system).open("/d/x") as other:
                assert other.read() == model


def test_a_refused_map_leaves_the_file_as_it_was(system: FileSystem) -> None:
    files = [system.create(f"/d/{n}") for n in range(3)]
    for file in files:
        file.write(0, b"x")
        file.truncate(1 << 20)
    maps = [files[0].map(), files[1].map()]
    free, keyids = system.volume.free, system.path.controller.keyids
    with pytest.raises(KeyTableFull, match="close a map"):
        files[2].map()
    assert (system.volume.free, system.path.controller.keyids) == (free, keyids)
    maps[0].close()
    files[2].close()
    system.reflink("/d/2", "/d/copy")
    free, regions = system.volume.free, system.path.controller.regions
    with system.open("/d/2") as shared, pytest.raises(dax.FileBusy, match="copy it"):
        shared.map()
    assert (system.volume.free, system.path.controller.regions) == (free, regions)
    with system.open("/d/2") as shared:
        shared.write(0, b"y")  # its own block from here on, and its KeyID was let go
    for file in files[:2]:
        file.close()


def test_a_volume_that_is_full_refuses_a_map_whose_holes_want_blocks(system: FileSystem) -> None:
    with system.create("/d/x") as file:
        file.write(0, b"kept")
        file.truncate(64 << 20)
        free = system.volume.free
        with pytest.raises(dax.VolumeFull):
            file.map()
        assert system.volume.free == free
        assert system.path.controller.regions == ()
        file.truncate(100)  # nothing holds its blocks
        assert file.map().read(0, 4) == b"kept"


def test_a_wiped_keyring_takes_the_maps_away(system: FileSystem) -> None:
    """Else the range would be reached under KeyID 0, and a store would leave plaintext."""
    file = system.create("/d/x")
    file.write(0, b"secret")
    mapped = file.map()
    values = mapped.array(np.uint8, (6,))
    (extent,) = file.file.map()
    stored = system.volume.device.read(extent.address, BLOCK)
    system.keyring.wipe()
    assert system.path.controller.keyids == ()
    assert mapped.closed
    for refused in (lambda: mapped.read(0, 6), lambda: mapped.write(0, b"plain"), lambda: values.sum()):
        with pytest.raises(RegionUnmapped):
            refused()
    assert system.volume.device.read(extent.address, BLOCK) == stored
    file.close()


def test_a_volume_may_be_closed_before_its_files(system: FileSystem) -> None:
    file = system.create("/d/x")
    file.write(0, b"x")
    mapped = file.map()
    system.volume.close()
    file.close()
    assert mapped.closed
    assert system.path.controller.regions == ()


def test_who_writes_into_a_hole_while_it_is_filled_keeps_the_bytes(
    system: FileSystem, monkeypatch: pytest.MonkeyPatch
) -> None:
    look = dax.File.map
    with system.create("/d/x") as file:
        file.truncate(256 * BLOCK)

        def overtaken(self: dax.File, *args: Any) -> list[dax.Extent]:
            found = look(self, *args)
            monkeypatch.undo()
            file.write(100 * BLOCK + 100, b"mine")
            return found

        monkeypatch.setattr(dax.File, "map", overtaken)
        with file.map() as mapped:
            assert mapped.read(100 * BLOCK + 96, 12) == bytes(4) + b"mine" + bytes(4)


def test_bytes_of_torn_lines_are_copied_by_maps_as_by_calls(system: FileSystem) -> None:
    """Exact costs: the same request costs the same, mapped or not."""
    with system.create("/d/x") as file:
        file.write(0, bytes(4 * BLOCK))
        with file.map() as mapped:
            for at, size in REQUESTS:
                calls = [call for way in (file, mapped) for call in both(way, at, size)]
                costs = [cost(system, call) for call in calls]
                assert costs[:2] == costs[2:], (at, size)


REQUESTS = ((0, 64), (8, 8), (60, 8), (100, 28), (64, 100), (130, 5000), (4090, 12), (7, 64))


def both(way: Any, at: int, size: int) -> list[Callable[[], Any]]:
    return [lambda: way.write(at, bytes(size)), lambda: way.read(at, size)]


def cost(system: FileSystem, call: Callable[[], Any]) -> dict[str, int]:
    before = system.path.traffic.counts()
    call()
    return {name: count - before[name] for name, count in system.path.traffic.counts().items()}


def test_the_none_path_maps_plain_files_and_the_line_path_encrypted_ones(device: pmem.Device) -> None:
    volume = dax.make(device)
    plain, line = FileSystem(volume, Plain(Controller(device))), FileSystem(volume, Line(Controller(device)))
    with plain.create("/x") as file:
        file.write(0, b"as it is")
        with file.map() as mapped:
            (extent,) = file.file.map()
            mapped.write(0, b"AS")
            assert device.read(extent.address, 8) == b"AS it is"
    with line.open("/x") as file, pytest.raises(MappingError, match="map it on the path none"):
        file.map()
    volume.close()


def test_lines_flushed_are_at_most_the_files(system: FileSystem) -> None:
    churn = system.path.keyids.churn
    for n in range(2):
        with system.create(f"/d/{n}") as file:
            file.write(0, bytes(BLOCK))
            for _ in range(50):
                file.read()
    with system.create("/d/2") as file:
        file.write(0, b"x")
    assert churn.lines_flushed == BLOCK // 64


def test_a_request_whose_key_is_wiped_under_it_says_so(
    system: FileSystem, monkeypatch: pytest.MonkeyPatch
) -> None:
    fetch = Line.fetch
    with system.create("/d/x") as file:
        file.write(0, b"as it was")
        (extent,) = file.file.map()
        stored = system.volume.device.read(extent.address, BLOCK)

        def wiped(self: Line, *args: Any) -> None:
            fetch(self, *args)
            system.keyring.wipe()

        monkeypatch.setattr(Line, "fetch", wiped)
        with pytest.raises(KeyUnavailable, match="open the file again"):
            file.write(3, b"else")
        assert system.volume.device.read(extent.address, BLOCK) == stored
        assert system.path.controller.keyids == ()


def test_a_map_waits_for_who_moves_the_blocks(system: FileSystem, monkeypatch: pytest.MonkeyPatch) -> None:
    """Else its ranges would be where the blocks were, and its stores would be lost."""
    move, alone, moving = system.volume.move, dax.File.alone, threading.Event()
    came = threading.Event()

    def slowly(*args: Any) -> None:
        assert move is not None
        move(*args)
        moving.set()
        assert came.wait(60)

    def mapping(self: dax.File) -> Any:
        if threading.current_thread() is threading.main_thread():
            came.set()
        return alone(self)

    with system.create("/d/x") as file:
        file.write(0, b"where it was")
        (before,) = file.file.map()
        monkeypatch.setattr(system.volume, "move", slowly)
        mover = threading.Thread(target=lambda: system.relocate("/d/x"))
        mover.start()
        assert moving.wait(60)
        monkeypatch.setattr(dax.File, "alone", mapping)
        with file.map() as mapped:
            came.set()
            mover.join(60)
            (extent,) = file.file.map()
            assert extent.address != before.address
            assert [region.address for _, region in mapped.regions] == [extent.address]
            mapped.write(0, b"WHERE")
            assert file.read() == b"WHERE it was"
            with pytest.raises(dax.FileBusy):
                system.relocate("/d/x")


def test_a_file_that_is_closed_while_it_is_being_mapped_keeps_no_map(
    system: FileSystem, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = Line.map
    file = system.create("/d/x")
    file.write(0, b"x")

    def overtaken(self: Line, *args: Any) -> Any:
        mapped = made(self, *args)
        file.close()
        return mapped

    monkeypatch.setattr(Line, "map", overtaken)
    with pytest.raises(dax.FileClosed):
        file.map()
    assert system.path.controller.regions == ()
    with system.open("/d/x") as again:
        again.truncate(0)  # nothing holds its blocks


def test_a_file_whose_volume_file_was_closed_lets_its_key_go(system: FileSystem) -> None:
    file = system.create("/d/x")
    policy = system.policy("/d")
    assert policy is not None
    file.file.close()
    file.close()
    assert system.keyring.remove(policy.key).busy == ()
