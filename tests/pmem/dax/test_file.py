"""Bytes in and out, extents, and writing, sharing and moving blocks."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

import pmem
from pmem import dax
from pmem.dax import File, Kind, Volume
from pmem.dax.store import Store

BLOCK = dax.BLOCK


@pytest.fixture(params=[False, True], ids=["in place", "log"])
def volume(
    request: pytest.FixtureRequest, tmp_path: Path, sound: Callable[[Volume], None]
) -> Iterator[Volume]:
    with pmem.create(tmp_path / "pool.img", "32MiB") as device:
        with dax.make(device, inodes=100, log_structured=request.param) as made:
            yield made
            sound(made)
        with dax.mount(device) as again:
            sound(again)


def text(length: int, seed: int = 1) -> bytes:
    return random.Random(seed).randbytes(length)


def test_any_reads_give_what_was_written_and_zeros_elsewhere(volume: Volume) -> None:
    chance, model = random.Random(3), b""
    with volume.create("/a") as file:
        for i in range(150):
            offset, length = chance.randrange(60000), chance.randrange(1, 30000)
            match chance.randrange(4):
                case 0 | 1:
                    data = text(length, i)
                    file.write(offset, data)
                    model = model[:offset].ljust(offset, b"\0") + data + model[offset + length :]
                case 2:
                    file.truncate(offset)
                    model = model[:offset].ljust(offset, b"\0")
                case 3:
                    file.punch(offset, length)
                    end = min(offset + length, len(model))
                    model = model if end <= offset else model[:offset] + bytes(end - offset) + model[end:]
            assert file.size == len(model)
            assert file.read() == model
            at, count = chance.randrange(90000), chance.randrange(40000)
            assert file.read(at, count) == model[at : at + count]
            buffer = np.full(count, 7, np.uint8)
            got = file.read_into(buffer, at)
            assert buffer[:got].tobytes() == model[at : at + count]
            assert (buffer[got:] == 7).all()


def test_the_extents_are_where_the_bytes_lie(volume: Volume) -> None:
    with volume.create("/a") as file:
        file.fallocate(0, 10 * BLOCK)
        assert [(e.offset, e.length, e.written) for e in file.map()] == [(0, 10 * BLOCK, False)]
        version = file.map_version
        data = text(3 * BLOCK)
        file.write(2 * BLOCK, data)
        assert file.map_version > version
        written = [e for e in file.map() if e.written]
        media = volume.core.medium.device.media
        assert b"".join(media[e.address : e.address + e.length].tobytes() for e in written) == data
        assert [e.offset for e in file.map(3 * BLOCK, 1)] == [3 * BLOCK]
        assert file.map(BLOCK + 5, 10)[0].written is False
        del media


def test_unwritten_and_holes_read_as_zeros_whatever_lies_on_the_medium(volume: Volume) -> None:
    with volume.create("/a") as file:
        file.write(0, b"\xff" * 20 * BLOCK)
        volume.unlink("/a")
    with volume.create("/b") as file:
        file.fallocate(0, 20 * BLOCK)
        file.write(5 * BLOCK + 10, b"x")
        expected = bytearray(20 * BLOCK)
        expected[5 * BLOCK + 10] = ord("x")
        assert file.read() == expected


def test_a_layer_above_puts_every_part_itself(volume: Volume) -> None:
    """As one that encrypts: what it reads from a source is its own, zeros aren't zeros."""
    medium = volume.core.medium

    def put(writing: dax.Writing, data: bytes) -> None:
        array = medium.array
        for kind, offset, address, length, source in writing.parts():
            if kind is Kind.DATA:
                content = np.frombuffer(data, np.uint8)[offset - writing.offset :][:length] ^ 0x55
            elif kind is Kind.KEEP:
                content = array[source : source + length]
            else:
                content = np.full(length, 0x55, np.uint8)
            array[address : address + length] = content

    def look(file: File) -> bytes:
        plain = bytearray(file.size)
        for extent in file.map():
            if extent.written:
                end = min(extent.offset + extent.length, file.size)
                raw = medium.array[extent.address : extent.address + end - extent.offset]
                plain[extent.offset : end] = (raw ^ 0x55).tobytes()
        return bytes(plain)

    with volume.create("/a") as file:
        with file.begin_write(100, 5000) as writing:
            assert all(piece.length % BLOCK == 0 and piece.source is None for piece in writing.pieces)
            put(writing, b"a" * 5000)
        assert look(file) == bytes(100) + b"a" * 5000
        with file.begin_write(4000, 10) as writing:
            assert all((piece.source == piece.address) != volume.log_structured for piece in writing.pieces)
            put(writing, b"b" * 10)
        with file.begin_truncate(3000) as writing:
            put(writing, b"")
        with file.begin_truncate(9000) as writing:
            put(writing, b"")
        assert look(file) == bytes(100) + b"a" * 2900 + bytes(6000)
        volume.reflink("/a", "/b")
        with file.begin_punch(200, 100) as writing:
            put(writing, b"")
        assert look(file) == bytes(100) + b"a" * 100 + bytes(100) + b"a" * 2700 + bytes(6000)
        with volume.open("/b") as other:
            assert look(other) == bytes(100) + b"a" * 2900 + bytes(6000)


