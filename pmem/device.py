"""The device: a memory-mapped image file that stands in for the DIMMs.

The file holds the raw media bytes and nothing else. It is what somebody who pulls the DIMM sees;
it can back an NVDIMM of a virtual machine, and it can lie on a real DAX file system.
"""

from __future__ import annotations

import ctypes
import errno
import fcntl
import mmap
import os
import stat
import traceback
import weakref
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Literal, Self, TypeVar

import numpy as np
import numpy.typing as npt

from pmem.buffers import Bytes, buffer_bytes, line_addresses, line_array
from pmem.errors import (
    DeviceBusy,
    DeviceChanged,
    DeviceClosed,
    DeviceDenied,
    DeviceExists,
    DeviceFailed,
    DeviceFull,
    DeviceInvalid,
    DeviceLocked,
    DeviceNotFound,
    DomainError,
    PmemError,
    RangeError,
    ReadOnlyDevice,
    SizeError,
)
from pmem.geometry import LINE, PAGE, Size, check_range, format_size, parse_size
from pmem.granularity import StoreGranularity, of_synchronous_mapping

if TYPE_CHECKING:
    from pmem.domain import Domain, Policy
    from pmem.faults import Faults
    from pmem.poison import Poison

T = TypeVar("T")

MAP_SHARED_VALIDATE, MAP_SYNC, MS_SYNC = 0x3, 0x80000, 4  # Linux uapi, mman.h and mman-common.h
LONGEST = 2**63 - PAGE  # bytes of a file: off_t, in whole pages
CHUNK_BITS = 16  # file space is reserved in chunks of 64 KiB

_libc = ctypes.CDLL(None, use_errno=True)
_libc.fallocate.argtypes = [ctypes.c_int, ctypes.c_int, ctypes.c_int64, ctypes.c_int64]
KEEP_SIZE, PUNCH_HOLE = 1, 2  # fallocate(2)
_libc.msync.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]


