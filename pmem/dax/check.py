"""Checking a volume: every invariant of its metadata, against the medium."""

from __future__ import annotations

from dataclasses import dataclass, field
from itertools import pairwise

import numpy as np
import numpy.typing as npt

from pmem.dax.core import Core
from pmem.dax.directory import Directory
from pmem.dax.errors import VolumeError
from pmem.dax.inode import ORPHAN, ROOT, SHARED, Inode, Segment
from pmem.dax.layout import BLOCK, GROUP, OWNER
from pmem.dax.tree import Node
from pmem.dax.volume import Volume


@dataclass
class Report:
    """What a check has found: `problems`, one sentence each, none if the volume is sound."""

    problems: list[str] = field(default_factory=list)
    files: int = 0
    directories: int = 0
    blocks: int = 0  # references to blocks of data and metadata


def check(volume: Volume) -> Report:
    """Look at every inode, tree, directory entry and reference count.

    Costs by what is in use. Other calls wait meanwhile. Never raises for what is wrong on the medium.
    """
    with volume.core.store.lock:
        check = _Check(volume.core)
        check.run()
        return check.report


class _Check:
    def __init__(self, core: Core) -> None:
        self.core, self.store, self.report = core, core.store, Report()
        self.expected: dict[int, npt.NDArray[np.int32]] = {}  # references by group
        self.inodes: dict[int, Inode] = {}
        self.names: dict[int, int] = {}  # how many an inode has
        self.extents: dict[int, list[Segment]] = {}
        self.free: set[int] = set()

    def problem(self, text: str) -> None:
        self.report.problems.append(text)

    def run(self) -> None:
        self.core.nodes.clear()
        for number in range(1, self.store.state.high):
            inode = Inode(self.store, number)
            try:
                inode.reload()
            except VolumeError as error:
                self.problem(str(error.strerror))
                continue
            if inode.mode:
                self.inodes[number] = inode
                try:
                    self._inode(inode)
                except VolumeError as error:
                    self.problem(str(error.strerror))
            else:
                self.free.add(number)
        self._lists()
        self._names()
        self._references()
        if self.core.log:
            self._owners()

    def _inode(self, inode: Inode) -> None:
        if inode.attribute_block:
            self._refer(inode.attribute_block, 1)
        self._tree(inode)
        if inode.is_directory:
            self.report.directories += 1
            return
        self.report.files += 1
        self.extents[inode.number] = extents = list(self.core.mapping(inode).all())
        end, limit, layout = 0, -(-inode.size // BLOCK), self.store.layout
        for segment in extents:
            start, block, count, _ = segment
            if start < end:
                self.problem(f"inode {inode.number}: extents overlap or are out of order at block {start}")
            if not (count and layout.first <= block and block + count <= layout.last):
                self.problem(f"inode {inode.number}: an extent at blocks {block} to {block + count - 1}")
                continue
            end = start + count
            self._refer(block, count)
        if end > limit and not inode.flags & ORPHAN:
            self.problem(f"inode {inode.number}: blocks up to {end}, but a size of {inode.size} bytes")

    def _tree(self, inode: Inode) -> None:
        waiting: list[tuple[int, int, int, int | None]] = []
        if inode.root:
            waiting.append((inode.root, 0, 1 << 64, None))
        while waiting:
            block, low, high, level = waiting.pop()
            node = self.core.nodes.get(block, inode.number)
            self._refer(block, 1)
            if level is not None and node.level != level:
                self.problem(f"block {block}: a tree node of level {node.level} where {level} was expected")
                continue
            if not node.keys or any(a >= b for a, b in pairwise(node.keys)):
                self.problem(f"block {block}: the keys of a tree node are out of order, or there are none")
                continue
            if node.keys[-1] >= high or (node.keys[0] < low and not node.level):
                self.problem(f"block {block}: keys of a tree node are outside of {low} to {high - 1}")
            waiting += _children(node, low, high)

    def _lists(self) -> None:
        state = self.store.state
        listed: set[int] = set()
        number = state.free
        while number in self.free and number not in listed:
            listed.add(number)
            inode = Inode(self.store, number)
            inode.reload()
            number = inode.next
        if number or listed != self.free:
            self.problem(f"the list of free inodes has {len(listed)} of {len(self.free)}, ends with {number}")
        if state.used != len(self.inodes):
            self.problem(f"{len(self.inodes)} inodes are in use, the state says {state.used}")
        orphans: set[int] = set()
        number, before = state.orphan, 0
        while number in self.inodes and number not in orphans and self.inodes[number].previous == before:
            orphans.add(number)
            number, before = self.inodes[number].next, number
        flagged = {number for number, inode in self.inodes.items() if inode.flags & ORPHAN}
        if number or orphans != flagged:
            self.problem(f"the list of orphans has {len(orphans)} of {len(flagged)}, ends with {number}")

    def _names(self) -> None:
        for inode in self.inodes.values():
            if inode.is_directory:
                try:
                    self._directory(inode)
                except VolumeError as error:
                    self.problem(str(error.strerror))
        for number, inode in self.inodes.items():
            names = self.names.get(number, 0) + (number == ROOT)
            if names != inode.links or (not names and not inode.flags & ORPHAN):
                self.problem(f"inode {number} has {names} names and {inode.links} links")
        if ROOT not in self.inodes or not self.inodes[ROOT].is_directory:
            self.problem("there is no root directory")
        for number, inode in self.inodes.items():
            seen: set[int] = set()
            while inode.is_directory and inode.number != ROOT and inode.links and inode.number not in seen:
                seen.add(inode.number)
                inode = self.inodes.get(inode.parent, inode)
            if inode.number in seen:
                self.problem(f"directory {number} is not below the root")

    def _directory(self, inode: Inode) -> None:
        directory, count = Directory(self.store, self.core.nodes, inode), 0
        for key, value in directory.tree.items():
            for entry in directory.parse(value):
                count += 1
                self.names[entry.number] = self.names.get(entry.number, 0) + 1
                target = self.inodes.get(entry.number)
                what = f"inode {inode.number}: the entry {entry.name!r}"
                if directory.hash(entry.name) != key:
                    self.problem(f"{what} is under a wrong hash")
                if target is None:
                    self.problem(f"{what} points to inode {entry.number}, which isn't in use")
                elif target.is_directory != entry.is_directory:
                    self.problem(f"{what} is of another kind than inode {entry.number}")
                elif target.is_directory and target.parent != inode.number:
                    self.problem(f"{what} is a directory whose parent is {target.parent}")
        if count != inode.size:
            self.problem(f"inode {inode.number}: {count} entries, and a size of {inode.size}")

    def _refer(self, block: int, count: int) -> None:
        self.report.blocks += count
        while count > 0:
            group, at = divmod(block, GROUP)
            n = min(count, GROUP - at)
            if group not in self.expected:
                self.expected[group] = np.zeros(GROUP, np.int32)
            self.expected[group][at : at + n] += 1
            block, count = block + n, count - n

    def _references(self) -> None:
        layout, space = self.store.layout, self.store.space
        for group in range(layout.groups):
            low, high = max(group * GROUP, layout.first), min((group + 1) * GROUP, layout.last)
            if not space.touched(group):
                if group in self.expected:
                    self.problem(f"group {group} has blocks in use and was never touched")
                continue
            found = space.refs[low:high].astype(np.int32)
            wanted = self.expected.get(group, np.zeros(GROUP, np.int32))[low % GROUP :][: high - low]
            for at in np.flatnonzero(found != wanted)[:10].tolist():
                self.problem(f"block {low + at} has {wanted[at]} references, and a count of {found[at]}")
            free = int(np.count_nonzero(found == 0))
            if free != space.free_in(group):
                self.problem(f"group {group} has {free} free blocks, and a count of {space.free_in(group)}")
        for number, extents in self.extents.items():
            if not self.inodes[number].flags & SHARED:
                for segment in extents:
                    if (space.refs[segment.block : segment.block + segment.blocks] > 1).any():
                        self.problem(f"inode {number} has shared blocks at {segment.block}, and no mark")

    def _owners(self) -> None:
        layout = self.store.layout
        for number, extents in self.extents.items():
            for start, block, count, _ in extents:
                words = self.core.medium.words(layout.owners + OWNER * block, 2 * count, "<u8")
                owners = words.reshape(-1, 2).astype(np.int64)
                single = self.store.space.refs[block : block + count] == 1
                wrong = (owners[:, 0] != number) | (owners[:, 1] != np.arange(start, start + count))
                if (wrong & single & (owners[:, 0] != 0)).any():
                    self.problem(f"inode {number}: blocks from {block} on have a wrong owner")


def _children(node: Node, low: int, high: int) -> list[tuple[int, int, int, int | None]]:
    """The children of a node with the keys that they may have."""
    lows = [low, *node.keys[1:]]
    highs = [*node.keys[1:], high]
    return [
        (child, first, last, node.level - 1)
        for child, first, last in zip(node.children, lows, highs, strict=False)
    ]
