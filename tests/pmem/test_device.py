"""The device: what is on the file, who may write, what is asked of the system."""

from __future__ import annotations

import copy
import errno
import mmap
import os
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import pmem
import pmem.device
from pmem import PAGE, StoreGranularity

MIB = 1 << 20
PATTERN = bytes(range(1, 129)) * 32  # a page without a zero


@pytest.mark.parametrize("size", ["64MiB", 64 * MIB, np.uint32(64 * MIB)])
def test_a_new_image_is_sparse_zero_and_as_long_as_asked(path: Path, size: Any) -> None:
    with pmem.create(path, size) as device:
        assert device.size == path.stat().st_size == 64 * MIB
        assert path.stat().st_blocks == 0
        assert not device.media[:: 1 << 16].any()
        assert (device.path, device.mode, device.closed) == (path, "r+", False)
    assert device.closed


def test_an_image_takes_room_where_it_was_written_only(path: Path) -> None:
    with pmem.create(path, "1GiB") as device:
        for offset in (0, 512 * MIB, 1024 * MIB - 1):
            device.write(offset, b"x")
        device.persist()
    assert 0 < path.stat().st_blocks * 512 <= MIB


def test_the_file_holds_the_bytes_and_nothing_else(path: Path) -> None:
    with pmem.create(path, 2 * PAGE) as device:
        device.write(100, b"hello")
        device.persist(100, 5)
    assert path.read_bytes() == bytes(100) + b"hello" + bytes(2 * PAGE - 105)
    assert [entry.name for entry in path.parent.iterdir()] == [path.name]


def test_what_was_written_is_there_when_the_image_is_opened_again(path: Path) -> None:
    with pmem.create(path, 2 * PAGE) as device:
        device.write(PAGE - 3, b"across")
    for mode in ("r", "r+"):
        with pmem.open(path, mode) as device:  # type: ignore[arg-type]
            assert device.read(PAGE - 3, 6) == b"across"


def test_a_file_of_whole_pages_from_elsewhere_is_an_image(path: Path) -> None:
    path.write_bytes(bytes(range(256)) * 16)
    with pmem.open(path, "r") as device:
        assert device.read(255, 3) == b"\xff\x00\x01"


def test_a_path_is_text_or_a_path(path: Path) -> None:
    with pmem.create(str(path), PAGE) as device:
        assert device.path == path
    with pmem.open(str(path)) as device:
        assert device.path == path


@pytest.mark.parametrize("size", [0, 1, 4095, 4097, "1KiB", "nonsense", -4096, 1.5, None, 1 << 63, "9PiB9"])
def test_a_size_that_is_not_whole_pages_is_refused_and_no_file_made(path: Path, size: Any) -> None:
    with pytest.raises(pmem.SizeError):
        pmem.create(path, size)
    assert not path.exists()


def test_a_size_that_the_file_system_refuses_leaves_no_file(path: Path) -> None:
    with pytest.raises(pmem.PmemError) as caught:
        pmem.create(path, 1 << 62)
    assert str(path) in str(caught.value)
    assert not path.exists()


def test_creating_over_a_file_is_refused_and_leaves_it(path: Path) -> None:
    path.write_bytes(PATTERN)
    with pytest.raises(pmem.DeviceExists, match="exist_ok") as caught:
        pmem.create(path, PAGE)
    assert str(path) in str(caught.value)
    assert path.read_bytes() == PATTERN


def test_exist_ok_opens_an_image_of_that_size_only(path: Path) -> None:
    with pmem.create(path, PAGE, exist_ok=True) as device:
        device.write(0, PATTERN)
    with pmem.create(path, PAGE, exist_ok=True) as device:
        assert device.read(0, PAGE) == PATTERN
    with pytest.raises(pmem.SizeError, match=f"has {PAGE} bytes, not {2 * PAGE}") as caught:
        pmem.create(path, 2 * PAGE, exist_ok=True)
    assert str(path) in str(caught.value)
    assert path.read_bytes() == PATTERN
    pmem.open(path).close()  # the refusal left no lock


def test_exist_ok_does_not_get_around_the_lock(path: Path) -> None:
    with pmem.create(path, PAGE), pytest.raises(pmem.DeviceLocked, match=str(path)):
        pmem.create(path, PAGE, exist_ok=True)


def test_what_can_not_be_an_image_is_refused_by_its_path(tmp_path: Path) -> None:
    short = tmp_path / "short"
    short.write_bytes(b"x" * 100)
    empty = tmp_path / "empty"
    empty.touch()
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    for bad in (short, empty, tmp_path, pipe, Path("/dev/zero")):
        for mode in ("r+", "r"):
            with pytest.raises(pmem.DeviceInvalid, match=str(bad)):
                pmem.open(bad, mode)  # type: ignore[arg-type]
        with pytest.raises((pmem.DeviceInvalid, pmem.DeviceDenied), match=str(bad)):
            pmem.create(bad, PAGE, exist_ok=True)
    assert short.read_bytes() == b"x" * 100
    assert empty.read_bytes() == b""


