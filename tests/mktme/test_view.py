"""Regions as ordinary arrays: what is decrypted, what is encrypted again, and what is lost."""

from __future__ import annotations

import gc
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numba
import numpy as np
import numpy.typing as npt
import pytest

import mktme
import pmem
from mktme import userfault
from mktme.errors import RegionError, ViewError
from mktme.lab.crash.worlds import room, world
from mktme.pages import CHUNK, PAGE

try:
    os.close(userfault.opened())
    MISSING = ""
except ViewError as error:
    MISSING = str(error)
pytestmark = pytest.mark.skipif(bool(MISSING), reason=MISSING)
SIZE = 4 << 20


@pytest.fixture
def region(tmp_path: Path) -> Iterator[mktme.Region]:
    with pmem.create(tmp_path / "pool.img", SIZE) as device:
        yield world("pmem-line", SIZE)(device)


def bytes_of(seed: int, size: int = SIZE) -> npt.NDArray[np.uint8]:
    return np.random.default_rng(seed).integers(0, 256, size, np.uint8)


@pytest.mark.parametrize(
    "iv",
    ["pmem-line", "pmem-page", "ctr-split", "ctr-deuce", "plain64", "pmem-line/sm4-xts", "pmem-line+mac"],
)
def test_every_scheme(tmp_path: Path, iv: str) -> None:
    size = 1 << 20
    with pmem.create(tmp_path / "pool.img", -(-room(iv, size) // PAGE) * PAGE) as device:
        region, data = world(iv, size)(device), bytes_of(1, size)
        region.write(0, data)
        view = region.view(np.uint8)
        assert type(view) is np.ndarray
        assert (view == data).all()
        data[70_000:70_010] = view[70_000:70_010] = 7
        data[-1] = view[-1] = 8
        assert region.read(size - 1, 1) != b"\x08" or bytes_of(1, size)[-1] == 8  # not yet
        region.persist()
        assert region.read(0, size) == data.tobytes()


def test_arrays_of_all_shapes(region: mktme.Region) -> None:
    region.write(0, bytes_of(2))
    whole = region.view(np.float32)
    part = region.view(np.dtype([("a", "<u2"), ("b", "<f8", (3,))]), (5, 7), offset=4096 + 2)
    lone = region.view("<i8", (), 64)
    assert whole.shape == (SIZE // 4,)
    assert (part.shape, part["b"].shape, lone.shape) == ((5, 7), (5, 7, 3), ())
    assert part.tobytes() == region.read(4096 + 2, part.nbytes)
    part["a"][2, 3] = 12345
    assert region.view("<u2", (1,), 4098 + (2 * 7 + 3) * 26)[0] == 12345  # the same pages
    region.flush(4096, 4096)
    assert region.read(4098 + 17 * 26, 2) == (12345).to_bytes(2, "little")
    for shape, offset in (((SIZE,), 1), ((2**62,), 0), ((-1,), 0), ((1,), SIZE)):
        with pytest.raises(RegionError):
            region.view(np.uint8, shape, offset)
    with pytest.raises(RegionError):
        region.view(object)


def test_only_what_was_written_is_encrypted(region: mktme.Region, monkeypatch: pytest.MonkeyPatch) -> None:
    """Reading makes nothing dirty; a page that was written to is encrypted once for each flush."""
    region.write(0, bytes_of(3))
    wrote: list[tuple[int, int]] = []
    original = mktme.Region.write

    def write(self: mktme.Region, offset: int, data: Any, **more: Any) -> None:
        wrote.append((offset, len(data)))
        original(self, offset, data, **more)

    monkeypatch.setattr(mktme.Region, "write", write)
    view = region.view(np.uint8)
    assert view.sum(dtype=np.int64) == bytes_of(3).sum(dtype=np.int64)
    region.persist()
    assert wrote == []
    for page in (0, 5, 6, 900):
        view[page * PAGE + 17] ^= 1
    region.persist()
    assert wrote == [(0, PAGE), (5 * PAGE, 2 * PAGE), (900 * PAGE, PAGE)]
    region.persist()
    assert len(wrote) == 3
    view[5 * PAGE] ^= 1  # again
    view[700 * PAGE] ^= 1
    region.persist(0, 10 * PAGE)
    assert wrote[3:] == [(5 * PAGE, PAGE)]
    region.persist()
    assert wrote[4:] == [(700 * PAGE, PAGE)]
    assert (region.view(np.uint8) == np.frombuffer(region.read(0, SIZE), np.uint8)).all()


def test_untouched_chunks_are_not_decrypted(region: mktme.Region) -> None:
    data = bytes_of(4)
    region.write(0, data)
    view = region.view(np.uint8)
    assert view[10 * CHUNK] == data[10 * CHUNK]
    changed = bytes_of(5, 100)
    region.write(40 * CHUNK, changed)  # isn't seen where it was touched, and is elsewhere
    region.write(10 * CHUNK, changed)
    assert (view[40 * CHUNK : 40 * CHUNK + 100] == changed).all()
    assert (view[10 * CHUNK : 10 * CHUNK + 100] == data[10 * CHUNK : 10 * CHUNK + 100]).all()


def test_libraries_that_know_nothing_of_it(region: mktme.Region) -> None:
    data = np.random.default_rng(6).random(SIZE // 8)
    region.write(0, data)
    matrix = region.view(np.float64, (512, 1024))

    @numba.njit(nogil=True)  # type: ignore[untyped-decorator]
    def scaled(array: Any) -> float:
        total = 0.0
        for row in range(array.shape[0]):
            for column in range(array.shape[1]):
                array[row, column] *= 2
                total += array[row, column]
        return total

    assert scaled(matrix) == pytest.approx(2 * data.sum())
    matrix[7] = np.sort(matrix[7])
    np.multiply(matrix[8:10], 0.5, out=matrix[8:10])
    region.persist()
    expected = 2 * data.reshape(512, 1024)
    expected[7] = np.sort(expected[7])
    expected[8:10] *= 0.5
    assert region.read(0, SIZE) == expected.tobytes()


def test_threads_touch_at_the_same_time(region: mktme.Region) -> None:
    data = bytes_of(7)
    region.write(0, data)
    view = region.view(np.uint8)
    wrong: list[int] = []

    def work(seed: int) -> None:
        rng = np.random.default_rng(seed)
        for at in rng.permutation(SIZE // PAGE).tolist():
            if not (view[at * PAGE : at * PAGE + 64] == data[at * PAGE : at * PAGE + 64]).all():
                wrong.append(at)
            view[at * PAGE + 100 + seed] = seed

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(4)]
    for thread in threads:
        thread.start()
    for _ in range(20):
        region.flush()
    for thread in threads:
        thread.join()
    region.persist()
    for seed in range(4):
        data[100 + seed :: PAGE] = seed
    assert not wrong
    assert region.read(0, SIZE) == data.tobytes()


def children() -> set[str]:
    return set(Path(f"/proc/self/task/{threading.get_native_id()}/children").read_text().split())


def of(process: str) -> list[str]:
    return Path(f"/proc/{process}/task/{process}/children").read_text().split()


def test_who_decrypts_is_replaced_when_it_is_killed(region: mktme.Region) -> None:
    data = bytes_of(12)
    region.write(0, data)
    before = children()
    view = region.view(np.uint8)
    (parent,) = children() - before
    wrong: list[int] = []

    def touch() -> None:
        for at in range(0, SIZE, PAGE):
            if view[at + 1] != data[at + 1]:
                wrong.append(at)
            view[at] = 0

    thread, killed = threading.Thread(target=touch), 0
    thread.start()
    while thread.is_alive() and killed < 20:
        for worker in of(parent):
            os.kill(int(worker), signal.SIGKILL)
            killed += 1
        time.sleep(0.005)
    thread.join()
    touch()
    region.persist()
    data[::PAGE] = 0
    assert killed
    assert not wrong
    assert region.read(0, SIZE) == data.tobytes()


def test_the_end_of_a_view(region: mktme.Region) -> None:
    before = children()
    view = region.view(np.uint8)
    view[:3] = [1, 2, 3]
    assert len(children() - before) == 1
    controller = region.mapping()
    with pytest.raises(ViewError, match="arrays over the region's view are in use"):
        controller.unmap(region)
    assert region.mapped
    del view
    controller.unmap(region)
    assert children() == before
    again = controller.map(0, SIZE, region.keyid, iv="pmem-line")
    assert again.read(0, 3) == b"\1\2\3"
    view = again.view(np.uint8)  # ends with the last of it, too
    del view, again, region
    gc.collect()


def test_a_new_key_waits_for_the_end_of_the_view(region: mktme.Region) -> None:
    """Else pages would be encrypted under the old one, when the region has the new one."""
    controller = region.mapping()
    controller.unmap(region)
    region = controller.map(0, SIZE // 2, region.keyid, iv="pmem-line")
    region.write(0, bytes_of(11, SIZE // 2))
    view = region.view(np.uint8)
    view[5] = 1
    media = region.device.media.tobytes()
    with pytest.raises(ViewError, match="in use"):
        controller.rekey(region, mktme.Key.generate("aes-xts-128"), SIZE // 2)
    expected = bytes_of(11, SIZE // 2)
    expected[5] = 1
    assert region.read(0, region.size) == expected.tobytes()  # encrypted, under the same key
    assert region.device.media.tobytes()[PAGE:] == media[PAGE:]
    del view
    made = controller.rekey(region, mktme.Key.generate("aes-xts-128"), SIZE // 2)
    assert (made.view(np.uint8) == expected).all()


def test_a_device_that_is_read_only(tmp_path: Path) -> None:
    with pmem.create(tmp_path / "pool.img", SIZE) as device:
        world("pmem-line", SIZE)(device).write(0, bytes_of(8))
    with pmem.open(tmp_path / "pool.img", mode="r") as device:
        region = world("pmem-line", SIZE)(device)
        view = region.view(np.uint8)
        assert (view == bytes_of(8)).all()
        with pytest.raises(ValueError, match="read-only"):
            view[0] = 1
        del view
        region.close_view()


def test_what_has_no_view(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, region: mktme.Region) -> None:
    with pmem.create(tmp_path / "domain.img", SIZE, domain="adr") as device:
        tracked = world("pmem-line", SIZE)(device)
        with pytest.raises(ViewError, match=r"follows lines: use region\.array"):
            tracked.view(np.uint8)

    def refuse(*arguments: Any) -> int:
        raise OSError(22, "Invalid argument")

    before = len([*Path("/proc/self/fd").iterdir()])
    monkeypatch.setattr(userfault.fcntl, "ioctl", refuse)
    monkeypatch.setattr(userfault, "FEATURES", userfault.FEATURES | {"NEXT_YEARS": 1 << 60})
    with pytest.raises(ViewError, match=r"NEXT_YEARS, which Linux .* or use region\.array"):
        region.view(np.uint8)
    assert len([*Path("/proc/self/fd").iterdir()]) == before


SCRIPT = """
import sys, numpy as np, os, signal, mktme, pmem
from mktme.lab.crash.worlds import world
device = pmem.open(sys.argv[1])
region = world(sys.argv[2], 4 << 20)(device)
view = region.view(np.uint8)
"""


def script(image: Path, text: str, iv: str = "pmem-line") -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", SCRIPT + text, str(image), iv]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)


def gone(pids: list[str]) -> bool:
    for _ in range(500):
        if not any(Path(f"/proc/{pid}").exists() for pid in pids):
            return True
        time.sleep(0.01)
    return False


def test_death_loses_what_was_not_flushed_and_nothing_else(tmp_path: Path) -> None:
    image = tmp_path / "pool.img"
    with pmem.create(image, SIZE) as device:
        world("pmem-line", SIZE)(device).write(0, bytes_of(9))
    run = script(
        image,
        "view[:100] = 1; view[1 << 20] = 1; region.persist(); view[:50] = 2; view[2 << 20] = 2\n"
        "print(open(f'/proc/{os.getpid()}/task/{os.getpid()}/children').read(), flush=True)\n"
        "os.kill(os.getpid(), signal.SIGKILL)",
    )
    assert run.returncode == -signal.SIGKILL
    assert gone(run.stdout.split())
    data = bytes_of(9)
    data[:100] = data[1 << 20] = 1
    with pmem.open(image) as device:
        assert world("pmem-line", SIZE)(device).read(0, SIZE) == data.tobytes()


@pytest.mark.parametrize("iv", ["pmem-line+mac"])
def test_a_page_that_fails_ends_the_process(tmp_path: Path, iv: str) -> None:
    image = tmp_path / "pool.img"
    with pmem.create(image, -(-room(iv, SIZE) // PAGE) * PAGE) as device:
        world(iv, SIZE)(device).write(0, bytes_of(10))
        device.write(3 * CHUNK + 5, b"attack")
    run = script(image, "print(view[0], flush=True); print(view[3 * (1 << 16) + 77])", iv)
    assert run.returncode == -signal.SIGBUS
    assert run.stdout.strip() == str(bytes_of(10)[0])


def test_a_fork_has_no_access(region: mktme.Region, capfd: pytest.CaptureFixture[str]) -> None:
    view: npt.NDArray[Any] = region.view(np.uint8)
    view[0] = 1
    ended: Callable[[int], int] = os.waitstatus_to_exitcode
    child = os.fork()
    if child == 0:
        signal.signal(signal.SIGSEGV, signal.SIG_DFL)
        view[5]
        os._exit(0)
    assert ended(os.waitpid(child, 0)[1]) == -signal.SIGSEGV
