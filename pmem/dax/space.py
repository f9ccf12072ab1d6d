"""Free space: a u16 reference count a block, in groups of 128 MiB that are looked at when touched.

0 is free, 1 is used, more is shared. A group's free count has bit 63 set until its reference counts
have been cleared for the first time, so making a volume doesn't touch them. Blocks are reserved in
memory first, and their counts change in a transaction.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable, Iterator
from itertools import pairwise

import numpy as np

from pmem.dax.errors import RangeTaken, SharedTooOften, VolumeCorrupt, VolumeFull
from pmem.dax.journal import Fill, Patch
from pmem.dax.layout import BLOCK, GROUP, SEGMENT, Layout
from pmem.dax.medium import Medium

Run = tuple[int, int]  # block, count

UNTOUCHED = 1 << 63
SHARES = (1 << 16) - 1  # references that a block can have
GROUPS_KEPT = 512  # groups whose map is kept in memory: 16 MiB
TRIED = 32  # groups searched for one contiguous run before a request is split


class Space:
    """The allocator of a mounted volume; the caller holds the volume's lock."""

    def __init__(self, medium: Medium, layout: Layout) -> None:
        self._medium, self._layout = medium, layout
        self.refs = medium.words(layout.refs, layout.blocks, "<u2")
        self._counts = medium.words(layout.counts, layout.groups, "<u8")
        self.available = (self._counts & np.uint64(UNTOUCHED - 1)).astype(np.int64)
        self.total = int(self.available.sum())
        self.reserve = min(64, (layout.last - layout.first) // 8)  # blocks only metadata may take
        self._maps: dict[int, bytearray] = {}  # a byte a block: 0 free, 1 used or reserved
        self._reserved: dict[int, int] = {}  # blocks of a group that are reserved, not committed
        self._cursor = layout.first
        self.delayed: list[int] = []  # freed nodes, kept until no record of the journal touches them

    @staticmethod
    def make(medium: Medium, layout: Layout) -> None:
        """Write the free counts of a new volume: everything between the fixed areas is free."""
        edges = np.arange(layout.groups + 1, dtype=np.int64) * GROUP
        edges = edges.clip(layout.first, layout.last)
        counts = np.diff(edges).astype(np.uint64) | np.uint64(UNTOUCHED)
        medium.reserve(layout.counts, counts.nbytes)
        medium.store(layout.counts, counts.astype("<u8").tobytes())
        medium.flush(layout.counts, counts.nbytes)

    def close(self) -> None:
        """Let go of the medium."""
        del self.refs, self._counts

    def map(self, group: int) -> bytearray:
        """Which blocks of a group are taken, a byte each. The group's counts are cleared if need be."""
        found = self._maps.get(group)
        if found is not None:
            return found
        layout, first = self._layout, group * GROUP
        count = min(GROUP, layout.blocks - first)
        if int(self._counts[group]) & UNTOUCHED:
            address = layout.refs + 2 * first
            self._medium.reserve(address, 2 * count)
            if self.refs[first : first + count].any():
                self._medium.fill(address, count, 0)
                self._medium.flush(address, 2 * count)
                self._medium.fence()
            made = bytearray(count)
        else:
            made = bytearray((self.refs[first : first + count] != 0).view(np.uint8))
        for low, high in ((0, layout.first), (layout.last, first + count)):
            low, high = max(low - first, 0), min(high - first, count)
            if low < high:
                made[low:high] = b"\1" * (high - low)
        if len(self._maps) >= GROUPS_KEPT:
            self._forget()
        self._maps[group] = made
        return made

    def _forget(self) -> None:
        pinned = {block // GROUP for block in self.delayed}
        idle = [group for group in self._maps if not self._reserved.get(group) and group not in pinned]
        for group in idle[: GROUPS_KEPT // 2]:
            del self._maps[group]

    def need(self, count: int, *, metadata: bool = False) -> None:
        """Raise VolumeFull unless so many blocks can be had."""
        limit = self.total - (0 if metadata else self.reserve)
        if count > max(limit, 0):
            raise VolumeFull(
                f"{count} blocks of {BLOCK} bytes are needed and {max(limit, 0)} are free: "
                "remove files, or take a larger device"
            )

    def node(self) -> int:
        """Reserve one block for metadata, from the last group down, away from data."""
        if not self.total:
            raise VolumeFull("no block is free for metadata: remove files, or take a larger device")
        group = int(np.flatnonzero(self.available)[-1])
        at = self.map(group).find(0)
        self._take(group, at, 1)
        return group * GROUP + at

    def allocate(self, count: int, goal: int | None = None) -> list[Run]:
        """Reserve blocks, in as few runs as is easy to find, if possible from block `goal` on.

        Raises VolumeFull, with nothing reserved.
        """
        self.need(count)
        runs: list[Run] = []
        if goal is not None and self._layout.first <= goal < self._layout.last:
            count -= self._extend(goal, count, runs)
        start = self._cursor // GROUP
        if 0 < count <= GROUP and self._contiguous(start, count, runs):
            return runs
        for least in (GROUP, 1):  # whole groups first, then what there is
            for group in self._with_free(start, least):
                if count < least or count == 0:
                    break
                count -= self._gather(group, count, runs)
        assert count == 0
        return runs

    def allocate_at(self, block: int, count: int) -> None:
        """Reserve just these blocks. Raises RangeTaken."""
        layout = self._layout
        taken = block < layout.first or block + count > layout.last
        for group, at, n in _by_group(block, 0 if taken else count):
            taken |= self.map(group).find(1, at, at + n) >= 0
        if taken or count > self.total - self.reserve:
            raise RangeTaken(
                f"blocks {block} to {block + count - 1} aren't all free: choose another place, or none"
            )
        for group, at, n in _by_group(block, count):
            self._take(group, at, n)

    def hold(self, block: int, count: int) -> list[Run]:
        """Reserve all free blocks of a range."""
        held: list[Run] = []
        for group, at, n in _by_group(block, count):
            taken = self.map(group)
            for place in range(at, at + n):
                if not taken[place]:
                    self._take(group, place, 1)
                    _append(held, group * GROUP + place, 1)
        return held

    def touched(self, group: int) -> bool:
        """Whether a group's reference counts are in use."""
        return not int(self._counts[group]) & UNTOUCHED

    def free_in(self, group: int) -> int:
        """The free blocks of a group, as the medium has it."""
        return int(self._counts[group]) & (UNTOUCHED - 1)

    def segment(self) -> int | None:
        """Reserve a segment that is wholly free; its first block, or None if there is none."""
        if self.total - self.reserve < SEGMENT:
            return None
        empty = bytes(SEGMENT)
        for group in self._with_free(self._cursor // GROUP, SEGMENT):
            taken = self.map(group)
            at = taken.find(empty)
            while at >= 0 and at % SEGMENT:
                at = taken.find(empty, at - at % SEGMENT + SEGMENT)
            if at >= 0:
                self._take(group, at, SEGMENT)
                self._cursor = group * GROUP + at
                return self._cursor
        return None

    def release(self, block: int, count: int, *, reserved: bool = False) -> None:
        """Give blocks back: reserved ones that weren't used, or ones that a transaction has freed."""
        for group, at, n in _by_group(block, count):
            self.map(group)[at : at + n] = bytes(n)
            self.available[group] += n
            self.total += n
            if reserved:
                self._reserved[group] -= n

    def release_delayed(self) -> None:
        """Give back freed nodes: the journal has begun anew."""
        delayed, self.delayed = self.delayed, []
        for block in delayed:
            self.release(block, 1)

    def shared(self, block: int, count: int) -> Iterator[tuple[int, int, bool]]:
        """A run cut where its blocks begin or cease to be shared: (block, count, shared)."""
        many = self.refs[block : block + count] > 1
        cuts = [0, *(np.flatnonzero(many[1:] != many[:-1]) + 1).tolist(), count]
        for low, high in pairwise(cuts):
            yield block + low, high - low, bool(many[low])

    def settle(self, changes: list[tuple[int, int, int]]) -> tuple[list[Patch], list[Fill], list[Run]]:
        """What changes of reference counts (block, count, delta) come to: patches, fills, freed runs.

        Nothing is changed yet. Raises SharedTooOften, VolumeCorrupt.
        """
        fills: list[Fill] = []
        freed: list[Run] = []
        counts: dict[int, int] = {}
        for block, count, delta in _sum(changes):
            for start, n, old in self._even(block, count):
                new = old + delta
                if new < 0:
                    raise VolumeCorrupt(f"block {start} is freed, but has only {old} references")
                if new > SHARES:
                    raise SharedTooOften(f"block {start} has {old} references, the limit: copy the file")
                if delta:
                    fills.append((self._layout.refs + 2 * start, n, new))
                if new == 0:
                    freed.append((start, n))
                if bool(old) != bool(new):
                    for group, _, part in _by_group(start, n):
                        counts[group] = counts.get(group, 0) + (part if new == 0 else -part)
        patches = []
        for group, change in counts.items():
            free = (int(self._counts[group]) & (UNTOUCHED - 1)) + change
            patches.append((self._layout.counts + 8 * group, free.to_bytes(8, "little")))
        return patches, fills, freed

    def settled(self, used: Iterable[Run], freed: list[Run], nodes: set[int]) -> None:
        """A transaction was committed: reserved runs are in use, freed ones free."""
        for block, count in used:
            for group, _, n in _by_group(block, count):
                self._reserved[group] -= n
        ordered = sorted(nodes)
        for block, count in freed:
            inside = ordered[bisect_left(ordered, block) : bisect_left(ordered, block + count)]
            self.delayed += inside
            for low, high in pairwise([block - 1, *inside, block + count]):
                self.release(low + 1, high - low - 1)

    def _even(self, block: int, count: int) -> Iterator[tuple[int, int, int]]:
        """A run cut where the reference count changes: (block, count, references)."""
        values = self.refs[block : block + count]
        if count == 1 or (values == values[0]).all():
            yield block, count, int(values[0])
            return
        cuts = [0, *(np.flatnonzero(values[1:] != values[:-1]) + 1).tolist(), count]
        for low, high in pairwise(cuts):
            yield block + low, high - low, int(values[low])

    def _take(self, group: int, at: int, count: int) -> None:
        self.map(group)[at : at + count] = b"\1" * count
        self.available[group] -= count
        self.total -= count
        self._reserved[group] = self._reserved.get(group, 0) + count

    def _with_free(self, start: int, least: int) -> Iterator[int]:
        """Groups with that many free blocks, from a group on and round."""
        found = np.flatnonzero(self.available >= least)
        split = int(np.searchsorted(found, start))
        for group in (*found[split:].tolist(), *found[:split].tolist()):
            if self.available[group] >= least:
                yield group

    def _extend(self, goal: int, count: int, runs: list[Run]) -> int:
        """Reserve the free run that begins at a block, up to the end of its group."""
        group, at = divmod(goal, GROUP)
        taken = self.map(group)
        end = taken.find(1, at, at + count)
        n = (end if end >= 0 else min(at + count, len(taken))) - at
        if n > 0:
            self._take(group, at, n)
            _append(runs, goal, n)
            self._cursor = goal + n
        return n

    def _contiguous(self, start: int, count: int, runs: list[Run]) -> bool:
        wanted = bytes(count)
        for tried, group in enumerate(self._with_free(start, count)):
            if tried == TRIED:
                return False
            taken = self.map(group)
            hint = self._cursor % GROUP if group == start else 0
            at = taken.find(wanted, hint)
            at = at if at >= 0 or not hint else taken.find(wanted)
            if at >= 0:
                self._take(group, at, count)
                _append(runs, group * GROUP + at, count)
                self._cursor = group * GROUP + at + count
                return True
        return False

    def _gather(self, group: int, count: int, runs: list[Run]) -> int:
        """Reserve up to `count` blocks of a group: all its free runs, or the longest that do."""
        edges = np.flatnonzero(np.diff(np.frombuffer(self.map(group), np.int8), prepend=1, append=1))
        starts, lengths = edges[::2], edges[1::2] - edges[::2]
        if count < int(lengths.sum()):
            order = np.argsort(-lengths, kind="stable")
            enough = int(np.searchsorted(np.cumsum(lengths[order]), count)) + 1
            chosen = np.sort(order[:enough])
            starts, lengths = starts[chosen], lengths[chosen]
        got = 0
        for at, length in zip(starts.tolist(), lengths.tolist(), strict=True):
            n = min(length, count - got)
            if n:
                self._take(group, at, n)
                _append(runs, group * GROUP + at, n)
                got += n
                self._cursor = group * GROUP + at + n
        return got


def _append(runs: list[Run], block: int, count: int) -> None:
    if runs and sum(runs[-1]) == block:
        runs[-1] = (runs[-1][0], runs[-1][1] + count)
    else:
        runs.append((block, count))


def _by_group(block: int, count: int) -> Iterator[tuple[int, int, int]]:
    """A run cut at the groups' edges: (group, first block in it, count)."""
    while count > 0:
        group, at = divmod(block, GROUP)
        n = min(count, GROUP - at)
        yield group, at, n
        block, count = block + n, count - n


def _sum(changes: list[tuple[int, int, int]]) -> Iterator[tuple[int, int, int]]:
    """Overlapping changes of counts as disjoint ones, also where they come to nothing."""
    if len(changes) == 1:
        yield changes[0]
        return
    deltas: dict[int, int] = {}
    covers: dict[int, int] = {}
    for block, count, delta in changes:
        end = block + count
        deltas[block] = deltas.get(block, 0) + delta
        deltas[end] = deltas.get(end, 0) - delta
        covers[block] = covers.get(block, 0) + 1
        covers[end] = covers.get(end, 0) - 1
    places = sorted(deltas)
    delta = cover = 0
    for low, high in pairwise(places):
        delta += deltas[low]
        cover += covers[low]
        if cover:
            yield low, high - low, delta
