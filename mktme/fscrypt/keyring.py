"""A volume's keyring: master keys, who claims them, and the inodes in use (fs/crypto/keyring.c).

Each user who adds a v2 key has a claim to it, and it stays until the last claim is removed. Then its
secrets are overwritten and the inodes that nobody has open are evicted; those that are open go
on, the key being "incompletely removed", until they are closed or the key is added again. v1 keys
belong to nobody in particular.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from mktme.errors import KeyringError, KeyUnavailable
from mktme.fscrypt.fileinfo import KINDS, FileInfo
from mktme.fscrypt.kdf import Secret
from mktme.fscrypt.master import MasterKey
from mktme.fscrypt.policy import Context

IDLE = 1024  # inodes whose keys are kept while nobody has them open
ABSENT, PRESENT, INCOMPLETELY_REMOVED = "absent", "present", "incompletely removed"


@dataclass(frozen=True)
class Status:
    """FS_IOC_GET_ENCRYPTION_KEY_STATUS: `state`, how many `users` claim the key, whether one does."""

    state: str
    users: int = 0
    added_by_self: bool = False


@dataclass(frozen=True)
class Removal:
    """FS_IOC_REMOVE_ENCRYPTION_KEY: how many `other_users` still claim the key; if none does, the
    inodes that are still open, each by its number and path.
    """

    other_users: int = 0
    busy: tuple[tuple[int, str], ...] = ()


@dataclass
class Held:
    """A master key in the keyring, the users that claim it, and its inodes."""

    master: MasterKey
    users: set[int] = field(default_factory=set)
    files: dict[tuple[Context, int, str], FileInfo] = field(default_factory=dict)


class Keyring:
    """The master keys of a mounted volume. `uuid`: the file system's, 16 bytes. Thread-safe.

    A user is told by a number. A key is named by its identifier (v2, 16 bytes) or its descriptor
    (v1, 8 bytes). While a key is there, `open` gives what a file is encrypted with and counts it as
    open until `close`; in between, and as long as the key is present, it stays cached.
    """

    def __init__(self, uuid: bytes) -> None:
        if len(uuid) != 16:
            raise KeyringError(f"the UUID of a file system is 16 bytes, not {len(uuid)}")
        self.uuid = bytes(uuid)
        self._held: dict[bytes, Held] = {}
        self._idle: OrderedDict[FileInfo, Held] = OrderedDict()  # not open, the longest so first
        self._lock = threading.RLock()

    def add(
        self, raw: Secret, *, user: int = 0, wrapped: bool = False, descriptor: bytes | None = None
    ) -> bytes:
        """Add a master key of 16 to 64 bytes and the user's claim to it; returns its identifier.

        `wrapped`: `raw` is the 32-byte key inside a hardware-wrapped key, whose inline encryption
        key and software secret are kept instead of it. `descriptor`: the key is for v1 policies,
        under this name, which is returned. The caller's bytes are the caller's to wipe.

        Raises KeyMaterialError for a wrong length, and KeyringError if another key has that
        descriptor.
        """
        master = MasterKey(raw, wrapped, descriptor)
        with self._lock:
            held = self._held.setdefault(master.name, Held(master))
            if held.master is not master:
                self._add_again(held.master, master)
            if descriptor is None:
                held.users.add(user)
            return master.name

    def _add_again(self, held: MasterKey, master: MasterKey) -> None:
        same = held.identifier == master.identifier
        if same and not held.present:
            held.restore(master)
        master.wipe()
        if not same:
            raise KeyringError(f"another key has the descriptor {master.name.hex()}: remove it first")

    def remove(self, name: bytes, *, user: int = 0) -> Removal:
        """Remove a user's claim to a key, and the key if it was the last.

        Raises KeyUnavailable if there is no such key, or the user has no claim to it.
        """
        with self._lock:
            held = self._find(name)
            if held.users:
                if user not in held.users:
                    raise KeyUnavailable(f"user {user} hasn't added key {name.hex()}: who has can remove it")
                held.users.remove(user)
            return Removal(len(held.users)) if held.users else self._evict(held)

    def remove_all_users(self, name: bytes) -> Removal:
        """Remove everybody's claims, and the key. Raises KeyUnavailable if there is no such key."""
        with self._lock:
            held = self._find(name)
            held.users.clear()
            return self._evict(held)

    def status(self, name: bytes, *, user: int = 0) -> Status:
        """What is known of a key."""
        with self._lock:
            held = self._held.get(name)
            if held is None:
                return Status(ABSENT)
            state = PRESENT if held.master.present else INCOMPLETELY_REMOVED
            return Status(state, len(held.users), user in held.users)

    def open(self, context: Context, inode: int, kind: str = "contents", path: str = "") -> FileInfo:
        """What an inode is encrypted with; counted as in use until `close`.

        `kind`: "contents" of a regular file, "names" of a directory or a symbolic link. `path`: to
        tell people which file is busy.

        Raises KeyUnavailable without the key, KeyMaterialError if it is too short for the policy,
        PolicyError if the policy can't have such an inode or such a key.
        """
        if kind not in KINDS:
            raise KeyringError(f"{kind!r} is no kind of inode: {' or '.join(KINDS)}")
        name, place = context.policy.key, (context, inode, kind)
        with self._lock:
            held = self._held.get(name)
            info = held.files.get(place) if held is not None else None
            if info is None:
                if held is None or not held.master.present:
                    raise KeyUnavailable(f"the key {name.hex()} isn't there: add it to open inode {inode}")
                info = held.files[place] = held.master.info(context, inode, kind, self.uuid)
            if not info.opens:
                self._idle.pop(info, None)
            info.opens += 1
            info.path = path or info.path
            return info

    def close(self, info: FileInfo) -> None:
        """End a use that `open` began; evicts the inode if its key is removed and it was the last.

        Raises KeyringError if it isn't open.
        """
        with self._lock:
            held = self._held.get(info.context.policy.key)
            if held is None or held.files.get(_place(info)) is not info or not info.opens:
                raise KeyringError(f"inode {info.inode} isn't open here: close once what open gave")
            info.opens -= 1
            if not held.master.present:
                self._evict(held)
            elif not info.opens:
                self._idle[info] = held
                if len(self._idle) > IDLE:
                    oldest = next(iter(self._idle))
                    self._forget(self._idle[oldest], oldest)

    @contextmanager
    def using(
        self, context: Context, inode: int, kind: str = "contents", path: str = ""
    ) -> Iterator[FileInfo]:
        """`open` and `close` around a block."""
        info = self.open(context, inode, kind, path)
        try:
            yield info
        finally:
            self.close(info)

    def forget(self, context: Context, inode: int, kind: str = "contents") -> None:
        """Evict one inode, when it is deleted or leaves the inode cache.

        Raises KeyringError while it is open.
        """
        with self._lock:
            held = self._held.get(context.policy.key)
            info = held.files.get((context, inode, kind)) if held is not None else None
            if held is None or info is None:
                return
            if info.opens:
                raise KeyringError(f"inode {inode} is open: close it before it is forgotten")
            self._forget(held, info)

    def wipe(self) -> None:
        """Overwrite all keys, also of open files, and forget them: the volume is unmounted."""
        with self._lock:
            for held in self._held.values():
                for info in list(held.files.values()):
                    self._forget(held, info)
                held.master.wipe()
            self._held.clear()

    def _find(self, name: bytes) -> Held:
        held = self._held.get(name)
        if held is None:
            raise KeyUnavailable(f"there is no key {name.hex()} to remove: it was never added, or has gone")
        return held

    def _evict(self, held: Held) -> Removal:
        """Overwrite a key's secrets and the keys of inodes that aren't open; the key goes if none is."""
        held.master.remove_secrets()
        for info in [info for info in held.files.values() if not info.opens]:
            self._forget(held, info)
        if not held.files:
            held.master.wipe()
            del self._held[held.master.name]
        return Removal(0, tuple(sorted((info.inode, info.path) for info in held.files.values())))

    def _forget(self, held: Held, info: FileInfo) -> None:
        self._idle.pop(info, None)
        del held.files[_place(info)]
        if not info.shared:
            info.key.wipe()

    def __repr__(self) -> str:
        return f"<{type(self).__name__} of {self.uuid.hex()}: {len(self._held)} keys>"


def _place(info: FileInfo) -> tuple[Context, int, str]:
    return info.context, info.inode, info.kind
