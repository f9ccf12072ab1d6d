"""Power failures: stores while a persistence domain follows them, and states that the explorer checks.

python bench/figures.py --only crash
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from figure import Figure

import pmem
from mktme import Controller, Key
from mktme.lab import crash
from pmem.geometry import LINE

SIZE = 4 << 20  # bytes that are stored at once
STORES = 10


def crashes(folder: Path, rounds: int) -> Iterator[Figure]:
    """Every figure, on images of a folder."""
    yield from following(folder, max(3, rounds // 3))
    yield from exploring(max(3, rounds // 3))


def following(folder: Path, rounds: int) -> Iterator[Figure]:
    """64-byte stores in bulk calls under ADR: into the CPU cache, to the device, and made durable."""
    data = np.random.default_rng(1).integers(0, 256, SIZE, np.uint8)
    lines = data.reshape(-1, LINE)
    addresses = np.random.default_rng(2).permutation(SIZE // LINE).astype(np.uint64) * np.uint64(LINE)
    path = folder / "crash.img"
    with pmem.create(path, 2 * SIZE, domain="adr") as device:
        controller = Controller(device)
        region = controller.map(0, SIZE, controller.program_key(Key.generate("aes-xts-128")))
        calls: dict[str, Callable[[], Any]] = {
            "range of a region": lambda: region.write(0, data),
            "scattered lines": lambda: controller.write_lines(addresses, lines),
            "range of the device": lambda: device.write(SIZE, data),
        }
        times: dict[str, list[float]] = {}
        for _ in range(rounds + 1):
            for name, call in calls.items():
                start = time.perf_counter()
                call()
                stored = time.perf_counter()
                (device if "device" in name else region).persist()
                done = time.perf_counter()
                times.setdefault(name, []).append(SIZE / LINE / (stored - start) / 1e6)
                times.setdefault(f"{name}, persisted", []).append(SIZE / LINE / (done - start) / 1e6)
        for name, found in times.items():
            target = 0.0 if "persisted" in name else 1.0
            yield _figure(f"stores of 64 bytes, {name}", found[1:], "M/s", target)
    path.unlink()


def exploring(rounds: int) -> Iterator[Figure]:
    """States a second of a program with ten stores before a fence, and a check that reads a byte."""

    def program(memory: Any) -> None:
        for number in range(STORES):
            memory.write(number * LINE, bytes([number + 1]) * 8)
        memory.persist()

    def cheap(device: Any) -> None:
        device.bytes[0]

    def first_line(memory: Any) -> None:
        memory.read(0, 8)

    worlds: dict[str, dict[str, Any]] = {
        "plain memory": {"size": "64KiB"},
        "pmem-line, raw check": {
            "setup": crash.world("pmem-line"),
            "reopen": lambda device: device,
            "size": "64KiB",
        },
        "pmem-line, keys programmed and mapped anew": {"setup": crash.world("pmem-line"), "size": "64KiB"},
        "ctr-split, keys programmed and mapped anew": {
            "setup": crash.world("ctr-split"),
            "size": crash.room("ctr-split", "64KiB"),
        },
    }
    for name, given in worlds.items():
        check = first_line if "anew" in name else cheap
        rates = []
        for _ in range(rounds + 1):
            result = crash.explore(program, check, **given)
            rates.append(result.states / result.seconds / 1e3)
        note = f"{result.states} states"
        yield _figure(f"explored states, {name}", rates[1:], "k/s", 0.0 if "anew" in name else 20.0, note)


def _figure(name: str, found: list[float], unit: str, target: float, note: str = "") -> Figure:
    low, median, high = np.percentile(found, [25, 50, 75]).tolist()
    return Figure("crash", name, median, unit, target, spread=(low, high), note=note)
