"""Reading and writing the device: bytes, buffers, lines, threads."""

from __future__ import annotations

import array
import ctypes
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import pmem
from pmem import LINE, PAGE

MIB = 1 << 20
PATTERN = bytes(range(1, 129)) * 32  # a page without a zero


def lines_of(count: int, value: int = 1) -> np.ndarray[Any, Any]:
    return np.full((count, LINE), value, np.uint8)


def test_any_contiguous_buffer_is_read_and_written(path: Path) -> None:
    buffers: list[Any] = [
        bytearray(b"12345678"),
        memoryview(bytearray(b"abcdefgh")),
        np.arange(4, dtype=np.uint16),
        np.array([1.5]),
        np.array(7, np.int64),
        array.array("d", [2.5]),
        np.arange(8, dtype=np.uint8).reshape(2, 4),
        np.arange(16, dtype=np.uint8)[4:12],
        np.array(["2020-02-02"], "M8[s]"),
        np.array([(1, 2.5)], [("Offset", "i4"), ("Other", "f8")]),
        memoryview(np.array([(1, 2.5)], [("Offset", "i4"), ("Other", "f8")])),
        (ctypes.c_uint32 * 3)(1, 2, 3),
        np.zeros((0, 4)),
        bytearray(),
    ]
    with pmem.create(path, PAGE) as device:
        for buffer in buffers:
            data = buffer.tobytes() if isinstance(buffer, np.ndarray) else bytes(buffer)
            device.write(13, buffer)
            assert device.read(13, len(data)) == data
            device.write(13, bytes(len(data)))
            device.read_into(buffer, 13)
            assert (buffer.tobytes() if isinstance(buffer, np.ndarray) else bytes(buffer)) == bytes(len(data))
            assert device.read(0, PAGE) == bytes(PAGE)


def test_an_empty_request_is_served_anywhere_and_takes_no_room(path: Path) -> None:
    with pmem.create(path, PAGE) as device:
        for offset in (0, 1, PAGE):
            assert device.read(offset, 0) == b""
            device.read_into(bytearray(), offset)
            device.write(offset, b"")
            device.persist(offset, 0)
        assert device.read_lines([]).shape == (0, LINE)
        device.write_lines([], lines_of(0))
        assert path.stat().st_blocks == 0


@pytest.mark.parametrize("integer", [np.uint8, np.int16, np.int64, np.uint64])
def test_numpy_integers_are_offsets_and_lengths(path: Path, integer: Callable[[int], Any]) -> None:
    with pmem.create(path, PAGE) as device:
        device.write(integer(100), b"x" * 100)
        assert device.read(integer(100), integer(100)) == b"x" * 100
        assert device.read(integer(127), integer(127)) == b"x" * 73 + bytes(54)
        into = bytearray(3)
        device.read_into(into, integer(99))
        assert into == b"\0xx"
        device.persist(integer(100), integer(100))
        device.flush(integer(100))


def test_a_write_from_the_device_itself_is_as_from_a_copy(path: Path) -> None:
    with pmem.create(path, PAGE) as device:
        device.write(0, PATTERN)
        device.write(1, device.media[:-1])
        assert device.read(0, PAGE) == PATTERN[:1] + PATTERN[:-1]
        device.write(0, PATTERN)
        device.write_lines([64, 128], device.media[:128].reshape(2, LINE))
        assert device.read(0, PAGE) == PATTERN[:64] + PATTERN[:128] + PATTERN[192:]


def test_what_was_read_is_a_copy(path: Path) -> None:
    with pmem.create(path, PAGE) as device:
        lines = device.read_lines([0, 0])
        lines[0] = 1
        assert not device.media.any()
        device.write(0, PATTERN)
        assert not lines[1].any()


