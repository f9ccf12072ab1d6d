"""A pool of KeyIDs: few for many keys, so the least recently used ones change hands.

Before a KeyID takes another key, every line that was reached under it has to leave the caches,
since those tag a line with its KeyID (Intel 336907, "Key management"): the holder flushes them and
gives its ranges back, then the key is programmed. The pool counts both.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from mktme.errors import KeyTableFull
from mktme.keys import Key


class KeyTable(Protocol):
    """What the pool needs of a memory controller."""

    @property
    def keyids(self) -> tuple[int, ...]:
        """The KeyIDs that are programmed."""

    def program_key(self, key: Key, keyid: int | None = None) -> int:
        """Program a key; returns its KeyID. Raises KeyTableFull."""

    def clear_key(self, keyid: int) -> None:
        """Forget a key."""


@dataclass
class Churn:
    """What sharing KeyIDs cost: counts since the pool was made."""

    hits: int = 0
    programmed: int = 0
    evicted: int = 0
    lines_flushed: int = 0


class Holder:
    """A key that may have a KeyID. `keyid` is None while it has none; `pins` is how often it is in
    use, and `kept` how often of these for long, by a map.

    `key` makes the key when it is to be programmed; the pool clears it afterwards. `leave` is
    called before the KeyID goes to another: it unmaps what is mapped under it and returns how many
    lines that flushed.
    """

    __slots__ = ("kept", "key", "keyid", "leave", "pins")

    def __init__(self, key: Callable[[], Key], leave: Callable[[], int]) -> None:
        self.key, self.leave = key, leave
        self.keyid: int | None = None
        self.pins = self.kept = 0


class KeyIds:
    """The KeyIDs of a controller that were free, up to `limit` of them, shared by holders.

    Thread-safe.
    """

    def __init__(self, table: KeyTable, limit: int | None = None) -> None:
        self.churn = Churn()
        self._table, self._limit = table, limit
        self._holders: OrderedDict[int, Holder] = OrderedDict()  # by KeyID, least recently used first
        self._lock = threading.RLock()
        self._changed, self._waiting = threading.Condition(self._lock), 0

    def __len__(self) -> int:
        return len(self._holders)

    def pin(self, holder: Holder, *, keep: bool = False) -> int:
        """The holder's KeyID, which stays its own until as many calls of `unpin`.

        `keep` is for long. Where all are pinned it waits for those that aren't kept.
        Raises KeyTableFull if all are kept, and as the holder's `key`; nothing has changed then.
        """
        with self._lock:
            if holder.keyid is None:
                keyid = self._program(holder)
                self._holders[keyid], holder.keyid = holder, keyid
            else:
                self.churn.hits += 1
                self._holders.move_to_end(holder.keyid)
            holder.pins += 1
            holder.kept += keep
            return holder.keyid

    def unpin(self, holder: Holder, *, keep: bool = False) -> None:
        """Let the KeyID go to another when it is needed; it stays programmed until then."""
        with self._lock:
            holder.pins -= 1
            holder.kept -= keep
            if self._waiting and holder.pins == holder.kept:  # who waits takes it, or hears that all are kept
                self._changed.notify_all()

    def drop(self, holder: Holder) -> None:
        """Flush, unmap and clear a holder's KeyID, at once."""
        with self._lock:
            if holder.keyid is not None:
                self._table.clear_key(self._take_back(holder))
                self._changed.notify_all()

    def _program(self, holder: Holder) -> int:
        """Program a holder's key into a free KeyID, or one that is taken back; waits for either."""
        while holder.keyid is None:  # another thread may have done it meanwhile
            key = holder.key()  # made anew after each wait: it may have been wiped
            try:
                keyid = self._program_free(key)
                if keyid is not None:
                    return keyid
                idle = next((held for held in self._holders.values() if not held.pins), None)
                if idle is not None:
                    return self._program_over(idle, key)
            finally:
                key.clear()
            if all(held.kept for held in self._holders.values()):
                raise KeyTableFull(
                    f"all {len(self._holders)} KeyIDs are pinned by files that are mapped: close a map, "
                    "or make the controller with more keyid_bits"
                )
            self._waiting += 1
            self._changed.wait()
            self._waiting -= 1
        return holder.keyid

    def _program_free(self, key: Key) -> int | None:
        """Program a key into a free KeyID, if there is one and the pool may have it."""
        if self._limit is not None and len(self._holders) >= self._limit:
            return None
        try:
            return self._program_into(key, None)
        except KeyTableFull:
            if not self._holders:
                raise
            return None

    def _program_over(self, idle: Holder, key: Key) -> int:
        keyid = self._take_back(idle)
        self.churn.evicted += 1
        try:
            return self._program_into(key, keyid)
        except BaseException:
            self._table.clear_key(keyid)
            raise

    def _program_into(self, key: Key, keyid: int | None) -> int:
        keyid = self._table.program_key(key, keyid)
        self.churn.programmed += 1
        return keyid

    def _take_back(self, holder: Holder) -> int:
        """Have a holder leave its KeyID, which still has its key."""
        keyid = holder.keyid
        assert keyid is not None
        self.churn.lines_flushed += holder.leave()
        del self._holders[keyid]
        holder.keyid = None
        return keyid
