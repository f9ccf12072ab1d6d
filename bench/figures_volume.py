"""The file system: large files against plain copies of the mapping, creates, and small accesses.

python bench/figures_volume.py
"""

from __future__ import annotations

import statistics
import timeit
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import numpy as np
from figure import Figure, aligned, repeated, speedup

import pmem
from mktme.lab.measure import Run, interleave
from pmem import dax

SIZE = 256 << 20  # bytes of the large file
FILES = 20_000


def volumes(folder: Path, rounds: int) -> Iterator[Figure]:
    """Every figure, on images of a folder."""
    yield from sequential(folder, rounds)
    yield from names(folder, rounds)
    yield from accesses(folder, rounds)
    yield from mounting(folder, rounds)


def sequential(folder: Path, rounds: int) -> Iterator[Figure]:
    """Reads and writes of a large file, against copies from and to as many bytes of the mapping."""
    path = folder / "volume.img"
    with pmem.create(path, 3 * SIZE) as device, dax.make(device) as volume, volume.create("/large") as file:
        data = aligned(SIZE)
        file.write(0, data)
        plain = device.mapping()[-SIZE - dax.BLOCK : -dax.BLOCK]
        device.reserve(device.size - SIZE - dax.BLOCK, SIZE)
        plain[:] = data
        runs: dict[str, Run] = {
            "copy out": repeated(partial(np.copyto, data, plain), SIZE, 1),
            "read": repeated(partial(file.read_into, data), SIZE, 1),
            "copy in": repeated(partial(np.copyto, plain, data), SIZE, 1),
            "write": repeated(partial(file.write, 0, data), SIZE, 1),
        }
        samples = interleave(runs, rounds)
        for name, peer in (("read", "copy out"), ("write", "copy in")):
            what = f"sequential {name} of a file, of a plain copy's"
            yield speedup("volume", what, samples[name], samples[peer], 0.85)
        del plain, runs
    path.unlink()


def names(folder: Path, rounds: int) -> Iterator[Figure]:
    """Creates (with a 40-byte attribute), look-ups and unlinks in one directory."""
    times: dict[str, list[float]] = {"create": [], "stat": [], "unlink": []}
    for _ in range(max(3, rounds // 5)):
        path = folder / "volume.img"
        with pmem.create(path, "1GiB") as device, dax.make(device) as volume:
            calls: dict[str, Callable[[str], object]] = {
                "create": partial(_create, volume),
                "stat": volume.stat,
                "unlink": volume.unlink,
            }
            for name, call in calls.items():
                took = timeit.timeit(lambda call=call: [call(f"/{i}") for i in range(FILES)], number=1)  # type: ignore[misc]
                times[name].append(took / FILES * 1e6)
        path.unlink()
    for name, values in times.items():
        target = 100 if name == "create" else 0
        yield Figure("volume", f"{name}, {FILES} files", statistics.median(values), "us", target, below=True)


def _create(volume: dax.Volume, path: str) -> None:
    volume.create(path, xattrs={"context": bytes(40)}).close()


def accesses(folder: Path, rounds: int) -> Iterator[Figure]:
    """64 bytes of a file, read and written in place."""
    path, data = folder / "volume.img", bytes(64)
    with pmem.create(path, "16MiB") as device, dax.make(device) as volume, volume.create("/a") as file:
        file.write(0, bytes(1 << 20))
        calls: tuple[tuple[str, Callable[[], object]], ...] = (
            ("file.read of 64 bytes", lambda: file.read(6400, 64)),
            ("file.write of 64 bytes in place", lambda: file.write(6400, data)),
        )
        for name, call in calls:
            took = [timeit.timeit(call, number=5000) / 5000 * 1e6 for _ in range(rounds)]
            yield Figure("volume", name, statistics.median(took), "us", 10, below=True)
    path.unlink()


def mounting(folder: Path, rounds: int) -> Iterator[Figure]:
    """A volume of 1 TiB, made and mounted."""
    path = folder / "volume.img"
    made, mounted = [], []
    for _ in range(rounds):
        with pmem.create(path, "1TiB") as device:
            made.append(timeit.timeit(lambda device=device: dax.make(device).close(), number=1) * 1e3)  # type: ignore[misc]
            mounted.append(timeit.timeit(lambda device=device: dax.mount(device).close(), number=1) * 1e3)  # type: ignore[misc]
        path.unlink()
    yield Figure("volume", "make 1 TiB", statistics.median(made), "ms", 50, below=True)
    yield Figure("volume", "mount 1 TiB", statistics.median(mounted), "ms", 50, below=True)
