"""The contestants: one volume each, the files' contents on one path."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import pmem
from mktme.controller import Controller
from mktme.filesystem import EncryptedFile, FileSystem
from mktme.fscrypt import modes
from mktme.fscrypt.policy import Policy
from mktme.keys import Key
from mktme.stack.bounce import Bounce
from mktme.stack.direct import Plain
from mktme.stack.engine import BlockDevice
from mktme.stack.inline import Inline
from mktme.stack.keyslots import CryptoProfile
from mktme.stack.line import Line
from mktme.stack.path import FilePath
from pmem import Device, dax

KEYID_BITS = 6  # 63 KeyIDs
KEYSLOTS = 32  # as engines of UFS have


class Way(NamedTuple):
    """A path and the IV scheme of the files made on it, "" for their policy's."""

    make: Callable[[Device], FilePath[Any]]
    iv: str
    summary: str


def _bounce(device: Device) -> FilePath[Any]:
    return Bounce(device)


def _inline(device: Device) -> FilePath[Any]:
    return Inline(BlockDevice(device, CryptoProfile(KEYSLOTS)))


def _line(device: Device) -> FilePath[Any]:
    return Line(Controller(device, KEYID_BITS, threads=1))


def _none(device: Device) -> FilePath[Any]:
    return Plain(Controller(device, KEYID_BITS, threads=1))


PATHS = {
    "none": Way(_none, "", "no encryption"),
    "line": Way(_line, "pmem-line", "memory controller, a 64-byte line a data unit, IV from the address"),
    "line-file": Way(_line, "", "memory controller on fscrypt's format, IV from the block of the file"),
    "inline": Way(_inline, "", "inline crypto engine, IV from the block of the file"),
    "inline-lba": Way(_inline, "plain64", "inline crypto engine, IV from the sector, 512-byte data units"),
    "bounce": Way(_bounce, "", "fscrypt in software, through bounce pages"),
}
DEFAULT = ("none", "line", "inline", "bounce")


class Subject:
    """A volume on an image of its own, whose files lie in `folder`, encrypted under per-file keys.

    `name`: the path, one of PATHS; `iv`: an IV scheme in the place of the path's; `contents`, `names`,
    `log2_unit`: of the policy.
    """

    folder = "/files"

    def __init__(
        self,
        name: str,
        device: Device,
        *,
        iv: str = "",
        contents: int = modes.AES_256_XTS,
        names: int = modes.AES_256_CTS,
        log2_unit: int = 0,
    ) -> None:
        way = PATHS[name]
        self.name, self.volume = name, dax.make(device)
        self.path = way.make(device)
        self.system = FileSystem(self.volume, self.path, iv=iv or way.iv)
        self.system.mkdir(self.folder)
        if name != "none":
            key = Key.generate("aes-xts-256")
            identifier = self.system.keyring.add(b"".join(bytes(part) for part in key.parts()))
            key.clear()
            policy = Policy(identifier, contents, names, log2_data_unit_size=log2_unit)
            self.system.set_policy(self.folder, policy)

    def create(self, name: str) -> EncryptedFile:
        """A new file."""
        return self.system.create(f"{self.folder}/{name}")

    def open(self, name: str) -> EncryptedFile:
        """A file."""
        return self.system.open(f"{self.folder}/{name}")

    def remove(self, name: str) -> None:
        """Delete a file."""
        self.system.unlink(f"{self.folder}/{name}")

    def counts(self) -> dict[str, int]:
        """Bytes asked, copied, encrypted, decrypted, and keys that were programmed and evicted, so far."""
        made = self.path.traffic.counts() | {"programmed": 0, "evicted": 0}
        churn: Any = None
        if isinstance(self.path, Line):
            churn = self.path.keyids.churn
        elif isinstance(self.path, Inline) and self.path.blocks.profile is not None:
            churn = self.path.blocks.profile.counts
        if churn is not None:
            made |= {"programmed": churn.programmed, "evicted": churn.evicted}
        return made


@contextmanager
def subjects(names: Iterable[str], folder: Path, size: int) -> Iterator[dict[str, Subject]]:
    """A contestant for each name, on an image of `size` bytes in a folder."""
    with ExitStack() as stack:
        made = {}
        for name in names:
            device = stack.enter_context(pmem.create(folder / f"{name}.img", size))
            made[name] = Subject(name, device)
            stack.callback(made[name].volume.close)
        yield made
        made.clear()