def test_a_write_that_fails_leaves_everything_as_it_was(volume: Volume) -> None:
    with volume.create("/a") as file:
        file.write(0, text(5000))
        volume.reflink("/a", "/b")
        free, extents, version = volume.free, file.map(), file.map_version
        with pytest.raises(pmem.RangeError, match="40000 bytes"), file.begin_write(2000, 50000) as writing:
            writing.put(np.zeros(40000, np.uint8))
        assert (file.read(), volume.free, file.map()) == (text(5000), free, extents)
        assert file.map_version == version


def test_reflinked_files_share_blocks_until_they_are_written(volume: Volume) -> None:
    with volume.create("/a", xattrs={"c": b"k"}) as file:
        file.write(0, text(1 << 20))
        free = volume.free
        volume.reflink("/a", "/b")
        assert free - volume.free <= 2 * BLOCK
        with volume.open("/b") as copy:
            assert copy.map() == file.map()
            assert volume.getxattr("/b", "c") == b"k"
            copy.write(5000, b"copy")
            assert file.read() == text(1 << 20)
            assert copy.read() == text(1 << 20)[:5000] + b"copy" + text(1 << 20)[5004:]
        volume.unlink("/a")
        assert file.read(0, 100) == text(100)


def test_relocated_blocks_are_where_they_were_asked_for(volume: Volume) -> None:
    with volume.create("/a") as file:
        file.write(0, text(10 * BLOCK))
        moves = []

        def move(moved: File, offset: int, old: int, new: int, length: int) -> None:
            moves.append((offset, length))
            array = volume.core.medium.array
            array[new : new + length] = array[old : old + length]

        number = file.number
        target = 30 << 20
        count = volume.relocate(file, 2 * BLOCK, 3 * BLOCK, to=target, move=move)
        assert count.bytes == 3 * BLOCK == sum(length for _, length in moves)
        assert moves[0][0] == 2 * BLOCK
        assert [e.address for e in file.map(2 * BLOCK, BLOCK)] == [target]
        assert (file.number, file.read()) == (number, text(10 * BLOCK))
        with pytest.raises(dax.RangeTaken):
            volume.relocate(file, 0, BLOCK, to=target)
        with pytest.raises(pmem.RangeError):
            volume.relocate(file, 5)
        with pytest.raises(dax.RangeTaken):
            volume.relocate(file, to=0)


def test_a_move_that_raises_leaves_everything_as_it_was(volume: Volume) -> None:
    with volume.create("/a") as file:
        file.write(0, text(10 * BLOCK))
        before = (volume.free, file.map(), file.read())

        def move(*_: object) -> None:
            raise KeyError("no key")

        for call in (
            lambda: volume.relocate(file, move=move),
            lambda: volume.relocate(file, to=30 << 20, move=move),
        ):
            with pytest.raises(KeyError):
                call()
            assert (volume.free, file.map(), file.read()) == before


