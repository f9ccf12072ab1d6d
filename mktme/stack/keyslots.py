"""Keyslots of an inline crypto engine (block/blk-crypto-profile.c).

A request takes the slot that holds its key, else the least recently used idle one, which is
programmed; when all are in flight it waits. A key is looked up by its object, as the kernel does
by its pointer. The engine keeps expanded keys only in its slots, and wipes them.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import NoReturn

from mktme.crypto.algorithms import ALGORITHMS
from mktme.errors import KeyMaterialError, KeyslotBusy, KeyslotTimeout, SchemeError
from mktme.fscrypt.kdf import inline_key
from mktme.iv.compiled import Binding
from mktme.iv.logical import FILE_BLOCK
from mktme.keys import Key
from mktme.stack.slot import Slot
from mktme.stack.units import UnitCipher

UNITS = (512, 1024, 2048, 4096)
MOST_DUN = 32  # bytes of the longest data unit number
DEFAULT_MODES = {"aes-xts-128": UNITS, "aes-xts-256": UNITS}
SOFTWARE = {name: UNITS for name, a in ALGORITHMS.items() if all(a.takes(unit) for unit in UNITS)}


class BlockKey:
    """A key for block requests (struct blk_crypto_key): its cipher, data unit, and DUN's bytes.

    `make` gives a copy of the key when a slot is programmed; the slot clears it. `wrapped` says
    that the engine derives it from a hardware-wrapped one (`of_wrapped`), which not every engine does.

    Raises SchemeError for a data unit that is not 512, 1024, 2048 or 4096 bytes, or that the
    algorithm doesn't take, or a DUN longer than the algorithm's IV; KeyMaterialError for an
    unknown algorithm.
    """

    __slots__ = ("algorithm", "dun_bytes", "make", "unit", "wrapped")

    def __init__(
        self,
        algorithm: str,
        unit: int,
        make: Callable[[], Key],
        *,
        dun_bytes: int = 8,
        wrapped: bool = False,
    ) -> None:
        if algorithm not in ALGORITHMS:
            raise KeyMaterialError(f"{algorithm!r} is not an algorithm: {', '.join(ALGORITHMS)}")
        if unit not in UNITS:
            raise SchemeError(f"a block's data unit has 512, 1024, 2048 or 4096 bytes, not {unit}")
        if not ALGORITHMS[algorithm].takes(unit):
            raise SchemeError(f"{algorithm} has no data units of {unit} bytes: take {', '.join(SOFTWARE)}")
        most = min(MOST_DUN, ALGORITHMS[algorithm].iv_bytes)
        if not 1 <= dun_bytes <= most:
            raise SchemeError(f"a DUN of {algorithm} has 1 to {most} bytes, not {dun_bytes}")
        self.algorithm, self.unit, self.make = algorithm, unit, make
        self.dun_bytes, self.wrapped = dun_bytes, wrapped

    @classmethod
    def of(cls, key: Key, unit: int = 4096, *, dun_bytes: int = 8) -> BlockKey:
        """A block key from a `mktme.Key`, which must not be cleared while it is in use."""

        def copy() -> Key:
            parts = key.parts()
            return Key(key.algorithm, data_key=parts[0], tweak_key=parts[1] if len(parts) > 1 else None)

        return cls(key.algorithm, unit, copy, dun_bytes=dun_bytes)

    @classmethod
    def of_wrapped(
        cls,
        raw: Callable[[], bytearray],
        algorithm: str = "aes-xts-256",
        unit: int = 4096,
        *,
        dun_bytes: int = 8,
    ) -> BlockKey:
        """A block key that the engine derives whenever it programs one from a hardware-wrapped key.

        `raw` unwraps that: it gives a copy of the 32 bytes inside, bytes that can be overwritten
        once the inline encryption key is derived from them (`mktme.fscrypt.kdf.inline_key`).
        """

        def derive() -> Key:
            inside = raw()
            try:
                return Key.from_bytes(algorithm, inline_key(inside)[: sum(ALGORITHMS[algorithm].parts)])
            finally:
                inside[:] = bytes(len(inside))

        return cls(algorithm, unit, derive, dun_bytes=dun_bytes, wrapped=True)

    def __repr__(self) -> str:
        return f"<BlockKey {self.algorithm}, data units of {self.unit} bytes>"

    def __reduce__(self) -> NoReturn:
        raise TypeError("a key can't be pickled or copied")


@dataclass
class SlotCounts:
    """What the keyslots did since the profile was made."""

    hits: int = 0
    programmed: int = 0
    evicted: int = 0  # keys that gave their slot to another
    waits: int = 0  # requests that found all slots in flight
    reprogrammed: int = 0  # after a reset


class Keyslot:
    """One slot: the key in it, its cipher, and how many requests are in flight."""

    __slots__ = ("cipher", "in_flight", "index", "key", "slot")

    def __init__(self, index: int) -> None:
        self.index, self.in_flight = index, 0
        self.key: BlockKey | None = None
        self.slot: Slot | None = None
        self.cipher: UnitCipher | None = None

    def program(self, key: BlockKey) -> None:
        """Put a key in, in place of what was there, which stays if `BlockKey.make` raises."""
        binding = Binding(FILE_BLOCK, key.unit, {"block": 0})
        copy = key.make()
        try:
            if copy.algorithm != key.algorithm:
                raise KeyMaterialError(f"a block key of {key.algorithm} made a key of {copy.algorithm}")
            slot = Slot.of(copy)
        finally:
            copy.clear()
        self.clear()
        self.key, self.slot = key, slot
        self.cipher = UnitCipher(binding, slot.cipher, ALGORITHMS[key.algorithm].iv_bytes // 8)

    def clear(self) -> None:
        """Wipe the slot."""
        if self.slot is not None:
            self.slot.wipe()
        self.key = self.slot = self.cipher = None


class CryptoProfile:
    """What an engine can do, and its keyslots (struct blk_crypto_profile). Thread-safe.

    `slots`: how many. `modes`: algorithms and the sizes of their data units. `dun_bytes`: of the
    longest data unit number. `wrapped`: whether it takes hardware-wrapped keys.

    Raises SchemeError for no slots, a mode that no block key can have, or DUNs of other than 1 to
    32 bytes.
    """

    def __init__(
        self,
        slots: int = 32,
        modes: Mapping[str, Iterable[int]] = DEFAULT_MODES,
        *,
        dun_bytes: int = 8,
        wrapped: bool = False,
    ) -> None:
        if slots < 1:
            raise SchemeError(f"{slots} keyslots: an engine has at least one")
        if not 1 <= dun_bytes <= MOST_DUN:
            raise SchemeError(f"an engine's DUNs have 1 to {MOST_DUN} bytes, not {dun_bytes}")
        self.modes = {name: frozenset(units) for name, units in modes.items()}
        for name, units in self.modes.items():
            if not units.issubset(SOFTWARE.get(name, ())):
                raise SchemeError(
                    f"no engine has {name} with data units of {sorted(units)} bytes: "
                    f"modes are {', '.join(SOFTWARE)}, with {', '.join(map(str, UNITS))}"
                )
        self.dun_bytes, self.wrapped, self.counts = dun_bytes, wrapped, SlotCounts()
        self.slots = tuple(Keyslot(i) for i in range(slots))
        self._by_key: dict[BlockKey, Keyslot] = {}
        self._idle: OrderedDict[int, Keyslot] = OrderedDict((slot.index, slot) for slot in self.slots)
        self._lock = threading.RLock()
        self._changed = threading.Condition(self._lock)
        self._resets = 0  # waiting for requests in flight, or at work; new requests wait for them

    def supports(self, key: BlockKey) -> bool:
        """Whether the engine can take requests under a key."""
        return (
            key.unit in self.modes.get(key.algorithm, ())
            and key.dun_bytes <= self.dun_bytes
            and (self.wrapped or not key.wrapped)
        )

    def get(self, key: BlockKey, timeout: float | None = None) -> Keyslot:
        """A slot with a key in it, in flight until `put`; waits while all slots are.

        Raises KeyslotTimeout after `timeout` seconds; KeyUnavailable (or what `BlockKey.make`
        raises) if the key is gone, and nothing has changed then.
        """
        with self._lock:
            slot = self._take(key)
            if slot is None:
                self.counts.waits += 1
                slot = self._changed.wait_for(lambda: self._take(key), timeout)
                if slot is None:
                    raise KeyslotTimeout(
                        f"all keyslots ({len(self.slots)}) were in flight for {timeout} s: wait longer, or "
                        "make the profile with more"
                    )
            return slot

    def _take(self, key: BlockKey) -> Keyslot | None:
        if self._resets:
            return None
        slot = self._by_key.get(key)
        if slot is None:
            return self._take_idle(key) if self._idle else None
        self.counts.hits += 1
        if not slot.in_flight:
            del self._idle[slot.index]
        slot.in_flight += 1
        return slot

    def _take_idle(self, key: BlockKey) -> Keyslot:
        slot = next(iter(self._idle.values()))
        old = slot.key
        slot.program(key)
        if old is not None:
            del self._by_key[old]
            self.counts.evicted += 1
        del self._idle[slot.index]
        self.counts.programmed += 1
        self._by_key[key] = slot
        slot.in_flight = 1
        return slot

    def put(self, slot: Keyslot) -> None:
        """End a request's use of a slot, which is idle when the last one has."""
        with self._lock:
            slot.in_flight -= 1
            if not slot.in_flight:
                self._idle[slot.index] = slot
                if slot.key is None:
                    self._empty(slot)
                self._changed.notify_all()  # one may wait for the key, another for a slot

    def evict(self, key: BlockKey) -> None:
        """Wipe a key from its slot, if it has one. Raises KeyslotBusy while it is in flight."""
        with self._lock:
            slot = self._by_key.get(key)
            if slot is None:
                return
            if slot.in_flight:
                requests = f"{slot.in_flight} request{'s' * (slot.in_flight > 1)}"
                raise KeyslotBusy(
                    f"keyslot {slot.index} has {requests} in flight under this key: evict it when they "
                    "are done"
                )
            del self._by_key[key]
            self._empty(slot)

    def retire(self, key: BlockKey) -> None:
        """Wipe a key now, or when its last request in flight is done."""
        with self._lock:
            slot = self._by_key.pop(key, None)
            if slot is not None:
                slot.key = None
                if not slot.in_flight:
                    self._empty(slot)

    def _empty(self, slot: Keyslot) -> None:
        """Wipe an idle slot: it is the next to be programmed."""
        slot.clear()
        self._idle.move_to_end(slot.index, last=False)

    def reset(self, timeout: float | None = None) -> None:
        """The device was reset, and forgot its keys: program them again (blk_crypto_reprogram_all_keys).

        Waits for the requests in flight, and holds new ones back. Raises KeyslotTimeout after
        `timeout` seconds, with nothing changed; what `BlockKey.make` raises, once all are tried:
        the slots of keys that are gone are empty then.
        """
        with self._lock:
            self._resets += 1
            try:
                if not self._changed.wait_for(lambda: len(self._idle) == len(self.slots), timeout):
                    raise KeyslotTimeout(
                        f"requests were in flight for {timeout} s: reset the device when they are done"
                    )
                self._reprogram()
            finally:
                self._resets -= 1
                self._changed.notify_all()

    def _reprogram(self) -> None:
        held = [(slot, slot.key) for slot in self._idle.values() if slot.key is not None]
        self._by_key.clear()
        for slot, _ in held:
            slot.clear()
        gone: Exception | None = None
        for slot, key in held:
            try:
                slot.program(key)
            except Exception as error:
                gone = error
                self._empty(slot)
            else:
                self._by_key[key] = slot
                self.counts.reprogrammed += 1
        if gone is not None:
            raise gone