@pytest.mark.parametrize("mode", ["w", "rb", "", None, ["r"]])
def test_a_mode_other_than_the_two_is_refused(path: Path, mode: Any) -> None:
    path.write_bytes(PATTERN)
    with pytest.raises(pmem.RangeError, match="mode"):
        pmem.open(path, mode)
    assert path.read_bytes() == PATTERN


@pytest.mark.parametrize("exist_ok", [False, True])
def test_a_path_that_can_not_be_is_refused_with_the_way_out(tmp_path: Path, exist_ok: bool) -> None:
    file, link = tmp_path / "file", tmp_path / "link"
    file.touch()
    link.symlink_to(tmp_path / "nowhere")
    for bad, kind, says in (
        (tmp_path / "no" / "pool.img", pmem.DeviceNotFound, "make its folder first"),
        (tmp_path / ("x" * 300), pmem.DeviceFailed, "too long"),
        (file / "pool.img", pmem.DeviceFailed, "Not a directory"),
        (tmp_path / "nul\0byte", pmem.DeviceInvalid, "not a path"),
        (link, pmem.DeviceNotFound if exist_ok else pmem.DeviceExists, "link"),
    ):
        with pytest.raises(kind, match=says):
            pmem.create(bad, PAGE, exist_ok=exist_ok)
    assert sorted(tmp_path.iterdir()) == [file, link]


def test_an_image_that_is_not_there_is_not_opened_nor_made(path: Path) -> None:
    for mode in ("r+", "r"):
        with pytest.raises(pmem.DeviceNotFound, match=r"pmem\.create") as caught:
            pmem.open(path, mode)  # type: ignore[arg-type]
        assert str(path) in str(caught.value)
    assert not path.exists()


STAGES = [
    ("fcntl.flock", (BlockingIOError, errno.EWOULDBLOCK, "busy"), pmem.DeviceLocked),
    ("fcntl.flock", (OSError, errno.ENOLCK, "no locks"), pmem.DeviceFailed),
    ("os.ftruncate", (OSError, errno.ENOSPC, "full"), pmem.DeviceFull),
    ("os.ftruncate", (KeyboardInterrupt,), KeyboardInterrupt),
    ("mmap.mmap", (OSError, errno.ENOMEM, "no memory"), pmem.DeviceFailed),
    ("of_synchronous_mapping", (OSError, errno.EIO, "broken"), pmem.DeviceFailed),
    ("np.frombuffer", (KeyboardInterrupt,), KeyboardInterrupt),
]


@pytest.mark.parametrize(("name", "error", "kind"), STAGES, ids=[f"{n}-{k.__name__}" for n, _, k in STAGES])
def test_creating_that_fails_midway_leaves_no_file_and_opening_leaves_the_file_as_it_was(
    path: Path,
    monkeypatch: pytest.MonkeyPatch,
    raising: Callable[..., Callable[..., Any]],
    descriptors: Callable[[Path], int],
    name: str,
    error: Any,
    kind: type[BaseException],
) -> None:
    other = path.with_name("other.img")
    other.write_bytes(PATTERN)
    real = mmap.mmap
    with monkeypatch.context() as patch:
        if name == "of_synchronous_mapping":  # which is asked where the kernel grants MAP_SYNC
            patch.setattr(pmem.device.mmap, "mmap", lambda fd, size, flags=1, prot=3: real(fd, size, 1, prot))
        patch.setattr(f"pmem.device.{name}", raising(*error))
        calls: list[Callable[[], Any]] = [lambda: pmem.create(path, PAGE)]
        if name != "os.ftruncate":
            calls.append(lambda: pmem.open(other))
        for call in calls:
            with pytest.raises(kind) as caught:
                call()
            if kind is not KeyboardInterrupt:
                assert str(path.parent) in str(caught.value)
            del caught
    assert not path.exists()
    assert other.read_bytes() == PATTERN
    assert descriptors(path) == descriptors(other) == 0
    pmem.open(other).close()


def test_one_writer_at_a_time_in_one_process(path: Path) -> None:
    with pmem.create(path, PAGE) as device:
        device.write(0, b"kept")
        with pytest.raises(pmem.DeviceLocked, match=str(path)) as caught:
            pmem.open(path)
        assert 'mode="r"' in str(caught.value)
        assert device.read(0, 4) == b"kept"
        with pmem.open(path, "r") as reader:
            assert reader.mode == "r"
    with pmem.open(path):
        pass


def test_a_reader_keeps_no_writer_out_and_sees_what_it_stores(path: Path) -> None:
    pmem.create(path, PAGE).close()
    with pmem.open(path, "r") as reader, pmem.open(path, "r") as second, pmem.open(path) as writer:
        writer.write(7, b"live")
        assert reader.read(7, 4) == second.read(7, 4) == b"live"


