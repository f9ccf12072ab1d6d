"""A volume as a real mount, through FUSE: for cp, git, rsync, sqlite3, fio, and mmap through the page cache.

Each request goes to the file system's path of encryption; what the kernel
caches in between is plaintext in DRAM, as of any file. Symbolic and hard links aren't supported.
"""

from __future__ import annotations

import ctypes
import errno
import itertools
import os
import signal
import stat
import sys
import threading
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import wraps
from pathlib import Path
from typing import Any, TypeVar

from mktme.clients.daemon import Log
from mktme.errors import ClientError, KeyUnavailable, LibraryMissing, MktmeError, PolicyError
from mktme.filesystem import EncryptedFile, FileSystem
from pmem.dax import BLOCK
from pmem.errors import PmemError

LIBRARY = "libfuse3.so.3"


def library() -> Any:
    """mfusepy on libfuse 3. Raises LibraryMissing."""
    os.environ.setdefault("FUSE_LIBRARY_PATH", LIBRARY)
    try:
        import mfusepy
    except ImportError as error:
        raise LibraryMissing("mounting a volume needs mfusepy: pip install mktme[fuse]") from error
    except OSError as error:
        raise LibraryMissing(f"mounting a volume needs {LIBRARY}: apt-get install fuse3") from error
    mfusepy._libfuse.fuse_set_log_func(_TELL)
    return mfusepy


def _tell(level: int, form: bytes, arguments: int) -> None:
    """What libfuse has to say goes to the log, as the rest."""
    text = ctypes.create_string_buffer(512)
    ctypes.CDLL(None).vsnprintf(text, ctypes.sizeof(text), form, ctypes.c_void_p(arguments))
    message = text.value.decode(errors="replace").strip()
    if "unknown session" not in message:  # signals are ours, not libfuse's
        Log()("libfuse", message=message)


_TELL = ctypes.CFUNCTYPE(None, ctypes.c_int, ctypes.c_char_p, ctypes.c_void_p)(_tell)


F = TypeVar("F", bound=Callable[..., Any])
CODES = ((KeyUnavailable, errno.ENOKEY), (PolicyError, errno.EXDEV))
NOREPLACE = 1  # renameat2(2)


def _answering(operation: F) -> F:
    """An operation whose errors are a system call's."""

    @wraps(operation)
    def answer(self: Any, *args: Any) -> Any:
        try:
            return operation(self, *args)
        except (MktmeError, PmemError, OSError) as error:
            code = next((code for kind, code in CODES if isinstance(error, kind)), None)
            code = code or getattr(error, "errno", None) or errno.EIO
            if code == errno.EIO:
                self.log("error", operation=operation.__name__, error=str(error))
            raise OSError(code, os.strerror(code)) from error

    return answer  # type: ignore[return-value]


