"""The cleaner of a log-structured volume: it moves what is live out of segments that are nearly empty."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from typing import NamedTuple

import numpy as np

from pmem.dax.core import Core
from pmem.dax.errors import IsDirectory, StaleHandle, VolumeFull
from pmem.dax.file import File
from pmem.dax.inode import Segment
from pmem.dax.layout import BLOCK, GROUP, OWNER, SEGMENT
from pmem.dax.relocation import Move, switch
from pmem.errors import RangeError


class Cleaned(NamedTuple):
    """What cleaning came to."""

    segments: int  # that are free now
    bytes: int  # moved
    pinned: int  # segments looked at that hold metadata, blocks of shared files, or files in use


def clean(core: Core, open_file: Callable[[int], File], segments: int, move: Move | None) -> Cleaned:
    """See `Volume.clean`. Files that somebody is writing or reading just now are left alone."""
    if core.log is None:
        raise RangeError("the volume isn't log-structured: make it with log_structured=True to clean it")
    freed = moved = pinned = 0
    with core.store.lock:
        candidates = emptiest(core)
    for segment in candidates:
        if freed == segments:
            break
        try:
            done = _empty(core, open_file, segment, move)
        except VolumeFull:
            break
        if done is None:
            pinned += 1
        else:
            freed, moved = freed + 1, moved + done
    return Cleaned(freed, moved, pinned)


def emptiest(core: Core) -> list[int]:
    """The segments that are neither empty nor full, those with the fewest live blocks first."""
    assert core.log is not None
    layout, space = core.store.layout, core.store.space
    found: list[tuple[int, int]] = []
    for group in range(layout.groups):
        low = -(-max(group * GROUP, layout.first) // SEGMENT)
        high = min((group + 1) * GROUP, layout.last) // SEGMENT
        if low < high and space.touched(group):
            refs = space.refs[low * SEGMENT : high * SEGMENT].reshape(-1, SEGMENT)
            live = np.count_nonzero(refs, axis=1)
            partly = np.flatnonzero((live > 0) & (live < SEGMENT))
            found += zip(live[partly].tolist(), (partly + low).tolist(), strict=True)
    return [segment for _, segment in sorted(found) if segment != core.log.segment]


def _empty(core: Core, open_file: Callable[[int], File], number: int, move: Move | None) -> int | None:
    """Move what is live out of a segment: bytes moved, or None if something can't be."""
    store, first, moved = core.store, number * SEGMENT, 0
    with store.lock:
        live = _live(core, first)
        held = store.space.hold(first, SEGMENT)  # so that nothing is moved to where it comes from
    try:
        for owner, segment in live or ():
            count = _move(core, open_file, owner, segment, move)
            if count is None:
                return None
            moved += count * BLOCK
        with store.lock:
            gone = live is not None and not store.space.refs[first : first + SEGMENT].any()
        return moved if gone else None
    finally:
        with store.lock:
            for block, count in held:
                store.space.release(block, count, reserved=True)


def _live(core: Core, first: int) -> list[tuple[int, Segment]] | None:
    """Inode numbers and runs of the live blocks of a segment; None if an owner isn't known."""
    place = core.store.layout.owners + OWNER * first
    owners = core.medium.words(place, 2 * SEGMENT, "<u8").reshape(-1, 2).astype(np.int64)
    refs = core.store.space.refs[first : first + SEGMENT]
    used = np.flatnonzero(refs)
    if (refs > 1).any() or not owners[used, 0].all():
        return None
    numbers, blocks = owners[used, 0], owners[used, 1]
    runs = (np.diff(numbers) == 0) & (np.diff(blocks) == 1) & (np.diff(used) == 1)
    cuts = [0, *(np.flatnonzero(~runs) + 1).tolist(), len(used)]
    return [
        (int(numbers[low]), Segment(int(blocks[low]), first + int(used[low]), high - low, True))
        for low, high in pairwise(cuts)
        if low < high
    ]


def _move(
    core: Core, open_file: Callable[[int], File], owner: int, segment: Segment, move: Move | None
) -> int | None:
    """Move a run of a file to the head of the log: how many blocks; None if the file is in use."""
    start, block, count, _ = segment
    try:
        file = open_file(owner)
    except (StaleHandle, IsDirectory):
        return 0  # removed meanwhile
    with file:
        if not file.try_alone():
            return None
        try:
            with core.store.lock:
                found = core.mapping(file.inode).within(start, count)
                parts = [part for part in found if part.block - block == part.start - start]
                runs = core.allocate(sum(part.blocks for part in parts))
            switch(core, file, file.inode, parts, runs, move)
            return sum(part.blocks for part in parts)
        finally:
            file.end_alone()
