"""A volume: files and directories by path, by directory and name, or by inode number."""

from __future__ import annotations

from collections.abc import Iterator

from pmem.dax import relocation
from pmem.dax.cleaner import Cleaned, clean
from pmem.dax.core import Core
from pmem.dax.directory import Entry, Name, checked
from pmem.dax.errors import (
    AttributeNotFound,
    IsDirectory,
    StaleHandle,
    VolumeBusy,
)
from pmem.dax.file import File, Stat, stat_of
from pmem.dax.inode import DIRECTORY, FILE, Inode
from pmem.dax.layout import BLOCK
from pmem.dax.names import Attributes, Names, Path
from pmem.dax.reflink import share
from pmem.dax.relocation import Move, Moved
from pmem.device import Device
from pmem.errors import RangeError

SEGMENTS_CLEANED = 4  # when the log gets short of them
Entries = list[Entry]
Keys = list[bytes]


class Volume:
    """A mounted volume; made by `pmem.dax.make` and `pmem.dax.mount`, closed by `close` or as a context.

    All calls may run in several threads at once. What changes metadata is atomic and persistent
    when the call returns. Calls raise NameNotFound, NotDirectory, IsDirectory, NameInvalid and
    NameTooLong for their paths, VolumeFull and DeviceFull with nothing changed, VolumeCorrupt, and
    FileClosed once the volume is closed.

    Attributes: `move` (how relocating and cleaning copy data, None for plain copies; a layer above
    that encrypts sets it).
    """

    def __init__(self, core: Core) -> None:
        self._core = core
        self.move: Move | None = None
        self._names = Names(core)
        core.clean = self._clean
        self._names.finish_orphans()
        self.device.mounted.add(self)

    def __enter__(self) -> Volume:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __repr__(self) -> str:
        state = "closed" if self.closed else f"{self._core.store.layout.blocks} blocks"
        return f"<pmem.dax.Volume {str(self._core.medium.device.path)!r} {state}>"

    @property
    def core(self) -> Core:
        """Its parts, for `pmem.dax.check` and other layers of this package."""
        return self._core

    @property
    def closed(self) -> bool:
        """Whether it has been closed."""
        return self._core.medium.closed

    @property
    def device(self) -> Device:
        """The device that the volume is on."""
        return self._core.medium.device

    @property
    def uuid(self) -> bytes:
        """The 16 bytes that tell this volume from others."""
        return self._core.store.layout.uuid

    @property
    def log_structured(self) -> bool:
        """Whether data is never overwritten in place."""
        return self._core.store.layout.log_structured

    @property
    def free(self) -> int:
        """Bytes that are free for data."""
        space = self._core.store.space
        left = self._core.log.left if self._core.log else 0
        return max(0, space.total + len(space.delayed) + left - space.reserve) * BLOCK

    def create(self, path: Path, *, mode: int = 0o644, xattrs: Attributes | None = None) -> File:
        """Make an empty file and open it; it has its extended attributes from the beginning.

        Raises NameExists, AttributesTooLarge.
        """
        with self._core.store.lock:
            return self._file(self._names.make(*self._names.parent(path), FILE | mode & 0o7777, xattrs))

    def create_at(
        self, directory: int, name: Name, *, mode: int = 0o644, xattrs: Attributes | None = None
    ) -> File:
        """`create` with a name in a directory, given by its inode number."""
        with self._core.store.lock:
            parent = self._names.inode(directory)
            return self._file(self._names.make(parent, checked(name), FILE | mode & 0o7777, xattrs))

    def open(self, path: Path) -> File:
        """Open a file."""
        with self._core.store.lock:
            return self._file(self._names.resolve(path))

    def open_handle(self, number: int, generation: int) -> File:
        """Open a file by inode number and generation. Raises StaleHandle if it has been removed."""
        with self._core.store.lock:
            inode = self._names.inode(number)
            if inode.generation != generation or not inode.links:
                raise StaleHandle(
                    f"inode {number} of generation {generation} is gone (now it is {inode.generation}): "
                    "look the file up by its name"
                )
            return self._file(inode)

    def reflink(self, source: Path, path: Path) -> None:
        """Make a new file that shares the blocks of another one until either is written to.

        It has the same extended attributes. Raises NameExists, SharedTooOften.
        """
        with self._core.store.lock:
            parent, name = self._names.parent(path)
        self.reflink_at(source, parent.number, name)

    def reflink_at(self, source: Path, directory: int, name: Name) -> None:
        """`reflink` to a name in a directory, given by its inode number."""
        with self.open(source) as file:
            with self._core.store.lock:
                parent = self._names.inode(directory)
            share(self._core, self._names, file, parent, checked(name))

    def mkdir(self, path: Path, *, mode: int = 0o755, xattrs: Attributes | None = None) -> int:
        """Make a directory; its inode number. Raises NameExists, AttributesTooLarge."""
        with self._core.store.lock:
            return self._names.make(*self._names.parent(path), DIRECTORY | mode & 0o7777, xattrs).number

    def mkdir_at(
        self, directory: int, name: Name, *, mode: int = 0o755, xattrs: Attributes | None = None
    ) -> int:
        """`mkdir` with a name in a directory, given by its inode number."""
        with self._core.store.lock:
            parent = self._names.inode(directory)
            return self._names.make(parent, checked(name), DIRECTORY | mode & 0o7777, xattrs).number

    def lookup(self, directory: int, name: Name) -> Entry:
        """The entry of a name in a directory, given by its inode number."""
        with self._core.store.lock:
            return self._names.entry(self._names.directory(self._names.inode(directory)), checked(name))

    def list(self, path: Path = "/") -> Entries:
        """The entries of a directory, in no particular order that holds."""
        with self._core.store.lock:
            return [*self._names.directory(self._names.resolve(path)).entries()]

    def walk(self, path: Path = "/") -> Iterator[tuple[bytes, Entry]]:
        """Everything below a directory, parents first: (path relative to it, entry)."""
        waiting = [(b"", path)]
        while waiting:
            prefix, directory = waiting.pop()
            for entry in self.list(directory):
                yield prefix + entry.name, entry
                if entry.is_directory:
                    waiting.append((prefix + entry.name + b"/", entry.number))

    def unlink(self, path: Path) -> None:
        """Remove a file; while it is open it lives on without a name."""
        with self._core.store.lock:
            self._names.remove(*self._names.parent(path), is_directory=False)

    def unlink_at(self, directory: int, name: Name) -> None:
        """`unlink` with a name in a directory, given by its inode number."""
        with self._core.store.lock:
            self._names.remove(self._names.inode(directory), checked(name), is_directory=False)

    def rmdir(self, path: Path) -> None:
        """Remove an empty directory. Raises DirectoryNotEmpty."""
        with self._core.store.lock:
            self._names.remove(*self._names.parent(path), is_directory=True)

    def rmdir_at(self, directory: int, name: Name) -> None:
        """`rmdir` with a name in a directory, given by its inode number."""
        with self._core.store.lock:
            self._names.remove(self._names.inode(directory), checked(name), is_directory=True)

    def rename(self, old: Path, new: Path) -> None:
        """Give a file or a directory another name; what has that name is replaced.

        As in POSIX: a directory replaces an empty directory only, a file a file. Raises
        DirectoryNotEmpty; NameInvalid if a directory would be below itself.
        """
        with self._core.store.lock:
            self._names.rename(*self._names.parent(old), *self._names.parent(new))

    def rename_at(self, directory: int, name: Name, new_directory: int, new_name: Name) -> None:
        """`rename` with names in directories, given by their inode numbers."""
        with self._core.store.lock:
            source, target = self._names.inode(directory), self._names.inode(new_directory)
            self._names.rename(source, checked(name), target, checked(new_name))

    def stat(self, path: Path) -> Stat:
        """What is known of a file or a directory."""
        with self._core.store.lock:
            return stat_of(self._names.resolve(path))

    def set_stat(self, path: Path, *, permissions: int | None = None, modified: int | None = None) -> None:
        """Change the permissions (the lower 12 bits of a mode) or the time of modification, in ns since 1970.

        They are kept for whom they concern; the volume itself lets everybody in. Raises RangeError.
        """
        for value, bits in ((permissions, 12), (modified, 63)):
            if value is not None and not 0 <= value < 1 << bits:
                raise RangeError(f"{value} is no number of {bits} bits: permissions have 12, a time has 63")
        with self._core.store.lock:
            self._names.set_stat(self._names.resolve(path), permissions, modified)

    def getxattr(self, path: Path, name: Name) -> bytes:
        """The value of an extended attribute. Raises AttributeNotFound."""
        key = checked(name)
        with self._core.store.lock:
            found = self._names.resolve(path).attributes.get(key)
        if found is None:
            raise AttributeNotFound(f"there is no extended attribute {key!r}")
        return found

    def setxattr(self, path: Path, name: Name, value: bytes) -> None:
        """Set an extended attribute. Raises AttributesTooLarge."""
        key = checked(name)
        with self._core.store.lock:
            inode = self._names.resolve(path)
            self._names.set_attributes(inode, {**inode.attributes, key: bytes(value)})

    def removexattr(self, path: Path, name: Name) -> None:
        """Remove an extended attribute. Raises AttributeNotFound."""
        key = checked(name)
        with self._core.store.lock:
            inode = self._names.resolve(path)
            if key not in inode.attributes:
                raise AttributeNotFound(f"there is no extended attribute {key!r}")
            self._names.set_attributes(
                inode, {other: value for other, value in inode.attributes.items() if other != key}
            )

    def xattrs(self, path: Path) -> dict[bytes, bytes]:
        """All extended attributes."""
        with self._core.store.lock:
            return dict(self._names.resolve(path).attributes)

    def generation(self, number: int) -> int:
        """The generation of an inode that is in use. Raises StaleHandle."""
        with self._core.store.lock:
            return self._names.inode(number).generation

    def listxattr(self, path: Path) -> Keys:
        """The names of the extended attributes."""
        with self._core.store.lock:
            return [*self._names.resolve(path).attributes]

    def relocate(
        self,
        file: File,
        offset: int = 0,
        length: int | None = None,
        *,
        to: int | None = None,
        move: Move | None = None,
    ) -> Moved:
        """Move blocks of a file elsewhere: to new blocks, or to those at address `to`.

        Shared blocks stay. `move(file, offset, old, new, length)` copies bytes, at `offset` in the
        file, from one address to the other; by default they are copied as they are. The mapping
        changes once the copy is persistent. Raises RangeError, RangeTaken, VolumeFull, or what
        `move` raises, with nothing changed.
        """
        return relocation.relocate(self._core, file, offset, length, to, move or self.move)

    def defragment(self, file: File | None = None, *, move: Move | None = None) -> Moved:
        """Give a file, or all, fewer extents where free space allows; `move` as in `relocate`."""
        if file is not None:
            return relocation.defragment(self._core, file, move or self.move)
        total = Moved(0, 0, 0)
        for _, entry in [*self.walk()]:
            if not entry.is_directory:
                try:
                    with self.open(entry.number) as each:
                        total += relocation.defragment(self._core, each, move or self.move)
                except StaleHandle:
                    continue
        return total

    def clean(self, segments: int = 1, *, move: Move | None = None) -> Cleaned:
        """Empty that many segments of the log, the emptiest first; `move` as in `relocate`.

        Segments with metadata, or with blocks that are or were shared, are left and counted.
        """
        return clean(self._core, self.open, segments, move or self.move)

    def _clean(self) -> None:
        self.clean(SEGMENTS_CLEANED)

    def sync(self) -> None:
        """Make everything durable in the image file on the host."""
        core = self._core
        with core.store.lock:
            self._names.check_open()
            touched = [inode for inode in core.inodes.cached() if inode.touched and inode.mode]
            for at in range(0, len(touched), core.store.batch):
                with core.store.begin(freeing=True) as transaction:
                    for inode in touched[at : at + core.store.batch]:
                        transaction.join(inode)
        core.medium.device.flush()

    def close(self) -> None:
        """Unmount; closing again does nothing. Files that are open then are closed.

        Raises VolumeBusy, and the volume stays open, while one of them is being read or written.
        """
        core = self._core
        with core.store.lock:
            if self.closed:
                return
            opened = [inode for inode in core.inodes.cached() if inode.opens]
            for inode in opened:
                if inode.gate and inode.gate.used:
                    raise VolumeBusy(
                        f"inode {inode.number} is being read or written: close the volume once that has ended"
                    )
            if not core.store.journal.interrupted:
                self.sync()
                for inode in opened:
                    inode.opens = 0
                self._names.finish_orphans()
                core.store.journal.checkpoint()
            core.close()

    def _file(self, inode: Inode) -> File:
        if inode.is_directory:
            raise IsDirectory(f"inode {inode.number} is a directory: list it")
        return File(self._core, inode, self._names.finish)
