"""The device: what is on the file, who may write, and every way to fail."""

from __future__ import annotations

import array
import mmap
import os
import pickle
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import pmem
import pmem.device
from pmem import PAGE, Device

MIB = 1 << 20


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "pool.img"


def child(code: str, *arguments: object, prefix: tuple[str, ...] = ()) -> subprocess.CompletedProcess[str]:
    command = [*prefix, sys.executable, "-c", code, *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def test_a_new_image_is_sparse_zero_and_as_long_as_asked(path: Path) -> None:
    with pmem.create(path, "64MiB") as device:
        assert device.size == path.stat().st_size == 64 * MIB
        assert path.stat().st_blocks == 0
        assert not device.media[:: 1 << 16].any()
        assert (device.path, device.mode, device.closed) == (path, "r+", False)
    assert device.closed


def test_the_file_holds_the_bytes_and_nothing_else(path: Path) -> None:
    with pmem.create(path, 2 * PAGE) as device:
        device.write(100, b"hello")
        device.persist(100, 5)
    assert path.read_bytes() == bytes(100) + b"hello" + bytes(2 * PAGE - 105)


def test_a_file_of_whole_pages_from_elsewhere_is_an_image(path: Path) -> None:
    path.write_bytes(bytes(range(256)) * 16)
    with pmem.open(path, "r") as device:
        assert device.read(255, 3) == b"\xff\x00\x01"


@pytest.mark.parametrize("size", [0, 1, 4095, 4097, "1KiB", "nonsense", -4096])
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
    path.write_bytes(b"x" * PAGE)
    with pytest.raises(pmem.DeviceExists, match="exist_ok"):
        pmem.create(path, PAGE)
    assert path.read_bytes() == b"x" * PAGE


def test_exist_ok_opens_an_image_of_that_size_only(path: Path) -> None:
    path.write_bytes(b"x" * PAGE)
    with pmem.create(path, PAGE, exist_ok=True) as device:
        assert device.read(0, 1) == b"x"
    with pytest.raises(pmem.SizeError, match=f"has {PAGE} bytes, not {2 * PAGE}"):
        pmem.create(path, 2 * PAGE, exist_ok=True)
    with pmem.open(path):
        pass  # and the refusal left no lock


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
    with pytest.raises(pmem.DeviceNotFound, match=r"pmem\.create"):
        pmem.open(tmp_path / "none")
    with pytest.raises(pmem.RangeError, match="mode"):
        pmem.open(short, "w")  # type: ignore[arg-type]


def test_one_writer_at_a_time_in_one_process(path: Path) -> None:
    with pmem.create(path, PAGE):
        with pytest.raises(pmem.DeviceLocked, match=str(path)):
            pmem.open(path)
        with pmem.open(path, "r") as reader:
            assert reader.mode == "r"
    with pmem.open(path):
        pass


def test_one_writer_at_a_time_over_processes(path: Path) -> None:
    code = "import sys, pmem; pmem.open(sys.argv[1])"
    with pmem.create(path, PAGE):
        run = child(code, path)
        assert run.returncode == 1
        assert "DeviceLocked" in run.stderr
        assert str(path) in run.stderr
    assert child(code, path).returncode == 0


def test_a_reader_sees_what_a_writer_stores(path: Path) -> None:
    with pmem.create(path, PAGE) as writer, pmem.open(path, "r") as reader:
        writer.write(7, b"live")
        assert reader.read(7, 4) == b"live"


def test_media_is_read_only_and_shows_the_mapping(path: Path) -> None:
    with pmem.create(path, PAGE) as device:
        media = device.media
        assert media.dtype == np.uint8
        assert media.shape == (PAGE,)
        with pytest.raises(ValueError, match="read-only"):
            media[0] = 1
        device.write(0, b"\x07")
        assert media[0] == 7
        del media


def test_closing_is_refused_while_arrays_are_alive_and_works_after(path: Path) -> None:
    device = pmem.create(path, PAGE)
    view = device.media[10:20]
    with pytest.raises(pmem.DeviceBusy, match="still alive"):
        device.close()
    assert not device.closed
    device.write(10, b"works")
    assert view[:5].tobytes() == b"works"
    del view
    device.close()
    device.close()
    assert device.closed


def test_an_error_in_flight_is_not_masked_by_a_busy_device(path: Path) -> None:
    def work() -> None:
        with pmem.create(path, PAGE) as device:
            held.append(device.media)
            raise KeyError("the real one")

    held: list[Any] = []
    with pytest.raises(KeyError, match="the real one") as caught:
        work()
    assert "stays open" in caught.value.__notes__[0]


def test_every_use_after_close_says_so(path: Path) -> None:
    device = pmem.create(path, PAGE)
    device.close()
    uses: list[Callable[[], Any]] = [
        lambda: device.media,
        lambda: device.read(0, 1),
        lambda: device.read_into(bytearray(1)),
        lambda: device.write(0, b"x"),
        lambda: device.read_lines([0]),
        lambda: device.write_lines([0], np.zeros((1, 64), np.uint8)),
        device.flush,
        device.drain,
        device.persist,
    ]
    for use in uses:
        with pytest.raises(pmem.DeviceClosed, match=r"pmem\.open"):
            use()
    assert "closed" in repr(device)


@pytest.mark.parametrize("length", [0, PAGE, 3 * PAGE])
def test_an_image_that_changes_its_length_is_an_error_and_not_a_crash(path: Path, length: int) -> None:
    with pmem.create(path, 2 * PAGE) as device:
        device.write(0, b"kept")
        device.persist()
        os.truncate(path, length)
        for use in (
            lambda: device.read(PAGE, 1),
            lambda: device.write(0, b"x"),
            lambda: device.media,
            device.flush,
        ):
            with pytest.raises(pmem.DeviceChanged, match=f"{2 * PAGE} bytes long .* and is {length} now"):
                use()
    if length:
        assert path.read_bytes()[:4] == b"kept"


def test_a_read_only_device_refuses_to_be_written(path: Path) -> None:
    path.write_bytes(bytes(PAGE))
    with pmem.open(path, "r") as device:
        for use in (
            lambda: device.write(0, b"x"),
            lambda: device.write_lines([0], np.ones((1, 64), np.uint8)),
            lambda: device.write_lines(np.zeros(0, np.uint64), np.zeros((0, 64), np.uint8)),
        ):
            with pytest.raises(pmem.ReadOnlyDevice, match=r'mode="r\+"'):
                use()
        device.flush()
    assert path.read_bytes() == bytes(PAGE)


def test_a_file_without_permission_is_refused(path: Path) -> None:
    path.write_bytes(bytes(PAGE))
    path.chmod(0o400)
    path.parent.chmod(0o755)
    code = """if 1:
        import os, sys, pmem
        path = sys.argv[1]
        os.chdir(os.path.dirname(path))
        if os.geteuid() == 0:
            os.chown(path, 65534, -1)
            os.setuid(65534)
        name = os.path.basename(path)
        pmem.open(name, "r").close()
        try:
            pmem.open(name)
        except pmem.DeviceDenied as error:
            print(error)
    """
    run = child(code, path)
    assert run.returncode == 0, run.stderr
    assert "Permission denied" in run.stdout
    assert 'mode="r"' in run.stdout


FULL_DISK = """if 1:
    import sys, subprocess, numpy as np, pmem
    folder = sys.argv[1]
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "none", folder], check=True)
    with pmem.create(folder + "/pool.img", "16MiB") as device:
        device.write(0, b"kept")
        device.persist()
        for use in (
            lambda: device.write(4096, b"x" * (2 << 20)),
            lambda: device.write_lines(np.arange(0, 16 << 20, 65536), np.ones((256, 64), np.uint8)),
        ):
            try:
                use()
            except pmem.DeviceFull as error:
                print("full:", error)
        print(device.read(0, 4), bytes(device.read(4096, 4096)) == bytes(4096))
        device.persist()
"""


def test_a_full_disk_is_an_error_before_anything_is_written(tmp_path: Path) -> None:
    prefix = ("unshare", "-m") if os.geteuid() == 0 else ("unshare", "-rm")
    if child("import os", prefix=prefix).returncode:
        pytest.skip("no mount namespace can be made here")
    run = child(FULL_DISK, tmp_path, prefix=prefix)
    assert run.returncode == 0, run.stderr
    first, second, kept = run.stdout.splitlines()
    assert first.startswith("full:")
    assert "nothing was written" in first
    assert second.startswith("full:")
    assert kept == "b'kept' True"


def test_opening_a_tebibyte_takes_no_memory_and_no_room(path: Path) -> None:
    code = """if 1:
        import sys, pmem
        resident = lambda: int(open("/proc/self/statm").read().split()[1]) * 4096
        pmem.create(sys.argv[1], "1TiB").close()
        before = resident()
        device = pmem.open(sys.argv[1])
        device.write(device.size - 5, b"hello")
        print(resident() - before, device.read(device.size - 5, 5))
    """
    run = child(code, path)
    assert run.returncode == 0, run.stderr
    grown, kept = run.stdout.split(" ", 1)
    assert int(grown) < 5 << 20
    assert kept.strip() == "b'hello'"
    assert path.stat().st_blocks * 512 <= 1 << 20


def test_what_was_persisted_survives_a_kill(path: Path) -> None:
    code = """if 1:
        import sys, pmem
        device = pmem.create(sys.argv[1], "1MiB")
        device.write(8192, b"persisted")
        device.persist(8192, 9)
        device.write(12288, b"perhaps")
        print("now", flush=True)
        sys.stdin.read()
    """
    process = subprocess.Popen(
        [sys.executable, "-c", code, str(path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "now\n"
    process.send_signal(signal.SIGKILL)
    process.communicate()
    with pmem.open(path) as device:
        assert device.read(8192, 9) == b"persisted"


def test_flush_hands_whole_pages_to_msync_and_reports_its_failure(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = []

    class Library:
        @staticmethod
        def msync(address: int, length: int, flags: int) -> int:
            calls.append((address - device.base, length, flags))
            return -1 if len(calls) == 3 else 0

    with pmem.create(path, 4 * PAGE) as device:
        monkeypatch.setattr(pmem.device, "_libc", Library)
        device.flush(PAGE + 1, 10)
        device.persist()
        assert calls == [(PAGE, 11, 4), (0, 4 * PAGE, 4)]
        with pytest.raises(pmem.DeviceFailed, match="are not durable"):
            device.flush(0, 1)
        device.flush(0, 0)
        assert len(calls) == 3


def test_a_synchronous_mapping_is_asked_for_first(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []
    real = mmap.mmap

    def fake(fd: int, length: int, *, flags: int = 1, prot: int = 3) -> mmap.mmap:
        asked.append(flags)
        return real(fd, length, flags=1, prot=prot)

    monkeypatch.setattr(
        pmem.device.mmap, "mmap", lambda fd, length, **o: fake(fd, length, **o) if o else real(fd, length)
    )
    with pmem.create(path, PAGE) as device:
        assert asked == [0x80003]
        assert device.store_granularity in (pmem.StoreGranularity.CACHE_LINE, pmem.StoreGranularity.BYTE)
    monkeypatch.undo()
    with pmem.open(path) as device:
        assert device.store_granularity is pmem.StoreGranularity.PAGE


REFUSED: list[tuple[str, Callable[[Device], Any]]] = [
    ("outside", lambda d: d.read(PAGE, 1)),
    ("outside", lambda d: d.read(-1, 1)),
    ("outside", lambda d: d.read(0, -1)),
    ("outside", lambda d: d.read_into(bytearray(PAGE + 1))),
    ("read-only", lambda d: d.read_into(b"xx")),
    ("not a contiguous", lambda d: d.read_into(np.zeros(10, np.uint8)[::2])),
    ("not a contiguous", lambda d: d.write(0, "text")),
    ("not a contiguous", lambda d: d.write(0, 5)),
    ("outside", lambda d: d.write(PAGE - 1, b"xx")),
    ("multiple of 64", lambda d: d.read_lines([64, 65])),
    ("outside", lambda d: d.read_lines([PAGE])),
    ("outside", lambda d: d.read_lines([-64])),
    ("are integers", lambda d: d.read_lines([0.0])),
    ("one row", lambda d: d.read_lines([[0]])),
    ("multiple of 64", lambda d: d.write_lines([0, 32], np.ones((2, 64), np.uint8))),
    (r"shape \(1, 64\)", lambda d: d.write_lines([0], np.ones((2, 64), np.uint8))),
    ("uint8", lambda d: d.write_lines([0], np.ones((1, 64), np.int8))),
]


@pytest.mark.parametrize(("says", "use"), REFUSED, ids=[str(i) for i in range(len(REFUSED))])
def test_a_bad_request_is_refused_whole(path: Path, says: str, use: Callable[[Device], Any]) -> None:
    with pmem.create(path, PAGE) as device:
        with pytest.raises(pmem.RangeError, match=says):
            use(device)
        assert not device.media.any()


def test_any_contiguous_buffer_is_read_and_written(path: Path) -> None:
    buffers: list[Any] = [
        bytearray(b"12345678"),
        memoryview(bytearray(b"abcdefgh")),
        np.arange(4, dtype=np.uint16),
        np.array([1.5]),
        array.array("d", [2.5]),
        np.arange(8, dtype=np.uint8).reshape(2, 4),
        np.zeros((0, 4)),
    ]
    with pmem.create(path, PAGE) as device:
        for buffer in buffers:
            data = bytes(buffer)
            device.write(13, buffer)
            assert device.read(13, len(data)) == data
            if len(data):
                blank = type(buffer)(buffer) if isinstance(buffer, bytearray) else buffer
                device.write(13, bytes(len(data)))
                device.read_into(blank, 13)
                assert bytes(blank) == bytes(len(data))


def test_scattered_lines_are_the_bytes_at_their_addresses(path: Path) -> None:
    rng = np.random.default_rng(3)
    with pmem.create(path, MIB) as device:
        addresses = rng.permutation(MIB // 64)[:500] * 64
        lines = rng.integers(0, 256, (500, 64), dtype=np.uint8)
        device.write_lines(addresses, lines)
        assert (device.read_lines(addresses.astype(np.uint32)) == lines).all()
        assert device.read(int(addresses[7]), 64) == lines[7].tobytes()
        assert device.read_lines(np.zeros(0, np.uint64)).shape == (0, 64)


def test_a_device_is_not_pickled(path: Path) -> None:
    with pmem.create(path, PAGE) as device, pytest.raises(TypeError, match="pass the path"):
        pickle.dumps(device)


@given(st.lists(st.tuples(st.integers(0, 3 * PAGE), st.binary(max_size=300)), max_size=30))
@settings(derandomize=True, max_examples=30)
def test_a_device_is_an_array_of_bytes(
    tmp_path_factory: pytest.TempPathFactory, writes: list[tuple[int, bytes]]
) -> None:
    model = bytearray(3 * PAGE)
    with pmem.create(tmp_path_factory.mktemp("d") / "pool.img", 3 * PAGE) as device:
        for offset, data in writes:
            if offset + len(data) > len(model):
                with pytest.raises(pmem.RangeError):
                    device.write(offset, data)
            else:
                device.write(offset, data)
                model[offset : offset + len(data)] = data
        assert device.media.tobytes() == model
