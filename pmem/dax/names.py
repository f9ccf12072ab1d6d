"""The names of a volume: paths, directories, and what makes, renames and removes their entries."""

from __future__ import annotations

import os
import stat
import time
from collections.abc import Mapping
from contextlib import suppress

from pmem.dax.core import Core
from pmem.dax.directory import Directory, Entry, Name, checked
from pmem.dax.errors import (
    DirectoryNotEmpty,
    FileClosed,
    IsDirectory,
    NameExists,
    NameInvalid,
    NameNotFound,
    NotDirectory,
    VolumeCorrupt,
)
from pmem.dax.inode import ROOT, Inode
from pmem.dax.store import Transaction

Path = str | bytes | int  # "/a/b", or an inode number
Attributes = Mapping[Name, bytes]


class Names:
    """The directory tree of a volume; the caller holds the volume's lock."""

    def __init__(self, core: Core) -> None:
        self._core = core

    def make_inode(self, transaction: Transaction, mode: int, xattrs: Mapping[bytes, bytes]) -> Inode:
        """A new inode that has no name yet."""
        inode = self._core.inodes.new(transaction, mode)
        if xattrs:
            inode.set_attributes(transaction, dict(xattrs))
        return inode

    def link(self, transaction: Transaction, directory: Directory, name: bytes, inode: Inode) -> None:
        """Give an inode its name."""
        directory.add(transaction, Entry(name, inode.number, inode.is_directory))
        directory.inode.size += 1
        _touch(directory.inode)
        inode.parent = directory.inode.number if inode.is_directory else 0

    def make(self, parent: Inode, name: bytes, mode: int, xattrs: Attributes | None) -> Inode:
        """A new file or directory with its attributes, in one transaction. Raises NameExists."""
        attributes = {checked(key): bytes(value) for key, value in (xattrs or {}).items()}
        directory = self.vacant(parent, name)
        with self._core.store.begin() as transaction:
            inode = self.make_inode(transaction, mode, attributes)
            self.link(transaction, directory, name, inode)
        return inode

    def vacant(self, inode: Inode, name: bytes) -> Directory:
        """A directory that doesn't have a name yet. Raises NameExists, NotDirectory."""
        directory = self.directory(inode)
        if directory.find(name):
            raise NameExists(f"{os.fsdecode(name)!r} exists already: open it, or choose another name")
        return directory

    def remove(self, parent: Inode, name: bytes, *, is_directory: bool) -> None:
        """Remove a name, and free its inode if nobody has it open."""
        directory = self.directory(parent)
        entry = self.entry(directory, name)
        if entry.is_directory and not is_directory:
            raise IsDirectory(f"{os.fsdecode(name)!r} is a directory: remove it with rmdir")
        inode = self.inode(entry.number)
        if is_directory:
            _check_empty(self.directory(inode).inode, name)
        with self._core.store.begin(freeing=True) as transaction:
            directory.remove(transaction, name)
            directory.inode.size -= 1
            _touch(directory.inode)
            self._core.unlinked(transaction, inode)
        self.finish(inode)

    def rename(self, parent: Inode, name: bytes, new_parent: Inode, new_name: bytes) -> None:
        """Give an entry another name, and free what had it."""
        source = self.directory(parent)
        target = source if new_parent is parent else self.directory(new_parent)
        entry = self.entry(source, name)
        old = target.find(new_name)
        if old and old.number == entry.number:
            return
        victim = self.inode(old.number) if old else None
        self._check_rename(entry, new_name, target.inode, victim)
        with self._core.store.begin() as transaction:
            source.remove(transaction, name)
            target.add(transaction, Entry(new_name, entry.number, entry.is_directory))
            source.inode.size -= 1
            target.inode.size += 0 if old else 1
            _touch(source.inode)
            _touch(target.inode)
            moved = self.inode(entry.number)
            transaction.join(moved)
            moved.changed = target.inode.changed
            if entry.is_directory:
                moved.parent = target.inode.number
            if victim:
                self._core.unlinked(transaction, victim)
        if victim:
            self.finish(victim)

    def _check_rename(self, entry: Entry, new_name: bytes, target: Inode, victim: Inode | None) -> None:
        if entry.is_directory:
            above = target
            while above.number != entry.number and above.number != ROOT:
                above = self.inode(above.parent)
            if above.number == entry.number:
                raise NameInvalid(f"{os.fsdecode(entry.name)!r} can't be moved below itself")
        if victim and entry.is_directory:
            if not victim.is_directory:
                raise NotDirectory(f"{os.fsdecode(new_name)!r} is a file, and a directory would replace it")
            _check_empty(victim, new_name)
        elif victim and victim.is_directory:
            raise IsDirectory(f"{os.fsdecode(new_name)!r} is a directory, and a file would replace it")

    def set_attributes(self, inode: Inode, attributes: dict[bytes, bytes]) -> None:
        """Replace all extended attributes. Raises AttributesTooLarge, VolumeFull."""
        with self._core.store.begin() as transaction:
            inode.set_attributes(transaction, attributes)
            self._core.mapping(inode).fit(transaction)

    def set_stat(self, inode: Inode, permissions: int | None, modified: int | None) -> None:
        """Change what `stat` says. Raises VolumeFull."""
        with self._core.store.begin() as transaction:
            transaction.join(inode)
            if permissions is not None:
                inode.mode = stat.S_IFMT(inode.mode) | permissions
            if modified is not None:
                inode.modified = modified
            inode.changed = time.time_ns()

    def finish(self, inode: Inode) -> None:
        """Free an unlinked inode that isn't open any more."""
        if inode.mode and not inode.links and not inode.opens:
            self._core.finish(inode)

    def finish_orphans(self) -> None:
        """Do what was left to do; a damaged orphan stays, for the check to tell."""
        state = self._core.store.state
        with suppress(VolumeCorrupt):
            while state.orphan:
                self._core.finish(self._core.inodes.get(state.orphan))

    def inode(self, number: int) -> Inode:
        """The inode of a number. Raises FileClosed, StaleHandle."""
        self.check_open()
        return self._core.inodes.get(number)

    def directory(self, inode: Inode) -> Directory:
        """The directory of an inode. Raises NotDirectory."""
        if not inode.is_directory:
            raise NotDirectory(f"inode {inode.number} is a file, not a directory")
        return Directory(self._core.store, self._core.nodes, inode)

    def entry(self, directory: Directory, name: bytes) -> Entry:
        """The entry of a name. Raises NameNotFound."""
        entry = directory.find(name)
        if entry is None:
            raise NameNotFound(f"there is no {os.fsdecode(name)!r} in the directory")
        return entry

    def resolve(self, path: Path) -> Inode:
        """The inode that a path leads to."""
        if isinstance(path, int):
            return self.inode(path)
        inode = self.inode(ROOT)
        for name in _names(path):
            inode = self.inode(self.entry(self.directory(inode), checked(name)).number)
        return inode

    def parent(self, path: Path) -> tuple[Inode, bytes]:
        """The directory that the last name of a path is in, and that name."""
        if isinstance(path, int) or not (names := _names(path)):
            raise NameInvalid(f"{path!r} is no path to a name in a directory")
        inode = self.inode(ROOT)
        for name in names[:-1]:
            inode = self.inode(self.entry(self.directory(inode), checked(name)).number)
        return inode, checked(names[-1])

    def check_open(self) -> None:
        """Raise FileClosed if the volume is closed."""
        if self._core.medium.closed:
            raise FileClosed("the volume has been closed: mount it again with pmem.dax.mount")


def _names(path: str | bytes) -> list[bytes]:
    try:
        data = path.encode("utf-8", "surrogateescape") if isinstance(path, str) else path
    except UnicodeEncodeError:
        raise NameInvalid(f"{path!r} can't be encoded in UTF-8: give it as bytes") from None
    if b"\0" in data:
        raise NameInvalid(f"{path!r} has a NUL in it, and names have none")
    return [name for name in data.split(b"/") if name]


def _touch(directory: Inode) -> None:
    directory.modified = directory.changed = time.time_ns()


def _check_empty(directory: Inode, name: bytes) -> None:
    if directory.size:
        raise DirectoryNotEmpty(f"{os.fsdecode(name)!r} has {directory.size} entries: remove them first")