class Operations:
    """What the kernel asks for, of the files below `root` of a file system. Thread-safe as that is."""

    use_ns = True  # times are whole nanoseconds

    def __init__(
        self,
        system: FileSystem,
        root: str,
        log: Log,
        began: Callable[[], None],
        ending: Callable[[], None],
    ) -> None:
        self.system, self.root, self.log = system, root.rstrip("/"), log
        self._began, self._ending = began, ending
        self._files: dict[int, EncryptedFile] = {}
        self._numbers = itertools.count(1)
        self._owner = {"st_uid": os.getuid(), "st_gid": os.getgid()}
        self._lock = threading.Lock()

    def init(self, path: str) -> None:
        self._began()

    def destroy(self, path: str) -> None:
        """The mount has ended: what is open is closed."""
        self._ending()
        with self._lock:
            left, self._files = self._files, {}
        for file in left.values():
            file.close()

    @_answering
    def getattr(self, path: str, fh: int | None = None) -> dict[str, int]:
        found = self._files[fh].file.stat() if fh else self.system.stat(self.root + path)
        return self._owner | {
            "st_mode": found.mode,
            "st_ino": found.number,
            "st_nlink": 2 if stat.S_ISDIR(found.mode) else max(1, found.links),
            "st_size": BLOCK if stat.S_ISDIR(found.mode) else found.size,
            "st_blocks": -(-found.size // 512),
            "st_blksize": BLOCK,
            "st_mtime": found.modified,
            "st_atime": found.modified,
            "st_ctime": found.changed,
        }

    @_answering
    def readdir(self, path: str, fh: int) -> list[str]:
        return [".", "..", *(listed.name for listed in self.system.list(self.root + path))]

    @_answering
    def create(self, path: str, mode: int) -> int:
        file = self.system.create(self.root + path)
        try:
            self.system.set_stat(self.root + path, permissions=stat.S_IMODE(mode))
        except BaseException:
            file.close()
            raise
        return self._keep(file)

    @_answering
    def open(self, path: str, flags: int) -> int:
        return self._keep(self.system.open(self.root + path))

    def _keep(self, file: EncryptedFile) -> int:
        with self._lock:
            number = next(self._numbers)
            self._files[number] = file
        return number

    @_answering
    def release(self, path: str, fh: int) -> int:
        with self._lock:
            file = self._files.pop(fh)
        file.close()
        return 0

    @_answering
    def read(self, path: str, size: int, offset: int, fh: int) -> bytes:
        return self._files[fh].read(offset, size)

    @_answering
    def write(self, path: str, data: bytes, offset: int, fh: int) -> int:
        self._files[fh].write(offset, data)
        return len(data)

    @_answering
    def truncate(self, path: str, length: int, fh: int | None = None) -> int:
        if fh:
            self._files[fh].truncate(length)
        else:
            with self.system.open(self.root + path) as file:
                file.truncate(length)
        return 0

    @_answering
    def fallocate(self, path: str, mode: int, offset: int, size: int, fh: int) -> int:
        keep_size, punch = 1, 2
        file = self._files[fh]
        if mode == keep_size | punch:
            file.punch(offset, min(size, max(0, file.size - offset)))
        elif mode == 0:
            file.fallocate(offset, size)
            if file.size < offset + size:
                file.truncate(offset + size)
        else:
            raise OSError(errno.EOPNOTSUPP, os.strerror(errno.EOPNOTSUPP))
        return 0

    @_answering
    def fsync(self, path: str, datasync: int, fh: int) -> int:
        """What was written, and the metadata that leads to it, is durable in the image."""
        self._files[fh].persist()
        self.system.volume.sync()
        return 0

    @_answering
    def fsyncdir(self, path: str, datasync: int, fh: int) -> int:
        self.system.volume.sync()
        return 0

    @_answering
    def mkdir(self, path: str, mode: int) -> int:
        self.system.mkdir(self.root + path)
        self.system.set_stat(self.root + path, permissions=stat.S_IMODE(mode))
        return 0

    @_answering
    def unlink(self, path: str) -> int:
        self.system.unlink(self.root + path)
        return 0

    @_answering
    def rmdir(self, path: str) -> int:
        self.system.rmdir(self.root + path)
        return 0

    @_answering
    def rename(self, old: str, new: str, flags: int = 0) -> int:
        if flags & ~NOREPLACE:
            raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))
        if flags & NOREPLACE and self.system.exists(self.root + new):
            raise OSError(errno.EEXIST, os.strerror(errno.EEXIST))
        self.system.rename(self.root + old, self.root + new)
        return 0

    @_answering
    def chmod(self, path: str, mode: int) -> int:
        self.system.set_stat(self.root + path, permissions=stat.S_IMODE(mode))
        return 0

    @_answering
    def chown(self, path: str, uid: int, gid: int) -> int:
        """Files belong to who mounts them: no other owner is kept."""
        unchanged = 0xFFFFFFFF
        if uid not in (-1, unchanged, self._owner["st_uid"]) or gid not in (
            -1,
            unchanged,
            self._owner["st_gid"],
        ):
            raise OSError(errno.EPERM, os.strerror(errno.EPERM))
        return 0

    @_answering
    def utimens(self, path: str, times: tuple[int, int] | None = None) -> int:
        if times is not None:
            self.system.set_stat(self.root + path, modified=max(0, int(times[1])))
        return 0

    @_answering
    def statfs(self, path: str) -> dict[str, int]:
        volume = self.system.volume
        free = volume.free // BLOCK
        return {
            "f_bsize": BLOCK,
            "f_frsize": BLOCK,
            "f_blocks": volume.device.size // BLOCK,
            "f_bfree": free,
            "f_bavail": free,
            "f_namemax": 255,
        }


