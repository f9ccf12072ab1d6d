"""The workloads of the overhead benchmark: what requests a contestant is given.

A workload is a list of requests and how to do one. Real input is the running Python's standard
library: its source files, stored one after another.
"""

from __future__ import annotations

import hashlib
import sysconfig
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from mktme.lab.contestants import Contestant
from pmem.geometry import LINE, PAGE, format_size

REQUESTS = (64, 4096, 1 << 16, 1 << 20, 1 << 24)  # bytes of the sequential requests
BATCH = 4096  # lines of a scattered request
GROUPS = ("files", "sequential", "random", "zipfian")
THETA = 0.99  # the skew of YCSB's zipfian generator
STEP = 0.02  # seconds that a turn takes at least

Operation = Callable[[Contestant, Any], int]  # does one request and returns its bytes


@dataclass(frozen=True)
class Workload:
    """Requests, what does one of them, and the bytes of one for people to read."""

    name: str
    request: str
    operation: Operation
    requests: Sequence[Any]


class Turns:
    """A contestant's turns at a workload: each goes on where the last one ended, for about STEP
    seconds, or through all the requests if that is less.
    """

    def __init__(self, workload: Workload, contestant: Contestant) -> None:
        self._workload, self._contestant = workload, contestant
        self._next, self._count = 0, 0

    def __call__(self) -> int:
        if not self._count:
            self._count = self._calibrate()
        return self._do(self._count)

    def _do(self, count: int) -> int:
        operation, requests, moved = self._workload.operation, self._workload.requests, 0
        for number in range(self._next, self._next + count):
            moved += operation(self._contestant, requests[number % len(requests)])
        self._next = (self._next + count) % len(requests)
        return moved

    def _calibrate(self) -> int:
        self._do(1)  # which may compile
        count = 1
        while True:
            begin = time.perf_counter()
            self._do(count)
            took = time.perf_counter() - begin
            if took >= STEP or count >= len(self._workload.requests):
                return min(count, len(self._workload.requests))
            count *= 2


def sequential(size: int) -> Iterator[Workload]:
    """Reads, then writes, one after another, at each request size that fits."""
    for request in (r for r in REQUESTS if r <= size):
        buffer = np.arange(request, dtype=np.uint8)
        offsets = np.arange(0, size - request + 1, request).tolist()
        yield Workload("in order, read", format_size(request), _reader(buffer), offsets)
        yield Workload("in order, write", format_size(request), _writer(buffer), offsets)


def random(size: int, rng: np.random.Generator) -> Iterator[Workload]:
    """Random lines, 4096 in a call; random pages, one in a call."""
    lines = (rng.integers(0, size // LINE, (256, BATCH)) * LINE).astype(np.uint64)
    rows = np.arange(BATCH * LINE, dtype=np.uint8).reshape(BATCH, LINE)

    def read_lines(contestant: Contestant, addresses: npt.NDArray[np.uint64]) -> int:
        return contestant.read_lines(addresses).size

    def write_lines(contestant: Contestant, addresses: npt.NDArray[np.uint64]) -> int:
        contestant.write_lines(addresses, rows)
        return rows.size

    yield Workload("random, read", f"{BATCH}x64B", read_lines, list(lines))
    yield Workload("random, write", f"{BATCH}x64B", write_lines, list(lines))
    page = np.arange(PAGE, dtype=np.uint8)
    offsets = (rng.integers(0, size // PAGE, 1 << 16) * PAGE).tolist()
    yield Workload("random, read", "4KiB", _reader(page), offsets)
    yield Workload("random, write", "4KiB", _writer(page), offsets)


def zipfian(size: int, rng: np.random.Generator) -> Iterator[Workload]:
    """70 % reads and 30 % writes of pages, some pages much more often than others."""
    pages = size // PAGE
    weights = np.arange(1, pages + 1, dtype=np.float64) ** -THETA
    ranks = np.searchsorted(np.cumsum(weights) / weights.sum(), rng.random(1 << 16))
    offsets = rng.permutation(pages)[ranks] * PAGE
    reads = rng.random(offsets.size) < 0.7
    page, buffer = np.arange(PAGE, dtype=np.uint8), np.empty(PAGE, np.uint8)

    def either(contestant: Contestant, request: tuple[int, bool]) -> int:
        offset, read = request
        if read:
            contestant.read_into(buffer, offset)
        else:
            contestant.write(offset, page)
        return PAGE

    yield Workload("zipfian, 70/30", "4KiB", either, list(zip(offsets.tolist(), reads.tolist(), strict=True)))


def library_files() -> list[Path]:
    """The standard library's source files, in the order of their paths."""
    found = sorted(Path(sysconfig.get_paths()["stdlib"]).rglob("*.py"))
    return [path for path in found if not {"site-packages", "dist-packages"} & set(path.parts)]


def library(limit: int) -> list[npt.NDArray[np.uint8]]:
    """The standard library's source files, in the order of their paths, up to `limit` bytes."""
    found, total = [], 0
    for path in library_files():
        data = np.fromfile(path, np.uint8)
        if data.size and total + data.size <= limit:
            found.append(data)
            total += data.size
    return found


class Files:
    """The standard library's files, stored one after another, read back and compared by hash."""

    def __init__(self, size: int) -> None:
        self.files = library(size)
        ends = np.cumsum([data.size for data in self.files]).tolist()
        self.places = [(end - data.size, data) for end, data in zip(ends, self.files, strict=True)]
        self._room = np.empty(max((data.size for data in self.files), default=0), np.uint8)

    @property
    def total(self) -> int:
        """Bytes of all the files."""
        return sum(data.size for data in self.files)

    def workloads(self) -> Iterator[Workload]:
        """Store the files; read them."""
        request = f"{len(self.files)} files"
        yield Workload("files, write", request, self._store, self.places)
        yield Workload("files, read", request, self._fetch, self.places)

    def _store(self, contestant: Contestant, place: tuple[int, npt.NDArray[np.uint8]]) -> int:
        offset, data = place
        contestant.write(offset, data)
        return data.size

    def _fetch(self, contestant: Contestant, place: tuple[int, npt.NDArray[np.uint8]]) -> int:
        offset, data = place
        contestant.read_into(self._room[: data.size], offset)
        return data.size

    def verify(self, contestant: Contestant) -> bool:
        """Store everything and read it back: whether the SHA-256 of every file is what it was."""
        for place in self.places:
            self._store(contestant, place)
        for offset, data in self.places:
            self._fetch(contestant, (offset, data))
            if hashlib.sha256(self._room[: data.size].data).digest() != hashlib.sha256(data.data).digest():
                return False
        return True


def _reader(buffer: npt.NDArray[np.uint8]) -> Operation:
    into = np.empty_like(buffer)

    def read(contestant: Contestant, offset: int) -> int:
        contestant.read_into(into, offset)
        return into.size

    return read


def _writer(buffer: npt.NDArray[np.uint8]) -> Operation:
    def write(contestant: Contestant, offset: int) -> int:
        contestant.write(offset, buffer)
        return buffer.size

    return write
