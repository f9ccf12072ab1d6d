"""SQLite on encrypted persistent memory: databases in files of a volume, or directly in a region.

`connect` returns an ordinary `apsw.Connection`, whose files are a virtual file system's (VFS) in Python.
Journals are those of SQLite: a rollback journal, or a write-ahead log that one connection has for itself
(there is no memory that processes share here). Temporary files stay in memory.
"""

from __future__ import annotations

import itertools
import threading
import weakref
from typing import Any, Literal

from mktme.clients.stores import MAIN, FolderStore, MemoryStore, RegionStore, Store, StoreFile, StoreFull
from mktme.errors import ClientError, LibraryMissing
from mktme.filesystem import FileSystem
from mktme.region import Region
from pmem.geometry import PAGE

try:
    import apsw
except ImportError as error:
    raise LibraryMissing("SQLite on encrypted memory needs apsw: pip install mktme[sqlite]") from error

Journal = Literal["delete", "truncate", "persist", "memory", "wal", "off"]
NONE, SHARED, RESERVED, PENDING, EXCLUSIVE = range(5)  # SQLite's locks
WAL_VERSION = 2  # bytes 18 and 19 of a database in that mode
CHECKPOINT = 1000  # pages of a log after which SQLite copies them into the database
_numbers = itertools.count(1)
_known: weakref.WeakValueDictionary[int, Vfs] = weakref.WeakValueDictionary()
_making = threading.Lock()