class Device:
    """Raw persistent memory over an image file; made by `pmem.create` and `pmem.open`.

    A device is one of the memories that can be chained: it reads and writes bytes and 64-byte
    lines by address. Reads and writes may run in several threads at once (two that overlap have
    no defined order); opening and closing belong to one thread. After a fork only one of the
    processes may go on using it. On tmpfs, where a hole takes space when it is read too, reading
    one while the file system is full kills the process.

    Attributes: `path` (pathlib.Path), `size` (bytes), `mode` ("r+" or "r"), `store_granularity`
    (StoreGranularity), `closed` (bool), `base` (address of the mapping in this process), `poison`
    (its poisoned lines, None as long as there have been none), `faults` (once armed, `pmem.faults`).
    """

    follows_stores = False  # whether `storing` does anything
    domain: Domain | None = None  # which stores survive a power failure, where that is modelled

    def __init__(self, fd: int, path: Path, mode: Literal["r+", "r"]) -> None:
        """Take over an open, locked file descriptor of a file that `_check_file` has passed."""
        self.path, self.mode = path, mode
        self.poison: Poison | None = None
        self.faults: Faults | None = None
        self.size = os.fstat(fd).st_size
        self._fd = fd
        self._map, synchronous = _map(fd, self.size, mode)
        self._bytes: Bytes | None = np.frombuffer(self._map, np.uint8)
        self.base = int(self._bytes.ctypes.data)
        self.store_granularity = of_synchronous_mapping(fd) if synchronous else StoreGranularity.PAGE
        # One byte a chunk, 1 where file space is known to be there; lazily zero.
        self._reserved = mmap.mmap(-1, -(-self.size >> CHUNK_BITS))
        # A device that is dropped without being closed gives up its lock with its last array.
        self._close_file = weakref.finalize(self, os.close, fd)
        self.mounted: weakref.WeakSet[Any] = weakref.WeakSet()  # volumes, for the text of DeviceBusy

    def __repr__(self) -> str:
        state = "closed" if self.closed else f"mode={self.mode!r}"
        return f"<pmem.Device {str(self.path)!r} {format_size(self.size)} {state}>"

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            self.close()
        except DeviceBusy:
            if error is None:
                raise
            # The calls that the error has ended keep what they held over the mapping.
            traceback.clear_frames(trace)
            try:
                self.close()
            except DeviceBusy as busy:
                error.add_note(f"the device stays open: {busy}")

    def __reduce__(self) -> Any:
        raise TypeError(f"a device is this process's own: pass the path ({self.path}) and open it there")

    @property
    def closed(self) -> bool:
        """Whether the device has been closed."""
        return self._bytes is None

    @property
    def media(self) -> Bytes:
        """The raw media bytes, a read-only uint8 array of `size` over the mapping, no copy.

        It is live, and the device can't be closed before it (and every view of it) is gone.

        Raises DeviceClosed, DeviceChanged.
        """
        view = self.mapping().view()
        view.flags.writeable = False
        return view

    def mapping(self) -> Bytes:
        """The mapping itself, for the memories in front of this one: a uint8 array of `size`.

        Whoever holds it keeps the device from being closed; writers call `reserve` first.

        Raises DeviceClosed; DeviceChanged if the image file is not as long as it was, since
        touching a page beyond the end of a file kills the process.
        """
        view = self._bytes
        if view is None:
            raise self._has_been_closed()
        now = os.lseek(self._fd, 0, os.SEEK_END)
        if now != self.size:
            del view  # an error keeps the locals of its frames, and the device open with them
            raise DeviceChanged(
                errno.EIO,
                f"the image file was {self.size} bytes long when it was mapped and is {now} now: "
                "close the device, give the file its length back, open it again",
                str(self.path),
            )
        return view

    def reserve(self, offset: int, length: int) -> None:
        """Make sure that a range can be written: the device is writable, the file has the space.

        A store to a hole of a sparse file on a full disk would kill the process; so space is
        allocated before the first store, 64 KiB at a time. Costs a look-up where it is there.

        Raises DeviceClosed, ReadOnlyDevice; DeviceFull, with nothing written.
        """
        first, last = offset >> CHUNK_BITS, (offset + length - 1) >> CHUNK_BITS
        if self._bytes is None or self.mode == "r":
            self._check_writable()
        if self._reserved.find(b"\0", first, last + 1) >= 0:
            self._allocate(first, last)

    def reserve_lines(self, addresses: npt.NDArray[np.uint64]) -> None:
        """`reserve` for a line at each of many addresses, uint64 of any shape, in range.

        Raises as `reserve`.
        """
        self._check_writable()
        for start in range(0, addresses.size, 1 << 16):
            chunks = addresses.reshape(-1)[start : start + (1 << 16)] >> np.uint64(CHUNK_BITS)
            missing = chunks[np.frombuffer(self._reserved, np.uint8)[chunks] == 0]
            for chunk in np.unique(missing).tolist() if missing.size else ():
                self._allocate(chunk, chunk)

    def storing(self, offset: int, length: int) -> None:
        """Say that a range of the mapping, reserved, is about to be stored to; for the persistence
        domain, so that a device without one does nothing.
        """

    def storing_lines(self, addresses: npt.NDArray[np.uint64]) -> None:
        """`storing` for a line at each of many addresses."""

    def map_privately(self) -> tuple[mmap.mmap, list[tuple[int, int]]]:
        """Another mapping, to which writes stay in this process, and what it is of: file descriptors, that
        are the caller's, and the bytes of each.
        """
        prot = mmap.PROT_READ | mmap.PROT_WRITE
        made = mmap.mmap(self._fd, self.size, flags=mmap.MAP_PRIVATE, prot=prot)
        return made, [(os.dup(self._fd), self.size)]

    def _has_been_closed(self) -> DeviceClosed:
        return DeviceClosed(f"{self.path} has been closed: open it again with pmem.open")

    def _check_writable(self) -> None:
        if self._bytes is None:
            raise self._has_been_closed()
        if self.mode == "r":
            raise ReadOnlyDevice(
                errno.EACCES,
                'the device was opened with mode="r": open it with mode="r+" to write',
                str(self.path),
            )

    def _allocate(self, first: int, last: int) -> None:
        start, end = first << CHUNK_BITS, min(self.size, (last + 1) << CHUNK_BITS)
        try:
            os.posix_fallocate(self._fd, start, end - start)
        except OSError as error:
            full = error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
            kind = DeviceFull if full else DeviceFailed
            way = "free some space and try again; " if full else ""
            raise kind(
                error.errno,
                f"no file space for bytes {start} to {end - 1} ({error.strerror}): {way}nothing was written",
                str(self.path),
            ) from None
        self._reserved[first : last + 1] = b"\1" * (last + 1 - first)

    def discard(self, offset: int, length: int) -> None:
        """Give the file space of a range back, in whole chunks of 64 KiB: they read as zeros. What lies in
        other chunks stays. Nobody may be writing there meanwhile.

        Raises RangeError, DeviceClosed, ReadOnlyDevice; DeviceFailed if the file system can't.
        """
        offset, length = check_range(offset, length, self.size, "device")
        self._check_writable()
        first, last = -(-offset >> CHUNK_BITS), (offset + length) >> CHUNK_BITS
        if first < last:
            self.storing(first << CHUNK_BITS, (last - first) << CHUNK_BITS)
            self._release_space(first << CHUNK_BITS, (last - first) << CHUNK_BITS)
            self._reserved[first:last] = bytes(last - first)

    def _release_space(self, start: int, length: int) -> None:
        if _libc.fallocate(self._fd, KEEP_SIZE | PUNCH_HOLE, start, length):
            code = ctypes.get_errno()
            raise DeviceFailed(code, f"no hole can be made ({os.strerror(code)})", str(self.path))

    def read(self, offset: int, length: int) -> bytes:
        """Raw bytes of a range. Raises RangeError, DeviceClosed, DeviceChanged, PoisonError."""
        offset, length = check_range(offset, length, self.size, "device")
        if self.poison is not None:
            self.poison.check_read(offset, length)
        return self.mapping()[offset : offset + length].tobytes()

    def read_into(self, buffer: Any, offset: int = 0) -> None:
        """Fill a writable contiguous buffer with raw bytes. Raises as `read`."""
        into = buffer_bytes(buffer, writable=True)
        offset, _ = check_range(offset, into.size, self.size, "device")
        if self.poison is not None:
            self.poison.check_read(offset, into.size)
        into[:] = self.mapping()[offset : offset + into.size]

    def write(self, offset: int, data: Any, *, nontemporal: bool = False) -> None:
        """Write raw bytes from a contiguous buffer, as firmware or an attacker would.

        In a persistence domain `nontemporal` stores don't wait for a flush, only for a fence.

        Raises RangeError, DeviceClosed, DeviceChanged, ReadOnlyDevice, DeviceFull; PoisonError for a
        part of a poisoned line (one that is written whole is poisoned no longer).
        """
        source = buffer_bytes(data)
        offset, _ = check_range(offset, source.size, self.size, "device")
        if self.poison is not None:
            self.poison.check_write(offset, source.size)
        view = self.mapping()
        try:
            self._check_writable()
            if source.size:
                self.reserve(offset, source.size)
                self.storing(offset, source.size)
                view[offset : offset + source.size] = source
        finally:
            del view
        if self.poison is not None:
            self.poison.written(offset, source.size)

    def read_lines(self, addresses: npt.ArrayLike) -> Bytes:
        """Raw lines: (n,) line-aligned addresses to (n, 64) uint8. Raises as `read`."""
        index = line_addresses(addresses, self.size)
        if self.poison is not None:
            self.poison.check_lines(index // np.uint64(LINE))
        lines: Bytes = self.mapping().reshape(-1, LINE)[index // np.uint64(LINE)]
        return lines

    def write_lines(self, addresses: npt.ArrayLike, lines: npt.ArrayLike) -> None:
        """Write raw lines: (n,) line-aligned addresses, (n, 64) uint8. Raises as `write`."""
        index = line_addresses(addresses, self.size)
        data = line_array(lines, index.size)
        if self.poison is not None:
            self.poison.check_write_lines(index // np.uint64(LINE))
        view = self.mapping()
        try:
            self.reserve_lines(index)
            self.storing_lines(index)
            view.reshape(-1, LINE)[index // np.uint64(LINE)] = data
        finally:
            del view
        if self.poison is not None:
            self.poison.written_lines(index // np.uint64(LINE))

    def flush(self, offset: int = 0, length: int | None = None) -> None:
        """Make the pages of a byte range durable in the image file (msync); by default all.

        Costs by the pages that are dirty. Releases the GIL.

        Raises RangeError, DeviceClosed, DeviceChanged; DeviceFailed if the system can't write.
        """
        offset, count = check_range(offset, 0 if length is None else length, self.size, "device")
        count = self.size - offset if length is None else count
        start = offset & -mmap.PAGESIZE  # the system's page, which can be longer than ours
        view = self.mapping()  # held, so that the pages stay mapped
        try:
            failed = (
                count
                and self.mode == "r+"
                and _libc.msync(self.base + start, offset + count - start, MS_SYNC)
            )
        finally:
            del view
        if failed:
            code = ctypes.get_errno()
            raise DeviceFailed(
                code,
                f"bytes {offset} to {offset + count - 1} are not durable ({os.strerror(code)})",
                str(self.path),
            )

    def drain(self) -> None:
        """Wait until flushed bytes are durable. `flush` has waited already, so this only checks.

        Raises DeviceClosed, DeviceChanged.
        """
        self.mapping()

    def persist(self, offset: int = 0, length: int | None = None) -> None:
        """`flush` and `drain`. Raises as `flush`."""
        self.flush(offset, length)
        self.drain()

    def deep_flush(self, offset: int = 0, length: int | None = None) -> None:
        """Make a range durable in the image file itself, whatever the persistence domain covers.

        Raises as `flush`.
        """
        self.persist(offset, length)

    def crash(self, policy: Policy = "random", *, seed: int = 0, encrypted: bool = True) -> Device:
        """What a restart would see if the power failed now: a device of its own; this one goes on.

        It has what is durable, and of the lines that aren't those that `policy` lets through: "none",
        "all", a "random" half (by `seed`), or those for which a function of `pmem.Pending` gives True.
        Lines of a CPU cache go through the memory behind it, so through the controller; with
        `encrypted` false the residual energy of an eADR machine writes them past it, as they are.
        What is written to the device that is returned stays in this process, and costs memory by the
        pages that differ; nobody else may write to the image meanwhile.

        Raises DomainError without a persistence domain, or for a policy that can't be; DeviceClosed.
        """
        raise DomainError(
            f"{self.path} was opened without a persistence domain, where nothing is lost: open it with "
            'pmem.open(path, domain="adr")'
        )

    def close(self) -> None:
        """Unmap the image and release its lock; closing again does nothing.

        Closing doesn't persist: as with real memory, what was not persisted survives this
        process, but not a power failure.

        Raises DeviceBusy, and the device stays open, while a volume is mounted on it, arrays over the
        mapping are alive or another thread is inside of it.
        """
        if self._bytes is None:
            return
        if self.faults is not None:
            self.faults.closing()
        self._bytes = None
        try:
            self._map.close()
        except BufferError:
            self._bytes = np.frombuffer(self._map, np.uint8)
            mounted = [volume.uuid.hex() for volume in self.mounted if not volume.closed]
            raise DeviceBusy(
                f"{self.path} can't be closed: the volume {mounted[0]} is mounted on it; close the volume, "
                "and close again"
                if mounted
                else f"{self.path} can't be closed: arrays over it (device.media, or views of it) are still "
                "alive; delete them, or copy what you need, and close again"
            ) from None
        self._release()
        if self.faults is not None:
            self.faults.closed()

    def _release(self) -> None:
        """Give up what is beside the mapping, which is gone."""
        self._reserved.close()
        self._close_file()


def create(
    path: str | os.PathLike[str],
    size: Size,
    *,
    exist_ok: bool = False,
    domain: str | Domain | None = None,
) -> Device:
    """Make a sparse image file of `size` bytes, all zero, and open it for reading and writing.

    `size` is a positive multiple of 4096: an integer, or text such as ``"64MiB"``. With
    `exist_ok` an image of just that size is opened as it is. `domain` as in `open`.

    Raises SizeError; DomainError; DeviceExists, DeviceNotFound (no such folder), DeviceLocked, DeviceDenied,
    DeviceInvalid, DeviceFull or DeviceFailed; no file is left behind.
    """
    path, count = Path(path), _whole_pages(size)
    made = domain_of(domain)
    try:
        fd = _system(path, lambda: os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666))
    except DeviceExists:
        if not exist_ok:
            raise
        device = open(path, domain=made)
        if device.size != count:
            found = device.size
            device.close()
            raise SizeError(
                f"{path} has {found} bytes, not {count}: open it with pmem.open, or choose another path"
            ) from None
        return device
    try:
        _lock(fd, path)
        _system(path, lambda: os.ftruncate(fd, count))
        return _take(fd, path, "r+", made)
    except BaseException:
        os.close(fd)
        with suppress(OSError):
            path.unlink()
        raise


def open(
    path: str | os.PathLike[str], mode: Literal["r+", "r"] = "r+", *, domain: str | Domain | None = None
) -> Device:
    """Open an image file: "r+" to read and write, "r" to read.

    One holder at a time may write (an advisory lock, ``flock``); readers take no lock. `domain`
    models which stores survive a power failure: "adr", "eadr", "page", or a `pmem.Domain` of this
    device's own; with mode "r" nothing can be lost, and it does nothing. Stores of mapped regions
    then stay in a CPU cache until they are flushed, and `flush` and `drain` do what they say (without
    a domain they make the image file durable).

    Raises DeviceNotFound, DeviceDenied, DeviceLocked, DeviceInvalid or DeviceFailed; DomainError.
    """
    path, made = Path(path), domain_of(domain)
    if mode not in ("r+", "r"):
        raise RangeError(f'mode {mode!r} is neither "r+" (read and write) nor "r" (read)')
    flags = os.O_RDWR if mode == "r+" else os.O_RDONLY
    # Not to wait for the other end if it is a pipe.
    fd = _system(path, lambda: os.open(path, flags | os.O_CLOEXEC | os.O_NONBLOCK))
    try:
        if mode == "r+":
            _lock(fd, path)
        _check_file(fd, path)
        return _take(fd, path, mode, made)
    except BaseException:
        os.close(fd)
        raise


def _whole_pages(size: Size) -> int:
    count = parse_size(size)
    if count > LONGEST:
        raise SizeError(f"{count} bytes are more than a file can have: at most {LONGEST}")
    if count == 0 or count % PAGE:
        raise SizeError(f"{count} bytes are not a size for a device: a positive multiple of the page, {PAGE}")
    return count


def _system(path: Path, call: Callable[[], T]) -> T:
    """A system call on the image, its failure as one of our errors."""
    try:
        return call()
    except ValueError as error:
        raise DeviceInvalid(f"{str(path)!r} is not a path: {error}") from None
    except OSError as error:
        kind: type[PmemError] = DeviceFailed
        hint = ""
        if isinstance(error, FileNotFoundError):
            found = path.parent.is_dir()
            kind, hint = DeviceNotFound, ": make one with pmem.create" if found else ": make its folder first"
        elif isinstance(error, FileExistsError):
            kind, hint = DeviceExists, ": open it with pmem.open, or pass exist_ok=True"
        elif isinstance(error, PermissionError):
            kind, hint = DeviceDenied, ': check its permissions, or open it with mode="r"'
        elif isinstance(error, IsADirectoryError):
            kind, hint = DeviceInvalid, ": a device is a regular file"
        elif error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            kind, hint = DeviceFull, ": choose another place, or a smaller size"
        if kind is DeviceInvalid:
            raise DeviceInvalid(f"{path}: {error.strerror}{hint}") from None
        raise kind(error.errno, f"{error.strerror}{hint}", str(path)) from None


def _check_file(fd: int, path: Path) -> None:
    status = os.fstat(fd)
    if not stat.S_ISREG(status.st_mode):
        raise DeviceInvalid(f"{path} is not a regular file: a device is an image file, on any file system")
    if status.st_size == 0 or status.st_size % PAGE:
        raise DeviceInvalid(
            f"{path} has {status.st_size} bytes: an image is a positive number of pages of {PAGE}"
        )


def _lock(fd: int, path: Path) -> None:
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise DeviceLocked(
            errno.EWOULDBLOCK,
            'the image is open for writing elsewhere: close it there, or open it with mode="r"',
            str(path),
        ) from None
    except OSError as error:
        raise DeviceFailed(error.errno, f"can't lock the image ({error.strerror})", str(path)) from None


def _take(fd: int, path: Path, mode: Literal["r+", "r"], domain: Domain | None) -> Device:
    try:
        if domain is None or mode == "r":
            return Device(fd, path, mode)
        from pmem.tracked import TrackedDevice

        return TrackedDevice(fd, path, domain)
    except OSError as error:
        raise DeviceFailed(error.errno, f"can't map the image ({error.strerror})", str(path)) from None


def domain_of(domain: str | Domain | None) -> Domain | None:
    """The domain that `open` was asked for, claimed for one device. Raises DomainError."""
    if domain is None:
        return None
    from pmem.domain import Domain

    made = domain if isinstance(domain, Domain) else Domain(domain)
    made.claim()
    return made


def _map(fd: int, size: int, mode: str) -> tuple[mmap.mmap, bool]:
    """The mapping, and whether it is synchronous: the kernel grants MAP_SYNC on DAX only."""
    prot = mmap.PROT_READ | (mmap.PROT_WRITE if mode == "r+" else 0)
    try:
        return mmap.mmap(fd, size, flags=MAP_SHARED_VALIDATE | MAP_SYNC, prot=prot), True
    except OSError:
        return mmap.mmap(fd, size, flags=mmap.MAP_SHARED, prot=prot), False