@pytest.mark.parametrize("kind", [np.uint64, np.int64, np.uint32, ">u8", ">i4"])
def test_scattered_lines_are_the_bytes_at_their_addresses(path: Path, kind: Any) -> None:
    rng = np.random.default_rng(3)
    with pmem.create(path, MIB) as device:
        addresses = (rng.permutation(MIB // LINE)[:500] * LINE).astype(kind)
        lines = rng.integers(0, 256, (500, LINE), dtype=np.uint8)
        device.write_lines(addresses, lines)
        assert (device.read_lines(addresses) == lines).all()
        assert (device.read_lines(addresses[::-3]) == lines[::-3]).all()
        assert (device.read_lines(addresses.tolist()) == lines).all()
        expected = np.zeros((MIB // LINE, LINE), np.uint8)
        expected[addresses.astype(np.int64) // LINE] = lines
        assert (device.media.reshape(-1, LINE) == expected).all()


def test_lines_may_be_any_array_of_their_shape(path: Path) -> None:
    lines = np.arange(256, dtype=np.uint8).reshape(LINE, 4).T
    with pmem.create(path, PAGE) as device:
        device.write_lines([192, 0, 64, 128], lines)
        assert device.read(0, 256) == lines[[1, 2, 3, 0]].tobytes()
        device.write_lines([PAGE - LINE], lines[:1])
        assert (device.read_lines([PAGE - LINE]) == lines[:1]).all()


def test_of_two_stores_to_a_line_in_one_call_the_last_stays(path: Path) -> None:
    lines = np.arange(3, dtype=np.uint8)[:, None] + lines_of(3)
    with pmem.create(path, PAGE) as device:
        device.write_lines([64, 0, 64], lines)
        assert device.read(0, 128) == b"\x02" * 64 + b"\x03" * 64


def test_threads_write_and_read_side_by_side(path: Path) -> None:
    count, size = 8, 1 << 17
    results = [b""] * count

    def work(number: int) -> None:
        for turn in range(10):
            device.write(number * size, bytes([16 * number + turn]) * size)
            device.write_lines(np.arange(0, size, PAGE) + number * size, lines_of(size // PAGE, number))
            device.persist(number * size, PAGE)
        results[number] = device.read(number * size, size)

    with pmem.create(path, count * size) as device:
        threads = [threading.Thread(target=work, args=(number,)) for number in range(count)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        for number, result in enumerate(results):
            page = bytes([number]) * LINE + bytes([16 * number + 9]) * (PAGE - LINE)
            assert result == page * (size // PAGE)


SIZE = 3 << 16  # three chunks of file space
OFFSETS = st.integers(0, SIZE) | st.sampled_from([0, 1 << 16, 2 << 16, SIZE]).flatmap(
    lambda edge: st.integers(max(0, edge - 300), min(SIZE, edge + 300))
)
LINES = st.lists(st.tuples(st.integers(0, SIZE // LINE - 1), st.integers(0, 255)), max_size=20)
STEPS = st.one_of(
    st.tuples(st.just("write"), OFFSETS, st.binary(max_size=600)),
    st.tuples(st.just("read"), OFFSETS, st.integers(0, 70000)),
    st.tuples(st.just("lines"), LINES, st.none()),
    st.tuples(st.just("persist"), OFFSETS, st.integers(0, 70000)),
    st.tuples(st.just("open"), st.none(), st.none()),
)


@given(st.lists(STEPS, max_size=30))
@settings(derandomize=True, deadline=None, max_examples=100)
def test_a_device_is_an_array_of_bytes_that_lasts(
    tmp_path_factory: pytest.TempPathFactory, steps: list[tuple[str, Any, Any]]
) -> None:
    model = bytearray(SIZE)
    path = tmp_path_factory.mktemp("device") / "pool.img"
    device = pmem.create(path, SIZE)
    for step, where, what in steps:
        length = len(what) if step == "write" else what
        if step == "lines":
            addresses = np.array([line * LINE for line, _ in where], np.uint64)
            values = np.array([value for _, value in where], np.uint8)
            device.write_lines(addresses, np.repeat(values[:, None], LINE, axis=1))
            for line, value in where:
                model[line * LINE : (line + 1) * LINE] = bytes([value]) * LINE
            expected = [bytes(model[line * LINE : (line + 1) * LINE]) for line, _ in where]
            assert [row.tobytes() for row in device.read_lines(addresses)] == expected
        elif step == "open":
            device.close()
            device = pmem.open(path)
        elif where + length > SIZE:
            use = {"write": device.write, "read": device.read, "persist": device.persist}[step]
            with pytest.raises(pmem.RangeError):
                use(where, what)
        elif step == "write":
            device.write(where, what)
            model[where : where + length] = what
        elif step == "read":
            into = bytearray(length)
            device.read_into(into, where)
            assert into == device.read(where, length) == model[where : where + length]
        else:
            device.persist(where, length)
    assert device.media.tobytes() == model
    device.close()
    assert path.read_bytes() == model
    path.unlink()


def test_discard_gives_whole_chunks_back(tmp_path: Path) -> None:
    path, chunk = tmp_path / "pool.img", 1 << 16
    with pmem.create(path, 8 * chunk) as device:
        device.write(0, b"\x55" * device.size)
        before = path.stat().st_blocks
        device.discard(chunk // 2, 3 * chunk)  # two whole chunks are in it
        assert path.stat().st_blocks == before - 2 * chunk // 512
        expected = b"\x55" * chunk + bytes(2 * chunk) + b"\x55" * 5 * chunk
        assert device.media.tobytes() == expected
        device.discard(chunk, 100)
        assert device.media.tobytes() == expected
        device.write(2 * chunk, b"again")
        assert device.read(2 * chunk - 1, 7) == b"\0again\0"
        with pytest.raises(pmem.RangeError):
            device.discard(7 * chunk, chunk + 1)
    with pmem.open(path, mode="r") as device, pytest.raises(pmem.ReadOnlyDevice):
        device.discard(0, chunk)
    with pmem.create(tmp_path / "tracked.img", 2 * chunk, domain="adr") as device:
        device.write(0, b"\x55" * chunk)
        device.persist()
        device.discard(0, chunk)
        with device.crash("none") as after:
            assert after.read(0, 4) == b"\x55" * 4
        device.persist()
        with device.crash("none") as after:
            assert after.read(0, 4) == bytes(4)
