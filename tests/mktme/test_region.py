"""Regions: bytes at any offset, buffers of any kind."""

from __future__ import annotations

import array
import ctypes
import mmap
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

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


@given(st.data())
@settings(derandomize=True, deadline=None, max_examples=60)
def test_any_sequence_of_slices_is_that_of_a_bytearray(
    tmp_path_factory: pytest.TempPathFactory, data: Any
) -> None:
    """Slices as Python takes them: negative, open, past the end."""
    size = 2 * 4096
    bound = st.one_of(st.none(), st.integers(-size - 100, size + 100))
    with pmem.create(tmp_path_factory.mktemp("slices") / "p.img", 4 * 4096) as device:
        controller = Controller(device, tme=True)
        region = controller.map(4096, size, controller.program_key(Key.generate("aes-xts-128")))
        model = bytearray(np.random.default_rng(1).bytes(size))
        region[:] = model
        around = device.read(0, 4096), device.read(3 * 4096, 4096)
        for _ in range(data.draw(st.integers(1, 8))):
            place = slice(data.draw(bound), data.draw(bound))
            assert region[place] == model[place]
            value = np.random.default_rng(data.draw(st.integers(0, 99))).bytes(len(model[place]))
            region[place] = value
            if value:
                model[place] = value
            assert region[:] == model
        assert (device.read(0, 4096), device.read(3 * 4096, 4096)) == around


class Pair(ctypes.Structure):
    """A C structure, as a caller may have one."""

    _fields_ = (("a", ctypes.c_int), ("b", ctypes.c_double))


def room(kind: str) -> Any:
    """A writable buffer of some kind, not all zeros."""
    raw = np.random.default_rng(5).integers(1, 200, 96, dtype=np.uint8)
    if kind == "mmap":
        made = mmap.mmap(-1, 96)
        made[:] = raw.tobytes()
        return made
    if kind == "ctypes":
        return (Pair * 6).from_buffer_copy(raw)
    if kind == "matrix":
        return raw.reshape(3, 4, 8)
    if kind == "slice":
        return memoryview(bytearray(raw))[8:88].cast("I")
    return raw.view(kind)


KINDS = ("?", "i1", ">i2", "<u4", "f2", ">f8", "c16", "M8[s]", "S12", "U3", "V6", "i4,f8", "mmap", "ctypes")


@pytest.mark.parametrize("kind", [*KINDS, "matrix", "slice"])
@pytest.mark.parametrize("offset", [0, 61])
def test_a_buffer_of_any_kind_is_its_bytes(region: Region, engine: str, kind: str, offset: int) -> None:
    buffer = room(kind)
    data = buffer.tobytes() if isinstance(buffer, np.ndarray) else bytes(buffer)
    region.fill(0xAA, 0, 512)
    region.write(offset, buffer)
    assert region.read(0, 512) == b"\xaa" * offset + data + b"\xaa" * (512 - offset - len(data))
    region.fill(1, offset, len(data))
    region.read_into(buffer, offset)
    read = buffer.tobytes() if isinstance(buffer, np.ndarray) else bytes(buffer)
    assert read == b"\x01" * len(data)
    region[offset : offset + len(data)] = buffer
    assert region.read(offset, len(data)) == b"\x01" * len(data)


@pytest.mark.parametrize("value", [0.5, "0", None, 1.0])
def test_an_offset_that_is_no_integer_is_refused_whole(region: Region, value: Any) -> None:
    before = region.device.media.tobytes()
    for use in (
        lambda: region.read(value, 4),
        lambda: region.read(0, value),
        lambda: region.read_into(bytearray(4), value),
        lambda: region.write(value, b"data"),
        lambda: region.fill(1, value, 4),
        lambda: region.fill(value),
        lambda: region.array(np.uint8, 4, value),
        lambda: region.__setitem__(0, value),
    ):
        with pytest.raises((mktme.RegionError, TypeError), match="integer"):
            use()
    assert region.device.media.tobytes() == before


