"""Encrypted files on a DAX volume: fscrypt's policies and names, with the contents on one of the paths.

An encrypted file or directory keeps its context (policy and nonce) as an extended attribute, from
the moment that it exists. Who has no key sees no-key names, may delete, and opens nothing.
"""

from __future__ import annotations

import operator
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from types import TracebackType
from typing import Any, NamedTuple, SupportsIndex
from weakref import WeakKeyDictionary

import numpy as np

from mktme.errors import (
    EncryptedNameError,
    KeyringError,
    KeyUnavailable,
    MappingError,
    PolicyError,
)
from mktme.fscrypt.fileinfo import KINDS, FileInfo
from mktme.fscrypt.keyring import PRESENT, Keyring
from mktme.fscrypt.names import NameCipher, NoKeyName
from mktme.fscrypt.policy import Context, Policy
from mktme.iv import scheme as schemes
from mktme.iv.scheme import Scheme
from mktme.stack.contents import physical
from mktme.stack.direct import FileMap, Plain, PlainContents
from mktme.stack.path import FilePath
from pmem.buffers import buffer_bytes
from pmem.dax import (
    ROOT,
    Cleaned,
    Entry,
    File,
    FileClosed,
    Moved,
    NameExists,
    NameNotFound,
    NotDirectory,
    Stat,
    Volume,
)
from pmem.dax.directory import checked
from pmem.dax.file import LARGEST
from pmem.errors import RangeError

CONTEXT, SCHEME = b"c", b"iv"  # extended attributes: the context; a scheme other than the policy's
INODES = ("inode", "inode_hash")  # coordinates that two files never have in common
KEPT = 8192  # inodes whose encryption is remembered


class Encryption(NamedTuple):
    """How an inode is encrypted: its `context`, None if it isn't; `scheme`, "" if it is the policy's."""

    number: int
    generation: int
    context: Context | None = None
    scheme: str = ""

    @property
    def ivs(self) -> Scheme:
        """The IV scheme of its contents."""
        assert self.context is not None
        return schemes.find(self.scheme or self.context.policy.scheme)

    def unit(self, info: FileInfo) -> int:
        """Bytes of a data unit of its contents."""
        return min(self.ivs.unit, info.unit) if self.scheme else info.unit


class Listed(NamedTuple):
    """A name in a directory: as its user gave it, or without the key the no-key name."""

    name: str
    number: int  # of the inode
    is_directory: bool


