"""The persistence domain: which stores a power failure leaves, and which it takes.

    adr    the write-pending queue of the memory controller is in the domain: a store is durable
           once its line has been flushed and a fence has followed (libpmem2: CACHE_LINE)
    eadr   the CPU cache is in the domain, too: a store is durable (BYTE)
    page   no persistent memory, a file in the page cache: durable once msync has returned (PAGE)

Whatever isn't durable may still reach the medium, line by line, at any time and in any order.
"""

from __future__ import annotations

import threading
import weakref
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, Protocol, cast, get_args

import numpy as np
import numpy.typing as npt

from pmem.buffers import Bytes
from pmem.cache import CpuCache, Words
from pmem.errors import DomainError
from pmem.geometry import LINE, PAGE
from pmem.granularity import StoreGranularity
from pmem.linetable import LineTable

if TYPE_CHECKING:
    from pmem.tracked import Snapshot

Kind = Literal["adr", "eadr", "page"]
Mask = npt.NDArray[np.bool_]
WORD = 8
CHUNK = 1 << 14  # lines that are looked at at once
GRANULARITY: dict[Kind, StoreGranularity] = {
    "adr": StoreGranularity.CACHE_LINE,
    "eadr": StoreGranularity.BYTE,
    "page": StoreGranularity.PAGE,
}


@dataclass(frozen=True)
class Pending:
    """Lines that may or may not be there after a power failure, in the order in which they were stored to.

    `addresses`: uint64, on the device; `keyids`: under which KeyID each is in the CPU cache, 0 without
    one; `flushed`: bool, whether it has been flushed, and only the fence is missing.
    """

    addresses: Words
    keyids: Words
    flushed: Mask


Policy = Literal["none", "all", "random"] | Callable[[Pending], npt.ArrayLike]


class Observer(Protocol):
    """Who follows what happens in a domain, to explore its power failures."""

    def stored(self, cache: CpuCache, numbers: list[int], rows: Bytes) -> None:
        """Lines of a cache have been stored to; `rows` is what they are now."""

    def touching(self, numbers: list[int], behind: bool) -> None:
        """Lines of the medium are about to change; `behind`: since a cache writes back."""

    def flushed(self, cache: CpuCache | None, address: int, length: int) -> None:
        """A range has been flushed, of a cache or (None) of the medium."""

    def retire(self, wipe: Callable[[], None]) -> None:
        """A key has left a controller's table, and is to be wiped once no state needs it."""

    def fencing(self) -> None:
        """A fence is about to make what was flushed durable."""

    def fenced(self) -> None:
        """It has."""

    def evicting(self, cache: CpuCache, numbers: list[int]) -> None:
        """Lines of a cache that no fence waits for are about to be written back."""


