"""Closing the device, by hand and by its block; use after it; an image that is changed under us."""

from __future__ import annotations

import errno
import os
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import pmem
from pmem import LINE, PAGE, Device, dax

PATTERN = bytes(range(1, 129)) * 32  # a page without a zero


def lines_of(count: int, value: int = 1) -> np.ndarray[Any, Any]:
    return np.full((count, LINE), value, np.uint8)


def test_closing_is_refused_while_arrays_are_alive_and_works_after(
    path: Path, descriptors: Callable[[Path], int]
) -> None:
    device = pmem.create(path, PAGE)
    view = device.media[10:20]
    for _ in range(2):
        with pytest.raises(pmem.DeviceBusy, match="still alive") as caught:
            device.close()
        assert str(path) in str(caught.value)
    assert not device.closed
    device.write(10, b"works")
    assert view[:5].tobytes() == b"works"
    with pytest.raises(pmem.DeviceLocked):
        pmem.open(path)
    del view
    device.close()
    device.close()
    assert device.closed
    assert descriptors(path) == 0
    assert path.read_bytes()[10:15] == b"works"


def test_leaving_the_block_with_an_array_alive_is_refused_too(path: Path) -> None:
    def work() -> None:
        with pmem.create(path, PAGE) as device:
            held.extend((device, device.media))

    held: list[Any] = []
    with pytest.raises(pmem.DeviceBusy, match="still alive"):
        work()
    device = held[0]
    assert not device.closed
    held.clear()
    device.close()


def test_a_device_may_be_closed_inside_its_block(path: Path) -> None:
    with pmem.create(path, PAGE) as device:
        device.close()
        with pmem.open(path) as again:
            assert again.size == PAGE


def test_an_error_in_flight_is_not_masked_by_a_busy_device(path: Path) -> None:
    def work() -> None:
        with pmem.create(path, PAGE) as device:
            held.extend((device, device.media))
            raise KeyError("the real one")

    held: list[Any] = []
    with pytest.raises(KeyError, match="the real one") as caught:
        work()
    (note,) = caught.value.__notes__
    assert "stays open" in note
    assert str(path) in note
    assert not held[0].closed
    del held[1]
    held[0].close()


def test_an_error_in_flight_does_not_itself_keep_the_device_open(path: Path) -> None:
    def inner(device: Device) -> None:
        view = device.media
        raise KeyError(view[0])

    def work() -> None:
        with pmem.create(path, PAGE) as device:
            inner(device)

    with pytest.raises(KeyError) as caught:
        work()
    assert not hasattr(caught.value, "__notes__")
    pmem.open(path).close()  # while the error, and so its frames, are alive


def test_an_error_of_ours_that_is_kept_does_not_keep_the_device_open(
    path: Path, library: Any, monkeypatch: pytest.MonkeyPatch, raising: Any, descriptors: Any
) -> None:
    kept = []

    def fails(kind: type[Exception], *uses: Callable[[], Any]) -> None:
        for use in uses:
            with pytest.raises(kind) as caught:
                use()
            kept.append(caught.value)

    device = pmem.create(path, PAGE)
    writes = (lambda: device.write(0, b"x"), lambda: device.write_lines([0], lines_of(1)))
    with monkeypatch.context() as patch:
        patch.setattr(os, "posix_fallocate", raising(OSError, errno.ENOSPC, "full"))
        fails(pmem.DeviceFull, *writes)
    fails(pmem.RangeError, lambda: device.read(PAGE, 1), lambda: device.read_lines([1]))
    library.code = errno.EIO
    fails(pmem.DeviceFailed, device.flush)
    os.truncate(path, 2 * PAGE)
    fails(pmem.DeviceChanged, *writes, device.flush, device.drain, lambda: device.media)
    device.close()
    os.truncate(path, PAGE)
    device = pmem.open(path, "r")
    fails(pmem.ReadOnlyDevice, *writes)
    device.close()
    fails(pmem.DeviceClosed, *writes)
    assert descriptors(path) == 0
    assert path.read_bytes() == bytes(PAGE)


