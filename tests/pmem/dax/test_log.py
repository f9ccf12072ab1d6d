"""The log: data is appended, and the cleaner makes room."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

import pmem
from pmem import dax
from pmem.dax import File, Volume
from pmem.dax.layout import SEGMENT

BLOCK = dax.BLOCK


@pytest.fixture
def volume(tmp_path: Path, sound: Callable[[Volume], None]) -> Iterator[Volume]:
    with pmem.create(tmp_path / "pool.img", "32MiB") as device:
        with dax.make(device, inodes=100, log_structured=True) as made:
            yield made
            sound(made)
        with dax.mount(device) as again:
            sound(again)


def text(length: int, seed: int) -> bytes:
    return random.Random(seed).randbytes(length)


def test_every_write_goes_to_new_blocks_one_after_the_other(volume: Volume) -> None:
    with volume.create("/a") as file:
        addresses = []
        for i in range(20):
            file.write(0, bytes([i]) * 100)
            addresses.append(file.map()[0].address)
        assert addresses == [addresses[0] + i * BLOCK for i in range(20)]


def test_cleaning_frees_whole_segments_and_moves_what_is_live(volume: Volume) -> None:
    segment = SEGMENT * BLOCK
    with volume.create("/a") as file, volume.create("/b") as other:
        for i in range(4 * SEGMENT):
            (file if i % 8 else other).write(i * BLOCK, b"x" * BLOCK)
        volume.unlink("/a")
        expected = other.read()
    free = volume.free
    extents = volume.core.store.space.segment
    done = volume.clean(3)
    assert (done.segments, done.pinned) == (3, 0)
    assert 0 < done.bytes <= 3 * segment // 8 + SEGMENT * BLOCK
    assert volume.free == free
    with volume.open("/b") as other:
        assert other.read() == expected
    assert extents() is not None


def test_a_cleaner_moves_bytes_as_it_is_told(volume: Volume) -> None:
    with volume.create("/a") as file, volume.create("/b") as other:
        for i in range(2 * SEGMENT):
            (file if i % 2 else other).write(i // 2 * BLOCK, text(BLOCK, i))
        volume.unlink("/b")
        other.close()
        expected, moves = file.read(), []

        def move(moved: File, offset: int, old: int, new: int, length: int) -> None:
            array = volume.core.medium.array
            assert array[old : old + length].tobytes() == expected[offset : offset + length]
            array[new : new + length] = array[old : old + length]
            moves.append((moved.number, length))

        volume.move = move
        done = volume.clean(1)
        assert done.segments == 1
        assert {number for number, _ in moves} == {file.number}
        assert sum(length for _, length in moves) == done.bytes
        assert file.read() == expected


def test_segments_with_shared_blocks_stay_and_are_counted(volume: Volume) -> None:
    with volume.create("/a") as file:
        file.write(0, b"x" * 100 * BLOCK)
        volume.reflink("/a", "/b")
        file.write(SEGMENT * BLOCK, b"y" * 2 * SEGMENT * BLOCK)
        file.punch(SEGMENT * BLOCK, 2 * SEGMENT * BLOCK)
        with volume.open("/b") as copy:
            before = copy.map()
            done = volume.clean(10)
            assert (done.segments, done.pinned) == (0, 1)
            assert copy.map() == before
            file.truncate(0)  # not shared any more, but whose they are isn't known
            assert volume.clean(10).pinned == 1


def test_files_in_use_are_left_alone(volume: Volume) -> None:
    with volume.create("/a") as file:
        file.write(0, b"x" * (SEGMENT + 100) * BLOCK)
        file.punch(0, 500 * BLOCK)
        with file.begin_write(0, 10) as writing:
            done = volume.clean(10)
            assert (done.segments, done.bytes) == (0, 0)
            writing.put(memoryview_of(b"0123456789"))
        assert file.read(0, 10) == b"0123456789"


def memoryview_of(data: bytes) -> pmem.buffers.Bytes:
    return pmem.buffers.buffer_bytes(data)


def test_the_cleaner_runs_by_itself_so_that_overwriting_goes_on_for_ever(volume: Volume) -> None:
    chance, blocks = random.Random(1), 5 * SEGMENT
    content = [0] * blocks
    with volume.create("/a") as file:
        file.write(0, bytes(blocks * BLOCK))
        for i in range(6 * blocks):
            at = chance.randrange(blocks)
            content[at] = i % 251
            file.write(at * BLOCK, bytes([i % 251]) * BLOCK)
        found = file.read()
        assert [found[at * BLOCK] for at in range(blocks)] == content
        assert volume.core.store.space.segment() is not None or volume.core.log.left > 0


def test_a_full_log_says_so_and_goes_on_when_there_is_room(volume: Volume) -> None:
    with volume.create("/a") as file:
        with pytest.raises(dax.VolumeFull):
            file.write(0, bytes(40 << 20))
        file.write(0, b"x" * volume.free)
        with pytest.raises(dax.VolumeFull):
            file.write(0, b"y")
        assert file.read(0, 1) == b"x"
        file.truncate(4 << 20)
        file.write(0, b"y")
        assert file.read(0, 2) == b"yx"


def test_cleaning_another_volume_is_refused(tmp_path: Path) -> None:
    with (
        pmem.create(tmp_path / "plain.img", "4MiB") as device,
        dax.make(device) as volume,
        pytest.raises(pmem.RangeError, match="log_structured=True"),
    ):
        volume.clean()
