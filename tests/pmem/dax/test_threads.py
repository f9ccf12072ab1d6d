"""Readers and writers at once: no torn mapping, no bytes of another file, nothing lost."""

from __future__ import annotations

import random
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

import pmem
from pmem import dax
from pmem.dax import Volume

BLOCK = dax.BLOCK


@pytest.mark.parametrize("log_structured", [False, True])
def test_readers_see_one_write_or_another_while_blocks_move(
    tmp_path: Path, sound: Callable[[Volume], None], log_structured: bool
) -> None:
    """Every write fills a file with one byte, so a read of two is torn, or of another file's blocks."""
    errors: list[BaseException] = []
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    try:
        with (
            pmem.create(tmp_path / "pool.img", "32MiB") as device,
            dax.make(device, inodes=1000, log_structured=log_structured) as volume,
        ):
            size = 5 * BLOCK
            for i in range(3):
                with volume.create(f"/{i}") as file:
                    file.write(0, bytes([10 * i]) * size)

            def guarded(work: Callable[[random.Random], None], seed: int) -> threading.Thread:
                def run() -> None:
                    try:
                        work(random.Random(seed))
                    except BaseException as error:
                        errors.append(error)

                return threading.Thread(target=run)

            def read(chance: random.Random) -> None:
                for _ in range(150):
                    i = chance.randrange(3)
                    with volume.open(f"/{i}") as file:
                        found = set(file.read())
                    assert len(found) == 1
                    assert found.pop() // 10 == i

            def write(chance: random.Random) -> None:
                for _ in range(80):
                    i = chance.randrange(3)
                    with volume.open(f"/{i}") as file:
                        if chance.random() < 0.3:
                            volume.relocate(file)
                        file.write(0, bytes([10 * i + chance.randrange(10)]) * size)

            def names(chance: random.Random) -> None:
                mine = f"/n{chance.random()}"
                for i in range(80):
                    with volume.create(f"{mine}{i}") as file:
                        file.write(0, b"\xff" * size)
                        volume.rename(f"{mine}{i}", f"{mine}x")
                        assert file.read() == b"\xff" * size
                    if i % 3 == 0:
                        volume.reflink(f"{mine}x", f"{mine}y")
                        volume.unlink(f"{mine}y")
                if log_structured:
                    volume.clean(2)

            threads = [guarded(work, seed) for seed in range(2) for work in (read, write, names)]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
            assert not errors, errors
            sound(volume)
            assert len(volume.list()) == 3 + 2
    finally:
        sys.setswitchinterval(interval)


def test_an_unlinked_file_isnt_freed_under_who_writes_to_it(
    tmp_path: Path, sound: Callable[[Volume], None]
) -> None:
    with pmem.create(tmp_path / "pool.img", "4MiB") as device, dax.make(device) as volume:
        free = volume.free
        file = volume.create("/a")
        file.write(0, b"x" * BLOCK)
        late = file.begin_write(0, 4)
        volume.unlink("/a")
        thread = threading.Thread(target=file.close)
        with file.begin_write(BLOCK, 4) as writing:
            thread.start()
            while not file.closed:
                time.sleep(0)
            writing.put(pmem.buffers.buffer_bytes(b"last"))
            assert volume.core.store.state.orphan == file.number
        thread.join()
        assert volume.core.store.state.orphan == 0
        assert volume.free == free
        with pytest.raises(dax.FileClosed), late:
            pass
        sound(volume)


def test_a_volume_isnt_closed_under_who_writes_to_it(tmp_path: Path) -> None:
    with pmem.create(tmp_path / "pool.img", "4MiB") as device, dax.make(device) as volume:
        with volume.create("/a") as file:
            with file.begin_write(0, 4) as writing:
                writing.put(pmem.buffers.buffer_bytes(b"data"))
                with pytest.raises(dax.VolumeBusy, match=f"inode {file.number} is being"):
                    volume.close()
            assert file.read() == b"data"
        assert not volume.closed


def test_a_writer_waits_for_readers_and_readers_for_it(tmp_path: Path) -> None:
    with (
        pmem.create(tmp_path / "pool.img", "4MiB") as device,
        dax.make(device) as volume,
        volume.create("/a") as file,
    ):
        file.write(0, b"old!")
        seen: list[bytes] = []
        thread = threading.Thread(target=lambda: seen.append(file.read(0, 4)))
        with file.begin_write(0, 4) as writing:
            thread.start()
            assert seen == []
            writing.put(pmem.buffers.buffer_bytes(b"new!"))
        thread.join()
        assert seen == [b"new!"]
