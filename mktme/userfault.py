"""Page faults handled in user space: Linux's userfaultfd (man 2 ioctl_userfaultfd), and PAGEMAP_SCAN.

Structures and numbers as in linux/userfaultfd.h and linux/fs.h of Linux 6.7, the first that has all of them.
"""

from __future__ import annotations

import ctypes
import errno
import fcntl
import os
import platform
import struct

from mktme.errors import ViewError

_SYSCALL = {"x86_64": 323, "aarch64": 282}
_libc = ctypes.CDLL(None, use_errno=True)
USER_MODE_ONLY = 1
API, API_VERSION = 0xC018AA3F, 0xAA
NEW, REGISTER, WAKE, CONTINUE, POISON = 0xAA00, 0xC020AA00, 0x8010AA02, 0xC020AA07, 0xC020AA08
MISSING, WRITE_PROTECT, MINOR = 1, 2, 4  # what is registered for
CONTINUE_WRITE_PROTECTED = 2
FEATURES = {
    "MISSING_SHMEM": 1 << 5,
    "MINOR_SHMEM": 1 << 10,
    "WP_HUGETLBFS_SHMEM": 1 << 12,
    "POISON": 1 << 14,
    "WP_ASYNC": 1 << 15,
}
PAGEFAULT = 0x12
MESSAGE = struct.Struct("<BBHIQQQ")  # event; of a page fault: flags, address
SCAN, SCAN_ARGUMENTS = 0xC0606610, struct.Struct("<12Q")
SCAN_PROTECT, SCAN_CHECK = 1, 2
WRITTEN, PRESENT = 1 << 1, 1 << 3  # categories of pages
VECTOR = 512  # ranges that a scan returns at once
_HOW = "use region.array, which needs none"


def opened() -> int:
    """A userfaultfd with the features that are needed. Where only root may have more, faults of the kernel
    itself aren't among them: a system call on memory that wasn't touched before fails (EFAULT).

    Raises ViewError where the system lacks them.
    """
    fd = -1
    try:
        device = os.open("/dev/userfaultfd", os.O_RDWR | os.O_CLOEXEC)
        try:
            fd = fcntl.ioctl(device, NEW, os.O_CLOEXEC | os.O_NONBLOCK)
        finally:
            os.close(device)
    except OSError:
        number = _SYSCALL.get(platform.machine())
        if number is not None:
            for more in (0, USER_MODE_ONLY):
                fd = _libc.syscall(number, os.O_CLOEXEC | os.O_NONBLOCK | more)
                if fd >= 0:
                    break
    if fd < 0:
        raise ViewError(
            "a view needs userfaultfd, which this system doesn't let us have "
            f"({os.strerror(ctypes.get_errno())}): run as root, or set vm.unprivileged_userfaultfd=1; "
            f"or {_HOW}"
        )
    wanted = 0
    for bit in FEATURES.values():
        wanted |= bit
    try:
        fcntl.ioctl(fd, API, struct.pack("<QQQ", API_VERSION, wanted, 0))
    except OSError as error:
        os.close(fd)
        raise ViewError(
            f"a view needs userfaultfd's {', '.join(FEATURES)}, which Linux {platform.release()} lacks "
            f"({error.strerror}): Linux 6.7 has them; or {_HOW}"
        ) from None
    return fd


def register(fd: int, start: int, length: int) -> None:
    """Have faults of a range of shared memory reported."""
    fcntl.ioctl(fd, REGISTER, struct.pack("<QQQQ", start, length, MISSING | WRITE_PROTECT | MINOR, 0))


def proceed(fd: int, start: int, length: int, page: int) -> None:
    """Map pages that are in the shared memory, write-protected, and wake who waits for them."""
    try:
        fcntl.ioctl(fd, CONTINUE, bytearray(struct.pack("<QQQq", start, length, CONTINUE_WRITE_PROTECTED, 0)))
    except OSError as error:
        if error.errno not in (errno.EEXIST, errno.EAGAIN):
            raise
        if length == page:
            wake(fd, start, length)
            return
        for at in range(start, start + length, page):  # some are mapped already
            proceed(fd, at, page, page)


def wake(fd: int, start: int, length: int) -> None:
    """Have all who wait in a range touch their pages again."""
    fcntl.ioctl(fd, WAKE, struct.pack("<QQ", start, length))


def poison(fd: int, start: int, length: int) -> None:
    """Give who touches a range a SIGBUS, as for memory that has failed."""
    fcntl.ioctl(fd, POISON, bytearray(struct.pack("<QQQq", start, length, 0, 0)))


def written(pagemap: int, start: int, length: int) -> list[tuple[int, int]]:
    """The pages of a range that were written to since they were last asked for: begin and end addresses.

    They are write-protected again in the same step, so that no write is lost.
    """
    vector = (ctypes.c_uint64 * (3 * VECTOR))()
    found: list[tuple[int, int]] = []
    at, end = start, start + length
    while at < end:
        arguments = bytearray(
            SCAN_ARGUMENTS.pack(
                *(SCAN_ARGUMENTS.size, SCAN_PROTECT | SCAN_CHECK, at, end, 0),
                *(ctypes.addressof(vector), VECTOR, 0),
                *(0, WRITTEN | PRESENT, 0, WRITTEN),
            )
        )
        count = fcntl.ioctl(pagemap, SCAN, arguments)
        found += [(vector[3 * i], vector[3 * i + 1]) for i in range(count)]
        at = SCAN_ARGUMENTS.unpack(arguments)[4]
    return found
