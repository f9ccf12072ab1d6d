"""The memory controller as a file's place of encryption: DAX, a line at a time, under a KeyID.

Bytes go between the caller and the medium in one pass, 64 at a time if need be, and a file can be
mapped: its extents become ranges of the controller under the file's KeyID. With AES-XTS this
serves fscrypt's own format too, as a line of a data unit is reached alone (its tweak is the unit's
times alpha^(4k)); ciphers that need whole units are refused.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from typing import Any

from mktme.controller import Controller
from mktme.crypto.algorithms import ALGORITHMS
from mktme.crypto.cipher import Bytes, Lines
from mktme.errors import KeyUnavailable, SchemeError
from mktme.iv import coordinates as known
from mktme.iv.scheme import Scheme
from mktme.keys import Key
from mktme.stack.contents import Contents
from mktme.stack.direct import Direct, Mappable
from mktme.stack.keyids import Holder, KeyIds
from mktme.stack.path import FileKey
from mktme.stack.poison import watched
from mktme.stack.slot import Slot
from mktme.stack.units import UnitPath
from pmem.geometry import LINE


class LineKey(Holder):
    """A key for the line path: of one file, or of all files that share it."""

    __slots__ = ("mapped", "reached")

    def __init__(self, key: Callable[[], Key]) -> None:
        super().__init__(key, self._leave)
        self.reached: set[LineContents] = set()  # files with lines that were reached under its KeyID
        self.mapped: set[LineContents] = set()  # files that have maps

    def _leave(self) -> int:
        flushed = sum(how.flush() for how in [*self.reached])  # a request may still add to them
        self.reached.clear()
        return flushed


class Pin:
    """A context in which a key has a KeyID of its own."""

    __slots__ = ("_key", "_keyids")

    def __init__(self, keyids: KeyIds, key: LineKey) -> None:
        self._keyids, self._key = keyids, key

    def __enter__(self) -> None:
        self._keyids.pin(self._key)

    def __exit__(self, *_: object) -> None:
        self._keyids.unpin(self._key)


class LineContents(Mappable):
    """A file's encryption on the line path: its key, its scheme, its coordinates.

    Raises SchemeError for a cipher that needs whole data units.
    """

    def __init__(
        self,
        key: LineKey,
        pin: Pin,
        algorithm: str,
        scheme: Scheme,
        unit: int,
        given: Mapping[str, Any],
    ) -> None:
        if unit > LINE and not ALGORITHMS[algorithm].alone:
            raise SchemeError(
                f"{algorithm} needs a data unit of {unit} bytes as a whole, and the memory controller sees "
                f"lines of {LINE}: take AES-XTS, or the path bounce or inline"
            )
        super().__init__()
        self.key, self.pin, self._given = key, pin, dict(given)
        self._lines = self._end = 0  # reached since the key has its KeyID; the last one of them in the file
        self._contents = Contents(algorithm, scheme, unit, given)
        self._bound: tuple[Slot, dict[int, UnitPath]] | None = None

    def path(self, slot: Slot, offset: int, address: int, size: int) -> UnitPath:
        """The lines of an extent, under what the KeyID holds now."""
        bound = self._bound
        if bound is None or bound[0] is not slot:
            bound = self._bound = slot, {}
        paths, origin = bound[1], self._contents.origin(offset, address)
        path = paths.get(origin)
        if path is None:
            path = paths[origin] = self._contents.lines(slot, origin, size)
        return path

    def reach(self, offset: int, size: int) -> None:
        """Count lines of the file that are in the caches now, under the key's KeyID."""
        self._lines += size // LINE
        self._end = max(self._end, (offset + size) // LINE)
        self.key.reached.add(self)

    def flush(self) -> int:
        """How many lines are flushed: as many as were reached, at most the file's."""
        flushed, self._lines, self._end = min(self._lines, self._end), 0, 0
        return flushed

    def range(self, offset: int, address: int) -> dict[str, Any]:
        scheme, unit = self._contents.scheme, self._contents.unit
        made = {"iv": scheme.name, "unit": unit, **self._given}
        for name in scheme.coordinates:
            if name == "block":
                made[name] = offset // unit
            elif name == "sector":
                made[name] = address // 512
            elif name != "address" and known.COORDINATES[name][1]:
                made[name] = made.get(name, 0) + address
        return made


class Line(Direct[LineContents]):
    """`line`: the extents of files under KeyIDs of a controller, of which the pool has up to `limit`."""

    name = "line"

    def __init__(self, controller: Controller, limit: int | None = None) -> None:
        super().__init__(controller)
        self.keyids = KeyIds(controller, limit)
        self._keys: dict[FileKey, LineKey] = {}

    def bind(self, key: FileKey, scheme: Scheme, unit: int, given: Mapping[str, Any]) -> LineContents:
        with self._mapping:
            held = self._keys.get(key)
            if held is None:
                held = self._keys[key] = LineKey(key.key)
                key.follow(lambda: self._forget(key))
            return LineContents(held, Pin(self.keyids, held), key.algorithm, scheme, unit, given)

    def _forget(self, key: FileKey) -> None:
        """The key is wiped: so is its copy under a KeyID, and what is mapped under it is unmapped."""
        with self._mapping:
            held = self._keys.pop(key)
            for how in [*held.mapped]:
                self.revoke(how)
            self.keyids.drop(held)

    def grain(self, how: LineContents) -> int:
        return LINE

    def count(self, write: bool, first: int, end: int) -> None:
        lines = LINE * (-(-end // LINE) - first // LINE) if end > first else 0
        torn = LINE * len({at // LINE for at in (first, end) if at % LINE})  # read, changed, written back
        inner = max(0, end // LINE - -(-first // LINE)) * LINE  # bytes of lines that are covered
        self.traffic.add(
            asked=end - first,
            copied=end - first - inner,
            encrypted=lines if write else 0,
            decrypted=torn if write else lines,
        )

    def take(self, how: LineContents) -> int:
        keyid = self.keyids.pin(how.key, keep=True)
        how.key.mapped.add(how)
        return keyid

    def leave(self, how: LineContents) -> None:
        how.key.mapped.discard(how)
        self.keyids.unpin(how.key, keep=True)

    def using(self, how: LineContents) -> AbstractContextManager[object]:
        return how.pin

    def fetch(self, how: LineContents, offset: int, address: int, page: Bytes) -> None:
        device, path = self.device, self._path(how, offset, address)
        self.evict(how.key.keyid, address, page.size)
        path.read(device.mapping(), device.base, address, page)
        how.reach(offset, page.size)
        self.traffic.add(decrypted=page.size)

    def put(self, how: LineContents, offset: int, address: int, page: Bytes) -> None:
        device, path = self.device, self._path(how, offset, address)
        self.evict(how.key.keyid, address, page.size)
        device.storing(address, page.size)
        path.write(device.mapping(), device.base, address, page)
        how.reach(offset, page.size)
        self.traffic.add(encrypted=page.size)

    def _path(self, how: LineContents, offset: int, address: int) -> Lines:
        keyid = how.key.keyid
        if keyid is None:
            raise KeyUnavailable("the key of this file was evicted under a request: open the file again")
        path = how.path(self.controller.slot(keyid), offset, address, self.device.size)
        return watched(path, self.device.poison)