def test_a_device_that_is_dropped_gives_up_its_lock_with_its_last_array(
    path: Path, descriptors: Callable[[Path], int]
) -> None:
    media = pmem.create(path, PAGE).media
    with pytest.raises(pmem.DeviceLocked):
        pmem.open(path)
    assert media[0] == 0
    del media
    pmem.open(path).close()
    assert descriptors(path) == 0


@pytest.mark.parametrize("answer", [StoreGranularity.BYTE, StoreGranularity.CACHE_LINE])
def test_a_synchronous_mapping_is_asked_for_first_and_what_was_got_is_reported(
    path: Path, monkeypatch: pytest.MonkeyPatch, answer: StoreGranularity
) -> None:
    asked: list[int] = []
    granted = True
    real = mmap.mmap

    def fake(fd: int, size: int, flags: int = mmap.MAP_SHARED, prot: int = 3) -> mmap.mmap:
        if fd >= 0:
            asked.append(flags)
            if flags != mmap.MAP_SHARED and not granted:
                raise OSError(errno.EOPNOTSUPP, "no DAX")
        return real(fd, size, flags=mmap.MAP_SHARED, prot=prot)

    monkeypatch.setattr(pmem.device.mmap, "mmap", fake)
    monkeypatch.setattr(pmem.device, "of_synchronous_mapping", lambda fd: answer)
    synchronous = 0x80003  # MAP_SYNC | MAP_SHARED_VALIDATE
    with pmem.create(path, PAGE) as device:
        assert device.store_granularity is answer
        assert asked == [synchronous]
    granted = False
    for mode in ("r+", "r"):
        asked.clear()
        with pmem.open(path, mode) as device:  # type: ignore[arg-type]
            assert device.store_granularity is StoreGranularity.PAGE
            assert asked == [synchronous, mmap.MAP_SHARED]


def test_base_is_where_the_file_is_mapped(path: Path) -> None:
    with pmem.create(path, 4 * PAGE) as device:
        maps = [line.split() for line in Path("/proc/self/maps").read_text().splitlines()]
        spans = [fields[0] for fields in maps if fields[-1] == str(path)]
        assert spans == [f"{device.base:x}-{device.base + 4 * PAGE:x}"]
        assert device.mapping().ctypes.data == device.media.ctypes.data == device.base


def test_media_is_read_only_and_shows_the_mapping(path: Path) -> None:
    with pmem.create(path, PAGE) as device:
        media = device.media
        assert media.dtype == np.uint8
        assert media.shape == (PAGE,)
        with pytest.raises(ValueError, match="read-only"):
            media[0] = 1
        assert media[0] == 0
        device.write(0, b"\x07")
        assert media[0] == 7
        device.mapping()[1] = 8
        assert device.read(0, 2) == b"\x07\x08"
        del media


def test_the_media_of_a_read_only_device_can_not_be_made_writable(path: Path) -> None:
    path.write_bytes(PATTERN)
    with pmem.open(path, "r") as device:
        for array in (device.media, device.mapping()):
            with pytest.raises(ValueError, match="WRITEABLE"):
                array.flags.writeable = True
        del array


def test_a_device_names_its_file_its_size_and_its_mode(path: Path) -> None:
    with pmem.create(path, "64MiB") as device:
        assert repr(device) == f"<pmem.Device {str(path)!r} 64MiB mode='r+'>"
    assert repr(device) == f"<pmem.Device {str(path)!r} 64MiB closed>"


def test_a_device_is_not_pickled_nor_copied(path: Path) -> None:
    with pmem.create(path, PAGE) as device:
        for call in (pickle.dumps, copy.copy, copy.deepcopy):
            with pytest.raises(TypeError, match=f"pass the path.*{path.name}"):
                call(device)


@pytest.mark.parametrize(
    ("kind", "builtin"),
    [
        (pmem.SizeError, ValueError),
        (pmem.RangeError, ValueError),
        (pmem.DeviceNotFound, FileNotFoundError),
        (pmem.DeviceExists, FileExistsError),
        (pmem.DeviceDenied, PermissionError),
        (pmem.DeviceLocked, BlockingIOError),
        (pmem.DeviceInvalid, ValueError),
        (pmem.DeviceClosed, ValueError),
        (pmem.DeviceBusy, BufferError),
        (pmem.DeviceChanged, OSError),
        (pmem.DeviceFull, OSError),
        (pmem.DeviceFailed, OSError),
        (pmem.ReadOnlyDevice, PermissionError),
    ],
)
def test_every_error_is_one_of_ours_and_the_fitting_built_in(
    kind: type[Exception], builtin: type[Exception]
) -> None:
    assert issubclass(kind, pmem.PmemError)
    assert issubclass(kind, builtin)