def test_closing_is_refused_while_another_thread_is_inside(path: Path, library: Any) -> None:
    entered, leave = threading.Event(), threading.Event()

    def msync(address: int, length: int, flags: int) -> int:
        entered.set()
        assert leave.wait(60)
        return 0

    library.msync = msync
    device = pmem.create(path, PAGE)
    thread = threading.Thread(target=device.flush)
    thread.start()
    try:
        assert entered.wait(60)
        with pytest.raises(pmem.DeviceBusy, match="can't be closed"):
            device.close()
        assert not device.closed
    finally:
        leave.set()
        thread.join()
    device.close()


def test_every_use_after_close_says_so(path: Path) -> None:
    path.write_bytes(PATTERN)
    uses: list[Callable[[Device], Any]] = [
        lambda device: device.media,
        lambda device: device.mapping(),
        lambda device: device.read(0, 1),
        lambda device: device.read(0, 0),
        lambda device: device.read_into(bytearray(1)),
        lambda device: device.write(0, b"x"),
        lambda device: device.write(0, b""),
        lambda device: device.read_lines([0]),
        lambda device: device.write_lines([0], lines_of(1)),
        lambda device: device.reserve(0, 1),
        lambda device: device.reserve_lines(np.zeros(1, np.uint64)),
        lambda device: device.flush(),
        lambda device: device.drain(),
        lambda device: device.persist(),
    ]
    for mode in ("r+", "r"):
        device = pmem.open(path, mode)  # type: ignore[arg-type]
        device.close()
        for use in uses:
            with pytest.raises(pmem.DeviceClosed, match=r"pmem\.open") as caught:
                use(device)
            assert str(path) in str(caught.value)
        assert "closed" in repr(device)
        assert device.closed
    assert path.read_bytes() == PATTERN


@pytest.mark.parametrize("length", [0, 1, PAGE, 3 * PAGE])
def test_an_image_that_changes_its_length_is_an_error_and_not_a_crash(path: Path, length: int) -> None:
    with pmem.create(path, 2 * PAGE) as device:
        device.write(0, PATTERN)
        device.persist()
        os.truncate(path, length)
        left = path.read_bytes()
        buffer = bytearray(b"as it was")
        uses: list[Callable[[], Any]] = [
            lambda: device.read(PAGE, 1),
            lambda: device.read_into(buffer),
            lambda: device.write(0, b"x"),
            lambda: device.read_lines([0]),
            lambda: device.write_lines([0], lines_of(1)),
            lambda: device.media,
            device.mapping,
            device.flush,
            device.drain,
            device.persist,
        ]
        for use in uses:
            with pytest.raises(
                pmem.DeviceChanged, match=f"{2 * PAGE} bytes long .* and is {length} now"
            ) as caught:
                use()
            assert caught.value.filename == str(path)
        assert buffer == b"as it was"
        assert path.read_bytes() == left == (PATTERN + bytes(2 * PAGE))[:length]


def test_an_image_given_its_length_back_has_what_was_not_cut_off(path: Path) -> None:
    def work() -> None:
        with pmem.create(path, 2 * PAGE) as device:
            device.write(0, PATTERN + PATTERN)
            device.persist()
            os.truncate(path, PAGE)
            device.read(0, 1)

    with pytest.raises(pmem.DeviceChanged, match="open it again") as caught:
        work()
    assert not hasattr(caught.value, "__notes__")
    os.truncate(path, 2 * PAGE)
    with pmem.open(path) as device:
        assert device.read(0, 2 * PAGE) == PATTERN + bytes(PAGE)


def test_an_image_that_is_renamed_or_removed_serves_on(path: Path) -> None:
    moved = path.with_name("moved.img")
    with pmem.create(path, PAGE) as device:
        path.rename(moved)
        device.write(0, b"moved")
        device.persist()
        assert moved.read_bytes()[:5] == b"moved"
        moved.unlink()
        device.write(0, b"alone")
        device.persist()
        assert device.read(0, 5) == b"alone"


def test_a_device_that_cannot_be_closed_names_the_volume_on_it(path: Path) -> None:
    device = pmem.create(path, 4 << 20)
    volume = dax.make(device)
    for _ in range(2):
        with pytest.raises(pmem.DeviceBusy, match=f"volume {volume.uuid.hex()} .* close the volume"):
            device.close()
    volume.create("/x").close()
    view = device.media
    volume.close()
    with pytest.raises(pmem.DeviceBusy, match="arrays over it"):
        device.close()
    del view
    device.close()
    assert device.closed
