"""Encrypted files: against the memory controller's own ranges, files made in a second."""

from __future__ import annotations

import statistics
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

from figure import Figure, aligned, repeated, speedup

import pmem
from mktme import Controller, FileSystem
from mktme.fscrypt import Policy
from mktme.lab.measure import Run, interleave
from mktme.stack import BlockDevice, Bounce, CryptoProfile, Inline, Line
from mktme.stack.path import FilePath
from pmem import Device, dax

SIZE = 64 << 20  # bytes of the file
FILES = 10_000


def files(folder: Path, rounds: int) -> Iterator[Figure]:
    """Every figure, on images of a folder."""
    yield from line(folder, rounds)
    yield from creates(folder, max(3, rounds // 4))


def _system(device: Device, path: FilePath[Any]) -> FileSystem:
    system = FileSystem(dax.make(device, inodes=4 * FILES), path)
    system.mkdir("/d")
    system.set_policy("/d", Policy(system.keyring.add(bytes(range(64)))))
    return system


def line(folder: Path, rounds: int) -> Iterator[Figure]:
    """A file on the line path against the region that maps the same bytes."""
    with pmem.create(folder / "line.img", 2 * SIZE) as device:
        system = _system(device, Line(Controller(device, threads=1)))
        with system.create("/d/large") as file:
            data = aligned(SIZE)
            file.write(0, data)
            mapped = file.map()
            ((_, region),) = mapped.regions
            for request in (1 << 20, SIZE):
                part = data[:request]
                runs: dict[str, Run] = {
                    "region read": repeated(partial(region.read_into, part), request, SIZE // request),
                    "read": repeated(partial(file.read_into, part), request, SIZE // request),
                    "region write": repeated(partial(region.write, 0, part), request, SIZE // request),
                    "write": repeated(partial(file.write, 0, part), request, SIZE // request),
                }
                samples = interleave(runs, rounds)
                for name in ("read", "write"):
                    what = f"{request >> 20} MiB {name} of a file on the line path, of its region's"
                    yield speedup("files", what, samples[name], samples[f"region {name}"], 0.85)
            del mapped, region
        system.volume.close()


def creates(folder: Path, rounds: int) -> Iterator[Figure]:
    """Empty files with keys of their own, made and closed."""
    for name, make in (
        ("bounce", Bounce),
        ("inline", lambda device: Inline(BlockDevice(device, CryptoProfile()))),
        ("line", lambda device: Line(Controller(device))),
    ):
        rates = []
        for number in range(rounds):
            with pmem.create(folder / f"{name}{number}.img", 128 << 20) as device:
                system = _system(device, make(device))
                begin = time.perf_counter()
                for n in range(FILES):
                    system.create(f"/d/file-{n}").close()
                rates.append(FILES / (time.perf_counter() - begin))
                system.volume.close()
        what = f"{FILES} creates with per-file keys, {name}"
        yield Figure("files", what, statistics.median(rates), "/s", 5000, spread=(min(rates), max(rates)))