class Mount:
    """What is below `root` of a file system, on a folder. `start` and `stop` it, from any thread.

    Raises ClientError for a folder that can't be mounted on; LibraryMissing without mfusepy or libfuse 3.
    """

    def __init__(self, system: FileSystem, mountpoint: Path, root: str = "/", log: Log | None = None) -> None:
        self.mountpoint = mountpoint.absolute()  # libfuse changes to /
        self.root, self.log = root, log or Log()
        self._system, self._library = system, library()
        self._ready, self.ended = threading.Event(), threading.Event()
        self._session: Any = None  # libfuse's, while there is one
        self._lock = threading.Lock()
        self._failure: BaseException | None = None
        self._thread = threading.Thread(target=self._run, name=f"mount {mountpoint}")
        if not mountpoint.is_dir():
            raise ClientError(f"{mountpoint} is no folder to mount a volume on: make it (mkdir)")
        if any(mountpoint.iterdir()):
            raise ClientError(f"{mountpoint} isn't empty: mount the volume on an empty folder")
        if not os.access("/dev/fuse", os.R_OK | os.W_OK):
            raise ClientError("/dev/fuse can't be used: load the fuse module, or run where it is there")
        system.stat(root)

    @property
    def started(self) -> bool:
        """Whether it is or was mounted."""
        return self._ready.is_set()

    def start(self) -> None:
        """Mount it; it is there when this returns. Raises ClientError."""
        self._thread.start()
        while not (self._ready.wait(0.01) or self.ended.is_set()):
            pass
        if self.ended.is_set():
            self._thread.join()
            raise ClientError(f"{self.mountpoint} could not be mounted ({self._failure})")
        self.log("mounted", folder=str(self.mountpoint), root=self.root)

    def stop(self) -> None:
        """Unmount it, also while files are open there; stopping again does nothing."""
        with self._lock:
            running = self._session is not None
            if running:
                self._library._libfuse.fuse_exit(ctypes.c_void_p(self._session))
        if running:
            with suppress(OSError):
                os.statvfs(self.mountpoint)  # a request, for the loop to see that it is to end
        self._thread.join()

    def _began(self) -> None:
        self._session = self._library._libfuse.fuse_get_context().contents.fuse
        self._ready.set()

    def _ending(self) -> None:
        with self._lock:
            self._session = None

    def _run(self) -> None:
        library = self._library

        class Session(library.FUSE):  # type: ignore[name-defined,misc]
            def rename_fuse_3(self, old: bytes, new: bytes, flags: int) -> int:
                names = os.fsdecode(old), os.fsdecode(new)
                return self.operations.rename(*names, flags) or 0

        image = self._system.volume.device.path.name
        for sign in "\\,":  # they have a meaning among mount options
            image = image.replace(sign, "\\" + sign)
        operations = _under(library)(self._system, self.root, self.log, self._began, self._ending)
        try:
            Session(
                operations,
                str(self.mountpoint),
                foreground=True,
                encoding=sys.getfilesystemencoding(),
                fsname=f"mktme:{image}",
                subtype="mktme",
                default_permissions=True,
                nothreads=True,
            )
        except RuntimeError as error:
            self._failure = error
            self.log("error", folder=str(self.mountpoint), error=f"libfuse returned {error}")
        finally:
            self.ended.set()
            self.log("unmounted", folder=str(self.mountpoint))


def _under(library: Any) -> type[Operations]:
    """The operations as a class of the library's, whose other ones answer that they aren't there."""
    return type("Mounted", (Operations, library.Operations), {})


def serve(mounts: Sequence[Mount]) -> None:
    """Mount all, and wait until each is unmounted or a signal comes (SIGINT, SIGTERM, SIGHUP), which unmounts
    them. To be called from the main thread. Raises ClientError, with none mounted, if one can't be.
    """
    stopping = threading.Event()
    signals = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    before = {number: signal.signal(number, lambda *_: stopping.set()) for number in signals}
    try:
        for mount in mounts:
            mount.start()
        while not (stopping.is_set() or all(mount.ended.is_set() for mount in mounts)):
            stopping.wait(0.2)
    finally:
        for mount in mounts:
            if mount.started:
                mount.stop()
        for number, handler in before.items():
            signal.signal(number, handler)