def test_defragmenting_gives_a_file_one_extent(volume: Volume) -> None:
    with volume.create("/a") as file, volume.create("/b") as other:
        for i in range(50):
            file.write(i * BLOCK, text(BLOCK, i))
            other.write(i * BLOCK, b"x")
        assert len(file.map()) == 50
        done = volume.defragment(file)
        assert (done.before, done.after, done.bytes) == (50, 1, 50 * BLOCK)
        assert len(file.map()) == 1
        assert file.read() == b"".join(text(BLOCK, i) for i in range(50))
        assert volume.defragment().after <= 3


def test_a_file_of_many_extents_goes_to_a_tree_and_back(
    volume: Volume, sound: Callable[[Volume], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Store, "batch", 100)
    with volume.create("/a") as file:
        for i in range(0, 3000, 2):
            file.write(i * BLOCK, bytes([i % 251]))
        assert len(file.map()) == 1500
        volume.reflink("/a", "/b")
        sound(volume)
        file.fallocate(0, 3000 * BLOCK)
        file.punch(100 * BLOCK, 2000 * BLOCK)
        assert file.read(2200 * BLOCK, 1) == bytes([2200 % 251])
        file.truncate(10 * BLOCK)
        assert [e.offset // BLOCK for e in file.map() if e.written] == [0, 2, 4, 6, 8]
        sound(volume)
        volume.unlink("/a")
    with volume.open("/b") as file:
        assert file.read(2998 * BLOCK, 1) == bytes([2998 % 251])
        assert len(file.map()) == 1500


@pytest.mark.parametrize(("offset", "length"), [(-1, 1), (0, -1), (1 << 62, 1), (0.5, 1)])
def test_ranges_that_are_none_are_refused(volume: Volume, offset: int, length: int) -> None:
    with volume.create("/a") as file:
        for call in (file.map, file.read, file.punch, file.fallocate, file.begin_write):
            with pytest.raises(pmem.RangeError):
                call(offset, length)
        assert file.map() == []


def test_layers_above_take_and_put_bytes_themselves(volume: dax.Volume) -> None:
    """`reading` and `in_place` give addresses, and say when something else than bytes would change."""
    with volume.create("/file") as file:
        file.write(0, b"a" * 10_000)
        device = volume.device
        with file.reading(5000, 3000) as extents:
            (extent,) = extents
            assert device.read(extent.address + 5000 - extent.offset, 3000) == b"a" * 3000
        if volume.log_structured:
            with file.in_place(0, 10) as address:
                assert address is None
            return
        with file.in_place(100, 8) as address:
            assert address is not None
            volume.device.write(address, b"in place")
        assert file.read(99, 10) == b"ain placea"
        for offset, length in ((9_999, 2), (20_000, 1)):  # past the end: the size would change
            with file.in_place(offset, length) as address:
                assert address is None
        volume.reflink("/file", "/clone")
        with file.in_place(100, 8) as address:
            assert address is None


def test_held_blocks_stay(volume: dax.Volume) -> None:
    with volume.create("/file") as file:
        file.write(0, b"a" * 20_000)
        if volume.log_structured:
            with pytest.raises(dax.FileBusy, match="log-structured"):
                file.hold()
            return
        file.hold()
        before = file.map()
        for refused in (
            lambda: file.truncate(4096),
            lambda: file.punch(4096, 4096),
            lambda: volume.relocate(file),
            lambda: volume.defragment(),
            lambda: volume.reflink("/file", "/clone"),
        ):
            with pytest.raises(dax.FileBusy, match="is mapped"):
                refused()
        file.write(30_000, b"grows")
        assert file.map()[0].address == before[0].address
        file.release()
        file.truncate(4096)
    assert volume.list("/")[0].name == b"file"