def connect(
    place: FileSystem | Region,
    path: str = MAIN,
    *,
    mode: Literal["rwc", "rw", "r"] = "rwc",
    journal: Journal | None = None,
) -> Connection:
    """A connection to a database: the file `path` of a file system, or the one in a region.

    `mode`: "r" reads, "rw" also writes, "rwc" makes it if it isn't there. `journal` sets the journal mode,
    None leaves what the database has; with "wal" (also where the database has it) the connection is its
    only one. A sync is durable in the image, and in its persistence domain if it has one. Connections to
    one file system, or region, in this process see each other's locks; another process can't have the
    device at the same time. Thread-safe as SQLite's own connections are.

    Raises ClientError for a journal mode that isn't to be had, or a region that can't hold a database;
    FileNotFoundError for a file that isn't there (its name can't be read without the key); apsw.Error.
    """
    vfs = _vfs(place)
    flags = {
        "r": apsw.SQLITE_OPEN_READONLY,
        "rw": apsw.SQLITE_OPEN_READWRITE,
        "rwc": apsw.SQLITE_OPEN_READWRITE | apsw.SQLITE_OPEN_CREATE,
    }
    if mode not in flags:
        raise ClientError(f"mode {mode!r}: it is one of {', '.join(flags)}")
    if not path.startswith("/"):
        raise ClientError(f"{path!r}: a path in the volume begins with /")
    if isinstance(place, FileSystem) and mode != "rwc":
        place.open(path).close()  # says what is the matter, which SQLite doesn't
    made = Connection(path, flags=flags[mode], vfs=vfs.name)
    made.vfs = vfs
    try:
        if journal == "wal" or vfs.has_log(path):
            made.pragma("locking_mode", "exclusive")
            if isinstance(place, Region):  # the log is to leave room for the database
                made.wal_autocheckpoint(min(CHECKPOINT, place.size // PAGE // 8))
        if journal is not None:
            got = made.pragma("journal_mode", journal)
            if got != journal:
                raise ClientError(f"the journal mode {journal!r} isn't to be had: the database has {got!r}")
    except BaseException:
        made.close()
        raise
    return made


class Connection(apsw.Connection):
    """A connection that keeps its file system."""

    vfs: Vfs


def _vfs(place: FileSystem | Region) -> Vfs:
    with _making:
        found = _known.get(id(place))
        if found is None or found.place is not place:
            store = FolderStore(place) if isinstance(place, FileSystem) else RegionStore(place)
            found = Vfs(place, store)
            _known[id(place)] = found
        return found


class Vfs(apsw.VFS):
    """The files of a store as SQLite asks for them. `syncs`: how often one was made durable."""

    def __init__(self, place: object, store: Store) -> None:
        self.name = f"mktme-{next(_numbers)}"
        self.place, self.store = place, store
        self.syncs = 0
        self._locks: dict[str, Locks] = {}
        super().__init__(self.name, base="", maxpathname=1024)

    def has_log(self, path: str) -> bool:
        """Whether a database is in the mode of a write-ahead log."""
        if not self.store.exists(path):
            return False
        file = self.store.open(path, create=False)
        try:
            return file.read(18, 2) == bytes([WAL_VERSION, WAL_VERSION])
        finally:
            file.close()

    def xOpen(self, name: Any, flags: list[int]) -> Any:
        if name is None:
            return VfsFile(self, MemoryStore.File(), Locks())
        text = name if isinstance(name, str) else name.filename()
        create = bool(flags[0] & apsw.SQLITE_OPEN_CREATE)
        flags[1] = flags[0]
        try:
            file = self.store.open(text, create)
        except FileNotFoundError as error:
            raise apsw.CantOpenError(str(error)) from error
        return VfsFile(self, file, self._locks.setdefault(text, Locks()))

    def xAccess(self, pathname: str, flags: int) -> bool:
        return self.store.exists(pathname)

    def xDelete(self, filename: str, syncdir: bool) -> None:
        try:
            self.store.delete(filename)
        except FileNotFoundError as error:
            made: Any = apsw.IOError(str(error))
            made.extendedresult = apsw.SQLITE_IOERR_DELETE_NOENT
            raise made from error

    def xFullPathname(self, name: str) -> str:
        return name


class Locks:
    """Who has which lock on a file, as in https://www.sqlite.org/lockingv3.html. Thread-safe."""

    def __init__(self) -> None:
        self.levels: dict[object, int] = {}
        self.lock = threading.Lock()

    def others(self, owner: object) -> int:
        """The highest lock that somebody else has."""
        return max((level for who, level in self.levels.items() if who is not owner), default=NONE)


class VfsFile:
    """An open file."""

    def __init__(self, vfs: Vfs, file: StoreFile, locks: Locks) -> None:
        self._vfs, self._file, self._locks = vfs, file, locks

    def xRead(self, amount: int, offset: int) -> bytes:
        return self._file.read(offset, amount)

    def xWrite(self, data: Any, offset: int) -> None:
        try:
            self._file.write(offset, bytes(data))
        except StoreFull as error:
            raise apsw.FullError(str(error)) from error

    def xTruncate(self, size: int) -> None:
        self._file.truncate(size)

    def xSync(self, flags: int) -> None:
        self._file.sync()
        self._vfs.syncs += 1

    def xFileSize(self) -> int:
        return self._file.size

    def xLock(self, level: int) -> None:
        locks = self._locks
        with locks.lock:
            others = locks.others(self)
            busy = {SHARED: PENDING, RESERVED: RESERVED, EXCLUSIVE: RESERVED}[level]
            if others >= busy:
                raise apsw.BusyError("another connection has the database")
            if level == EXCLUSIVE and others >= SHARED:
                locks.levels[self] = PENDING  # no new readers
                raise apsw.BusyError("other connections read the database")
            locks.levels[self] = level

    def xUnlock(self, level: int) -> None:
        with self._locks.lock:
            if level == NONE:
                self._locks.levels.pop(self, None)
            else:
                self._locks.levels[self] = level

    def xCheckReservedLock(self) -> bool:
        with self._locks.lock:
            return max(self._locks.levels.values(), default=NONE) >= RESERVED

    def xFileControl(self, op: int, pointer: int) -> bool:
        return False

    def xSectorSize(self) -> int:
        """The longest data unit: what a power failure may leave as garbage together."""
        return PAGE

    def xDeviceCharacteristics(self) -> int:
        return 0

    def xClose(self) -> None:
        with self._locks.lock:
            self._locks.levels.pop(self, None)
        self._file.close()
