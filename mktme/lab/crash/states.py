"""The states that a power failure can leave, made one after another on one device."""

from __future__ import annotations

import itertools
import math
import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from mktme.bus import Way
from mktme.crypto.cipher import Words
from mktme.lab.crash.engines import Engine
from mktme.lab.crash.recording import Piece, Point, Recording
from pmem.device import Device
from pmem.geometry import LINE, PAGE
from pmem.tracked import Snapshot

Atomicity = Literal["store"] | int
Segment = tuple[int, int, bytes]
TEARS = 6  # ways to tear a line between two stores, at most
WORD = 8


class StateDevice(Snapshot):
    """A medium as it was when a program began, that takes on states and goes back.

    A `Snapshot` that keeps the pages it has before they are written, until `undo`.
    """

    follows_stores = True

    def __init__(self, source: Device) -> None:
        super().__init__(source)
        self.bytes = memoryview(self.mapping())  # type: ignore[arg-type]
        self._saved: dict[int, bytes] = {}

    def reserve(self, offset: int, length: int) -> None:
        super().reserve(offset, length)
        for page in range(offset // PAGE, -(-(offset + length) // PAGE)):
            self.save(page)

    def reserve_lines(self, addresses: Words) -> None:
        super().reserve_lines(addresses)
        for page in np.unique(addresses // np.uint64(PAGE)).tolist():
            self.save(page)

    def storing(self, offset: int, length: int) -> None:
        self.reserve(offset, length)

    def storing_lines(self, addresses: Words) -> None:
        self.reserve_lines(addresses)

    def save(self, page: int) -> None:
        """Keep a page as it is."""
        if page not in self._saved:
            self._saved[page] = self.bytes[page * PAGE : (page + 1) * PAGE].tobytes()

    def undo(self) -> None:
        """Set back what was written since the last `undo`."""
        media, saved = self.bytes, self._saved
        while saved:
            page, data = saved.popitem()
            media[page * PAGE : (page + 1) * PAGE] = data

    def close(self) -> None:
        self.bytes.release()
        super().close()


@dataclass(slots=True, eq=False)
class Option:
    """What may have become of a track: all pieces before `there` are on the medium.

    `segments`: the bytes that differ then, as (begin, end, bytes); None where lines depend on each
    other and are to go through the controller. `torn`: of the last piece these words alone.
    """

    there: int
    segments: list[Segment] | None
    torn: tuple[int, ...] | None = None


@dataclass(slots=True, eq=False)
class Track:
    """Pieces that reach the medium in the order of their stores: of a line, or of a sector."""

    pieces: list[int]  # places in the point's list
    options: list[Option]


class States:
    """The states of one point. `atomicity`: bytes that persist whole, or "store" for each store apart."""

    def __init__(
        self,
        device: StateDevice,
        recording: Recording,
        point: Point,
        atomicity: Atomicity,
        *,
        evictions: bool,
        seed: int,
    ) -> None:
        self._device, self._recording, self._point = device, recording, point
        self._draw = random.Random(seed)
        self.places = [i for i, (_, flushed) in enumerate(point.pieces) if evictions or flushed]
        self.pieces = [point.pieces[i][0] for i in self.places]
        self._segments = [self._alone(piece) for piece in self.pieces]
        self._tear = atomicity == WORD
        tracks: dict[object, list[int]] = {}
        for i, piece in enumerate(self.pieces):
            tracks.setdefault(_track(recording.kind, piece, atomicity), []).append(i)
        self.tracks = [Track(places, self._options(places)) for places in tracks.values()]
        self._of = {i: (t, n + 1) for t, track in enumerate(self.tracks) for n, i in enumerate(track.pieces)}
        self._simple = all(o.segments is not None for track in self.tracks for o in track.options)
        if point.volatile and not self._simple:  # the counter cache, written back just then or not
            self.tracks.append(Track([], [Option(0, None), Option(0, None)]))

    # What a piece does to the medium

    def _way(self, piece: Piece) -> Way | None:
        if piece.cache is None:
            return None
        return self._point.ways[self._recording.caches.index(piece.cache), piece.number]

    def address(self, piece: Piece) -> tuple[int, int]:
        """A piece's address on the device, and its KeyID."""
        address = piece.number * LINE
        if piece.cache is None:
            return address, 0
        physical, keyids = piece.cache.memory.split(np.array([address], np.uint64))
        return int(physical[0]), int(keyids[0])

    def _address(self, piece: Piece) -> int:
        return self.address(piece)[0]

    def _alone(self, piece: Piece) -> list[Segment] | None:
        """What changes when a piece reaches the medium; None if that depends on other pieces."""
        way = self._way(piece)
        if way is None:
            at = piece.number * LINE
            return [(at + piece.begin, at + piece.end, piece.row[piece.begin : piece.end])]
        if not way.alone:
            return None
        address = self._address(piece)
        device = self._device
        touched = way.touched(np.array([address], np.uint64)).tolist()
        before = {line: device.bytes[line : line + LINE].tobytes() for line in touched}
        self._through(way, [piece])
        segments = []
        for line in touched:
            after = device.bytes[line : line + LINE].tobytes()
            if line == address:
                segments.append((line, line + LINE, after))
            else:
                segments += _changes(line, before[line], after)
        device.undo()
        return segments

    def _through(self, way: Way, pieces: Sequence[Piece]) -> None:
        addresses = np.array([self._address(piece) for piece in pieces], np.uint64)
        rows = np.frombuffer(b"".join(piece.row for piece in pieces), np.uint8).reshape(-1, LINE)
        way.write(self._device, addresses, np.arange(len(pieces), dtype=np.uint64), rows.copy())

    def _options(self, places: list[int]) -> list[Option]:
        made = [Option(0, [])]
        so_far: dict[object, int] = {}
        for n, i in enumerate(places):
            piece, before = self.pieces[i], dict(so_far)
            key = (piece.cache, piece.number, piece.begin, piece.end)
            so_far.pop(key, None)
            so_far[key] = i
            made.append(Option(n + 1, self._joined([*so_far.values()])))
            if self._tear:
                made += self._torn(n + 1, piece, before, so_far)
        return made

    def _joined(self, places: list[int]) -> list[Segment] | None:
        joined: list[Segment] = []
        for i in places:
            segments = self._segments[i]
            if segments is None:
                return None
            joined += segments
        return joined

    def _torn(
        self, there: int, piece: Piece, before: dict[object, int], after: dict[object, int]
    ) -> list[Option]:
        """A line between two stores, some of its words as after the second."""
        at = self._address(piece)
        base = self._device.bytes[at : at + LINE].tobytes()
        whole = self._joined([*after.values()])
        words = tuple(range(LINE // WORD))
        if whole is not None:
            old, new = _line(base, at, self._joined([*before.values()]) or []), _line(base, at, whole)
            words = tuple(
                w for w in words if old[w * WORD : (w + 1) * WORD] != new[w * WORD : (w + 1) * WORD]
            )
        made = []
        for landed in self._subsets(words):
            segments = None
            if whole is not None:
                line = bytearray(old)
                for w in landed:
                    line[w * WORD : (w + 1) * WORD] = new[w * WORD : (w + 1) * WORD]
                segments = [*whole, (at, at + LINE, bytes(line))]
            made.append(Option(there, segments, landed))
        return made

    def _subsets(self, words: tuple[int, ...]) -> list[tuple[int, ...]]:
        """Some or all proper subsets of words, not empty."""
        count = len(words)
        if 2**count - 2 <= TEARS:
            return [s for k in range(1, count) for s in itertools.combinations(words, k)]
        drawn: set[tuple[int, ...]] = set()
        while len(drawn) < TEARS:
            drawn.add(tuple(sorted(self._draw.sample(words, self._draw.randint(1, count - 1)))))
        return sorted(drawn)

    # Which states there are

    @property
    def all(self) -> int:
        """How many states there are."""
        return math.prod(len(track.options) for track in self.tracks)

    def cuts(self, engine: Engine | None, limit: int) -> Iterator[tuple[int, ...]]:
        """States, as the option of each track; without an engine all, or `limit` of them, drawn."""
        tracks = self.tracks
        if engine is not None:
            whole = [{o.there: i for i, o in enumerate(t.options) if o.torn is None} for t in tracks]
            for chosen in engine.subsets(len(self.pieces), self._draw.getrandbits(32)):
                there = [0] * len(tracks)
                for i in chosen:
                    t, n = self._of[i]
                    there[t] = max(there[t], n)
                yield tuple(whole[t].get(n, 0) for t, n in enumerate(there))
            return
        sizes = [len(track.options) for track in tracks]
        if self.all <= limit:
            yield from itertools.product(*map(range, sizes))
            return
        full = tuple(self._last(track) for track in tracks)
        drawn: dict[tuple[int, ...], None] = {full: None, (0,) * len(tracks): None}
        for t in range(len(tracks)):
            drawn[(*full[:t], 0, *full[t + 1 :])] = None
            drawn[(*(0,) * t, full[t], *(0,) * (len(tracks) - t - 1))] = None
        while len(drawn) < limit:
            drawn[tuple(map(self._draw.randrange, sizes))] = None
        yield from itertools.islice(drawn, limit)

    @staticmethod
    def _last(track: Track) -> int:
        return max(i for i, option in enumerate(track.options) if option.torn is None)

    def put(self, cut: tuple[int, ...]) -> None:
        """Have the device be in a state; `StateDevice.undo` ends it."""
        device = self._device
        if self._simple:
            media, save = device.bytes, device.save
            for track, i in zip(self.tracks, cut, strict=True):
                if i:
                    for begin, end, data in track.options[i].segments or ():
                        save(begin // PAGE)
                        media[begin:end] = data
            return
        self._put_through(cut)

    def _put_through(self, cut: tuple[int, ...]) -> None:
        """The same where lines depend on each other: they go through the controller, in order."""
        latest: dict[object, int] = {}
        torn = []
        for track, i in zip(self.tracks, cut, strict=True):
            option = track.options[i]
            for place in track.pieces[: option.there]:
                latest[self.pieces[place].cache, self.pieces[place].number] = place
            if option.torn is not None:
                piece = self.pieces[track.pieces[option.there - 1]]
                at = self._address(piece)
                torn.append((at, option.torn, self._device.bytes[at : at + LINE].tobytes()))
        pieces = [self.pieces[place] for place in sorted(latest.values())]
        counters = self._load_counter_cache(pieces) if self._point.volatile else {}
        for way, some in itertools.groupby(pieces, self._way):
            if way is not None:
                self._through(way, list(some))
                continue
            for piece in some:
                if piece.number * LINE not in counters:
                    self._store(piece.number * LINE, piece.row)
        if not cut[-1]:
            for at, row in counters.items():
                self._store(at, row)
        for at, landed, old in torn:
            for w in set(range(LINE // WORD)).difference(landed):
                self._device.bytes[at + w * WORD : at + (w + 1) * WORD] = old[w * WORD : (w + 1) * WORD]

    def _store(self, at: int, row: bytes) -> None:
        self._device.save(at // PAGE)
        self._device.bytes[at : at + LINE] = row

    def _load_counter_cache(self, pieces: list[Piece]) -> dict[int, bytes]:
        """Have the newest counters where write-backs read them; what the medium has of them instead."""
        media, kept = self._device.bytes, {}
        for piece in pieces:
            way = self._way(piece)
            if way is not None:
                for at in way.touched(np.array([self._address(piece)], np.uint64)).tolist():
                    if self._is_counter(at):
                        kept[at] = media[at : at + LINE].tobytes()
        newest = {p.number * LINE: p.row for p in self.pieces if p.cache is None}
        there = {p.number * LINE: p.row for p in pieces if p.cache is None}
        for at, row in newest.items():
            if self._is_counter(at):
                kept[at] = there.get(at, media[at : at + LINE].tobytes())
                self._store(at, row)
        return kept | {at: row for at, row in there.items() if at in kept}

    def _is_counter(self, at: int) -> bool:
        return any(begin <= at < end for begin, end in self._point.volatile)

    def lost_counters(self, cut: tuple[int, ...]) -> bool:
        """Whether the counter cache was lost in a state."""
        return bool(self._point.volatile) and not self._simple and not cut[-1]

    def settle(self) -> None:
        """Go on to the next point: what is durable then, is."""
        for offset, data in self._point.delta:
            self._device.bytes[offset : offset + len(data)] = data

    def missing(self, cut: tuple[int, ...]) -> list[int]:
        """The pieces that aren't on the medium in a state, and those that are there in part."""
        gone = []
        for track, i in zip(self.tracks, cut, strict=True):
            option = track.options[i]
            gone += track.pieces[option.there - (option.torn is not None) :]
        return sorted(gone)


def _track(kind: str, piece: Piece, atomicity: Atomicity) -> object:
    """What orders a piece: pieces of one track reach the medium in the order of their stores."""
    if kind == "eadr":
        return None
    if atomicity == "store":
        return piece.store
    assert isinstance(atomicity, int)
    return piece.cache, piece.number // max(1, atomicity // LINE)


def expected_states(
    recording: Recording,
    point: Point,
    atomicity: Atomicity,
    engine: Engine | None,
    evictions: bool,
    limit: int,
) -> int:
    """About how many states of a point will be looked at; exactly, where no line is torn."""
    pieces = [piece for piece, flushed in point.pieces if evictions or flushed]
    if engine is not None:
        return engine.count(len(pieces))
    sizes: dict[object, int] = {}
    for piece in pieces:
        track = _track(recording.kind, piece, atomicity)
        sizes[track] = sizes.get(track, 1) + (1 + TEARS if atomicity == WORD else 1)
    return min(limit, math.prod(sizes.values()))


def _line(base: bytes, at: int, segments: list[Segment]) -> bytes:
    """A line with segments over it."""
    line = bytearray(base)
    for begin, end, data in segments:
        if at <= begin and end <= at + LINE:
            line[begin - at : end - at] = data
    return bytes(line)


def _changes(at: int, before: bytes, after: bytes) -> list[Segment]:
    """The runs of bytes that differ."""
    made, begin = [], None
    for i in range(LINE + 1):
        differs = i < LINE and before[i] != after[i]
        if differs and begin is None:
            begin = i
        elif not differs and begin is not None:
            made.append((at + begin, at + i, after[begin:i]))
            begin = None
    return made
