"""The path of schemes that keep something beside the data: drawn IVs, write counters.

Whole units only: each write takes new counters (or IVs), records them in the metadata and then
writes the ciphertext. Between the two a power failure leaves one without the other.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import numpy.typing as npt

from mktme.crypto.cipher import LINE, Bytes, Cipher, Words
from mktme.iv.compiled import Binding
from mktme.iv.state import EPOCH, SPLIT_LINES, Store
from mktme.stack.integrity import LineMacs
from mktme.stack.units import UnitPath
from pmem.geometry import PAGE

ROWS = 4096  # units taken at once, at most
WORD_BITS = np.arange(32, dtype=np.uint64)  # a line's 32 words of 2 bytes, and their bits

Halves = npt.NDArray[np.uint16]


class StatefulPath(UnitPath):
    """The path with a store; thread-safe: requests to one region take turns.

    `open_store` makes the store from the medium's bytes at the slice `place`; no view of them
    outlives a request.
    """

    def __init__(
        self,
        binding: Binding,
        cipher: Cipher,
        origin: int,
        size: int,
        *,
        open_store: Callable[[Bytes], Store],
        place: slice,
        lock: threading.RLock,
        macs: LineMacs | None = None,
    ) -> None:
        super().__init__(binding, cipher, origin, size, alone=False, width=2, macs=macs)
        self._open_store, self._place, self._lock = open_store, place, lock
        self._store: Any = None

    @contextmanager
    def _turn(self, media: Bytes) -> Iterator[None]:
        """One request at a time, with the store open."""
        with self._lock:
            outer, self._store = self._store, self._open_store(media[self._place])
            try:
                yield
            finally:
                self._store = outer

    def check_write(self, media: Bytes, start: int, size: int) -> None:
        with self._turn(media):
            first, end = start - self._origin, start - self._origin + size
            self._store.check(first // self._unit, (end - 1) // self._unit)
            super().check_write(media, start, size)

    def read(self, media: Bytes, base: int, start: int, out: Bytes) -> None:
        with self._turn(media):
            super().read(media, base, start, out)

    def write(self, media: Bytes, base: int, start: int, data: Bytes) -> None:
        with self._turn(media):
            super().write(media, base, start, data)

    def _get(self, media: Bytes, numbers: Words) -> Bytes:
        with self._turn(media):
            units, place, within = self._units_of(numbers)
            plain = self._read_units(media, units)
            found: Bytes = plain.reshape(units.size, -1, LINE)[place, within]
            return found

    def _put(self, media: Bytes, numbers: Words, lines: Bytes) -> None:
        with self._turn(media):
            self._put_units(media, numbers, lines)

    def _decrypt(self, media: Bytes, at: int, out: Bytes) -> None:
        for numbers, part in self._chunks(at, out.size):
            source = media[at + part.start : at + part.stop]
            if self._macs is not None:
                self._macs.check(media, source, self._lines_of(numbers))
            self._open(numbers, source, out[part])

    def _encrypt(self, media: Bytes, at: int, data: Bytes) -> None:
        for numbers, part in self._chunks(at, data.size):
            to = media[at + part.start : at + part.stop]
            self._prepare(media, numbers)
            self._close(numbers, data[part], to)
            if self._macs is not None:
                self._macs.seal(media, to, self._lines_of(numbers))

    def _chunks(self, at: int, size: int) -> Iterator[tuple[Words, slice]]:
        """The units of a range, so many at a time, and their bytes."""
        first, unit = (at - self._origin) // self._unit, self._unit
        for u in range(0, size // unit, ROWS):
            numbers = np.arange(first + u, first + min(u + ROWS, size // unit), dtype=np.uint64)
            yield numbers, slice(u * unit, (u + numbers.size) * unit)

    def _read_units(self, media: Bytes, units: Words) -> Bytes:
        rows = self._rows(media)[units]
        if self._macs is not None:
            self._macs.check(media, rows.reshape(-1), self._lines_of(units))
        plain = np.empty_like(rows)
        self._open(units, rows.reshape(-1), plain.reshape(-1))
        return plain

    def _write_units(self, media: Bytes, units: Words, plain: Bytes) -> None:
        self._prepare(media, units)
        made = self._rows(media)[units]
        self._close(units, plain.reshape(-1), made.reshape(-1))
        self._rows(media)[units] = made
        if self._macs is not None:
            self._macs.seal(media, made.reshape(-1), self._lines_of(units))

    def _ivs(self, numbers: Words, state: dict[str, Words]) -> Words:
        return state["iv"] if "iv" in state else self._binding.at(numbers, 2, **state)

    def _prepare(self, media: Bytes, numbers: Words) -> None:
        """What is to be done before units can be written."""

    def _open(self, numbers: Words, source: Bytes, to: Bytes) -> None:
        """Decrypt units as they were last written."""
        ivs = self._ivs(numbers, self._store.current(numbers))
        self._cipher.units(True, self._unit, ivs, source, to)

    def _close(self, numbers: Words, source: Bytes, to: Bytes) -> None:
        """Encrypt units to be written, `to` holding what is there now."""
        ivs = self._ivs(numbers, self._store.advance(numbers))
        self._cipher.units(False, self._unit, ivs, source, to)


class SplitPath(StatefulPath):
    """Split counters: a page whose minor counter would overflow is encrypted anew as a whole."""

    turned = 0  # pages that were encrypted anew since the range was mapped

    def _prepare(self, media: Bytes, numbers: Words) -> None:
        for page in self._store.full(numbers).tolist():
            lines = np.arange(page * SPLIT_LINES, (page + 1) * SPLIT_LINES, dtype=np.uint64)
            at = self._origin + page * PAGE
            cipher, plain = media[at : at + PAGE], np.empty(PAGE, np.uint8)
            kept = None if self._macs is None else self._macs.valid(media, cipher, self._lines_of(lines))
            self._open(lines, cipher, plain)
            self._store.turn(page)
            ivs = self._ivs(lines, self._store.current(lines))
            self._cipher.units(False, self._unit, ivs, plain, cipher)
            if self._macs is not None and kept is not None:  # what was poisoned stays so
                whole = cipher.reshape(-1, LINE)[kept]
                self._macs.seal(media, whole.reshape(-1), self._lines_of(lines)[kept])
            self.turned += 1


class DeucePath(StatefulPath):
    """DEUCE: within an epoch of 32 writes, words of a line that were never modified keep their pad.

    A modified word is under the line's leading counter; the others are under the trailing one,
    which is the leading one at the epoch's beginning.
    """

    def _pad(self, numbers: Words, counter: Words) -> Halves:
        ivs = self._binding.at(numbers, 2, counter=counter)
        pad = np.zeros(numbers.size * LINE, np.uint8)
        self._cipher.units(False, LINE, ivs, pad, pad)
        return pad.view(np.uint16).reshape(-1, 32)

    def _pads(self, numbers: Words, counter: Words, modified: Words) -> Halves:
        """Each word's pad: the leading counter's where it was modified, else the trailing one's."""
        leading = self._pad(numbers, counter)
        trailing = self._pad(numbers, counter - counter % np.uint64(EPOCH))
        under = (modified[:, None] >> WORD_BITS & np.uint64(1)).astype(bool)
        return np.where(under, leading, trailing)

    def _open(self, numbers: Words, source: Bytes, to: Bytes) -> None:
        state = self._store.current(numbers)
        pads = self._pads(numbers, state["counter"], state["modified"])
        words = np.ascontiguousarray(source).view(np.uint16).reshape(-1, 32)
        to[:] = (words ^ pads).reshape(-1).view(np.uint8)

    def _close(self, numbers: Words, source: Bytes, to: Bytes) -> None:
        old = np.empty_like(to)
        self._open(numbers, to, old)
        words = np.ascontiguousarray(source).view(np.uint16).reshape(-1, 32)
        changed = words != old.view(np.uint16).reshape(-1, 32)
        state = self._store.advance(numbers)
        counter, modified = state["counter"], state["modified"]
        bits = (changed.astype(np.uint64) << WORD_BITS).sum(axis=1, dtype=np.uint64)
        modified = np.where(counter % np.uint64(EPOCH) == 0, np.uint64(0), modified | bits)
        to[:] = (words ^ self._pads(numbers, counter, modified)).reshape(-1).view(np.uint8)
        self._store.record(numbers, counter, modified)


PATHS = {"random": StatefulPath, "global": StatefulPath, "split": SplitPath, "deuce": DeucePath}
