"""The path of schemes that keep something beside the data: drawn IVs, write counters.

Whole units only: each write takes new counters (or IVs), records them in the metadata and then
writes the ciphertext. Between the two a power failure leaves one without the other.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
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
        self._lock, self._open_store, self._place = lock, open_store, place
        self._store: Any = None
        super().__init__(binding, cipher, origin, size, alone=False, width=2, turns=None, macs=macs)
        self._whole = True

    @contextmanager
    def _turn(self, media: Bytes, first: int = 0, end: int = 0, write: bool = False) -> Iterator[None]:
        """One request at a time, with the store open."""
        with self._lock:
            outer, self._store = self._store, self._open_store(media[self._place])
            try:
                yield
            finally:
                self._store = outer

    def _turn_lines(self, media: Bytes, numbers: Words, write: bool) -> AbstractContextManager[None]:
        return self._turn(media)

    def check_write(self, media: Bytes, start: int, size: int) -> None:
        with self._turn(media):
            first, last = (
                (start - self.origin) // self._unit,
                (start + size - 1 - self.origin) // self._unit,
            )
            self._store.check(first, last)
            super().check_write(media, start, size)

    def _kept(self, numbers: Words) -> Words:
        state = self._store.current(self._units_at(numbers))
        if "iv" in state:
            iv: Words = state["iv"]
            return iv
        made = np.zeros((numbers.size, 2), np.uint64)
        for i, words in enumerate(state.values()):
            made[:, i] = words
        return made

    def _units_at(self, numbers: Words) -> Words:
        """The unit that each of some lines is in."""
        return (numbers * np.uint64(LINE) - np.uint64(self.origin)) // self._unit_word

    def _seal(self, media: Bytes, ciphertext: Bytes, units: Words) -> None:
        if self._macs is not None:
            numbers = self._lines_of(units)
            self._macs.seal(media, ciphertext, numbers, self._kept(numbers))

    def _check_rows(self, media: Bytes, ciphertext: Bytes, units: Words) -> None:
        if self._macs is not None:
            numbers = self._lines_of(units)
            self._macs.check(media, ciphertext, numbers, self._kept(numbers))

    def _decrypt(self, media: Bytes, at: int, out: Bytes) -> None:
        for numbers, part in self._chunks(at, out.size):
            source = media[at + part.start : at + part.stop]
            self._check_rows(media, source, numbers)
            self._open(numbers, source, out[part])

    def _encrypt(self, media: Bytes, at: int, data: Bytes) -> None:
        for numbers, part in self._chunks(at, data.size):
            to = media[at + part.start : at + part.stop]
            self._prepare(media, numbers)
            self._close(numbers, data[part], to)
            self._seal(media, to, numbers)

    def _chunks(self, at: int, size: int) -> Iterator[tuple[Words, slice]]:
        """The units of a range, so many at a time, and their bytes."""
        first, unit = (at - self.origin) // self._unit, self._unit
        for u in range(0, size // unit, ROWS):
            numbers = np.arange(first + u, first + min(u + ROWS, size // unit), dtype=np.uint64)
            yield numbers, slice(u * unit, (u + numbers.size) * unit)

    def _read_units(self, media: Bytes, units: Words) -> Bytes:
        rows = self._rows(media)[units]
        self._check_rows(media, rows.reshape(-1), units)
        plain = np.empty_like(rows)
        self._open(units, rows.reshape(-1), plain.reshape(-1))
        return plain

    def _write_units(self, media: Bytes, units: Words, plain: Bytes) -> None:
        self._prepare(media, units)
        made = self._rows(media)[units]
        self._close(units, plain.reshape(-1), made.reshape(-1))
        self._rows(media)[units] = made
        self._seal(media, made.reshape(-1), units)

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


class CounterPath(StatefulPath):
    """The path of write counters. With MACs, what is poisoned can't be written any more.

    Its counter may have been set back, and the next write would use a pad once more.
    """

    def __init__(self, *arguments: Any, **named: Any) -> None:
        super().__init__(*arguments, **named)
        self.takes_old = self._macs is not None

    def check_write(self, media: Bytes, start: int, size: int) -> None:
        super().check_write(media, start, size)
        if self._macs is not None:
            first, end = start // LINE, -(-(start + size) // LINE)
            with self._turn(media):
                for at in range(first, end, ROWS):
                    self._check_old(media, np.arange(at, min(at + ROWS, end), dtype=np.uint64))

    def _check_put(self, media: Bytes, numbers: Words, partly: npt.NDArray[np.bool_]) -> None:
        super()._check_put(media, numbers, partly)
        self._check_old(media, numbers)

    def _check_old(self, media: Bytes, numbers: Words) -> None:
        """Refuse lines that are poisoned; not those that were never written."""
        assert self._macs is not None
        kept = self._kept(numbers)
        fine = self._macs.valid(media, media.reshape(-1, LINE)[numbers].reshape(-1), numbers, kept)
        fine |= self._macs.absent(media, numbers) & self._unwritten(kept)
        if not fine.all():
            self._macs.refuse(int(numbers[np.argmin(fine)]))

    def _unwritten(self, kept: Words) -> npt.NDArray[np.bool_]:
        """For each line whether its counters say that it was never written."""
        none: npt.NDArray[np.bool_] = (kept == 0).all(axis=1)
        return none


class SplitPath(CounterPath):
    """Split counters: a page whose minor counter would overflow is encrypted anew as a whole."""

    turned = 0  # pages that were encrypted anew since the range was mapped

    def _prepare(self, media: Bytes, numbers: Words) -> None:
        for page in self._store.full(numbers).tolist():
            lines = np.arange(page * SPLIT_LINES, (page + 1) * SPLIT_LINES, dtype=np.uint64)
            at = self.origin + page * PAGE
            cipher, plain = media[at : at + PAGE], np.empty(PAGE, np.uint8)
            numbers, valid = self._lines_of(lines), None
            if self._macs is not None:
                valid = self._macs.valid(media, cipher, numbers, self._kept(numbers))
            self._open(lines, cipher, plain)
            self._store.turn(page)
            ivs = self._ivs(lines, self._store.current(lines))
            self._cipher.units(False, self._unit, ivs, plain, cipher)
            if self._macs is not None and valid is not None:  # what was poisoned stays so
                whole, numbers = cipher.reshape(-1, LINE)[valid], numbers[valid]
                self._macs.seal(media, whole.reshape(-1), numbers, self._kept(numbers))
            self.turned += 1

    def _unwritten(self, kept: Words) -> npt.NDArray[np.bool_]:
        none: npt.NDArray[np.bool_] = kept[:, 1] == 0  # the major counter is the page's
        return none


class DeucePath(CounterPath):
    """DEUCE: within an epoch of 32 writes, words of a line that were never modified keep their pad.

    A modified word is under the line's leading counter; the others are under the trailing one,
    which is the leading one at the epoch's beginning.
    """

    def __init__(self, *arguments: Any, **named: Any) -> None:
        super().__init__(*arguments, **named)
        self.takes_old = True

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


PATHS = {"random": StatefulPath, "global": CounterPath, "split": SplitPath, "deuce": DeucePath}
