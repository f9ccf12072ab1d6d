"""The errors of a volume: each also the fitting built-in, with `errno` set."""

from __future__ import annotations

import errno
from typing import Any, ClassVar

from pmem.errors import PmemError


class VolumeError(PmemError, OSError):
    """Any error of a volume; made from its sentence, knows its errno."""

    code: ClassVar[int] = errno.EIO

    def __init__(self, text: str) -> None:
        super().__init__(self.code, text)

    def __reduce__(self) -> Any:
        return type(self), (self.strerror,)


class NameNotFound(VolumeError, FileNotFoundError):
    """There is no file or directory of that name."""

    code = errno.ENOENT


class NameExists(VolumeError, FileExistsError):
    """The name is taken."""

    code = errno.EEXIST


class NameTooLong(VolumeError):
    """A name of more than 255 bytes."""

    code = errno.ENAMETOOLONG


class NameInvalid(VolumeError, ValueError):
    """A name that can't be one: empty, ".", "..", or with a slash or a NUL in it."""

    code = errno.EINVAL


class NotDirectory(VolumeError, NotADirectoryError):
    """A directory is needed, and this is a file."""

    code = errno.ENOTDIR


class IsDirectory(VolumeError, IsADirectoryError):
    """A file is needed, and this is a directory."""

    code = errno.EISDIR


class DirectoryNotEmpty(VolumeError):
    """A directory that still has entries can't be removed or replaced."""

    code = errno.ENOTEMPTY


class VolumeFull(VolumeError):
    """No free blocks, or no free inodes, are left."""

    code = errno.ENOSPC


class RangeTaken(VolumeError):
    """Blocks that a relocation was to use are in use already."""

    code = errno.EBUSY


class VolumeBusy(VolumeError, BlockingIOError):
    """A file of the volume is being read or written."""

    code = errno.EBUSY


class FileBusy(VolumeError):
    """The file's blocks are in use directly (`File.hold`), so they can't go elsewhere or be freed."""

    code = errno.EBUSY


class SharedTooOften(VolumeError):
    """A block can be shared by 65535 files at most."""

    code = errno.EMLINK


class StaleHandle(VolumeError):
    """The file of that inode number and generation is gone."""

    code = errno.ESTALE


class FileClosed(VolumeError, ValueError):
    """The file, or its volume, has been closed."""

    code = errno.EBADF


class AttributeNotFound(VolumeError, KeyError):
    """There is no extended attribute of that name."""

    code = errno.ENODATA

    __str__ = OSError.__str__  # KeyError's shows a repr


class AttributesTooLarge(VolumeError):
    """The extended attributes of one file don't fit into one block."""

    code = errno.E2BIG


class VolumeCorrupt(VolumeError):
    """What lies on the medium can't be right: names the block and what is wrong."""

    code = errno.EUCLEAN


class NotAVolume(VolumeCorrupt):
    """The device holds no volume."""
