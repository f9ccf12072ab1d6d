"""Regions: bytes at any offset, buffers of any kind."""

from __future__ import annotations

import array
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import mktme
import pmem
from mktme import Controller, Key, Region


def test_slices_and_indices_are_those_of_an_mmap(region: Region) -> None:
    region[0:5] = b"hello"
    assert region[0:5] == b"hello"
    assert bytes(region[1:3]) == b"el"
    assert (region[0], region[-region.size]) == (ord("h"), ord("h"))
    region[-1] = 7
    assert region[-1:] == b"\x07"
    assert region[5:2] == b""
    assert region[:3] == b"hel"
    assert region[region.size - 2 : region.size + 100] == bytes([region[-2], 7])
    assert len(region) == region.size == 1 << 19
    region[10:10] = b""


def test_any_offset_and_length_keeps_its_neighbours(region: Region) -> None:
    rng = np.random.default_rng(9)
    model = bytearray(rng.bytes(1024))
    region.write(0, model)
    for start in range(0, 200, 7):
        for length in (1, 15, 63, 64, 65, 128, 190, 400):
            data = rng.bytes(length)
            region[start : start + length] = data
            model[start : start + length] = data
            assert region.read(0, 1024) == model
            assert region.read(start, length) == data


@pytest.mark.parametrize("length", [0, 1, 1 << 16, (1 << 16) + 1, 300_000])
def test_short_and_long_reads_are_bytes(region: Region, length: int) -> None:
    data = np.random.default_rng(length).bytes(length)
    region.write(3, data)
    read = region.read(3, length)
    assert type(read) is bytes
    assert read == data


@pytest.mark.parametrize(
    "buffer",
    [
        bytearray(b"12345678"),
        memoryview(bytearray(b"abcdefgh")),
        np.arange(4, dtype=np.uint16),
        np.arange(6, dtype=">f8").reshape(2, 3),
        array.array("i", [1, -2, 3]),
        np.zeros((0, 4)),
    ],
    ids=lambda b: type(b).__name__,
)
def test_any_contiguous_buffer_goes_in_and_out(region: Region, buffer: Any) -> None:
    data = bytes(buffer)
    region.write(77, buffer)
    assert region.read(77, len(data)) == data
    region.write(77, bytes(len(data)))
    region.read_into(buffer, offset=77)
    assert bytes(buffer) == bytes(len(data))


def test_fill_sets_a_range_and_nothing_else(region: Region) -> None:
    region.write(0, b"a" * region.size)
    region.fill(0x55, 100, 300_000)
    assert region[:] == b"a" * 100 + b"\x55" * 300_000 + b"a" * (region.size - 300_100)
    region.fill()
    assert region[:] == bytes(region.size)
    region.fill(9, region.size)


def test_ciphertext_of_the_same_device_can_be_the_source(controller: Controller, region: Region) -> None:
    region.write(0, np.random.default_rng(1).bytes(4096))
    raw = controller.device.read(region.address + 100, 2000)
    region.write(140, controller.device.media[region.address + 100 : region.address + 2100])
    assert region.read(140, 2000) == raw


