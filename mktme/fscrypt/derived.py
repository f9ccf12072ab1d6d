"""A derived key: what contents or names are encrypted with."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import NoReturn

from mktme.crypto.algorithms import ALGORITHMS
from mktme.errors import KeyUnavailable
from mktme.keys import Key
from mktme.stack.slot import Slot


class DerivedKey:
    """The key of one file, or of all files that share it, in memory that is overwritten when its
    master key goes.

    What hygiene Python allows is as in `mktme.keys`; what derives the key returns immutable bytes,
    which the interpreter frees but doesn't overwrite. Thread-safe. After `wipe` all calls raise
    KeyUnavailable.
    """

    __slots__ = ("_followers", "_lock", "_material", "_slot", "algorithm")

    def __init__(self, algorithm: str, material: bytes | bytearray) -> None:
        self.algorithm = algorithm
        self._material = bytearray(material)
        self._slot: Slot | None = None
        self._followers: list[Callable[[], None]] = []
        self._lock = threading.Lock()

    def follow(self, wiped: Callable[[], None]) -> None:
        """Have a function called when the key is wiped: by who has programmed a copy elsewhere."""
        self._followers.append(wiped)

    @property
    def wiped(self) -> bool:
        """Whether the key has been overwritten."""
        return not self._material

    @property
    def slot(self) -> Slot:
        """The cipher under this key, made when it is first asked for."""
        slot = self._slot
        if slot is None:
            with self._lock:
                if self._slot is None:
                    self._slot = Slot.from_parts(self.algorithm, self._parts())
                slot = self._slot
        return slot

    def key(self) -> Key:
        """A copy to program elsewhere, such as into a memory controller; who takes it clears it."""
        with self._lock:
            parts = self._parts()
            return Key(self.algorithm, data_key=parts[0], tweak_key=parts[1] if len(parts) == 2 else None)

    def wipe(self) -> None:
        """Overwrite the key and what was made from it; requests that still run write or read garbage."""
        with self._lock:
            self._material[:] = bytes(len(self._material))
            self._material = bytearray()
            if self._slot is not None:
                self._slot.wipe()
                self._slot = None
            followers, self._followers = self._followers, []
        for wiped in followers:
            wiped()

    def _parts(self) -> list[memoryview]:
        if self.wiped:
            raise KeyUnavailable("the key of this file has been evicted: open the file again")
        view, made, at = memoryview(self._material), [], 0
        for size in ALGORITHMS[self.algorithm].parts:
            made.append(view[at : at + size])
            at += size
        return made

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.algorithm}{' wiped' if self.wiped else ''}>"

    def __reduce__(self) -> NoReturn:
        raise TypeError("a derived key can't be pickled or copied")