class Domain:
    """What a power failure would take from one device; given to `pmem.open` and `pmem.create`.

    `atomicity` is the number of bytes that are written whole or not at all when the power fails:
    64 as lines enter the queue, or 8, what software is promised; for `page` also 512 or 4096 (a
    sector of the disk). `capacity` is how many dirty lines a CPU cache holds before the oldest is
    evicted; by default as many as there are. Thread-safe, with one order of all flushes and fences.

    Raises DomainError.
    """

    def __init__(
        self, kind: str = "adr", *, atomicity: int | None = None, capacity: int | None = None
    ) -> None:
        if kind not in get_args(Kind):
            raise DomainError(f"{kind!r} is no persistence domain: {', '.join(get_args(Kind))}")
        self.kind = cast(Kind, kind)
        sizes = (8, 64, 512, 4096) if kind == "page" else (8, 64)
        self.atomicity = sizes[-1] if atomicity is None else atomicity
        if self.atomicity not in sizes:
            raise DomainError(
                f"a power-fail atomicity of {atomicity} bytes: in the domain {kind} it is one of {sizes}"
            )
        if capacity is not None and capacity < 1:
            raise DomainError(f"a cache of {capacity} lines: it has at least one, or None for no limit")
        self.capacity = capacity
        self.caches: list[CpuCache] = []
        self.observer: Observer | None = None
        self.snapshots: weakref.WeakSet[Snapshot] = weakref.WeakSet()
        self.lock = threading.RLock()
        self.volatile: list[tuple[int, int]] = []  # ranges that write-backs leave volatile (counter caches)
        self.before = LineTable()  # lines of the medium that may be lost, as they would be then
        self._flushed: set[int] = set()  # those of them that have been flushed
        self._between = LineTable()  # those that were stored to again since, as they were flushed
        self._behind = 0
        self._claimed = False

    def __repr__(self) -> str:
        lines = sum(len(cache.dirty) + len(cache.queue) for cache in self.caches) + len(self.before)
        return f"<pmem.Domain {self.kind}, {self.atomicity} bytes whole: {lines} lines not durable>"

    def claim(self) -> None:
        """Be one device's domain. Raises DomainError if it is another's."""
        if self._claimed:
            raise DomainError("this Domain is another device's: make one for each device")
        self._claimed = True

    @property
    def store_granularity(self) -> StoreGranularity:
        """libpmem2's name for the domain."""
        return GRANULARITY[self.kind]

    @property
    def grain(self) -> int:
        """Bytes that a flush covers at least: a line, or a page."""
        return PAGE if self.kind == "page" else LINE

    # Stores straight to the medium

    def touch(self, media: Bytes, numbers: Sequence[int]) -> None:
        """Lines of the medium are about to be stored to: remember them as they are."""
        with self.lock:
            step = CHUNK if self.observer is None else len(numbers)  # who observes hears of one store once
            for first in range(0, len(numbers), max(1, step)):
                self._touch(media, list(numbers[first : first + step]))

    def _touch(self, media: Bytes, numbers: list[int]) -> None:
        for snapshot in list(self.snapshots):
            snapshot.preserve(numbers)
        durably: list[int] = []
        if self._behind:
            held = {n for n in numbers if self._is_volatile(n * LINE)} if self.volatile else set()
            numbers, durably = [*held], [n for n in numbers if n not in held]
        if self.observer is not None:
            if durably:
                self.observer.touching(durably, True)
            if numbers:
                self.observer.touching(numbers, False)
        if self.kind == "eadr" or not numbers:
            return
        rows = media.reshape(-1, LINE)
        new = self.before.missing(numbers)
        if new:
            self.before.put(new, rows[new])
        if self._flushed:
            again = [n for n in numbers if n in self._flushed]
            if again:
                self._between.put(again, rows[again])
                self._flushed.difference_update(again)

    def _is_volatile(self, address: int) -> bool:
        return any(first <= address < last for first, last in self.volatile)

    def flush(self, address: int, length: int) -> None:
        """Flush a range of the medium: what it holds now is durable after the next fence."""
        with self.lock:
            first = address // self.grain * self.grain // LINE
            last = -(-(address + length) // self.grain) * self.grain // LINE
            numbers = self.before.inside(first, last)
            self._flushed.update(numbers)
            self._between.drop(numbers)
            if self.observer is not None:
                self.observer.flushed(None, address, length)

    def drain(self) -> None:
        """The fence: what was flushed, on the medium and in the caches in front of it, is durable.

        Raises as the memories that caches write back to.
        """
        with self.lock:
            if self.observer is not None:
                self.observer.fencing()
            for cache in self.caches:
                cache.drain()
            if self._between.at:
                numbers = list(self._between.at)
                self.before.put(numbers, self._between.get(numbers))
                self._between.clear()
            if self._flushed:
                self.before.drop(self._flushed)
                self._flushed.clear()
            if self.observer is not None:
                self.observer.fenced()

    # What the caches write back

    @contextmanager
    def behind(self) -> Iterator[None]:
        """A context in which lines of the medium change as a cache's lines reach the queue: durably."""
        with self.lock:
            self._behind += 1
            try:
                yield
            finally:
                self._behind -= 1

    def write_back(self, cache: CpuCache, numbers: list[int], table: LineTable) -> None:
        """Put lines of a cache through the memory behind it. Raises as that memory."""
        if not numbers:
            return
        with self.behind():
            if self.observer is not None and table is cache.dirty:
                self.observer.evicting(cache, numbers)
            cache.memory.write_lines(np.array(numbers, np.uint64) * np.uint64(LINE), table.get(numbers))
            if len(numbers) == len(table):
                table.clear()
            else:
                table.drop(numbers)

    def settle(self) -> None:
        """Make everything durable, as time does."""
        with self.lock:
            for cache in self.caches:
                cache.write_back()
            self.before.clear()
            self._flushed.clear()
            self._between.clear()

    # Power failures

    def pending(self) -> Pending:
        """The lines that a power failure could take now."""
        with self.lock:
            return _together(self._parts())

    def _parts(self) -> list[_Part]:
        numbers = np.fromiter(self.before.at, np.uint64, len(self.before))
        flushed = np.array([n in self._flushed for n in self.before.at], bool)
        parts = [
            _Part(None, self.before, numbers, numbers * np.uint64(LINE), np.zeros_like(numbers), flushed)
        ]
        for cache in self.caches:
            for table in (cache.queue, cache.dirty):
                numbers = np.fromiter(table.at, np.uint64, len(table))
                physical, keyids = cache.memory.split(numbers * np.uint64(LINE))
                done = np.full(numbers.size, table is cache.queue)
                parts.append(_Part(cache, table, numbers, physical, keyids, done))
        return parts

    def fail(self, snapshot: Snapshot, policy: Policy, seed: int, encrypted: bool) -> None:
        """Make of a snapshot what the medium is after a power failure now.

        Raises DomainError for a policy that can't be; and as the memories that lines are put through.
        """
        with self.lock:
            draw = np.random.Generator(np.random.PCG64(seed))
            parts = self._parts()
            chosen = self._choose(policy, _together(parts), draw)
            drawn = policy == "random"
            at = 0
            for part in parts:
                mask = chosen[at : at + part.numbers.size]
                at += part.numbers.size
                if part.cache is None:
                    self._lose(snapshot, part, mask, draw if drawn else None)
                elif self.kind == "eadr" and not encrypted:
                    snapshot.mapping().reshape(-1, LINE)[part.physical // np.uint64(LINE)] = part.table.get(
                        part.numbers.tolist()
                    )
                else:
                    self._land(snapshot, part, mask, draw if drawn else None)

    def _choose(self, policy: Policy, pending: Pending, draw: np.random.Generator) -> Mask:
        count = pending.addresses.size
        if callable(policy):
            made = np.asarray(policy(pending))
            if made.shape != (count,) or made.dtype != bool:
                raise DomainError(
                    f"the policy gave an array of {made.dtype}, shape {made.shape}, for {count} lines: it is "
                    "to give a bool for each, whether it reaches the medium"
                )
            chosen = made
        elif policy == "random":
            chosen = draw.random(count) < 0.5
        elif policy in ("none", "all"):
            chosen = np.full(count, policy == "all")
        else:
            raise DomainError(
                f"{policy!r} is no policy: none, all, random, or a function from pending lines to a bool each"
            )
        if self.kind == "eadr":
            return np.ones(count, bool)
        if self.atomicity > LINE and count:  # lines of a sector share their fate
            _, first, which = np.unique(
                pending.addresses // np.uint64(self.atomicity), return_index=True, return_inverse=True
            )
            chosen = chosen[first][which.reshape(-1)]
        return chosen

    def _lose(self, snapshot: Snapshot, part: _Part, mask: Mask, draw: np.random.Generator | None) -> None:
        """Of lines stored to straight, set those back that didn't reach the medium."""
        rows = snapshot.mapping().reshape(-1, LINE)
        numbers = part.numbers.tolist()
        old = part.table.get(numbers) if numbers else np.zeros((0, LINE), np.uint8)
        if draw is not None:
            for i, number in enumerate(numbers):
                if number in self._between.at and draw.random() < 0.5:
                    old[i] = self._between.row(number)
        kept = np.repeat(mask[:, None], LINE // WORD, axis=1)
        if draw is not None and self.atomicity == WORD:
            kept &= draw.random(kept.shape) < 0.5
        where = part.numbers.astype(np.intp)
        now = rows[where].view(np.uint64)
        rows[where] = np.where(kept, now, old.view(np.uint64)).view(np.uint8)

    def _land(self, snapshot: Snapshot, part: _Part, mask: Mask, draw: np.random.Generator | None) -> None:
        """Of a cache's lines, put those through the memory that reached the medium."""
        assert part.cache is not None
        order = np.flatnonzero(mask)
        if draw is not None:
            draw.shuffle(order)
        if not order.size:
            return
        numbers = part.numbers[order]
        lines, addresses = part.table.get(numbers.tolist()), numbers * np.uint64(LINE)
        if draw is None or self.atomicity != WORD:
            part.cache.memory.write_lines(addresses, lines, snapshot)
            return
        rows, where = snapshot.mapping().reshape(-1, LINE), (part.physical[order] // np.uint64(LINE))
        old = rows[where].view(np.uint64)
        part.cache.memory.write_lines(addresses, lines, snapshot)
        landed = draw.random(old.shape) < 0.5
        rows[where] = np.where(landed, rows[where].view(np.uint64), old).view(np.uint8)


@dataclass
class _Part:
    """Lines of one kind: of the medium (no cache), or of one table of a cache."""

    cache: CpuCache | None
    table: LineTable
    numbers: Words
    physical: Words
    keyids: Words
    flushed: Mask


def _together(parts: list[_Part]) -> Pending:
    return Pending(
        np.concatenate([part.physical for part in parts]),
        np.concatenate([part.keyids for part in parts]),
        np.concatenate([part.flushed for part in parts]),
    )