class FileSystem:
    """The files of a volume, seen with a keyring, their contents on one path.

    `path` is the place of encryption (`Bounce`, `Inline`, `Line`, or `Plain`, which has none); files
    that aren't encrypted are the volume's own. `iv` names a scheme for the contents of files made
    from now on, in place of their policy's ("pmem-line", "pmem-page", "plain64"); a file keeps it.
    Moving blocks of a volume (`relocate`, `defragment`, `clean`) goes by way of the file system
    that was made last: blocks whose IVs come from where they lie are encrypted anew, others move
    as they are. Thread-safe as the volume is.

    Raises SchemeError for a scheme that there isn't, MappingError for a path on another device.
    """

    def __init__(
        self,
        volume: Volume,
        path: FilePath[Any],
        *,
        keyring: Keyring | None = None,
        iv: str = "",
    ) -> None:
        if path.device is not volume.device:
            raise MappingError(
                f"the path {path.name} is on {path.device!r}, and the volume isn't: make it on volume.device"
            )
        self.volume, self.path = volume, path
        self.keyring = Keyring(volume.uuid) if keyring is None else keyring
        if iv:
            schemes.find(iv)
        self.iv = iv
        self._inodes: dict[int, Encryption] = {}
        self._bound: WeakKeyDictionary[FileInfo, Any] = WeakKeyDictionary()  # what the path makes of it
        self._plain: dict[int, PlainContents] = {}
        self._lock = threading.RLock()
        volume.move = self._move

    # Policies and keys

    def set_policy(self, path: str, policy: Policy) -> None:
        """Encrypt an empty directory, and what will be below it.

        Raises PolicyError if it isn't empty or has another policy; KeyUnavailable without the key,
        KeyMaterialError or PolicyError for a key that such a policy can't have.
        """
        if self.keyring.status(policy.key).state != PRESENT:
            raise KeyUnavailable(f"the key {policy.key.hex()} isn't there: add it before its policy is set")
        inode = self._inode(self._resolve(path))
        if inode.context is not None and inode.context.policy == policy:
            return
        if inode.context is not None:
            raise PolicyError(f"{path} is encrypted under another policy: make another directory")
        if self.volume.list(inode.number):
            raise PolicyError(f"{path} is not empty: policies are for empty directories")
        context = Context.new(policy)
        with self.keyring.using(context, inode.number, "names"):  # refuses what can't be
            self.volume.setxattr(inode.number, CONTEXT, context.to_bytes())

    def policy(self, path: str) -> Policy | None:
        """The policy of a file or directory; None if it isn't encrypted."""
        context = self._inode(self._resolve(path)).context
        return None if context is None else context.policy

    # Files and directories

    def create(self, path: str) -> EncryptedFile:
        """Make an empty file and open it; in an encrypted directory it is encrypted.

        Raises KeyUnavailable without the key, SchemeError for what the path can't do, and as
        `Volume.create`.
        """
        directory, name = self._parent(path)
        made, xattrs = self._inherited(directory, self.iv)
        with self._names(directory, path) as names:
            written = _written(names, name)
            file = self.volume.create_at(directory.number, written, xattrs=xattrs)
        inode = made._replace(number=file.number, generation=file.generation)
        if inode.context is not None:
            self._keep(inode)
        try:
            return self._opened(file, inode, path)
        except BaseException:  # the path can't have such a file
            self.volume.unlink_at(directory.number, written)
            self.forget(inode)
            raise

    def open(self, path: str) -> EncryptedFile:
        """Open a file. Raises KeyUnavailable without its key."""
        number = self._resolve(path)
        return self._opened(self.volume.open(number), self._inode(number), path)

    def _opened(self, file: File, inode: Encryption, path: str) -> EncryptedFile:
        try:
            return EncryptedFile(self, file, inode, path)
        except BaseException:
            file.close()
            raise

    def mkdir(self, path: str) -> None:
        """Make a directory, with the policy of the one that it is in."""
        directory, name = self._parent(path)
        with self._names(directory, path) as names:
            self.volume.mkdir_at(
                directory.number, _written(names, name), xattrs=self._inherited(directory)[1]
            )

    def unlink(self, path: str) -> None:
        """Remove a file; by its no-key name also without the key."""
        directory, name = self._parent(path)
        entry = self._entry(directory, name)
        inode = self._inode(entry.number)
        self.volume.unlink_at(directory.number, entry.name)
        self.forget(inode)

    def rmdir(self, path: str) -> None:
        """Remove an empty directory; by its no-key name also without the key."""
        directory, name = self._parent(path)
        entry = self._entry(directory, name)
        inode = self._inode(entry.number)
        self.volume.rmdir_at(directory.number, entry.name)
        self.forget(inode)

    def rename(self, old: str, new: str) -> None:
        """Give a file or directory another name, within directories of one policy.

        Raises PolicyError (also OSError, EXDEV) between different ones; KeyUnavailable.
        """
        (source, name), (target, new_name) = self._parent(old), self._parent(new)
        entry, replaced = self._entry(source, name), None
        self._check_same(self._inode(entry.number), target, new)
        with self._names(source, old), self._names(target, new) as names:
            written = _written(names, new_name)
            with suppress(NameNotFound):
                replaced = self._inode(self.volume.lookup(target.number, written).number)
            self.volume.rename_at(source.number, entry.name, target.number, written)
        if replaced is not None and replaced.number != entry.number:
            self.forget(replaced)

    def list(self, path: str = "/") -> list[Listed]:
        """What is in a directory, in the order of the names."""
        directory = self._inode(self._resolve(path))
        entries = self.volume.list(directory.number)
        stored = [entry.name for entry in entries]
        plain: Sequence[bytes | None] = [None] * len(stored)
        with suppress(KeyUnavailable), self._names(directory) as names:
            plain = stored if names is None else names.decrypt_all(stored)
        listed = [
            Listed(_shown(name, entry.name), entry.number, entry.is_directory)
            for name, entry in zip(plain, entries, strict=True)
        ]
        return sorted(listed)

    def stat(self, path: str) -> Stat:
        """What is known of a file or directory."""
        return self.volume.stat(self._resolve(path))

    def set_stat(self, path: str, *, permissions: int | None = None, modified: int | None = None) -> None:
        """Change the permissions or the time of modification; see `Volume.set_stat`."""
        self.volume.set_stat(self._resolve(path), permissions=permissions, modified=modified)

    def exists(self, path: str) -> bool:
        """Whether there is such a file or directory."""
        try:
            self._resolve(path)
        except (NameNotFound, NotDirectory):
            return False
        return True

    def reflink(self, path: str, new: str) -> None:
        """Make a file that shares another one's blocks until either is written to.

        It has the other's nonce, so its key. Raises PolicyError where the IVs hang on the inode:
        the other file's ciphertext can't be read as this one's.
        """
        number = self._resolve(path)
        inode = self._inode(number)
        target, name = self._parent(new)
        self._check_same(inode, target, new)
        if inode.context is not None and any(c in INODES for c in inode.ivs.coordinates):
            raise PolicyError(
                f"{path} can't share its blocks: the IVs of {inode.ivs.name} come from the inode number, "
                "and another file has another: copy it"
            )
        with self._names(target, new) as names:
            self.volume.reflink_at(number, target.number, _written(names, name))

    # Blocks

    def relocate(
        self, path: str, offset: int = 0, length: int | None = None, *, to: int | None = None
    ) -> Moved:
        """Move blocks of a file elsewhere; see `Volume.relocate`.

        Raises KeyUnavailable where they have to be encrypted anew, and pmem.dax.FileBusy if it is mapped.
        """
        with self.volume.open(self._resolve(path)) as file:
            return self.volume.relocate(file, offset, length, to=to)

    def defragment(self, path: str | None = None) -> Moved:
        """Give a file, or all, fewer extents. Raises as `relocate`."""
        if path is None:
            return self.volume.defragment()
        with self.volume.open(self._resolve(path)) as file:
            return self.volume.defragment(file)

    def clean(self, segments: int = 1) -> Cleaned:
        """Empty segments of a log-structured volume. Raises as `relocate`."""
        return self.volume.clean(segments)

    def _move(self, file: File, offset: int, old: int, new: int, length: int) -> None:
        """Copy blocks of a file from one address to another, as it takes for them to read the same."""
        inode = self._inode(file.number)
        if inode.context is None or not physical(inode.ivs):
            media = self.path.device.mapping()
            self.path.device.storing(new, length)
            media[new : new + length] = media[old : old + length]
            self.path.traffic.add(copied=length)
            return
        with self.keyring.using(inode.context, inode.number) as info:
            self.path.move(self.bound(inode, info), offset, old, new, length)

    # Between names and inodes

    def _inode(self, number: int) -> Encryption:
        """How an inode is encrypted; kept for those that are, since a context never changes."""
        generation = self.volume.generation(number)
        found = self._inodes.get(number)
        if found is not None and found.generation == generation:
            return found
        found = Encryption(number, generation)
        attributes = self.volume.xattrs(number)
        if CONTEXT in attributes:
            context = Context.from_bytes(attributes[CONTEXT])
            found = Encryption(number, generation, context, attributes.get(SCHEME, b"").decode())
            self._keep(found)
        return found

    def _keep(self, inode: Encryption) -> None:
        """Remember how an inode is encrypted; of many, those that were met last."""
        self._inodes[inode.number] = inode
        if len(self._inodes) > KEPT:
            for number in list(self._inodes)[: KEPT // 2]:
                self._inodes.pop(number, None)

    def _inherited(self, directory: Encryption, iv: str = "") -> tuple[Encryption, dict[str | bytes, bytes]]:
        """How what is made in a directory is encrypted, and its extended attributes."""
        if directory.context is None:
            return Encryption(0, 0), {}
        context = Context.new(directory.context.policy)
        xattrs: dict[str | bytes, bytes] = {CONTEXT: context.to_bytes()}
        if iv:
            xattrs[SCHEME] = iv.encode()
        return Encryption(0, 0, context, iv), xattrs

    def forget(self, inode: Encryption) -> None:
        """An inode has lost its name."""
        self._inodes.pop(inode.number, None)
        self._plain.pop(inode.number, None)
        if inode.context is not None:
            for kind in KINDS:
                with suppress(KeyringError):  # it is open, and forgotten when it is closed
                    self.keyring.forget(inode.context, inode.number, kind)

    @contextmanager
    def _names(self, directory: Encryption, path: str = "") -> Iterator[NameCipher | None]:
        """A directory's names while they are in use; None if it isn't encrypted.

        That a name is there, or isn't, is said of `path`: what is stored tells nobody anything.
        """
        if directory.context is None:
            yield None
            return
        with self.keyring.using(directory.context, directory.number, "names") as info:
            try:
                yield info.names
            except NameExists:
                raise NameExists(f"{path} exists already: open it, or choose another name") from None
            except NameNotFound:
                raise NameNotFound(f"there is no {path!r} in the directory") from None

    def plain(self, number: int) -> PlainContents:
        """What the path none knows of a file; for open files."""
        with self._lock:
            return self._plain.setdefault(number, PlainContents())

    def bound(self, inode: Encryption, info: FileInfo) -> Any:
        """What the path makes of a file's key; for open files."""
        with self._lock:
            how = self._bound.get(info)
            if how is None:
                given = {} if inode.scheme else info.coordinates
                how = self._bound[info] = self.path.bind(info.key, inode.ivs, inode.unit(info), given)
            return how

    def _entry(self, directory: Encryption, name: str) -> Entry:
        """The entry of a name, or of a no-key name. Raises NameNotFound."""
        if directory.context is None:
            return self.volume.lookup(directory.number, checked(name))
        try:
            with self._names(directory, name) as names:
                return self.volume.lookup(directory.number, _written(names, name))
        except KeyUnavailable:
            pass
        try:
            shown = NoKeyName.parse(name)
        except EncryptedNameError:
            raise NameNotFound(f"there is no {name!r} in the directory, whose key is missing") from None
        if not shown.digest:
            return self.volume.lookup(directory.number, shown.shown)
        for entry in self.volume.list(directory.number):
            if shown.matches(entry.name):
                return entry
        raise NameNotFound(f"there is no {name!r} in the directory")

    def _resolve(self, path: str) -> int:
        """The inode number of a path."""
        number = ROOT
        for name in _parts(path):
            number = self._entry(self._inode(number), name).number
        return number

    def _parent(self, path: str) -> tuple[Encryption, str]:
        """The directory that a path's last name is in, and the name."""
        *above, name = _parts(path) or [""]
        number = ROOT
        for each in above:
            number = self._entry(self._inode(number), each).number
        return self._inode(number), name

    def _check_same(self, inode: Encryption, directory: Encryption, path: str) -> None:
        """Refuse to bring an inode into an encrypted directory of another policy."""
        if directory.context is not None and not directory.context.permits(inode.context):
            raise PolicyError(
                f"{path} is in a directory of another encryption policy: copy the file there instead"
            )


class EncryptedFile:
    """An open file; made by `FileSystem.create` and `FileSystem.open`, closed as a context.

    Offsets and lengths are bytes. Closing it closes its maps.
    """

    def __init__(self, system: FileSystem, file: File, inode: Encryption, path: str) -> None:
        self._system, self._file, self._inode = system, file, inode
        self._maps: list[FileMap] = []
        self._lock = threading.Lock()  # around the maps and the end
        self._how: Any = None
        self._info: FileInfo | None = None
        self._closed = False
        self._most = LARGEST
        if inode.context is not None:
            self._info = system.keyring.open(inode.context, inode.number, path=path)
            try:
                self._how = system.bound(inode, self._info)
                if "block" in inode.ivs.coordinates:
                    self._most = min(LARGEST, inode.unit(self._info) << inode.ivs.bits)
            except BaseException:
                system.keyring.close(self._info)
                raise
        elif isinstance(system.path, Plain):
            self._how = system.plain(inode.number)

    def __enter__(self) -> EncryptedFile:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"<mktme.EncryptedFile inode {self._inode.number} by way of {self._system.path.name}>"

    @property
    def size(self) -> int:
        """Bytes."""
        return self._file.size

    @property
    def file(self) -> File:
        """The volume's own file: its extents, and its bytes as they are on the medium."""
        return self._file

    def close(self) -> None:
        """Close it; closing again does nothing."""
        with self._lock:
            if self._closed:
                return
            self._closed, maps = True, self._maps
        for each in maps:
            each.close()
        ended = self._system.volume.closed or self._file.closed
        gone = not (ended or self._file.inode.links)
        self._file.close()
        if self._info is not None:
            with suppress(KeyringError):  # the keyring was wiped
                self._system.keyring.close(self._info)
            if gone:
                self._system.forget(self._inode)

    def read(self, offset: int = 0, length: int | None = None) -> bytes:
        """Plaintext of a range, fewer bytes where the file ends."""
        if self._how is None:
            return self._file.read(offset, length)
        offset, count = self._checked(offset, self._file.size if length is None else length)
        out = np.empty(max(0, min(count, self._file.size - offset)), np.uint8)
        got = self.read_into(out, offset)
        return out[:got].tobytes()

    def read_into(self, buffer: Any, offset: int = 0) -> int:
        """Fill a writable contiguous buffer; how many bytes, fewer where the file ends."""
        if self._how is None:
            return self._file.read_into(buffer, offset)
        out = buffer_bytes(buffer, writable=True)
        offset, _ = self._checked(offset, out.size)
        count = max(0, min(out.size, self._file.size - offset))
        if count:
            self._system.path.read_into(self._file, self._how, offset, out[:count])
        return count

    def write(self, offset: int, data: Any) -> None:
        """Write a contiguous buffer; the file grows as needed.

        Raises PolicyError, as `truncate` and `fallocate` do, where the file would have more data units
        than its IVs have numbers.
        """
        if self._how is None:
            self._file.write(offset, data)
            return
        source = buffer_bytes(data)
        offset, _ = self._checked(offset, source.size)
        if source.size:
            self._check_end(offset + source.size)
            self._system.path.write(self._file, self._how, offset, source)

    def truncate(self, size: int) -> None:
        """Make the file longer (with zeros) or shorter. Raises pmem.dax.FileBusy if it is mapped."""
        if self._how is None:
            self._file.truncate(size)
        else:
            size, _ = self._checked(size, 0)
            self._check_end(size)
            self._system.path.finish(self._how, self._file.begin_truncate(size))

    def punch(self, offset: int, length: int) -> None:
        """Make a range read as zeros, and free its blocks. Raises pmem.dax.FileBusy if it is mapped."""
        if self._how is None:
            self._file.punch(offset, length)
        else:
            self._system.path.finish(self._how, self._file.begin_punch(offset, length))

    def fallocate(self, offset: int, length: int) -> None:
        """Give a range blocks."""
        if self._how is None:
            self._file.fallocate(offset, length)
        else:
            offset, length = self._checked(offset, length)
            self._check_end(offset + length)
            self._system.path.finish(self._how, self._file.begin_fallocate(offset, length))

    def persist(self, offset: int = 0, length: int | None = None) -> None:
        """Make a range durable in the image, by default to the end."""
        device = self._system.path.device
        count = self.size - offset if length is None else length
        for extent in self._file.map(offset, count):
            first = max(extent.offset, offset)
            last = min(extent.offset + extent.length, offset + count)
            device.persist(extent.address + first - extent.offset, last - first)

    def map(self) -> FileMap:
        """The contents for direct access, until it or the file is closed.

        Raises MappingError where the path has none; KeyTableFull if every KeyID is pinned;
        pmem.dax.FileBusy if the file shares blocks, or the volume is log-structured.
        """
        self._checked(0, 0)
        if self._how is None:
            raise MappingError("the file isn't encrypted: map it on the path none")
        self._check_end(self._file.size)
        made = self._system.path.map(self._file, self._how)
        with self._lock:
            self._maps = [*(each for each in self._maps if not each.closed), made]
        if self._closed:  # meanwhile
            made.close()
        self._checked(0, 0)
        return made

    def _check_end(self, end: int) -> None:
        """Refuse to have bytes up to `end` whose data units have no number in the IV: beyond it the IVs
        would be those of other data units (fs/crypto/policy.c, supported_iv_ino_lblk_policy).
        """
        if end > self._most:
            raise PolicyError(
                f"{end} bytes are more than a file under {self._inode.ivs.name} can have, which are "
                f"{self._most}: its IVs number the data units with {self._inode.ivs.bits} bits; take a "
                "policy with a key for each file"
            )

    def _checked(self, offset: SupportsIndex, length: SupportsIndex) -> tuple[int, int]:
        """A range of bytes. Raises FileClosed; RangeError for what can't be one."""
        if self._closed:
            raise FileClosed("the file has been closed: open it again")
        try:
            first, count = operator.index(offset), operator.index(length)
        except TypeError:
            raise RangeError(f"offset {offset!r} and length {length!r} are to be whole bytes") from None
        if first < 0 or count < 0:
            raise RangeError(f"offset {first} and length {count} are to be 0 or more, in bytes")
        return first, count


def _written(names: NameCipher | None, name: str) -> bytes:
    """A name as it is on the medium."""
    plain = checked(name)
    return plain if names is None else names.encrypt(plain)


def _shown(plain: bytes | None, stored: bytes) -> str:
    """A name, or the no-key name where there is no key, or what is stored is damaged."""
    return str(NoKeyName.of(stored)) if plain is None else plain.decode("utf-8", "surrogateescape")


def _parts(path: str) -> list[str]:
    return [part for part in path.split("/") if part]
