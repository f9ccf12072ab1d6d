"""The errors of persistent memory: one small family, each also the fitting built-in."""

from __future__ import annotations

import errno


class PmemError(Exception):
    """Any error of this package."""


class SizeError(PmemError, ValueError):
    """A size that isn't one: not a number of bytes, not positive, not a multiple of a page."""


class RangeError(PmemError, ValueError):
    """A range or an address that is outside of the device or misaligned, or a wrong buffer."""


class DeviceNotFound(PmemError, FileNotFoundError):
    """There is no image file at that path."""


class DeviceExists(PmemError, FileExistsError):
    """An image file is there already."""


class DeviceDenied(PmemError, PermissionError):
    """The file system doesn't let us at the image file."""


class DeviceLocked(PmemError, BlockingIOError):
    """Another holder has the image open for writing."""


class DeviceInvalid(PmemError, ValueError):
    """The file can't be a device: not a regular file, empty, or not whole pages."""


class DeviceClosed(PmemError, ValueError):
    """The device has been closed."""


class DeviceBusy(PmemError, BufferError):
    """Arrays over the mapping are still alive, so that it can't be unmapped."""


class DeviceChanged(PmemError, OSError):
    """Somebody changed the length of the image file while it was mapped."""


class DeviceFull(PmemError, OSError):
    """The file system has no room for bytes that were about to be written."""


class DeviceFailed(PmemError, OSError):
    """The operating system failed at an operation on the image file."""


class ReadOnlyDevice(PmemError, PermissionError):
    """A write to a device opened with mode "r"."""


class DomainError(PmemError, ValueError):
    """A persistence domain, or a power failure, that can't be."""


class PoisonError(PmemError, OSError):
    """A line that can't be read: a machine check in hardware. `line` is its number, `errno` EIO."""

    def __init__(self, message: str, line: int) -> None:
        super().__init__(message)
        self.line, self.errno = line, errno.EIO

    def __reduce__(self) -> tuple[type[PoisonError], tuple[str, int]]:
        return type(self), (str(self), self.line)


class DimmMissing(PmemError, FileNotFoundError):
    """An interleave set without one of its DIMMs."""


class LabelInvalid(PmemError, ValueError):
    """A DIMM without a label, or whose label doesn't fit the other DIMMs or its image file."""


class HealthInvalid(PmemError, ValueError):
    """The record of a DIMM's health, beside its image, can't be read as one."""
