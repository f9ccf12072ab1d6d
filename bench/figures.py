"""Every speed that this project promises, measured here and now beside its target.

    python bench/figures.py [--only TEXT] [--json PATH] [--quick]

Each figure is a ratio (or a time) of things that ran in turns in this one process.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import timeit
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path

import numpy as np
from ceiling import Ceiling
from peer_openssl import speed
from rich.console import Console
from rich.table import Table

import pmem
from mktme import Controller, Key, Region
from mktme.crypto import backend
from mktme.crypto.backend import aes_xts
from mktme.lab.machine import describe
from mktme.lab.measure import Run, interleave, slowdown

L2 = 1 << 19  # bytes of a buffer that stays in the second-level cache, with another one
LARGE = 256 << 20
ROUNDS = 15
ALGORITHMS = ("aes-xts-128", "aes-xts-256")


@dataclass(frozen=True)
class Figure:
    """A measured value, what it is, and its target: at least it, or (a time, a size) below it."""

    group: str
    name: str
    value: float
    unit: str
    target: float
    below: bool = False
    note: str = ""

    @property
    def holds(self) -> bool:
        """Whether the target is met."""
        return self.value < self.target if self.below else self.value >= self.target


def key_of(algorithm: str) -> tuple[bytes, bytes]:
    """Fixed halves for a cipher that is only timed."""
    size = int(algorithm[-3:]) // 8
    return bytes(range(size)), bytes(range(100, 100 + size))


def aligned(size: int, offset: int = 0) -> np.ndarray:
    """A uint8 buffer whose pages are in memory, at an offset from a 64-byte boundary."""
    room = np.ones(size + 128, np.uint8)
    start = -room.ctypes.data % 64 + offset
    return room[start : start + size]


def repeated(call: Callable[[], object], size: int, times: int = 16) -> Run:
    """A turn that makes a call several times, each of which moves `size` bytes."""

    def run() -> int:
        for _ in range(times):
            call()
        return times * size

    return run


def kernels(rounds: int) -> Iterator[Figure]:
    """The XTS kernel against pure AES, and against OpenSSL's loop, in the second-level cache."""
    source, to = aligned(L2), aligned(L2)
    for algorithm in ALGORITHMS:
        bits = int(algorithm[-3:])
        cipher, ceiling = aes_xts(*key_of(algorithm)), Ceiling(bits)
        runs: dict[str, Run] = {"ceiling": repeated(partial(ceiling, L2), L2)}
        for unit in (64, 4096):
            ivs = np.zeros((L2 // unit, 2), np.uint64)
            ivs[:, 0] = np.arange(L2 // unit)
            for back, word in ((False, "encrypt"), (True, "decrypt")):
                runs[f"{word} {unit}"] = repeated(partial(cipher.units, back, unit, ivs, source, to), L2)
        samples = interleave(runs, rounds)
        for name, sample in samples.items():
            if name == "ceiling":
                continue
            word, unit = name.split()
            # At 64 bytes a unit costs the AES of 5 blocks for 4: its tweak's too.
            scale, target = (5 / 4, 0.90) if unit == "64" else (257 / 256, 0.92)
            ratio = scale / slowdown(sample, samples["ceiling"]).median
            yield Figure(
                "kernel", f"{algorithm} {word}, {unit} B units, of the AES ceiling", ratio, "x", target
            )
        for unit, size, target in ((64, 64, 4.5), (4096, 16384, 1.7)):
            peer = speed(f"aes-{bits}-xts", size)
            if peer is not None:
                ratio = samples[f"encrypt {unit}"].rate / peer
                note = f"{samples[f'encrypt {unit}'].rate / 1e9:.1f} against {peer / 1e9:.1f} GB/s"
                yield Figure(
                    "kernel",
                    f"{algorithm}, {unit} B units, of OpenSSL at {size} B",
                    ratio,
                    "x",
                    target,
                    note=note,
                )


def with_region(
    folder: Path, size: int, algorithm: str, work: Callable[[Region, Region], Iterator[Figure]]
) -> list[Figure]:
    """Figures of a region that is the whole of a device: used by one thread, and by all."""
    with pmem.create(folder / f"figures-{size}.img", size, exist_ok=True) as device:
        regions = []
        for threads in (1, None):
            controller = Controller(device, threads=threads)
            regions.append(
                controller.map(
                    0, size, controller.program_key(Key.from_bytes(algorithm, b"".join(key_of(algorithm))))
                )
            )
        regions[0].fill(1)
        return list(work(regions[0], regions[1]))


def bulk(folder: Path, rounds: int) -> Iterator[Figure]:
    """`read_into` and `write` against the kernel (1 MiB) and against memcpy (256 MiB)."""
    for algorithm in ALGORITHMS:
        yield from with_region(
            folder, 1 << 20, algorithm, lambda one, all_, a=algorithm: of_kernel(one, a, rounds)
        )
        yield from with_region(
            folder, LARGE, algorithm, lambda one, all_, a=algorithm: of_memcpy(one, all_, a, rounds)
        )


def of_kernel(region: Region, algorithm: str, rounds: int) -> Iterator[Figure]:
    """A region's calls at 1 MiB against the bare kernel on the same bytes."""
    size, buffer = region.size, aligned(region.size)
    cipher, media = aes_xts(*key_of(algorithm)), region.device.mapping()
    ivs = np.zeros((size // 64, 2), np.uint64)
    ivs[:, 0] = np.arange(size // 64)
    runs: dict[str, Run] = {
        "decrypt": repeated(partial(cipher.units, True, 64, ivs, media, buffer), size),
        "read_into": repeated(partial(region.read_into, buffer), size),
        "encrypt": repeated(partial(cipher.units, False, 64, ivs, buffer, media), size),
        "write": repeated(partial(region.write, 0, buffer), size),
    }
    samples = interleave(runs, rounds)
    for name, peer in (("read_into", "decrypt"), ("write", "encrypt")):
        ratio = 1 / slowdown(samples[name], samples[peer]).median
        yield Figure("bulk", f"{algorithm} {name}, 1 MiB, of the kernel", ratio, "x", 0.95)


def of_memcpy(one: Region, all_: Region, algorithm: str, rounds: int) -> Iterator[Figure]:
    """A region's calls at 256 MiB against numpy's copy of the same bytes, and two threads against one."""
    size, media = one.size, one.device.mapping()
    for place, buffer in (("aligned buffer", aligned(size)), ("numpy's buffer", np.ones(size, np.uint8))):
        runs: dict[str, Run] = {}
        for word, region in (("1 thread", one), ("all threads", all_)):
            runs[f"copy out, {word}"] = repeated(partial(np.copyto, buffer, media), size, 1)
            runs[f"read_into, {word}"] = repeated(partial(region.read_into, buffer), size, 1)
            runs[f"copy in, {word}"] = repeated(partial(np.copyto, media, buffer), size, 1)
            runs[f"write, {word}"] = repeated(partial(region.write, 0, buffer), size, 1)
        samples = interleave(runs, max(3, rounds // 2))
        for word in ("1 thread", "all threads"):
            for name, peer in (("read_into", "copy out"), ("write", "copy in")):
                sample, copy = samples[f"{name}, {word}"], samples[f"{peer}, {word}"]
                note = f"{sample.rate / 1e9:.1f} against {copy.rate / 1e9:.1f} GB/s"
                ratio = 1 / slowdown(sample, copy).median
                yield Figure(
                    "bulk",
                    f"{algorithm} {name}, 256 MiB, {word}, {place}, of memcpy",
                    ratio,
                    "x",
                    0.75,
                    note=note,
                )
        if all_.mapping().threads > 1:
            for name in ("read_into", "write"):
                ratio = 1 / slowdown(samples[f"{name}, all threads"], samples[f"{name}, 1 thread"]).median
                title = f"{algorithm} {name}, 256 MiB, {place}, {all_.mapping().threads} threads of one"
                yield Figure("threads", title, ratio, "x", 1.7)


def threads(folder: Path, rounds: int) -> Iterator[Figure]:
    """All threads against one at 64 MiB."""

    def work(one: Region, all_: Region) -> Iterator[Figure]:
        buffer = aligned(one.size)
        runs: dict[str, Run] = {}
        for word, region in (("one", one), ("all", all_)):
            runs[f"read_into {word}"] = repeated(partial(region.read_into, buffer), region.size, 1)
            runs[f"write {word}"] = repeated(partial(region.write, 0, buffer), region.size, 1)
        samples = interleave(runs, rounds)
        for name in ("read_into", "write"):
            ratio = 1 / slowdown(samples[f"{name} all"], samples[f"{name} one"]).median
            yield Figure(
                "threads", f"{name}, 64 MiB, {all_.mapping().threads} threads of one", ratio, "x", 1.7
            )

    yield from with_region(folder, 64 << 20, "aes-xts-128", work)


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
            "gather": lambda: media[numbers].size,
            "read_lines, 1 thread": lambda: one.mapping().read_lines(addresses).size,
            "read_lines, all threads": lambda: all_.mapping().read_lines(addresses).size,
            "scatter": lambda: media.__setitem__(numbers, lines) or lines.size,
            "write_lines": lambda: one.mapping().write_lines(addresses, lines) or lines.size,
        }
        samples = interleave(runs, max(3, rounds // 2))
        for name, sample in samples.items():
            if "_" in name:
                peer = samples["gather" if "read" in name else "scatter"]
                ratio = 1 / slowdown(sample, peer).median
                yield Figure("lines", f"{name}, 1 M lines of 1 GiB, of numpy's", ratio, "x", 0.5)

    yield from with_region(folder, size, "aes-xts-256", work)


def small(folder: Path, rounds: int) -> Iterator[Figure]:
    """Single accesses from Python, in microseconds."""

    def work(one: Region, all_: Region) -> Iterator[Figure]:
        data, buffer, cipher = bytes(64), np.zeros(64, np.uint8), one.mapping().cipher(one.keyid)
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


def show(figures: list[Figure]) -> None:
    """Print the figures as a table."""
    where = describe()
    table = Table(
        title=f"{where['processor']}, {where['backend']}, numba {where['numba']}, numpy {where['numpy']}"
    )
    for name in ("figure", "measured", "target", "", "note"):
        table.add_column(name, justify="left" if name in ("figure", "note", "") else "right")
    for figure in figures:
        target = f"{'<' if figure.below else '>='} {figure.target:g}{figure.unit}"
        holds = "holds" if figure.holds else "falls short"
        table.add_row(figure.name, f"{figure.value:.3g}{figure.unit}", target, holds, figure.note)
    Console(width=150 if not sys.stdout.isatty() else None).print(table)


def main() -> None:
    """Measure, print, and write the results."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--only", default="", help="only the groups whose name has this text")
    parser.add_argument("--json", type=Path, help="write the figures to this file")
    parser.add_argument("--quick", action="store_true", help="fewer rounds")
    options = parser.parse_args()
    if backend.chosen == "portable":
        sys.exit("the figures are promised for the native backends, and this processor runs the portable one")
    rounds = 3 if options.quick else ROUNDS
    with tempfile.TemporaryDirectory(dir="/dev/shm" if Path("/dev/shm").is_dir() else None) as name:
        folder = Path(name)
        groups: dict[str, Callable[[], Iterator[Figure]]] = {
            "kernel": lambda: kernels(rounds),
            "bulk": lambda: bulk(folder, rounds),
            "threads": lambda: threads(folder, rounds),
            "lines": lambda: scattered(folder, rounds),
            "small": lambda: small(folder, rounds),
            "start": lambda: starting(folder, rounds),
        }
        figures: list[Figure] = []
        for group, measure in groups.items():
            if options.only in group:
                figures += measure()
                for image in folder.glob("*.img"):
                    image.unlink()
    show(figures)
    if options.json:
        rows = [{**asdict(figure), "holds": figure.holds} for figure in figures]
        options.json.write_text(json.dumps({"machine": describe(), "figures": rows}, indent=1) + "\n")


if __name__ == "__main__":
    main()
