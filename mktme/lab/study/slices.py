"""Large traces in slices: a slice is a share of the pages, replayed by itself; counters add up exactly.

A trace's addresses are dealt out to slices in ranges of `grain` bytes, in turn. A slice is a machine of its
own, with its caches, controller and media, as a memory controller of a machine with several has. So counts
depend on how many slices there are, which the study says, and never on how many workers, or the order in
which they end: sums are over integers.

It takes two steps. Segments of the trace (groups of rows of its file) are dealt out in parallel, each into
a file for each slice; then each slice is replayed over its files in order. Accesses are cut where ranges
begin. Fences go to each slice that was stored to since the last one, system calls without an address to all;
the merged result counts them once, as the trace has them.
"""

from __future__ import annotations

import resource
from collections.abc import Iterator, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

from mktme.errors import TraceError
from mktme.lab.study import durable
from mktme.timing import histogram
from mktme.timing.access import DEPENDENT, FENCE, FSYNC, PREAD, PWRITE, READ, Chunk
from mktme.timing.traces.columns import HELD, Columns, Writer
from mktme.timing.traces.pages import WITHOUT, part_of, split, take

CALLS = (PREAD, PWRITE, FSYNC)
READS = (READ, DEPENDENT, PREAD)
BUNCH = 1 << 20  # records that are dealt out at a time
LEAST = 1 << 20  # bytes of a group of rows, as they are in memory, at least
SPARE = 128  # open files beside those of slices


