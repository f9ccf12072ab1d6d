"""A small machine for experiments: a device, files on it, who has the key and where things lie.

The device is cut into slots. A slot has room for a file's data and for what a scheme keeps beside
it, so that the bytes of a slot (what an attacker who holds the DIMM can read, save and put
elsewhere) are data and metadata together.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

import pmem
from mktme.controller import Controller
from mktme.fscrypt.kdf import inode_hash, per_file_key
from mktme.iv import Scheme
from mktme.iv.compiled import Binding
from mktme.iv.coordinates import HALVES, STATE
from mktme.keys import Key
from mktme.lab.iv.dimm import Dimm
from mktme.lab.iv.subjects import Subject
from mktme.mapping import metadata_bytes
from mktme.region import Region

Bytes = npt.NDArray[np.uint8]
MIB = 1 << 20
SLOT = 2 * MIB  # bytes of data that a slot has room for
ROOM = MIB  # bytes of metadata
SLOTS = 6


@dataclass(frozen=True)
class File:
    """What is known of a file: its inode number and nonce."""

    inode: int
    nonce: bytes


@dataclass(frozen=True)
class Wiring:
    """How the device is wired: what the physical addresses of its first byte are.

    `interleaved`: pages alternate between two DIMMs, so a page lies elsewhere on its own.
    """

    system: int = 1 << 36
    serial: int = 0x5A31
    first_sector: int = 2048
    interleaved: bool = False

    def at(self, address: int) -> dict[str, int]:
        """The coordinates that hang on the place, of the data unit at an address."""
        local, serial = address, self.serial
        if self.interleaved:
            page, within = divmod(address, pmem.PAGE)
            local, serial = page // 2 * pmem.PAGE + within, self.serial + page % 2
        return {
            "system_address": self.system + address,
            "device_address": local,
            "dimm_serial": serial,
            "sector": self.first_sector + address // 512,
        }


ALICE, BOB, MALLORY = (File(inode, bytes([inode]) * 16) for inode in (12, 13, 66))
WIRING = Wiring()


def coordinates(
    scheme: Scheme, file: File, address: int, wiring: Wiring = WIRING, block: int = 0
) -> dict[str, int]:
    """The coordinates that a scheme takes, of the data unit at an address, the file's `block`.

    Those that it keeps itself are left out; those of a user's own are 7.
    """
    known = wiring.at(address) | {
        "address": address,
        "block": block,
        "inode": file.inode,
        "inode_hash": inode_hash(bytes(16), file.inode),
        "nonce_low": int.from_bytes(file.nonce[:8], "little"),
        "nonce_high": int.from_bytes(file.nonce[8:], "little"),
    }
    return {name: known.get(name, 7) for name in scheme.coordinates if name not in STATE}


def predicted_ivs(scheme: Scheme, file: File, slot: int, count: int) -> Bytes:
    """The IVs of a file's first data units in a slot, as anybody computes them: (count, 16 or 32).

    Before they are sealed; counters are taken to be 1, and drawn IVs to be zeros.
    """
    binding = Binding(scheme, scheme.unit, coordinates(scheme, file, World.address(slot)))
    state = {name: np.ones(count, np.uint64) for name in scheme.coordinates if name in STATE}
    made = binding.at(np.arange(count, dtype=np.uint64), binding.words, **state)
    return made.view(np.uint8)


class World:
    """A device of SLOTS slots, encrypted as the subject says, under one fixed master key.

    Files of a scheme with a key for each file get a key derived as fscrypt does (v2, HKDF).
    """

    def __init__(self, folder: Path, subject: Subject) -> None:
        self.subject = subject
        size = SLOTS * (SLOT + ROOM)
        self.device = pmem.create(folder / f"{subject.name.replace('/', '-')}.img", size)
        self._controller = Controller(self.device, threads=1)
        self._keyids: dict[File | None, int] = {}
        self._master = np.random.default_rng(1).bytes(64)

    def close(self) -> None:
        """Forget the keys and delete the image."""
        self._controller.power_cycle()
        self.device.close()
        self.device.path.unlink()

    def __enter__(self) -> World:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    @staticmethod
    def address(slot: int) -> int:
        """Where a slot's data begins; its metadata lies behind all slots' data."""
        return slot * SLOT

    @staticmethod
    def beside(slot: int, at: int = 0) -> int:
        """Where the metadata lies of what is mapped at `at` in a slot, in steps of 64 KiB."""
        return SLOTS * SLOT + slot * ROOM + at // 4

    @property
    def dimm(self) -> Dimm:
        """What an attacker who holds the DIMM has of this machine."""
        return Dimm(self.device, self.address, self.beside)

    def _keyid(self, file: File) -> int:
        owner = file if self.subject.scheme.file_key else None
        if owner not in self._keyids:
            algorithm = self.subject.algorithm
            size = len(b"".join(bytes(p) for p in Key.generate(algorithm).parts()))
            material = per_file_key(self._master, file.nonce, size) if owner else self._master[:size]
            self._keyids[owner] = self._controller.program_key(Key.from_bytes(algorithm, material))
        return self._keyids[owner]

    @contextmanager
    def file(
        self,
        file: File,
        slot: int,
        size: int,
        wiring: Wiring = WIRING,
        block: int = 0,
        at: int = 0,
    ) -> Iterator[Region]:
        """A range of `size` bytes at `at` in a slot, mapped as blocks of a file from `block` on."""
        scheme, address = self.subject.scheme, self.address(slot) + at
        known = coordinates(scheme, file, address, wiring, block)
        given: dict[str, Any] = {n: v for n, v in known.items() if n not in HALVES | {"address"}}
        if "nonce_low" in scheme.coordinates:
            given["nonce"] = file.nonce
        if metadata_bytes(scheme.name, size, integrity=self.subject.integrity):
            given["metadata"] = self.beside(slot, at)
        region = self._controller.map(
            address, size, self._keyid(file), iv=scheme.name, integrity=self.subject.integrity, **given
        )
        try:
            yield region
        finally:
            self._controller.unmap(region)

    def write(self, file: File, slot: int, data: Any, **where: Any) -> None:
        """Store a file's data, whole pages, in a slot."""
        with self.file(file, slot, len(data), **where) as region:
            region.write(0, data)

    def read(self, file: File, slot: int, size: int, **where: Any) -> Bytes:
        """Read a file's data as its owner. Raises PoisonError."""
        with self.file(file, slot, size, **where) as region:
            return np.frombuffer(region.read(0, size), np.uint8)


def rewired(**changes: Any) -> Wiring:
    """The usual wiring with changes."""
    return replace(WIRING, **changes)
