"""What the contestants are asked to do with files."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from mktme.lab.paths.subjects import Subject
from mktme.lab.workloads import library_files
from pmem.geometry import PAGE, format_size

GROUPS = ("sequential", "random", "small", "scan", "tree", "churn")
REQUESTS = (64, 4096, 1 << 16, 1 << 20)
DRAWN = 4096  # random places
LOG = 1 << 20  # bytes after which a log begins anew
TREE = 4 << 20  # bytes of the library's files
ALIVE = 256  # files that there are at once in the churn: more than KeyIDs and keyslots

Operation = Callable[[int], int]  # does request number i and returns its bytes


@dataclass(frozen=True)
class Workload:
    """`prepare` makes a subject's files and returns what does a request; `group` is one of GROUPS."""

    group: str
    name: str
    request: str
    prepare: Callable[[Subject], Operation]


def workloads(groups: Iterable[str], size: int, seed: int) -> Iterator[Workload]:
    """The workloads of some groups on files of `size` bytes."""
    makers = {
        "sequential": sequential,
        "random": random,
        "small": small,
        "scan": scan,
        "tree": tree,
        "churn": churn,
    }
    for group in groups:
        yield from makers[group](size, seed)


def _large(subject: Subject, size: int) -> None:
    """The file that is read and written at places, made once."""
    if not subject.system.exists(f"{subject.folder}/large"):
        with subject.create("large") as file:
            block = np.random.default_rng(7).integers(0, 256, 1 << 20, np.uint8)
            for at in range(0, size, block.size):
                file.write(at, block[: size - at])


def _reader(size: int, request: int, offsets: npt.NDArray[np.int64]) -> Callable[[Subject], Operation]:
    def prepare(subject: Subject) -> Operation:
        _large(subject, size)
        file, room, places = subject.open("large"), np.empty(request, np.uint8), offsets.tolist()

        def read(i: int) -> int:
            return file.read_into(room, places[i % len(places)])

        return read

    return prepare


def _writer(
    size: int, request: int, offsets: npt.NDArray[np.int64], *, persist: bool = False
) -> Callable[[Subject], Operation]:
    def prepare(subject: Subject) -> Operation:
        _large(subject, size)
        file, places = subject.open("large"), offsets.tolist()
        data = np.random.default_rng(request).integers(0, 256, request, np.uint8)

        def write(i: int) -> int:
            at = places[i % len(places)]
            file.write(at, data)
            if persist:
                file.persist(at, request)
            return request

        return write

    return prepare


def sequential(size: int, seed: int) -> Iterator[Workload]:
    """One request after the other."""
    for request in (r for r in REQUESTS if r <= size):
        offsets = np.arange(0, size - request + 1, request)
        text = format_size(request)
        yield Workload("sequential", "in order, read", text, _reader(size, request, offsets))
        yield Workload("sequential", "in order, write", text, _writer(size, request, offsets))


def random(size: int, seed: int) -> Iterator[Workload]:
    """Requests at random multiples of their size."""
    for request in (r for r in REQUESTS if r <= size):
        offsets = np.random.default_rng(seed).integers(0, size // request, DRAWN) * request
        text = format_size(request)
        yield Workload("random", "random, read", text, _reader(size, request, offsets))
        yield Workload("random", "random, write", text, _writer(size, request, offsets))


def small(size: int, seed: int) -> Iterator[Workload]:
    """Small updates, each made persistent before the next."""
    places = np.random.default_rng(seed).integers(0, size // 64, DRAWN) * 64
    yield Workload("small", "update, persist", "64B", _writer(size, 64, places, persist=True))
    counters = np.random.default_rng(seed).integers(0, PAGE // 8, DRAWN) * 8
    yield Workload("small", "counter, persist", "8B", _writer(size, 8, counters, persist=True))
    yield Workload("small", "log, persist", "64B", _append)


def _append(subject: Subject) -> Operation:
    """A log that grows by a record; it begins anew after 1 MiB."""
    file, record = subject.create("log"), np.arange(64, dtype=np.uint8)

    def append(i: int) -> int:
        if file.size >= LOG:
            file.truncate(0)
        at = file.size
        file.write(at, record)
        file.persist(at, record.size)
        return record.size

    return append


def scan(size: int, seed: int) -> Iterator[Workload]:
    """The file as a program has it that maps it; where it can't be mapped, it is read."""

    def prepare(request: int, offsets: npt.NDArray[np.int64]) -> Callable[[Subject], Operation]:
        def made(subject: Subject) -> Operation:
            _large(subject, size)
            file, room, places = subject.open("large"), np.empty(request, np.uint8), offsets.tolist()
            source = file.map() if subject.path.mappable else file

            def load(i: int) -> int:
                source.read_into(room, places[i % len(places)])
                return request

            return load

        return made

    mib = min(1 << 20, size)
    places = np.random.default_rng(seed).integers(0, size // 64, DRAWN) * 64
    yield Workload("scan", "mapped, scan", format_size(mib), prepare(mib, np.arange(0, size - mib + 1, mib)))
    yield Workload("scan", "mapped, lines", "64B", prepare(64, places))


def _sources() -> list[npt.NDArray[np.uint8]]:
    found, total = [], 0
    for path in library_files():
        data = np.fromfile(path, np.uint8)
        if data.size and total + data.size <= TREE:
            found.append(data)
            total += data.size
    return found


def tree(size: int, seed: int) -> Iterator[Workload]:
    """The standard library's source files: copied in, one after the other, then read back."""
    sources = _sources()

    def copy(subject: Subject) -> Operation:
        def store(i: int) -> int:
            number, data = i % len(sources), sources[i % len(sources)]
            name = f"tree-{number}"
            if i >= len(sources):
                subject.remove(name)
            with subject.create(name) as file:
                file.write(0, data)
            return data.size

        return store

    def fetch(subject: Subject) -> Operation:
        room = np.empty(max(data.size for data in sources), np.uint8)
        for number, data in enumerate(sources):
            name = f"tree-{number}"
            if not subject.system.exists(f"{subject.folder}/{name}"):
                with subject.create(name) as file:
                    file.write(0, data)

        def load(i: int) -> int:
            with subject.open(f"tree-{i % len(sources)}") as file:
                return file.read_into(room[: file.size])

        return load

    text = f"{len(sources)} files"
    yield Workload("tree", "tree, copy", text, copy)
    yield Workload("tree", "tree, read", text, fetch)


def churn(size: int, seed: int) -> Iterator[Workload]:
    """Files come and go: one is made, another one read, the oldest deleted."""
    data = np.arange(PAGE, dtype=np.uint16).astype(np.uint8)
    others = np.random.default_rng(seed).integers(1, ALIVE, DRAWN).tolist()

    def prepare(subject: Subject) -> Operation:
        room = np.empty(PAGE, np.uint8)

        def turn(i: int) -> int:
            with subject.create(f"churn-{i}") as file:
                file.write(0, data)
            moved = PAGE
            if i >= ALIVE:
                with subject.open(f"churn-{i - others[i % DRAWN]}") as file:
                    moved += file.read_into(room)
                subject.remove(f"churn-{i - ALIVE}")
            return moved

        return turn

    yield Workload("churn", "create, read, delete", "4KiB", prepare)
