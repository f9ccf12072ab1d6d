"""Real clients: views of regions, SQLite, and what a crash check of a database costs.

python bench/figures.py --only clients
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from figure import Figure

import mktme
import pmem
from mktme.clients import sqlite
from mktme.pages import CHUNK

SIZE = 64 << 20
FAULTS = 256
TRANSACTIONS = 300


def clients(folder: Path, rounds: int) -> Iterator[Figure]:
    """Every figure, with images in a folder."""
    yield from views(folder, max(3, rounds // 3))
    yield from transactions(folder, max(3, rounds // 3))


def _region(device: pmem.Device, size: int) -> mktme.Region:
    controller = mktme.Controller(device, threads=1)
    return controller.map(0, size, controller.program_key(mktme.Key.generate("aes-xts-256")), iv="pmem-line")


def views(folder: Path, rounds: int) -> Iterator[Figure]:
    """A fault, a first touch in order, and arrays whose pages are there."""
    path = folder / "view.img"
    found: dict[str, list[float]] = {}
    with pmem.create(path, SIZE) as device:
        region = _region(device, SIZE)
        data = np.random.default_rng(1).random(SIZE // 8)
        region.write(0, data)
        for number in range(rounds + 1):
            places = np.random.default_rng(number).permutation(SIZE // CHUNK // 2)[:FAULTS] * 2 * CHUNK // 8
            view = region.view(np.float64)
            took = []
            for place in places.tolist():
                start = time.perf_counter()
                view[place]
                took.append((time.perf_counter() - start) * 1e6)
            del view
            region.close_view()
            view = region.view(np.float64)
            marks = [time.perf_counter()]
            for array in (view, view, data):
                array.sum()
                marks.append(time.perf_counter())
            view[::512] += 1  # a store to each page
            marks.append(time.perf_counter())
            region.persist()
            marks.append(time.perf_counter())
            first, again, plain, _, flush = np.diff(marks).tolist()
            if number:
                for name, value in (
                    ("fault", float(np.median(took))),
                    ("first", SIZE / first / 1e6),
                    ("again", plain / again),
                    ("flush", SIZE / flush / 1e6),
                ):
                    found.setdefault(name, []).append(value)
            del view, array
            region.close_view()
            region.write(0, data)
    path.unlink()
    yield _figure("view: a touch at random, 64 KiB around it decrypted", found["fault"], "us")
    yield _figure("view: first touch in order", found["first"], "MB/s")
    yield _figure("view: speed afterwards, of a plain array", found["again"], "x", "a sum of 64 MiB")
    yield _figure("view: flush of pages that were all written to", found["flush"], "MB/s")


def transactions(folder: Path, rounds: int) -> Iterator[Figure]:
    """Transactions of a row in a region, synchronous=FULL."""
    for journal in ("delete", "truncate", "wal"):
        took = []
        for _ in range(rounds):
            path = folder / "sqlite.img"
            with pmem.create(path, SIZE) as device:
                connection = sqlite.connect(_region(device, SIZE), journal=journal)
                connection.pragma("synchronous", "full")
                connection.execute("CREATE TABLE t(id INTEGER PRIMARY KEY, number INTEGER)")
                start = time.perf_counter()
                for number in range(TRANSACTIONS):
                    connection.execute("INSERT INTO t(number) VALUES(?)", (number,))
                took.append((time.perf_counter() - start) / TRANSACTIONS * 1e6)
                connection.close()
            path.unlink()
        yield _figure(f"SQLite in a region: a durable transaction, {journal}", took, "us")


def _figure(name: str, found: list[float], unit: str, note: str = "") -> Figure:
    low, median, high = np.percentile(found, [25, 50, 75]).tolist()
    return Figure("clients", name, median, unit, 0.0, False, (low, high), note)
