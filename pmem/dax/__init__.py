"""A small extent-based DAX file system in an image; knows nothing of encryption."""

from pmem.dax.check import Report, check
from pmem.dax.cleaner import Cleaned
from pmem.dax.directory import Entry
from pmem.dax.errors import (
    AttributeNotFound,
    AttributesTooLarge,
    DirectoryNotEmpty,
    FileBusy,
    FileClosed,
    IsDirectory,
    NameExists,
    NameInvalid,
    NameNotFound,
    NameTooLong,
    NotAVolume,
    NotDirectory,
    RangeTaken,
    SharedTooOften,
    StaleHandle,
    VolumeBusy,
    VolumeCorrupt,
    VolumeError,
    VolumeFull,
)
from pmem.dax.file import Extent, File, Stat
from pmem.dax.inode import ROOT
from pmem.dax.layout import BLOCK
from pmem.dax.medium import Medium
from pmem.dax.mounting import make, mount
from pmem.dax.relocation import Moved
from pmem.dax.volume import Volume
from pmem.dax.writing import Kind, Part, Piece, Writing

__all__ = [
    "BLOCK",
    "ROOT",
    "AttributeNotFound",
    "AttributesTooLarge",
    "Cleaned",
    "DirectoryNotEmpty",
    "Entry",
    "Extent",
    "File",
    "FileBusy",
    "FileClosed",
    "IsDirectory",
    "Kind",
    "Medium",
    "Moved",
    "NameExists",
    "NameInvalid",
    "NameNotFound",
    "NameTooLong",
    "NotAVolume",
    "NotDirectory",
    "Part",
    "Piece",
    "RangeTaken",
    "Report",
    "SharedTooOften",
    "StaleHandle",
    "Stat",
    "Volume",
    "VolumeBusy",
    "VolumeCorrupt",
    "VolumeError",
    "VolumeFull",
    "Writing",
    "check",
    "make",
    "mount",
]
