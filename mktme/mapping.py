"""What a range is mapped with: its IV scheme, the size of its data units, its coordinates."""

from __future__ import annotations

import operator
import threading
import warnings
from collections.abc import Mapping as Named
from typing import Any, cast

import numpy as np

from mktme.crypto.cipher import Lines, Words
from mktme.errors import IvReuseWarning, SchemeError
from mktme.iv import coordinates as known
from mktme.iv import scheme as schemes
from mktme.iv.address import PMEM_LINE
from mktme.iv.compiled import Binding
from mktme.iv.scheme import Scheme
from mktme.iv.state import STORES
from mktme.stack import integrity as macs
from mktme.stack.slot import Slot
from mktme.stack.stateful import PATHS
from mktme.stack.turns import Turns
from mktme.stack.units import UnitPath
from pmem.geometry import LINE, PAGE, Size, parse_size


class Mapping:
    """A scheme at a range of the device, before a key is bound to it."""

    def __init__(self, scheme: Scheme, unit: int, start: int, size: int, integrity: bool) -> None:
        self.scheme, self.unit, self.start, self.size = scheme, unit, start, size
        self.integrity = integrity
        self.values: dict[str, int] = {}
        self._binding: Binding | None = None
        self._lock, self._turns = threading.RLock(), Turns()

    @classmethod
    def of(
        cls, iv: str, start: int, size: int, unit: int | None, integrity: bool, given: Named[str, Any]
    ) -> Mapping:
        """Check a scheme against what is known and given. Raises SchemeError."""
        scheme = schemes.find(iv)
        made = cls(scheme, _unit(scheme, unit), start, size, integrity)
        values = known.given(given) | {"address": start}
        for name in scheme.coordinates:
            if name not in values and not (scheme.state and name in known.STATE):
                raise SchemeError(
                    f"{scheme.name} needs the {'nonce' if name in known.HALVES else name} of a data unit, "
                    f"and the memory controller doesn't know it: {known.how_to_give(name)}"
                )
            if known.is_address(name) and values.get(name, 0) % made.unit:
                raise SchemeError(
                    f"{name} = {values[name]} is not a multiple of the data unit, {made.unit} bytes"
                )
            last = values.get(name, 0) + known.step(name, made.unit) * (size // made.unit - 1)
            if last >> scheme.bits:
                raise SchemeError(
                    f"{scheme.name} takes a {name} below 2^{scheme.bits}, and the range's last one is {last}"
                )
        kept = known.STATE if scheme.state else frozenset()
        wanted = [n for n in scheme.coordinates if n not in kept and n != "address"]
        unused = [name for name in values if name not in wanted and name != "address"]
        if unused:
            raise SchemeError(
                f"{scheme.name} has no coordinate {unused[0]}: it takes {', '.join(wanted) or 'none'}"
            )
        made.values = values
        if not made.direct:
            made._binding = Binding(scheme, made.unit, values)
        return made

    @property
    def direct(self) -> bool:
        """Whether a cipher that serves a memory by itself does all that is asked for."""
        return self.scheme is PMEM_LINE and self.unit == LINE and not self.integrity

    @property
    def words(self) -> int:
        """The 64-bit words of the range's IVs. Raises SchemeError for what a user's scheme returns."""
        return self.scheme.words if self.direct else self.binding.words

    @property
    def binding(self) -> Binding:
        """The scheme with its coordinates."""
        if self._binding is None:
            self._binding = Binding(self.scheme, self.unit, self.values)
        return self._binding

    def check(self, slot: Slot) -> None:
        """Refuse a key that the range can't be encrypted with. Raises SchemeError."""
        if self.integrity and slot.algorithm is None:
            raise SchemeError(
                "integrity needs a key, and KeyID 0 or one that doesn't encrypt has none: map the range to a "
                "KeyID that was programmed, or make the controller with tme=True"
            )
        slot.check(self.scheme, self.unit, self.words)

    def metadata_bytes(self, length: int) -> int:
        """Bytes of metadata for so many bytes of data: whole pages, the scheme's and then the MACs'."""
        return self._store_bytes(length) + (_pages(length // LINE * macs.BYTES) if self.integrity else 0)

    def _store_bytes(self, length: int) -> int:
        state = self.scheme.state
        return _pages(STORES[state].size(length, self.unit)) if state else 0

    def warn_of_repeats(self, slot: Slot) -> None:
        """Try a user's scheme, and any in counter mode, on the ends of the range.

        Raises SchemeError for what a user's scheme returns.
        """
        counting = slot.algorithm is not None and slot.algorithm.family == "aes-ctr"
        if self.scheme.own or (counting and not self.scheme.state):
            blocks = self.unit // 16 if counting else 0
            repeats = self.binding.repeats(self.size // self.unit, self.words, blocks)
            if repeats:
                warnings.warn(
                    f"{self.scheme.name} gives {repeats} of the data units that were tried an IV that "
                    "another has, or counts to: equal data there will look equal, and a counter mode breaks",
                    IvReuseWarning,
                    stacklevel=3,
                )

    @property
    def store_bytes(self) -> int:
        """Bytes of the metadata that hold counters or drawn IVs, before the MACs."""
        return self._store_bytes(self.size)

    def span(self, slot: Slot) -> int:
        """Bytes that may change when a line is written: a line, its data unit, or what shares its counter."""
        if self.scheme.state == "split":
            return PAGE
        if self.direct or slot.algorithm is None or slot.algorithm.alone:
            return LINE
        return max(LINE, self.unit)

    def beside(self, addresses: Words) -> list[Words]:
        """Offsets in the metadata of what writing at some addresses changes, each kind apart."""
        offsets, places = addresses - np.uint64(self.start), []
        if self.scheme.state:
            places += STORES[self.scheme.state].places(offsets // np.uint64(self.unit))
        if self.integrity:
            first = np.uint64(self._store_bytes(self.size))
            places.append(offsets // np.uint64(LINE) * np.uint64(macs.BYTES) + first)
        return places

    def kept_beside(self, addresses: Words) -> list[tuple[Words, int]]:
        """What is kept of lines alone: offsets in the metadata, and the bytes there."""
        kept = self.beside(addresses)
        widths = [] if not self.scheme.state else [*STORES[self.scheme.state].WIDTHS]
        if self.integrity:
            widths.append(macs.BYTES)
        return [(places, width) for places, width in zip(kept, widths, strict=True) if width]

    def path(self, slot: Slot, metadata: int, keyid: int) -> Lines:
        """The range's bytes under a key; `metadata` is the address of its metadata."""
        lines = slot.lines
        if self.direct and lines is not None:
            return lines
        if slot.algorithm is None:  # no encryption: the bytes as they are
            return cast(Lines, lines)
        kept, checks = self._store_bytes(self.size), None
        if self.integrity:
            place = slice(metadata + kept, metadata + self.metadata_bytes(self.size))
            alone = slot.algorithm.alone and not self.scheme.state
            grain = LINE if alone else max(LINE, self.unit)
            counted = bool(known.STATE.intersection(self.scheme.coordinates))
            checks = macs.LineMacs(place, self.start // LINE, slot.mac_cipher(), keyid, grain, counted)
        cipher = slot.for_scheme(self.scheme)
        state = self.scheme.state
        if not state:
            width, alone = slot.algorithm.iv_bytes // 8, slot.algorithm.alone
            return UnitPath(
                self.binding,
                cipher,
                self.start,
                self.size,
                alone=alone,
                width=width,
                turns=self._turns,
                macs=checks,
            )
        return PATHS[state](
            self.binding,
            cipher,
            self.start,
            self.size,
            open_store=STORES[state],
            place=slice(metadata, metadata + kept),
            lock=self._lock,
            macs=checks,
        )


def _unit(scheme: Scheme, unit: int | None) -> int:
    """The size of data units. Raises SchemeError."""
    try:
        size = scheme.unit if unit is None else operator.index(unit)
    except TypeError:
        raise SchemeError(f"unit is to be an integer, in bytes, not {type(unit).__name__}") from None
    least, most = scheme.least_unit, scheme.most_unit
    if not least <= size <= most or size & (size - 1):
        between = f"{least} bytes" if least == most else f"powers of two from {least} to {most} bytes"
        raise SchemeError(f"{scheme.name} has no data units of {size} bytes: they are {between}")
    return size


def _pages(size: int) -> int:
    return -(-size // PAGE) * PAGE


def metadata_bytes(iv: str, length: Size, *, unit: int | None = None, integrity: bool = False) -> int:
    """Bytes that a range of `length` bytes keeps beside its data: whole pages.

    Raises SchemeError for an unknown scheme, or a unit that it can't have.
    """
    scheme = schemes.find(iv)
    return Mapping(scheme, _unit(scheme, unit), 0, 0, integrity).metadata_bytes(parse_size(length))
