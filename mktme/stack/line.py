"""The memory controller as a file's place of encryption: DAX, a line at a time, under a KeyID.

Bytes go between the caller and the medium in one pass, 64 at a time if need be, and a file can be
mapped: its extents become ranges of the controller under the file's KeyID. With AES-XTS this
serves fscrypt's own format too, as a line of a data unit is reached alone (its tweak is the unit's
times alpha^(4k)); ciphers that need whole units are refused.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from mktme.controller import Controller
from mktme.crypto.algorithms import ALGORITHMS
from mktme.crypto.cipher import Bytes
from mktme.errors import SchemeError
from mktme.iv import coordinates as known
from mktme.iv.scheme import Scheme
from mktme.keys import Key
from mktme.stack.contents import Contents
from mktme.stack.direct import Direct, Mappable
from mktme.stack.keyids import Holder, KeyIds
from mktme.stack.path import FileKey
from mktme.stack.slot import Slot
from mktme.stack.units import UnitPath
from pmem.geometry import LINE


class LineKey(Holder):
    """A key for the line path: of one file, or of all files that share it."""

    __slots__ = ("lines",)

    def __init__(self, key: Callable[[], Key]) -> None:
        super().__init__(key, self._leave)
        self.lines = 0  # reached under its KeyID

    def _leave(self) -> int:
        flushed, self.lines = self.lines, 0
        return flushed


class LineContents(Mappable):
    """A file's encryption on the line path: its key, its scheme, its coordinates.

    Raises SchemeError for a cipher that needs whole data units.
    """

    def __init__(
        self,
        key: LineKey,
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
        self.algorithm = algorithm
        self.key, self.scheme, self.unit, self.given = key, scheme, unit, dict(given)
        self._bound: tuple[Slot, Contents, dict[int, UnitPath]] | None = None

    def path(self, slot: Slot, offset: int, address: int, size: int) -> UnitPath:
        """The lines of an extent, under what the KeyID holds now."""
        bound = self._bound
        if bound is None or bound[0] is not slot:
            contents = Contents(self.algorithm, lambda: slot, self.scheme, self.unit, self.given)
            bound = self._bound = slot, contents, {}
        _, contents, paths = bound
        origin = contents.origin(offset, address)
        path = paths.get(origin)
        if path is None:
            path = paths[origin] = contents.lines(origin, size)
        return path

    def range(self, offset: int, address: int) -> dict[str, Any]:
        made = {"iv": self.scheme.name, "unit": self.unit, **self.given}
        for name in self.scheme.coordinates:
            if name == "block":
                made[name] = offset // self.unit
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
            return LineContents(held, key.algorithm, scheme, unit, given)

    def _forget(self, key: FileKey) -> None:
        """The key is wiped: so is its copy under a KeyID."""
        self.keyids.drop(self._keys.pop(key))

    def grain(self, how: LineContents) -> int:
        return LINE

    def count(self, write: bool, first: int, end: int) -> None:
        lines = LINE * (-(-end // LINE) - first // LINE) if end > first else 0
        torn = LINE * len({at // LINE for at in (first, end) if at % LINE})  # read, changed, written back
        self.traffic.add(
            asked=end - first, encrypted=lines if write else 0, decrypted=torn if write else lines
        )

    def take(self, how: LineContents) -> int:
        return self.keyids.pin(how.key, keep=True)

    def leave(self, how: LineContents) -> None:
        self.keyids.unpin(how.key, keep=True)

    def begin(self, how: LineContents) -> None:
        self.keyids.pin(how.key)

    def end(self, how: LineContents) -> None:
        self.keyids.unpin(how.key)

    def fetch(self, how: LineContents, offset: int, address: int, page: Bytes) -> None:
        device = self.device
        self._path(how, offset, address).read(device.mapping(), device.base, address, page)
        how.key.lines += page.size // LINE
        self.traffic.add(decrypted=page.size)

    def put(self, how: LineContents, offset: int, address: int, page: Bytes) -> None:
        device = self.device
        self._path(how, offset, address).write(device.mapping(), device.base, address, page)
        how.key.lines += page.size // LINE
        self.traffic.add(encrypted=page.size)

    def _path(self, how: LineContents, offset: int, address: int) -> UnitPath:
        assert how.key.keyid is not None
        slot = self.controller.slot(how.key.keyid)
        return how.path(slot, offset, address, self.device.size)
