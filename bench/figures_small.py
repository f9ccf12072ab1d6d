"""Scattered lines, single accesses, and starting."""

from __future__ import annotations

import statistics
import subprocess
import sys
import timeit
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import numpy as np
from figure import Figure, repeated, speedup, with_region

from mktme import Region
from mktme.lab.measure import Run, interleave


def scattered(folder: Path, rounds: int) -> Iterator[Figure]:
    """A million random lines of 1 GiB against numpy's gather and scatter without encryption."""
    size, n = 1 << 30, 1_000_000

    def work(one: Region, all_: Region) -> Iterator[Figure]:
        rng = np.random.default_rng(1)
        addresses = (rng.integers(0, size // 64, n) * 64).astype(np.uint64)
        numbers = addresses // np.uint64(64)
        lines = np.ones((n, 64), np.uint8)
        media = one.device.mapping().reshape(-1, 64)
        runs: dict[str, Run] = {
            "gather": repeated(partial(media.__getitem__, numbers), lines.size, 1),
            "read_lines, 1 thread": repeated(partial(one.mapping().read_lines, addresses), lines.size, 1),
            "read_lines, all threads": repeated(partial(all_.mapping().read_lines, addresses), lines.size, 1),
            "scatter": repeated(partial(media.__setitem__, numbers, lines), lines.size, 1),
            "write_lines": repeated(partial(one.mapping().write_lines, addresses, lines), lines.size, 1),
        }
        samples = interleave(runs, max(3, rounds // 2))
        for name, sample in samples.items():
            if "_" in name:
                peer = samples["gather" if "read" in name else "scatter"]
                yield speedup("lines", f"{name}, 1 M lines of 1 GiB, of numpy's", sample, peer, 0.5)

    yield from with_region(folder, size, "aes-xts-256", work)


def small(folder: Path, rounds: int) -> Iterator[Figure]:
    """Single accesses from Python, in microseconds."""

    def work(one: Region, all_: Region) -> Iterator[Figure]:
        data, buffer, cipher = bytes(64), np.zeros(64, np.uint8), one.lines()
        media, base = one.device.mapping(), one.device.base
        calls: tuple[tuple[str, Callable[[], object], float], ...] = (
            ("region.read of 64 bytes", lambda: one.read(6400, 64), 3),
            ("region.write of 64 bytes", lambda: one.write(6400, data), 3),
            ("a slice assignment of 64 bytes", lambda: one.__setitem__(slice(6400, 6464), data), 4),
            ("a bare kernel call", lambda: cipher.read(media, base, 6400, buffer), 3),
        )
        for name, call, target in calls:
            call()
            took = [timeit.timeit(call, number=5000) / 5000 * 1e6 for _ in range(rounds)]
            yield Figure("small", name, statistics.median(took), "us", target, below=True)

    yield from with_region(folder, 1 << 20, "aes-xts-256", work)


IMPORT = "import time; a = time.perf_counter(); import mktme; print(time.perf_counter() - a)"
FIRST = """
import sys, time, pmem, mktme
with pmem.create(sys.argv[1], "1MiB", exist_ok=True) as device:
    controller = mktme.Controller(device)
    a = time.perf_counter()
    region = controller.map(0, "1MiB", controller.program_key(mktme.Key.generate("aes-xts-128")))
    region.write(0, b"x")
    region.read(0, 64)
    print(time.perf_counter() - a)
"""
OPEN = """
import sys, time, pmem
resident = lambda: int(open("/proc/self/statm").read().split()[1]) * 4096
pmem.create(sys.argv[1], "1TiB").close()
before, a = resident(), time.perf_counter()
device = pmem.open(sys.argv[1])
print((time.perf_counter() - a), resident() - before)
"""


def child(code: str, *arguments: str) -> list[float]:
    """The numbers that a fresh interpreter prints."""
    command = [sys.executable, "-c", code, *arguments]
    return [float(word) for word in subprocess.check_output(command, text=True).split()]


def starting(folder: Path, rounds: int) -> Iterator[Figure]:
    """Import, first call, and opening of a very large image, each in fresh processes."""
    times = max(3, rounds // 2)
    imports = [child(IMPORT)[0] for _ in range(times)]
    yield Figure("start", "import mktme", statistics.median(imports), "s", 0.35, below=True)
    firsts = [child(FIRST, str(folder / "first.img"))[0] for _ in range(times)]
    yield Figure("start", "first calls, kernels cached", statistics.median(firsts[1:]), "s", 0.5, below=True)
    opened = [child(OPEN, str(folder / f"tebibyte{i}.img")) for i in range(times)]
    yield Figure("start", "open 1 TiB", statistics.median(o[0] for o in opened) * 1e3, "ms", 50, below=True)
    yield Figure(
        "start", "open 1 TiB, memory", statistics.median(o[1] for o in opened) / 2**20, "MiB", 5, below=True
    )
