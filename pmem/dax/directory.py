"""Directories: a tree from the keyed hash of a name to inode number, kind and name.

Names whose hashes are equal share a value, one entry after the other.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from hashlib import blake2b
from typing import NamedTuple

from pmem.dax.errors import NameInvalid, NameTooLong, VolumeCorrupt, VolumeFull
from pmem.dax.inode import Inode
from pmem.dax.store import Store, Transaction
from pmem.dax.tree import LARGEST, Nodes, Tree

NAME = 255  # bytes of the longest name
Name = str | bytes

_ENTRY = struct.Struct("<QBB")  # inode number, whether a directory, bytes of the name


class Entry(NamedTuple):
    """A name in a directory."""

    name: bytes
    number: int  # of the inode
    is_directory: bool


def checked(name: Name) -> bytes:
    """A name as bytes (str: UTF-8, lone surrogates stand for other bytes).

    One that is given as bytes may have any in it, as encrypted names do; no path leads to those with
    a slash. Raises NameInvalid, NameTooLong.
    """
    if isinstance(name, str):
        try:
            data = name.encode("utf-8", "surrogateescape")
        except UnicodeEncodeError:
            raise NameInvalid(f"{name!r} can't be encoded in UTF-8: give the name as bytes") from None
        strange = b"/" in data or b"\0" in data
    else:
        data, strange = bytes(name), False
    if strange or data in (b"", b".", b".."):
        raise NameInvalid(
            f"{name!r} can't be a name: not empty, no slash, no NUL, and neither of the names . and .."
        )
    if len(data) > NAME:
        raise NameTooLong(f"a name of {len(data)} bytes; the longest has {NAME}: {data[:40]!r}...")
    return data


class Directory:
    """The entries of one directory, for one call; the caller holds the volume's lock."""

    def __init__(self, store: Store, nodes: Nodes, inode: Inode) -> None:
        self._seed, self.inode, self.tree = store.layout.uuid, inode, Tree(nodes, inode)
        self._slots: dict[bytes, tuple[int, bytes | None]] = {}

    def hash(self, name: bytes) -> int:
        """BLAKE2b of a name, keyed with the volume's UUID, 64 bits."""
        return int.from_bytes(blake2b(name, digest_size=8, key=self._seed).digest(), "little")

    def find(self, name: bytes) -> Entry | None:
        """The entry of a name. Raises VolumeCorrupt, as all calls do."""
        _, value = self._slot(name)
        return next((entry for entry in self.parse(value) if entry.name == name), None) if value else None

    def entries(self) -> Iterator[Entry]:
        """All entries, in the order of their hashes."""
        for _, value in self.tree.items():
            yield from self.parse(value)

    def add(self, transaction: Transaction, entry: Entry) -> None:
        """Add a name that isn't there, or give it to another inode. Raises VolumeFull."""
        transaction.join(self.inode)
        key, value = self._slot(entry.name)
        new = _pack(entry)
        if value:
            new = self._without(value, entry.name) + new
        if len(new) > LARGEST:
            raise VolumeFull(f"too many names with the hash of {entry.name!r}: choose another name")
        self._slots.clear()
        self.tree.set(transaction, key, new)

    def remove(self, transaction: Transaction, name: bytes) -> None:
        """Remove a name that is there."""
        transaction.join(self.inode)
        key, value = self._slot(name)
        others = self._without(value or b"", name)
        self._slots.clear()
        if others:
            self.tree.set(transaction, key, others)
        else:
            self.tree.delete(transaction, key)

    def _slot(self, name: bytes) -> tuple[int, bytes | None]:
        """The hash of a name, and the value there; the last one is remembered."""
        slot = self._slots.get(name)
        if slot is None:
            self._slots.clear()
            key = self.hash(name)
            slot = self._slots[name] = (key, self.tree.get(key))
        return slot

    def _without(self, value: bytes, name: bytes) -> bytes:
        return b"".join(_pack(entry) for entry in self.parse(value) if entry.name != name)

    def parse(self, value: bytes) -> Iterator[Entry]:
        """The entries in a value of the tree."""
        at = 0
        while at < len(value):
            number, kind, length = _ENTRY.unpack_from(value, at)
            name = value[at + _ENTRY.size : at + _ENTRY.size + length]
            if len(name) != length:
                raise VolumeCorrupt(f"inode {self.inode.number}: a directory entry is cut off")
            yield Entry(name, number, bool(kind))
            at += _ENTRY.size + length


def _pack(entry: Entry) -> bytes:
    return _ENTRY.pack(entry.number, entry.is_directory, len(entry.name)) + entry.name
