"""`inline`: an inline crypto engine in a file's block path (fs/crypto/inline_crypt.c).

Whole data units go between the caller and the medium as bios with the file's key and data unit
number; parts of one are read into a page, changed and written back. The DUN is the IV as one
integer, so a scheme fits whose IVs count up by one from unit to unit.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping
from typing import Any

from mktme.crypto.algorithms import ALGORITHMS
from mktme.crypto.cipher import Bytes
from mktme.errors import SchemeError
from mktme.iv import coordinates as known
from mktme.iv.scheme import Scheme
from mktme.stack.bio import SECTOR, Bio
from mktme.stack.contents import physical, values_of
from mktme.stack.engine import BlockDevice
from mktme.stack.keyslots import UNITS, BlockKey
from mktme.stack.path import FileKey, FilePath

WRAPS = 1 << 32  # where the IVs of ino-lblk-32 begin anew


class InlineContents:
    """A file's encryption on the inline path: its key, and the DUN of its first data unit."""

    def __init__(self, key: BlockKey, scheme: Scheme, first: int) -> None:
        self.key, self.scheme, self.first = key, scheme, first
        self.physical = physical(scheme)
        self.wraps = scheme.name == "ino-lblk-32"

    def duns(self, offset: int, address: int, size: int) -> list[tuple[int, int]]:
        """(DUN, bytes) of a run of data units, cut where the numbers begin anew."""
        unit = self.key.unit
        dun = self.first + (address if self.physical else offset) // unit
        if not self.wraps:
            return [(dun, size)]
        runs = []
        while size:
            dun %= WRAPS
            count = min(size, (WRAPS - dun) * unit)
            runs.append((dun, count))
            dun, size = dun + count // unit, size - count
        return runs


class Inline(FilePath[InlineContents]):
    """Files by way of a block device with a crypto engine."""

    name = "inline"

    def __init__(self, blocks: BlockDevice) -> None:
        super().__init__(blocks.device)
        self.blocks, self.traffic = blocks, blocks.traffic
        self._keys: dict[FileKey, dict[tuple[int, int], BlockKey]] = {}
        self._binding = threading.Lock()

    def bind(self, key: FileKey, scheme: Scheme, unit: int, given: Mapping[str, Any]) -> InlineContents:
        if unit not in UNITS:
            raise SchemeError(
                f"{scheme.name} has data units of {unit} bytes, and blocks have 512 to 4096: take the "
                "path line"
            )
        if scheme.seal or scheme.state:
            raise SchemeError(
                f"an engine has data unit numbers for IVs, and those of {scheme.name} aren't: take "
                "another scheme"
            )
        algorithm = ALGORITHMS[key.algorithm]
        values = values_of(scheme, unit, given)
        steps = {name: known.step(name, unit) for name in scheme.coordinates}
        first, second = (
            int.from_bytes(
                scheme.iv_bytes(**{n: values[n] + i * step for n, step in steps.items()}), "little"
            )
            for i in (0, 1)
        )
        if second - first != 1 and not (scheme.name == "ino-lblk-32" and second == 0):
            raise SchemeError(
                f"the IVs of {scheme.name} at {unit} bytes are {second - first} apart, and an engine counts "
                "its data unit numbers by one: take another unit or scheme"
            )
        wide = min(algorithm.iv_bytes, 8 * scheme.words) if first >> 64 else 8
        return InlineContents(self._key(key, unit, wide), scheme, first)

    def _key(self, key: FileKey, unit: int, wide: int) -> BlockKey:
        """The block key of a file key, one for the files that share it."""
        with self._binding:
            held = self._keys.get(key)
            if held is None:
                held = self._keys[key] = {}
                key.follow(lambda: self._forget(key))
            made = held.get((unit, wide))
            if made is None:
                made = held[unit, wide] = BlockKey(key.algorithm, unit, key.key, dun_bytes=wide)
            return made

    def _forget(self, key: FileKey) -> None:
        """The key is wiped: so is its copy in a keyslot, at once or when its requests are done."""
        with self._binding:
            held = self._keys.pop(key)
        for made in held.values():
            for profile in (self.blocks.profile, self.blocks.fallback):
                if profile is not None:
                    profile.retire(made)

    def grain(self, how: InlineContents) -> int:
        return how.key.unit

    def fetch(self, how: InlineContents, offset: int, address: int, page: Bytes) -> None:
        self._submit(False, how, offset, address, page)

    def put(self, how: InlineContents, offset: int, address: int, page: Bytes) -> None:
        self._submit(True, how, offset, address, page)

    def _submit(self, write: bool, how: InlineContents, offset: int, address: int, page: Bytes) -> None:
        done = 0
        for dun, size in how.duns(offset, address, page.size):
            sector = (address + done) // SECTOR
            self.blocks.submit(Bio(write, sector, (page[done : done + size],), how.key, dun))
            done += size
