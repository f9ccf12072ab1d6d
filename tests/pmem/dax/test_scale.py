"""Large volumes and large files, by what is touched of them."""

from __future__ import annotations

import tracemalloc
from collections.abc import Callable
from pathlib import Path

import pmem
from pmem import dax
from pmem.dax import Volume

GIB = 1 << 30


def test_a_tebibyte_costs_what_is_touched(tmp_path: Path, sound: Callable[[Volume], None]) -> None:
    path = tmp_path / "pool.img"
    with pmem.create(path, "1TiB") as device:
        tracemalloc.start()
        with dax.make(device) as volume:
            assert volume.free > 0.95 * (1 << 40)
            with volume.create("/a") as file:
                file.write(0, b"x")
                file.write(1 << 45, b"y")
                assert file.size == (1 << 45) + 1
                assert file.read((1 << 45) - 1) == b"\0y"
        with dax.mount(device) as volume:
            sound(volume)
            with volume.open("/a") as file:
                assert file.read(0, 2) == b"x\0"
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert peak < 8 << 20
    assert path.stat().st_blocks * 512 < 16 << 20


def test_a_file_of_100_gib_in_10000_extents(tmp_path: Path, sound: Callable[[Volume], None]) -> None:
    with pmem.create(tmp_path / "pool.img", "256GiB") as device:
        with dax.make(device) as volume:
            free = volume.free
            with volume.create("/large") as file:
                step = 100 * GIB // 10000 // dax.BLOCK * dax.BLOCK
                for i in range(10000):  # a hole after each
                    file.fallocate(i * (step + dax.BLOCK), step)
                file.truncate(101 * GIB)
                assert len(file.map()) == 10000
                file.write(50 * GIB, b"middle")
        with dax.mount(device) as volume:
            with volume.open("/large") as file:
                assert file.read(50 * GIB - 2, 10) == b"\0\0middle\0\0"
                assert len(file.map()) in (10001, 10002, 10003)
                assert 0 <= sum(extent.length for extent in file.map()) - 10000 * step <= 2 * dax.BLOCK
            volume.reflink("/large", "/copy")
            sound(volume)
            for name in ("/large", "/copy"):
                volume.unlink(name)
            assert volume.free == free


def test_a_tree_of_many_names_is_found_again(tmp_path: Path, sound: Callable[[Volume], None]) -> None:
    """More than the caches of nodes and of inodes hold."""
    count = 12000
    with pmem.create(tmp_path / "pool.img", "256MiB") as device:
        with dax.make(device) as volume:
            for i in range(count):
                volume.create(f"/{i:0100}", xattrs={"c": b"k" * 40}).close()
        with dax.mount(device) as volume:
            sound(volume)
            assert len(volume.list()) == count
            for i in range(0, count, 97):
                assert volume.getxattr(f"/{i:0100}", "c") == b"k" * 40
