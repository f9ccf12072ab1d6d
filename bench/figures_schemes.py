"""IV schemes against pmem-line, and the ciphers that aren't AES-XTS."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from ceiling import Ceiling
from figure import Figure, aligned, repeated, speedup

import pmem
from mktme import Controller, Key, iv
from mktme.crypto.algorithms import ALGORITHMS, make
from mktme.lab.measure import Run, Sample, interleave

SIZES = {"1 MiB": 1 << 20, "16 MiB": 1 << 24}  # of a request
L2 = 1 << 19
# Schemes, their data units, what they need, and how fast they are to be against pmem-line.
MAPPED: tuple[tuple[str, tuple[int, ...], dict[str, Any], float], ...] = (
    ("file-block", (64, 4096), {"block": 3}, 0.85),
    ("ino-lblk-64", (64, 4096), {"block": 3, "inode": 12}, 0.85),
    ("plain64", (512, 4096), {"sector": 2048}, 0.85),
    ("bench-compiled", (64, 4096), {"block": 3, "inode": 12}, 0.85),
    ("bench-numpy", (64,), {"block": 3, "inode": 12}, 0.6),
    ("bench-numpy", (4096,), {"block": 3, "inode": 12}, 0.95),
)


def own_schemes() -> None:
    """A user's scheme that compiles, and one that doesn't."""
    if "bench-compiled" in iv.schemes():
        return

    @iv.define("bench-compiled")
    def compiled(block: Any, inode: Any) -> Any:
        return block ^ inode << 40, inode

    @iv.define("bench-numpy")
    def on_arrays(block: Any, inode: Any) -> Any:
        return block.byteswap(), inode


def schemes(folder: Path, rounds: int) -> Iterator[Figure]:
    """Requests to regions under each scheme, beside pmem-line with the same unit and cipher."""
    own_schemes()
    for title, size in SIZES.items():
        samples = measured(folder, size, rounds)
        for name, units, _, target in MAPPED:
            for unit in units:
                for way in ("read", "write"):
                    ours, base = samples[f"{name} {unit} {way}"], samples[f"pmem-line {unit} {way}"]
                    what = f"{name}, {unit} B units, {title} {way}, of pmem-line"
                    yield speedup("schemes", what, ours, base, target)


def measured(folder: Path, size: int, rounds: int) -> dict[str, Sample]:
    """Reading and writing requests of `size` bytes under all the schemes, in turns, one thread."""
    data, out, at = aligned(size), aligned(size), 0
    runs: dict[str, Run] = {}
    with pmem.create(folder / "schemes.img", 16 * size) as device, ExitStack() as cleared:
        controller = Controller(device, threads=1)
        cleared.callback(controller.power_cycle)
        keyid = controller.program_key(Key.from_bytes("aes-xts-128", bytes(range(32))))
        for name, units, needs, _ in (("pmem-line", (64, 512, 4096), {}, 1.0), *MAPPED):
            for unit in units:
                region = controller.map(at, size, keyid, iv=name, unit=unit, **needs)
                at += size
                region.write(0, data)
                times = max(1, (4 << 20) // size)
                runs[f"{name} {unit} read"] = repeated(partial(region.read_into, out), size, times)
                runs[f"{name} {unit} write"] = repeated(partial(region.write, 0, data), size, times)
        samples = interleave(runs, 2 * rounds)
    (folder / "schemes.img").unlink()
    return samples


def ciphers(rounds: int) -> Iterator[Figure]:
    """Every cipher at 64 B and at 4 KiB units, one core, everything in the second-level cache."""
    source, to = aligned(L2), aligned(L2)
    runs: dict[str, Run] = {f"ceiling {b}": repeated(partial(Ceiling(b), L2), L2) for b in (128, 256)}
    for name, algorithm in ALGORITHMS.items():
        if algorithm.family.endswith("-cts"):
            continue
        cipher = make(name, [bytes(range(i, i + n)) for i, n in enumerate(algorithm.parts)])
        for unit in (64, 4096) if algorithm.takes(64) else (16,):
            ivs = np.zeros((L2 // unit, algorithm.iv_bytes // 8), np.uint64)
            ivs[:, 0] = np.arange(L2 // unit)
            for back, way in ((False, "encrypt"), (True, "decrypt")):
                call = partial(cipher.units, back, unit, ivs, source, to)
                runs[f"{name} {unit} {way}"] = repeated(call, L2, 4)
    samples = interleave(runs, rounds)
    for bits in (128, 256):
        for way in ("encrypt", "decrypt"):
            ctr, xts = (samples[f"aes-{mode}-{bits} 64 {way}"] for mode in ("ctr", "xts"))
            yield speedup("ciphers", f"aes-ctr-{bits}, 64 B units, {way}, of aes-xts-{bits}", ctr, xts, 1.0)
    for run, sample in samples.items():
        if run.startswith("ceiling"):
            continue
        name, size, way = run.split()
        target = 1.0 if (name, size) == ("adiantum", "4096") else 0.0
        note = ""
        if name.startswith("aes"):
            ceiling = samples["ceiling 256" if "256" in name else "ceiling 128"]
            note = f"{sample.rate / ceiling.rate:.2f} of pure AES"
        title = f"{name}, {size} B units, {way}"
        yield Figure("ciphers", title, sample.rate / 1e9, " GB/s", target, note=note)
