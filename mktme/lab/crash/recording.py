"""What a program did to persistent memory: its stores, flushes and fences, and what it promised."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

import mktme
import pmem
from mktme.bus import Bus, Way
from mktme.storelog import Event, Fence, Flush, RegisterFile, Store
from pmem.buffers import Bytes
from pmem.cache import CpuCache
from pmem.geometry import LINE
from pmem.tracked import TrackedDevice

# What stands between a program and the medium; the first frame outside of these is who stored.
_PMEM, _MKTME = Path(pmem.__file__).parent, Path(mktme.__file__).parent
_PLUMBING = tuple(
    str(path)
    for path in (
        *(_PMEM / name for name in ("device.py", "tracked.py", "domain.py", "cache.py", "dax/medium.py")),
        *(
            _MKTME / name
            for name in ("region.py", "array.py", "controller.py", "bus.py", "stack", "lab/crash")
        ),
        str(Path(np.__file__).parent),
    )
)


@dataclass(slots=True, eq=False)
class Piece:
    """A line as one store left it.

    `store` is the number of the call, `cache` where the line is (None: on the medium itself), `number`
    its number on the bus or the medium, `row` its 64 bytes afterwards, `begin` and `end` which of
    them the store wrote.
    """

    store: int
    cache: CpuCache | None
    number: int
    row: bytes
    begin: int = 0
    end: int = LINE
    flushed: bool = False


@dataclass(slots=True, eq=False)
class Point:
    """A moment just before something becomes durable: `pieces` may or may not be on the medium.

    `source`: who fences. `ways`: how cached lines went through the controller then. `delta`: what is
    durable afterwards that was not before, as (offset, bytes). `promised`: how many promises had been
    made.
    """

    event: int
    source: str
    pieces: list[tuple[Piece, bool]]  # and whether it had been flushed
    ways: dict[tuple[int, int], Way]
    promised: int
    volatile: list[tuple[int, int]]  # where counters lie that a counter cache may not have written back
    delta: list[tuple[int, bytes]] = field(default_factory=list)


@dataclass
class Recording:
    """A run of a program: where it could have been interrupted, who stored, what was promised."""

    kind: str
    points: list[Point] = field(default_factory=list)
    sources: list[str] = field(default_factory=list)  # of each store
    promised: list[Any] = field(default_factory=list)
    events: list[Piece | tuple[CpuCache | None, int, int] | None] = field(
        default_factory=list
    )  # None: a fence
    caches: list[CpuCache] = field(default_factory=list)
    kept: list[Callable[[], None]] = field(default_factory=list)  # wipe keys that states to come need

    def close(self) -> None:
        """Wipe the keys that were kept for the states."""
        for wipe in self.kept:
            wipe()
        self.kept.clear()


class Recorder:
    """Follows a domain (`pmem.domain.Observer`) while a program runs, in one thread."""

    def __init__(self, device: TrackedDevice) -> None:
        self._device, self._domain = device, device.domain
        self.recording = Recording(self._domain.kind, caches=self._domain.caches)
        self._domain.observer = self
        self._pending: list[Piece] = []
        self._known: dict[int, bytes] = {}  # lines of the medium, as we saw them last
        self._open: tuple[int, list[int]] | None = None  # a store to them that has perhaps not happened yet
        self._changed: set[int] = set()  # lines that were written back since the last point

    def stop(self) -> None:
        """Look away; what the caches hold is of no interest any more."""
        self._domain.observer = None
        self.recording.caches = [*self._domain.caches]  # the device lets go of its own when it is closed
        for cache in self._domain.caches:
            cache.discard(lambda _: True)

    @property
    def _rows(self) -> Bytes:
        return self._device.mapping().reshape(-1, LINE)

    def promise(self, value: Any) -> None:
        """The program says that something is durable."""
        self._resolve()
        if self.recording.kind == "eadr":  # where each store is durable, what came before is
            self.fencing("a promise")
            self.fenced()
        self.recording.promised.append(value)

    def finish(self) -> None:
        """The program has ended: the last point."""
        self.fencing("the end of the program")
        self._resolve()

    def retire(self, wipe: Callable[[], None]) -> None:
        """A key has left the table; states of before need it."""
        self.recording.kept.append(wipe)

    def stored(self, cache: CpuCache, numbers: list[int], rows: Bytes) -> None:
        self._resolve()
        store = self._store()
        for number, row in zip(numbers, rows, strict=True):
            self._add(Piece(store, cache, number, row.tobytes()))

    def touching(self, numbers: list[int], behind: bool) -> None:
        self._resolve_store()
        if behind:
            self._changed.update(numbers)
            return
        for number in numbers:
            if number not in self._known:
                self._known[number] = self._rows[number].tobytes()
        self._open = self._store(), numbers

    def flushed(self, cache: CpuCache | None, address: int, length: int) -> None:
        self._resolve()
        grain = self._domain.grain
        first = address // grain * grain // LINE
        last = -(-(address + length) // grain) * grain // LINE
        for piece in self._pending:
            if piece.cache is cache and first <= piece.number < last:
                piece.flushed = True
        self.recording.events.append((cache, address, length))

    def evicting(self, cache: CpuCache, numbers: list[int]) -> None:
        self._resolve()
        gone = set(numbers)
        self._point("an eviction")
        self._pending = [p for p in self._pending if p.cache is not cache or p.number not in gone]

    def fencing(self, source: str = "") -> None:
        self._resolve()
        self._point(source or f"the fence at {_source()}")
        if self.recording.kind == "eadr":
            for piece in self._pending:
                piece.flushed = True
            for cache in self.recording.caches:
                cache.send()
        self.recording.events.append(None)

    def fenced(self) -> None:
        delta = {}
        for piece in self._pending:
            if piece.flushed and piece.cache is None:
                delta[piece.number] = piece.row
        point = self.recording.points[-1]
        point.delta += [(number * LINE, row) for number, row in delta.items()]
        self._pending = [piece for piece in self._pending if not piece.flushed]
        self._resolve()

    def _store(self) -> int:
        self.recording.sources.append(_source())
        return len(self.recording.sources) - 1

    def _add(self, piece: Piece) -> None:
        self._pending.append(piece)
        self.recording.events.append(piece)

    def _point(self, source: str) -> None:
        pieces, ways = [(piece, piece.flushed) for piece in self._pending], {}
        for i, cache in enumerate(self.recording.caches):
            numbers = sorted({piece.number for piece in self._pending if piece.cache is cache})
            if numbers:
                assert isinstance(cache.memory, Bus)
                addresses = np.array(numbers, np.uint64) * np.uint64(LINE)
                for way in cache.memory.ways(addresses):
                    ways.update({(i, numbers[place]): way for place in way.order.tolist()})
        recording = self.recording
        volatile = [*self._domain.volatile]
        recording.points.append(
            Point(len(recording.events), source, pieces, ways, len(recording.promised), volatile)
        )

    def _resolve(self) -> None:
        """See what has come of what was about to happen."""
        self._resolve_store()
        if self._changed:
            delta = self.recording.points[-1].delta if self.recording.points else None
            for number in sorted(self._changed):
                row = self._rows[number].tobytes()
                if number in self._known:
                    self._known[number] = row
                assert delta is not None, "lines are written back after a point"
                delta.append((number * LINE, row))
            self._changed.clear()

    def _resolve_store(self) -> None:
        if self._open is not None:
            (store, numbers), self._open = self._open, None
            for number in numbers:
                row = self._rows[number].tobytes()
                if row != self._known[number]:
                    self._known[number] = row
                    self._add(Piece(store, None, number, row))


def _source() -> str:
    """Who stores: file, line and function of the first frame outside of the plumbing."""
    frame = sys._getframe(1)
    while frame.f_back is not None and frame.f_code.co_filename.startswith((*_PLUMBING, "<")):
        frame = frame.f_back
    code = frame.f_code
    return f"{_shown(code.co_filename)}:{frame.f_lineno} in {code.co_name}"


def _shown(file: str) -> str:
    """A file's path, as seen from the current folder where it is in it."""
    path = Path(file)
    return str(path.relative_to(Path.cwd())) if path.is_relative_to(Path.cwd()) else file


