"""Requests that the device refuses, whole, by an error that says what is wrong."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import pmem
from pmem import LINE, PAGE, Device

PATTERN = bytes(range(1, 129)) * 32  # a page without a zero


def lines_of(count: int, value: int = 1) -> np.ndarray[Any, Any]:
    return np.full((count, LINE), value, np.uint8)


def test_a_read_only_device_refuses_to_be_written(path: Path) -> None:
    path.write_bytes(PATTERN)
    with pmem.open(path, "r") as device:
        for use in (
            lambda: device.write(0, b"x"),
            lambda: device.write(0, b""),
            lambda: device.write_lines([0], lines_of(1)),
            lambda: device.write_lines(np.zeros(0, np.uint64), lines_of(0)),
            lambda: device.reserve(0, 1),
            lambda: device.reserve_lines(np.zeros(1, np.uint64)),
        ):
            with pytest.raises(pmem.ReadOnlyDevice, match=r'mode="r\+"') as caught:
                use()
            assert caught.value.filename == str(path)
        device.persist()
        assert device.read(0, PAGE) == PATTERN
    assert path.read_bytes() == PATTERN


READS: list[tuple[str, Callable[[Device], Any]]] = [
    ("1 bytes at offset 4096 are outside", lambda d: d.read(PAGE, 1)),
    ("outside", lambda d: d.read(-1, 1)),
    ("outside", lambda d: d.read(0, -1)),
    ("outside", lambda d: d.read(0, PAGE + 1)),
    ("outside", lambda d: d.read(PAGE + 1, 0)),
    ("outside", lambda d: d.read(1 << 64, 1)),
    ("outside", lambda d: d.read(np.uint8(255), np.uint16(65535))),
    ("integers", lambda d: d.read(0.0, 4)),
    ("integers", lambda d: d.read("0", 4)),
    ("integers", lambda d: d.read(0, None)),
    ("outside", lambda d: d.flush(PAGE, 1)),
    ("outside", lambda d: d.flush(PAGE + 1)),
    ("outside", lambda d: d.flush(-1)),
    ("outside", lambda d: d.persist(0, -1)),
    ("integers", lambda d: d.persist(0.5, 1)),
    ("outside", lambda d: d.read_into(bytearray(PAGE + 1))),
    ("outside", lambda d: d.read_into(bytearray(2), PAGE - 1)),
    ("integers", lambda d: d.read_into(bytearray(2), 1.0)),
    ("read-only", lambda d: d.read_into(b"xx")),
    ("read-only", lambda d: d.read_into(memoryview(b"xx"))),
    ("read-only", lambda d: d.read_into(np.frombuffer(b"xx", np.uint8))),
    ("read-only", lambda d: d.read_into(d.media)),
    ("not a contiguous", lambda d: d.read_into(np.zeros(10, np.uint8)[::2])),
    ("not a contiguous", lambda d: d.read_into(np.zeros((4, 4), np.uint8)[:, :2])),
    ("not a contiguous", lambda d: d.read_into(memoryview(bytearray(8))[::-1])),
    ("not a contiguous", lambda d: d.read_into(None)),
    ("Python objects", lambda d: d.read_into(np.array([None, 1]))),
    ("address 65 is not .* a multiple of 64", lambda d: d.read_lines([64, 65, 66])),
    ("address -1 is not .* a multiple of 64", lambda d: d.read_lines([-1])),
    ("address 4096 is outside .* 4096 bytes", lambda d: d.read_lines([0, PAGE, 2 * PAGE])),
    ("address -64 is outside", lambda d: d.read_lines([0, -64, 128])),
    ("are integers", lambda d: d.read_lines([0.0])),
    ("are integers", lambda d: d.read_lines(np.zeros(1, bool))),
    ("are integers", lambda d: d.read_lines(["0"])),
    ("are integers", lambda d: d.read_lines([1 << 64])),
    ("are integers", lambda d: d.read_lines(None)),
    (r"one row .* shape \(\)", lambda d: d.read_lines(0)),
    (r"one row .* shape \(1, 1\)", lambda d: d.read_lines([[0]])),
    ("no array", lambda d: d.read_lines([[0], [0, 64]])),
]
WRITES: list[tuple[str, Callable[[Device], Any]]] = [
    ("outside", lambda d: d.write(PAGE - 1, b"xx")),
    ("outside", lambda d: d.write(PAGE, b"x")),
    ("outside", lambda d: d.write(-1, b"x")),
    ("outside", lambda d: d.write(PAGE + 1, b"")),
    ("outside", lambda d: d.write(0, bytes(PAGE + 1))),
    ("integers", lambda d: d.write(0.0, b"x")),
    ("integers", lambda d: d.write(None, b"x")),
    ("not a contiguous", lambda d: d.write(0, "text")),
    ("not a contiguous", lambda d: d.write(0, 5)),
    ("not a contiguous", lambda d: d.write(0, [1, 2])),
    ("not a contiguous", lambda d: d.write(0, np.ones(10, np.uint8)[::2])),
    ("not a contiguous", lambda d: d.write(0, np.ones((3, 4), np.uint8).T)),
    ("not a contiguous", lambda d: d.write(0, memoryview(b"12345678")[::2])),
    ("Python objects", lambda d: d.write(0, np.array([None, 1]))),
    ("Python objects", lambda d: d.write(0, memoryview(np.array([None, 1])))),
    ("Python objects", lambda d: d.write(0, np.zeros(1, [("a", "i4"), ("b", "O")]))),
    ("multiple of 64", lambda d: d.write_lines([0, 32], lines_of(2))),
    ("outside", lambda d: d.write_lines([0, PAGE], lines_of(2))),
    ("outside", lambda d: d.write_lines([0, -64], lines_of(2))),
    ("are integers", lambda d: d.write_lines([0.0], lines_of(1))),
    ("one row", lambda d: d.write_lines([[0]], lines_of(1))),
    (r"shape \(1, 64\), .* of \(2, 64\)", lambda d: d.write_lines([0], lines_of(2))),
    (r"shape \(2, 64\)", lambda d: d.write_lines([0, 64], lines_of(1))),
    (r"shape \(1, 64\)", lambda d: d.write_lines([0], np.ones(64, np.uint8))),
    (r"shape \(1, 64\)", lambda d: d.write_lines([0], np.ones((1, 63), np.uint8))),
    (r"shape \(0, 64\)", lambda d: d.write_lines([], lines_of(1))),
    ("not int8", lambda d: d.write_lines([0], np.ones((1, 64), np.int8))),
    ("not float64", lambda d: d.write_lines([0], np.ones((1, 64)))),
    ("no array", lambda d: d.write_lines([0], [[0], [1, 2]])),
]
REFUSED = READS + WRITES


@pytest.mark.parametrize(("says", "use"), REFUSED, ids=[str(number) for number in range(len(REFUSED))])
def test_a_bad_request_is_refused_whole(path: Path, says: str, use: Callable[[Device], Any]) -> None:
    with pmem.create(path, PAGE) as device:
        device.write(0, PATTERN)
        with pytest.raises(pmem.RangeError, match=says):
            use(device)
        assert device.read(0, PAGE) == PATTERN
    assert path.read_bytes() == PATTERN


@pytest.mark.parametrize("offset", [-1, 1, PAGE, 0.0])
def test_a_refused_read_leaves_the_buffer_as_it_was(path: Path, offset: Any) -> None:
    buffer = np.arange(PAGE // 4, dtype=np.uint32)
    with pmem.create(path, PAGE) as device:
        with pytest.raises(pmem.RangeError):
            device.read_into(buffer, offset)
        assert (buffer == np.arange(PAGE // 4)).all()
