"""Moving blocks while their file stays the same: copy, persist, then switch the mapping."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from pmem.dax.core import EVER, Core
from pmem.dax.errors import VolumeFull
from pmem.dax.file import File
from pmem.dax.inode import SHARED, Inode, Segment
from pmem.dax.layout import BLOCK, GROUP
from pmem.dax.space import Run
from pmem.dax.writing import split
from pmem.errors import RangeError

Move = Callable[[File, int, int, int, int], None]  # file, offset in it, old address, new address, length


class Moved(NamedTuple):
    """What moving came to."""

    bytes: int
    before: int  # extents
    after: int

    def __add__(self, other: tuple[int, ...]) -> Moved:  # type: ignore[override]
        return Moved(*(a + b for a, b in zip(self, other, strict=True)))


def relocate(
    core: Core, file: File, offset: int, length: int | None, to: int | None, move: Move | None
) -> Moved:
    """See `Volume.relocate`."""
    if offset % BLOCK or (to or 0) % BLOCK or offset < 0 or (length or 0) < 0:
        raise RangeError(f"offset {offset}, address {to}: relocation moves whole blocks of {BLOCK} bytes")
    first = offset // BLOCK
    last = EVER if length is None else -(-(offset + length) // BLOCK)
    with file.alone() as inode:
        with core.store.lock:
            core.check_free(inode)
            before = len(core.mapping(inode).all())
            parts = movable(core, inode, first, last)
            count = sum(part.blocks for part in parts)
            if to is None or not count:
                runs = core.allocate(count)
            else:
                core.store.space.allocate_at(to // BLOCK, count)
                runs = [(to // BLOCK, count)]
        switch(core, file, inode, parts, runs, move)
        return Moved(count * BLOCK, before, len(core.mapping(inode).all()))


def defragment(core: Core, file: File, move: Move | None) -> Moved:
    """See `Volume.defragment`. Works through a file by 128 MiB of its blocks."""
    with file.alone() as inode:
        with core.store.lock:
            core.check_free(inode)
            before, end = len(core.mapping(inode).all()), core.mapping(inode).end()
        total, goal = 0, None
        for first in range(0, end, GROUP):
            with core.store.lock:
                parts = movable(core, inode, first, first + GROUP)
                count, runs = sum(part.blocks for part in parts), []
                if len(parts) > 1:
                    try:
                        runs = core.allocate(count, goal)
                    except VolumeFull:
                        runs = []
                if not runs or len(runs) >= len(parts):
                    for block, n in runs:
                        core.store.space.release(block, n, reserved=True)
                    continue
                goal = sum(runs[-1])
            switch(core, file, inode, parts, runs, move)
            total += count * BLOCK
        return Moved(total, before, len(core.mapping(inode).all()))


def movable(core: Core, inode: Inode, first: int, last: int) -> list[Segment]:
    """The extents in a range, without shared blocks."""
    found = list(core.mapping(inode).within(first, last - first))
    if not inode.flags & SHARED:
        return found
    return [
        Segment(start + at - block, at, n, written)
        for start, block, count, written in found
        for at, n, shared in core.store.space.shared(block, count)
        if not shared
    ]


def switch(
    core: Core, file: File, inode: Inode, parts: list[Segment], runs: list[Run], move: Move | None
) -> None:
    """Copy parts of a file to reserved blocks and map those; on an error they are given back."""
    medium = core.medium
    changes = [(part, part._replace(block=block)) for part, block, _ in split(parts, runs)]
    try:
        for old, new in changes:
            if new.written:
                source, target, length = old.block * BLOCK, new.block * BLOCK, new.blocks * BLOCK
                medium.reserve(target, length)
                if move:
                    move(file, new.start * BLOCK, source, target, length)
                else:
                    medium.store(target, medium.array[source : source + length])
                medium.flush(target, length)
            if core.log:
                core.own(inode.number, new)
        medium.fence()
        while changes:
            batch = [new for _, new in changes[: core.store.batch]]
            with core.store.lock, core.store.begin() as transaction:
                for new in batch:
                    core.map(transaction, inode, new, True)
            del changes[: len(batch)]
    finally:
        with core.store.lock:
            for _, new in changes:
                core.store.space.release(new.block, new.blocks, reserved=True)