def segments(path: Path, count: int) -> list[tuple[int, int]]:
    """Groups of rows of a trace's file, [first, end), in at most so many segments of about equal size."""
    groups = Columns(path).groups
    most = max(1, min(count, groups))
    return [(number * groups // most, (number + 1) * groups // most) for number in range(most)]


def deal(path: Path, part: tuple[int, int], number: int, slices: int, grain: int, folder: Path) -> None:
    """Deal a segment out into FOLDER/SLICE/SEGMENT.parquet, and say in FOLDER/SEGMENT.json what it had.

    The note is written last: with it, the segment is done. It may run twice, and writes the same.
    """
    names = [folder / f"{one}" / f"{number}.parquet" for one in range(slices)]
    for name in names:
        name.parent.mkdir(parents=True, exist_ok=True)
    dealer = _Dealer(slices, grain)
    _allow_files(slices)
    writers = [Writer(name, max(LEAST, HELD // slices)) for name in names]
    try:
        for chunk in Columns(path).chunks(*part, rows=BUNCH):
            for one, own in dealer.deal(chunk):
                writers[one].add(own)
    except BaseException as error:
        for writer in writers:
            writer.__exit__(type(error))
        raise
    for writer in writers:
        writer.__exit__(None)
    for name in names:
        durable.sync(name)
        durable.sync(name.parent)
    durable.write(folder / f"{number}.json", dealer.told)


def _allow_files(count: int) -> None:
    """Let this process have so many files open, if it isn't allowed to yet."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft < count + SPARE:
        if hard < count + SPARE:
            raise TraceError(
                f"{count} slices need as many open files, and a process may have {hard}: use fewer slices, "
                f"or raise ulimit -Hn to {count + SPARE}"
            )
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))  # other threads may deal, too


class _Dealer:
    """Records of a segment to their slices, in order."""

    def __init__(self, slices: int, grain: int) -> None:
        self._slices, self._grain = slices, grain
        self._stored = np.ones(slices, bool)  # since the last fence; at a segment's beginning, perhaps
        self._last = 0  # the slice that instructions between accesses belong to
        self.told = {"records": 0, "fences": 0, "system_calls": 0}

    def deal(self, chunk: Chunk) -> Iterator[tuple[int, Chunk]]:
        """The slices that get some of the records, and their own; by sorting, so at no cost of the others."""
        self.told["records"] += len(chunk)
        self.told["fences"] += int((chunk.kind == FENCE).sum())
        self.told["system_calls"] += int(np.isin(chunk.kind, CALLS).sum())
        cut = split(chunk, self._grain)
        owner, index = self._owners(cut)
        order = np.lexsort((index, owner))
        owner, taken = owner[order], take(cut, index[order])
        edges = np.flatnonzero(np.concatenate([[True], owner[1:] != owner[:-1], [True]]))
        for first, end in pairwise(edges):
            yield int(owner[first]), part_of(taken, int(first), int(end))

    def _owners(self, cut: Chunk) -> tuple[Any, Any]:
        """Pairs of a slice and a record that it gets."""
        kinds = np.minimum(cut.kind, len(WITHOUT) - 1)
        placed = ~WITHOUT[kinds]
        owner = np.where(placed, (cut.address // np.uint64(self._grain)) % np.uint64(self._slices), 0)
        owner = self._carried(owner.astype(np.int64), placed)
        fence, everywhere = cut.kind == FENCE, cut.kind == FSYNC
        own = np.flatnonzero(~fence & ~everywhere)
        owners, records = [owner[own]], [own]
        # A fence goes to the slices that were stored to since the one before it.
        fences = np.flatnonzero(fence)
        epoch = fence.cumsum() - fence  # of each record: how many fences are before it
        stores = np.flatnonzero(placed & ~np.isin(cut.kind, READS))
        before = np.flatnonzero(self._stored)  # of epoch 0
        pairs = np.sort(np.concatenate([before, epoch[stores] * self._slices + owner[stores]]))
        pairs = pairs[np.diff(pairs, prepend=-1) != 0]  # each once
        ended = pairs[pairs < len(fences) * self._slices]
        owners.append(ended % self._slices)
        records.append(fences[ended // self._slices])
        self._stored[:] = False
        self._stored[pairs[len(ended) :] % self._slices] = True
        calls = np.flatnonzero(everywhere)
        owners.append(np.tile(np.arange(self._slices), len(calls)))
        records.append(np.repeat(calls, self._slices))
        return np.concatenate(owners), np.concatenate(records)

    def _carried(self, owner: Any, placed: Any) -> Any:
        """Records without an address belong to the slice of the access before them."""
        at = np.maximum.accumulate(np.where(placed, np.arange(len(owner)), -1))
        made = np.where(at >= 0, owner[at], self._last)
        if len(made):
            self._last = int(made[-1])
        return made


class Segments:
    """A slice of a trace: its files, in order."""

    def __init__(self, folder: Path, number: int, count: int) -> None:
        self.name = f"slice {number}"
        self._paths = [folder / f"{number}" / f"{segment}.parquet" for segment in range(count)]

    def chunks(self) -> Iterator[Chunk]:
        """Its accesses."""
        for path in self._paths:
            yield from (chunk for chunk in Columns(path).chunks() if len(chunk))


def replay(values: Any, folder: Path, number: int, count: int) -> dict[str, Any]:
    """Replay a slice of so many segments on a machine of its own. Returns the result as plain data."""
    from mktme.lab.study.cells import machine

    return dict(machine(values).run(Segments(folder, number, count).chunks()).values)


def told(folder: Path, count: int) -> dict[str, int]:
    """What all segments had: records, fences and system calls, each once. Raises TraceError if one lacks."""
    total = {"records": 0, "fences": 0, "system_calls": 0}
    for number in range(count):
        note = durable.read(folder / f"{number}.json")
        if note is None:
            raise TraceError(f"segment {number} of the trace isn't dealt out to {folder}")
        for key in total:
            total[key] += note[key]
    return total


# What isn't a sum over slices: taken from the sums, or, being about a time that slices don't share, left out.
SHARES = {"hit_rate": ("hits", ("hits", "misses"))}
TIMED = ("time_ns", "read_gb_per_s", "write_gb_per_s", "complete")


def merged(results: Sequence[dict[str, Any]], once: dict[str, int]) -> dict[str, Any]:
    """The counts of all slices together; `once`: what the trace has, where slices count it more than once.

    Times: the slowest slice's, and the sum of all; there is no time of the whole.
    """
    made: dict[str, Any] = _sum(list(results))
    made["accesses"].update(once)
    memories = [made[name] for name in ("memory", "dram") if name in made]
    for memory in memories:
        written = memory["written_bytes"]
        memory["media"]["write_amplification"] = (
            memory["media"]["written_bytes"] / written if written else 0.0
        )
    if "bit_flips" in made:
        lines = made["bit_flips"]["lines"]
        made["bit_flips"]["share"] = made["bit_flips"]["flips"] / (lines * 512) if lines else 0.0
    times = [one["time_ns"] for one in results]
    return {"slices": len(results), "slowest_slice_ns": max(times), "sum_of_slices_ns": sum(times), **made}


def _sum(found: list[dict[str, Any]]) -> dict[str, Any]:
    made: dict[str, Any] = {}
    for key, value in found[0].items():
        if key in TIMED:
            continue
        own = [one[key] for one in found]
        if key == "read_latency":
            made[key] = histogram.merged(own)
        elif isinstance(value, dict):
            made[key] = _sum(own)
        elif isinstance(value, str):
            made[key] = value
        elif key in SHARES:
            part, whole = SHARES[key]
            total = sum(one[name] for one in found for name in whole)
            made[key] = sum(one[part] for one in found) / total if total else 0.0
        else:
            made[key] = sum(own)
    return made