def of_log(events: Sequence[Event], media: Bytes, files: dict[str, int]) -> Recording:
    """The recording that a store log gives; `files`: where each registered file begins on the device.

    `media` holds the files as they were before, and afterwards as the log leaves them. Stores outside
    of registered files are left out.
    """
    recording = Recording("adr")
    known: list[RegisterFile] = []
    pending: list[Piece] = []

    def place(address: int) -> int | None:
        for file in reversed(known):
            if file.address <= address < file.address + file.size:
                return files[file.path] + file.offset + address - file.address
        return None

    def point(source: str) -> None:
        here = [(piece, piece.flushed) for piece in pending]
        recording.points.append(Point(len(recording.events), source, here, {}, 0, []))

    for event in events:
        if isinstance(event, RegisterFile):
            known.append(event)
        elif isinstance(event, Store):
            at = place(event.address)
            if at is None:
                continue
            recording.sources.append(event.source or "")
            done = 0
            while done < len(event.data):
                number, begin = divmod(at + done, LINE)
                end = min(LINE, begin + len(event.data) - done)
                row = media.reshape(-1, LINE)[number]
                row[begin:end] = np.frombuffer(event.data[done : done + end - begin], np.uint8)
                piece = Piece(len(recording.sources) - 1, None, number, row.tobytes(), begin, end)
                pending.append(piece)
                recording.events.append(piece)
                done += end - begin
        elif isinstance(event, Flush):
            at = place(event.address)
            if at is not None:
                for piece in pending:
                    if at // LINE <= piece.number <= (at + event.length - 1) // LINE:
                        piece.flushed = True
                recording.events.append((None, at, event.length))
        elif isinstance(event, Fence):
            point(f"fence {len(recording.points)}")
            recording.events.append(None)
            recording.points[-1].delta = [
                (p.number * LINE + p.begin, p.row[p.begin : p.end]) for p in pending if p.flushed
            ]
            pending = [piece for piece in pending if not piece.flushed]
    point("the end of the log")
    return recording
