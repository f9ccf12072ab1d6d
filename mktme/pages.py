"""A region as ordinary memory: pages are decrypted at first touch, and encrypted again when they are flushed.

The pages are shared memory that has none at first. A touch of one that isn't there stops the thread, and
a process of its own (a fork, which has the keys and the image, and its own interpreter, so that it
goes on whoever holds this one's lock) decrypts the chunk around it; its parent, a fork too, replaces it
if it is killed. The kernel keeps track of which pages
were written to since; those, and no others, are encrypted by a flush, in this process.
"""

from __future__ import annotations

import ctypes
import gc
import mmap
import os
import select
import signal
import threading
import warnings
import weakref
from contextlib import suppress
from typing import TYPE_CHECKING, Any, NoReturn

import numpy as np

from mktme import userfault
from mktme.errors import ViewError

if TYPE_CHECKING:
    from mktme.region import Region

PAGE = mmap.PAGESIZE
CHUNK = 1 << 16  # bytes that are decrypted around a touch
MOST = 1 << 20  # as many in the end, where touches go on in order
DONTFORK = 10  # madvise(2)
_libc = ctypes.CDLL(None, use_errno=True)
_libc.madvise.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]


class Memory(mmap.mmap):
    """The pages; what arrays over them keep alive."""

    pages: Pages


class Pages:
    """The pages of a region. Thread-safe.

    A page keeps what it was when it was touched first, and what was stored to it: other writes of the region
    aren't seen there, nor a KeyID's new key, nor poison that comes later. The process that decrypts has a
    copy of the key until the pages are closed. A forked child of this process has no access to them.

    Raises ViewError where the system can't, and for a device with a persistence domain, whose lines
    are elsewhere.
    """

    def __init__(self, region: Region) -> None:
        if region.device.domain is not None:
            raise ViewError(
                "a view has pages of its own, and a persistence domain follows lines: use region.array, or "
                "open the device without a domain"
            )
        if region.address % PAGE or region.size % PAGE:
            raise ViewError(
                f"the region's {region.size} bytes at {region.address} aren't whole pages of {PAGE} bytes"
            )
        self._region, self._lock = weakref.ref(region), threading.Lock()
        media, lines = region.device.mapping(), region.path()
        warm = np.empty(CHUNK, np.uint8)  # compiled before the fork
        for size in {min(CHUNK, region.size), PAGE}:
            with suppress(Exception):  # it is told where it is touched
                lines.read(media, region.device.base, region.address, warm[:size])
        writable = region.device.mode == "r+"
        self._fault = userfault.opened()
        try:
            shared = os.memfd_create("mktme view", os.MFD_CLOEXEC)
            try:
                os.ftruncate(shared, region.size)
                prot = mmap.PROT_READ | (mmap.PROT_WRITE if writable else 0)
                self.memory = Memory(shared, region.size, flags=mmap.MAP_SHARED, prot=prot)
                self.memory.pages = self
                self.start = np.frombuffer(self.memory, np.uint8).ctypes.data
                userfault.register(self._fault, self.start, region.size)
                _libc.madvise(self.start, region.size, DONTFORK)
                ours, theirs = os.pipe()
                process = self._fork(media, lines, region, shared, ours, theirs)
            finally:
                os.close(shared)
        except BaseException:
            os.close(self._fault)
            raise
        os.close(ours)
        self._pagemap = os.open("/proc/self/pagemap", os.O_RDONLY | os.O_CLOEXEC)
        self._end = weakref.finalize(self.memory, _end, self._fault, self._pagemap, theirs, process)

    def _fork(self, media: Any, lines: Any, region: Region, shared: int, ours: int, theirs: int) -> int:
        with warnings.catch_warnings():
            warnings.simplefilter(
                "ignore", DeprecationWarning
            )  # of threads: the child takes no lock of theirs
            process = os.fork()
        if process == 0:
            try:
                signal.pthread_sigmask(signal.SIG_SETMASK, ())
                for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
                    signal.signal(number, signal.SIG_IGN)  # it ends with its parent
                gc.freeze()
                kept = sorted((self._fault, shared, ours))
                for low, high in zip([-1, *kept], [*kept, os.sysconf("SC_OPEN_MAX")], strict=True):
                    os.closerange(low + 1, high)
                room = np.frombuffer(mmap.mmap(shared, region.size, flags=mmap.MAP_SHARED), np.uint8)
                there = mmap.mmap(-1, -(-region.size // CHUNK))
                while True:  # another one takes over from a process that was killed
                    worker = os.fork()
                    if worker == 0:
                        base, address = region.device.base, region.address
                        _serve(media, lines, base, address, room, there, self.start, self._fault, ours)
                    if os.waitpid(worker, 0)[1] == 0:
                        os._exit(0)
                    userfault.wake(self._fault, self.start, region.size)
            finally:
                os._exit(1)
        return process

    def write_back(self, offset: int, length: int) -> None:
        """Encrypt the pages of a range that were written to. Raises as `Region.write`."""
        region = self._region()
        assert region is not None
        first, end = offset // PAGE * PAGE, -(-(offset + length) // PAGE) * PAGE
        view = np.frombuffer(self.memory, np.uint8)
        with self._lock:
            for begin, over in userfault.written(self._pagemap, self.start + first, end - first):
                at = begin - self.start
                region.write(at, view[at : over - self.start])

    def close(self) -> None:
        """What was written is encrypted, and the pages are gone. Raises ViewError while arrays use them."""
        region = self._region()
        assert region is not None
        self.write_back(0, region.size)
        try:
            self.memory.close()
        except BufferError:
            raise ViewError(
                "arrays over the region's view are in use: delete them (del array) before it is unmapped"
            ) from None
        self._end()


def _end(fault: int, pagemap: int, pipe: int, process: int) -> None:
    """The pages are gone: so is who serves them."""
    for fd in (pipe, fault, pagemap):
        os.close(fd)
    os.waitpid(process, 0)


def _serve(
    media: Any, lines: Any, base: int, address: int, room: Any, there: Any, start: int, fault: int, pipe: int
) -> NoReturn:
    """Decrypt what is touched, until the other end of the pipe is closed; `there` says of each chunk
    whether it has been.
    """
    waiting = select.poll()
    waiting.register(fault, select.POLLIN)
    waiting.register(pipe, 0)
    expected, ahead = -1, 1
    while True:
        for fd, events in waiting.poll():
            if fd == pipe or events & ~select.POLLIN:
                os._exit(0)
            try:
                message = os.read(fault, userfault.MESSAGE.size)
            except BlockingIOError:
                continue
            except OSError:
                os._exit(0)
            event, *_, touched = userfault.MESSAGE.unpack(message)[:6]
            if event != userfault.PAGEFAULT:
                continue
            chunk = (touched - start) // CHUNK
            ahead = min(2 * ahead, MOST // CHUNK) if chunk == expected else 1
            last = chunk + 1
            while last < min(chunk + ahead, len(there)) and not there[last]:
                last += 1
            low, high = chunk * CHUNK, min(last * CHUNK, room.size)
            try:
                if not there[chunk]:
                    lines.read(media, base, address + low, room[low:high])
                    there[chunk:last] = b"\1" * (last - chunk)
                userfault.proceed(fault, start + low, high - low, PAGE)
            except Exception:  # poisoned lines, a MAC that is wrong
                with suppress(OSError):  # nobody waits there any more
                    userfault.poison(fault, start + low, high - low)
            expected = last
