"""What is known about an inode whose key is there: all that a data path or a directory needs."""

from __future__ import annotations

from functools import cached_property

from mktme.fscrypt.derived import DerivedKey
from mktme.fscrypt.modes import Mode
from mktme.fscrypt.names import NameCipher
from mktme.fscrypt.policy import Context
from mktme.iv.scheme import find

KINDS = ("contents", "names")  # of a regular file; of a directory or a symbolic link


class FileInfo:
    """An inode's key and how it is used, from `mktme.fscrypt.keyring.Keyring.open`.

    `context`, `inode` (its number), `kind` ("contents" or "names"), `mode`; `key`: the derived key,
    the file's own or (`shared`) that of all files of a mode; `scheme`: the name of the IV scheme and
    `coordinates`: its coordinates at data unit 0 (`mktme.iv`); `unit`: bytes of a data unit of
    contents; `path`: where it was opened; `opens`: how often it is open.

    A memory controller's range of the file from data unit n on:
    `controller.map(start, length, keyid, iv=info.scheme, unit=info.unit, **info.at(n))`.
    """

    def __init__(
        self,
        context: Context,
        inode: int,
        kind: str,
        mode: Mode,
        key: DerivedKey,
        coordinates: dict[str, int],
        shared: bool,
    ) -> None:
        self.context, self.inode, self.kind, self.mode, self.key = context, inode, kind, mode, key
        self.coordinates, self.shared = coordinates, shared
        self.scheme, self.unit = context.policy.scheme, context.policy.unit
        self.path, self.opens = "", 0

    def at(self, index: int) -> dict[str, int]:
        """The coordinates of a data unit, as keywords."""
        return self.coordinates | {"block": index}

    @cached_property
    def names(self) -> NameCipher:
        """Encrypts the names in this directory, or this symbolic link's target."""
        iv = find(self.scheme).iv_bytes(**self.coordinates).ljust(self.mode.iv_bytes, b"\0")
        return NameCipher(self.key, iv, self.context.policy.padding)

    def __repr__(self) -> str:
        return f"<{type(self).__name__} inode {self.inode} {self.kind} {self.mode.name} {self.scheme}>"