@pytest.mark.parametrize(
    "offset",
    [np.int64((1 << 63) - 1), np.uint64((1 << 64) - 1), np.int32((1 << 31) - 1), np.int8(-1), 1 << 64],
    ids=repr,
)
def test_an_offset_of_numpys_does_not_wrap_around(region: Region, offset: Any) -> None:
    before = region.device.media.tobytes()
    for use in (
        lambda: region.read(offset, 5),
        lambda: region.read(offset, np.int64(5)),
        lambda: region.read(5, offset),
        lambda: region.read_into(bytearray(5), offset),
        lambda: region.write(offset, b"hello"),
        lambda: region.fill(1, offset, 5),
        lambda: region.fill(1, offset),
        lambda: region.persist(offset, 5),
        lambda: region.array(np.uint8, 5, offset),
        lambda: region.array(np.uint8, None, offset),
    ):
        with pytest.raises(mktme.RegionError, match="outside of the region"):
            use()
    assert region.device.media.tobytes() == before


def test_integers_of_numpys_are_as_good_as_pythons(region: Region) -> None:
    region.fill(0, 0, 1000)
    region.write(np.uint8(200), bytes(range(100)))
    assert region.read(np.uint8(200), np.uint8(100)) == bytes(range(100))
    assert region[np.int8(100) : np.int16(300)] == bytes(100) + bytes(range(100))
    assert region[np.uint8(201)] == 1
    region.fill(np.uint8(7), np.uint8(250), np.uint8(250))
    assert region.read(200, 400) == bytes(range(50)) + b"\x07" * 250 + bytes(100)
    assert region.array(np.uint8, np.uint8(200), np.uint8(250)).sum() == 7 * 200
    region.persist(np.uint8(250), np.uint8(250))


def test_a_read_into_a_buffer_that_is_too_long_leaves_it(region: Region) -> None:
    buffer = bytearray(b"x" * 100)
    with pytest.raises(mktme.RegionError):
        region.read_into(buffer, region.size - 99)
    assert buffer == b"x" * 100


def test_the_first_and_last_byte_are_reached_and_neighbours_are_not(controller: Controller) -> None:
    keyid = controller.program_key(Key.generate("aes-xts-128"))
    before, region, after = (controller.map(at * 4096, 4096, keyid) for at in (0, 1, 2))
    before.fill(1)
    after.fill(2)
    for place in (0, 63, 64, 4095, -1, -4096):
        region[place] = 9
        assert region[place] == 9
    region.fill(7)
    region.write(1, b"y" * 4095)
    assert before[:] == b"\x01" * 4096
    assert after[:] == b"\x02" * 4096


def test_an_unmapped_region_refuses_even_what_touches_no_byte(controller: Controller, region: Region) -> None:
    table = region.array(np.uint8, (2, 3))
    empty = region.array(np.uint8, (0, 3))
    controller.unmap(region)
    for use in (
        lambda: region.fill(1, 0, 0),
        lambda: region.write(0, b""),
        lambda: region.read_into(bytearray()),
        lambda: region.__setitem__(slice(0, 0), b""),
        lambda: region.flush(0, 0),
        lambda: region.drain(),
        lambda: np.asarray(empty),
        lambda: empty.__setitem__(..., 1),
        lambda: table.__iadd__(1),
        lambda: table.sum(),
        lambda: controller.unmap(region),
    ):
        with pytest.raises(mktme.RegionUnmapped):
            use()


def test_persist_drains_after_it_has_flushed(region: Region, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []
    for name in ("flush", "drain"):
        monkeypatch.setattr(type(region.device), name, lambda *_, name=name: calls.append(name))
    region.persist(100, 28)
    assert calls == ["flush", "drain"]


def test_what_is_persisted_is_in_the_file_when_the_call_returns(region: Region) -> None:
    region.write(10, b"data" * 100)
    region.persist(10, 400)
    with region.device.path.open("rb") as file:
        file.seek(region.address)
        assert file.read(4096) == region.device.read(region.address, 4096)