REFUSED: list[tuple[str, Callable[[Region], Any]]] = [
    ("outside of the region", lambda r: r.read(r.size, 1)),
    ("outside of the region", lambda r: r.read(-1, 1)),
    ("outside of the region", lambda r: r.read(0, -1)),
    ("outside of the region", lambda r: r.write(r.size - 1, b"xx")),
    ("outside of the region", lambda r: r.read_into(bytearray(10), r.size - 5)),
    ("outside of the region", lambda r: r.fill(1, r.size - 5, 6)),
    ("outside of the region", lambda r: r.fill(1, r.size + 1)),
    ("outside of the region", lambda r: r.persist(0, r.size + 1)),
    ("value of a byte", lambda r: r.fill(256)),
    ("value of a byte", lambda r: r.__setitem__(0, -1)),
    ("outside of the region", lambda r: r[r.size]),
    ("outside of the region", lambda r: r.__setitem__(-r.size - 1, 1)),
    ("keeps its size", lambda r: r.__setitem__(slice(0, 5), b"four")),
    ("keeps its size", lambda r: r.__setitem__(slice(r.size, r.size + 5), b"hello")),
    ("step 2", lambda r: r[0:10:2]),
    ("step -1", lambda r: r.__setitem__(slice(None, None, -1), b"")),
    ("integers and slices", lambda r: r["a"]),
    ("integers and slices", lambda r: r[1.0]),
    ("outside of the region", lambda r: r.array(np.uint64, (r.size,))),
    ("outside of the region", lambda r: r.array(np.uint8, offset=r.size + 1)),
    ("outside of the region", lambda r: r.array(np.uint8, 10, offset=-1)),
    ("negative dimension", lambda r: r.array(np.uint8, (-1, 4))),
    ("without objects", lambda r: r.array(object, 3)),
    ("without objects", lambda r: r.array("V0", 3)),
]


@pytest.mark.parametrize(("says", "use"), REFUSED, ids=[str(i) for i in range(len(REFUSED))])
def test_a_bad_request_is_refused_whole(region: Region, says: str, use: Callable[[Region], Any]) -> None:
    before = region.device.media.tobytes()
    with pytest.raises((mktme.RegionError, TypeError), match=says):
        use(region)
    assert region.device.media.tobytes() == before


@pytest.mark.parametrize("buffer", ["text", 5, None, np.zeros(10, np.uint8)[::2]])
def test_what_is_no_contiguous_buffer_is_refused(region: Region, buffer: Any) -> None:
    with pytest.raises(pmem.RangeError, match="contiguous"):
        region.write(0, buffer)
    with pytest.raises(pmem.RangeError):
        region.read_into(buffer)
    with pytest.raises(pmem.RangeError, match="read-only"):
        region.read_into(b"bytes")


def test_every_use_after_unmapping_says_so(controller: Controller, region: Region) -> None:
    table = region.array(np.uint8)
    controller.unmap(region)
    before = controller.device.media.tobytes()
    for use in (
        lambda: region.read(0, 1),
        lambda: region.read(0, 0),
        lambda: region.write(0, b"x"),
        lambda: region.fill(1),
        lambda: region.persist(),
        lambda: region[0],
        lambda: np.asarray(table),
        lambda: table[3],
        lambda: table[[1, 2]],
        lambda: table.__setitem__(0, 1),
        lambda: table.__setitem__([0], 1),
    ):
        with pytest.raises(mktme.RegionUnmapped, match="map it again"):
            use()
    assert "unmapped" in repr(region)
    assert controller.device.media.tobytes() == before


def test_every_use_after_closing_the_device_says_so(tmp_path: Any) -> None:
    device = pmem.create(tmp_path / "c.img", 8192)
    controller = Controller(device)
    region = controller.map(0, 8192, controller.program_key(Key.generate("aes-xts-128")))
    table = region.array(np.uint8, (64, 64))
    device.close()
    for use in (
        lambda: region.read(0, 1),
        lambda: region.write(0, b"x"),
        lambda: region.fill(1),
        lambda: region.persist(),
        lambda: table[3, 3],
        lambda: table[:, 3].sum(),
        lambda: controller.read_lines([0]),
        lambda: controller.write_lines([0], np.zeros((1, 64), np.uint8)),
    ):
        with pytest.raises(pmem.DeviceClosed):
            use()


def test_persist_flushes_the_pages_of_its_range(region: Region, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []
    monkeypatch.setattr(
        type(region.device), "flush", lambda self, offset, length: calls.append((offset, length))
    )
    region.persist(100, 28)
    region.flush(5)
    assert calls == [(region.address + 100, 28), (region.address + 5, region.size - 5)]
