"""Bytes, runs and lines of a range whose data units are encrypted by any cipher under any IV scheme.

What a request touches is taken in grains: single lines where the cipher can reach them alone, else
whole data units. Grains that are covered go straight between the medium and the caller's buffer;
those at the edges are read, changed and written back.
"""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from mktme.crypto.cipher import LINE, Bytes, Cipher, PartCipher, Words
from mktme.crypto.runs import CHUNK as LINES
from mktme.crypto.runs import LineAccess, partly_covered, row_chunks, run_chunks
from mktme.errors import SchemeError
from mktme.iv.compiled import Binding
from mktme.stack.turns import Turns

if TYPE_CHECKING:
    from mktme.stack.integrity import LineMacs

NO_TURN = nullcontext()
CHUNK = 16384  # units whose IVs are made at a time, where the kernel doesn't make them itself


class UnitCipher:
    """A cipher whose IVs come from a scheme with its coordinates: units by their numbers.

    `width` is the IV's number of words. Thread-safe as the cipher is.
    """

    def __init__(self, binding: Binding, cipher: Cipher, width: int) -> None:
        self._binding, self._cipher, self.width = binding, cipher, width
        self.unit = binding.unit
        self._plan = binding.plan(width) if hasattr(cipher, "planned") else None  # quicker than isinstance

    def crypt(self, back: bool, first: int, skip: int, source: Bytes, to: Bytes) -> None:
        """Encrypt (or, back, decrypt) from byte `skip` of unit number `first` on, to `to`, as long.

        Lines of a unit alone only where the cipher reaches them; `to` may be `source`.
        """
        unit = self.unit
        if self._plan is not None:
            self._cipher.planned(back, unit, *self._plan, first, source, to, skip)  # type: ignore[attr-defined]
            return
        done, step = 0, CHUNK * unit
        while done < to.size:
            count = min(step - skip, to.size - done)
            try:
                ivs = self._binding.ivs(first, -(-(skip + count) // unit), self.width)
            except SchemeError as error:
                if back or not done:
                    raise
                raise SchemeError(f"{error}; the request's first {done} bytes are written") from error
            part = slice(done, done + count)
            self._cipher.units(back, unit, ivs, source[part], to[part], skip, to.size)
            done, first, skip = done + count, first + (skip + count) // unit, 0


class UnitPath(LineAccess):
    """The range from `origin` on, bound to a cipher; see `mktme.crypto.cipher.Lines`.

    `alone` says whether the cipher reaches lines of larger units, `width` is the IV's number of
    words. With `macs` every line is checked before it is decrypted. Thread-safe: where grains are
    longer than a line, or have MACs, a writer has those that it touches alone (`turns`).

    Attributes: `origin`, `grain` (bytes that are written together), `takes_old` (whether a write of
    whole grains looks at what they held).
    """

    def __init__(
        self,
        binding: Binding,
        cipher: Cipher,
        origin: int,
        size: int,
        *,
        alone: bool,
        width: int,
        turns: Turns | None,
        macs: LineMacs | None = None,
    ) -> None:
        self._binding, self._cipher, self.origin, self._size = binding, cipher, origin, size
        self._unit, self._width, self._macs = binding.unit, width, macs
        self._unit_word = np.uint64(self._unit)
        self.grain = LINE if self._unit <= LINE or alone else self._unit
        self._whole = self.grain > LINE  # lines are written together with others, or with a counter
        self._units = UnitCipher(binding, cipher, width)
        self.takes_old = False
        self._turns = turns if macs is not None or self._whole else None

    def _turn(self, media: Bytes, first: int, end: int, write: bool) -> AbstractContextManager[None]:
        """A context for reading or writing the grains of a range of addresses."""
        if self._turns is None:
            return NO_TURN
        grain, first, end = self.grain, first - self.origin, end - self.origin
        first, end = first // grain * grain, -(-end // grain) * grain
        return self._turns.write(first, end) if write else self._turns.read(first, end)

    def _turn_lines(self, media: Bytes, numbers: Words, write: bool) -> AbstractContextManager[None]:
        """The same for scattered lines: for all from the first to the last of them."""
        if self._turns is None or not numbers.size:
            return NO_TURN
        return self._turn(media, int(numbers.min()) * LINE, int(numbers.max() + 1) * LINE, write)

    def _kept(self, numbers: Words) -> Words | None:
        """What the scheme keeps of some lines: (n, 2), None if nothing."""
        return None

    def read(self, media: Bytes, base: int, start: int, out: Bytes) -> None:
        with self._turn(media, start, start + out.size, False):
            self._read(media, start, out)

    def _read(self, media: Bytes, start: int, out: Bytes) -> None:
        grain, end = self.grain, start + out.size
        at = start - (start - self.origin) % grain
        if at == start and out.size % grain == 0:
            return self._decrypt(media, start, out)
        if at < start or out.size < grain:
            room = np.empty(grain, np.uint8)
            self._decrypt(media, at, room)
            skip = start - at
            taken = min(grain - skip, out.size)
            out[:taken] = room[skip : skip + taken]
            start = at + skip + taken
        whole = (end - start) // grain * grain
        if whole:
            self._decrypt(media, start, out[out.size - (end - start) :][:whole])
            start += whole
        if start < end:
            room = np.empty(grain, np.uint8)
            self._decrypt(media, start, room)
            out[start - end :] = room[: end - start]
        return None

    def write(self, media: Bytes, base: int, start: int, data: Bytes) -> None:
        if np.may_share_memory(media, data):  # ciphertext as plaintext, from under our own hands
            data = data.copy()
        with self._turn(media, start, start + data.size, True):
            self.check_write(media, start, data.size)
            self._write(media, start, data)

    def _write(self, media: Bytes, start: int, data: Bytes) -> None:
        grain, end = self.grain, start + data.size
        at = start - (start - self.origin) % grain
        if at < start or data.size < grain:
            skip = start - at
            taken = min(grain - skip, data.size)
            self._patch(media, at, skip, data[:taken])
            start = at + skip + taken
        whole = (end - start) // grain * grain
        if whole:
            self._encrypt(media, start, data[data.size - (end - start) :][:whole])
            start += whole
        if start < end:
            self._patch(media, start, 0, data[start - end :])

    def check_write(self, media: Bytes, start: int, size: int) -> None:
        """Refuse to write some bytes, before anything is written: grains at the edges may be poisoned."""
        if self._macs is not None:
            with self._turn(media, start, start + size, False):
                for edge in (start, start + size):
                    skip = (edge - self.origin) % self.grain
                    if skip:
                        self._check(media, self._numbers(edge - skip, self.grain))

    def write_runs(self, media: Bytes, base: int, starts: Words, length: int, data: Bytes) -> None:
        if not starts.size:
            return
        with self._turn(media, int(starts.min()), int(starts.max()) + length, True):
            if self._macs is not None and length >= LINE * LINES:
                for start in starts.tolist():
                    self.check_write(media, start, length)
            elif self._macs is not None:
                for _, places, numbers in run_chunks(starts, length):
                    self._check_put(media, numbers, partly_covered(places, numbers.size))
            super().write_runs(media, base, starts, length, data)

    def write_lines(
        self, media: Bytes, base: int, addresses: Words, order: Words | None, lines: Bytes
    ) -> None:
        if self._macs is not None:
            for rows in row_chunks(addresses, order):
                numbers = addresses[rows] // np.uint64(LINE)
                with self._turn_lines(media, numbers, False):
                    self._check_put(media, numbers, np.zeros(numbers.size, bool))
        super().write_lines(media, base, addresses, order, lines)

    def _check_put(self, media: Bytes, numbers: Words, partly: npt.NDArray[np.bool_]) -> None:
        """Refuse to write some lines, of which some are written in part, where what stays is poisoned."""
        if self._whole:
            units, place, within = self._units_of(numbers)
            numbers = self._lines_of(units[self._partly(units, place[~partly], within[~partly])])
        else:
            numbers = numbers[partly]
        if numbers.size:
            self._check(media, numbers)

    def _check(self, media: Bytes, numbers: Words) -> None:
        """Refuse lines whose MAC doesn't match."""
        assert self._macs is not None
        self._macs.check(media, media.reshape(-1, LINE)[numbers].reshape(-1), numbers, self._kept(numbers))

    def _partly(self, units: Words, place: Words, within: Words) -> npt.NDArray[np.bool_]:
        """Which of some units are covered only in part by lines."""
        covered = np.zeros((units.size, self._unit // LINE), bool)
        covered[place, within] = True
        return np.logical_not(covered.all(axis=1))

    def _patch(self, media: Bytes, at: int, skip: int, data: Bytes) -> None:
        """Replace some bytes of the grain at a place."""
        room = np.empty(self.grain, np.uint8)
        self._decrypt(media, at, room)
        room[skip : skip + data.size] = data
        self._encrypt(media, at, room)

    def _decrypt(self, media: Bytes, at: int, out: Bytes) -> None:
        """Whole grains from a place on."""
        source = media[at : at + out.size]
        if self._macs is not None:
            self._macs.check(media, source, self._numbers(at, out.size))
        self._crypt(True, at, source, out)

    def _encrypt(self, media: Bytes, at: int, data: Bytes) -> None:
        to = media[at : at + data.size]
        self._crypt(False, at, data, to)
        if self._macs is not None:
            self._macs.seal(media, to, self._numbers(at, data.size))

    def _numbers(self, at: int, size: int) -> Words:
        return np.arange(at // LINE, (at + size) // LINE, dtype=np.uint64)

    def _crypt(self, back: bool, at: int, source: Bytes, to: Bytes) -> None:
        first, skip = divmod(at - self.origin, self._unit)
        self._units.crypt(back, first, skip, source, to)

    def numbered(self, back: bool, numbers: Words, source: Bytes, to: Bytes) -> None:
        offsets = numbers * np.uint64(LINE) - np.uint64(self.origin)
        flat, made = source.reshape(-1), to.reshape(-1)
        if self._unit > LINE:
            ivs = self._binding.at(offsets // self._unit_word, self._width)
            assert isinstance(self._cipher, PartCipher)
            self._cipher.lines(back, ivs, offsets % self._unit_word, flat, made)
            return
        per = LINE // self._unit
        first = offsets // self._unit_word
        units = (first[:, None] + np.arange(per).astype(np.uint64)).reshape(-1)
        self._cipher.units(back, self._unit, self._binding.at(units, self._width), flat, made)

    def _get(self, media: Bytes, numbers: Words) -> Bytes:
        with self._turn_lines(media, numbers, False):
            if self._whole:
                units, place, within = self._units_of(numbers)
                plain = self._read_units(media, units)
                found: Bytes = plain.reshape(units.size, -1, LINE)[place, within]
                return found
            lines = media.reshape(-1, LINE)[numbers]
            if self._macs is not None:
                self._macs.check(media, lines.reshape(-1), numbers)
            self.numbered(True, numbers, lines, lines)
            return lines

    def _put(self, media: Bytes, numbers: Words, lines: Bytes) -> None:
        with self._turn_lines(media, numbers, True):
            if self._whole:
                self._put_units(media, numbers, lines)
                return
            super()._put(media, numbers, lines)
            if self._macs is not None:
                self._macs.seal_at(media, numbers)

    def _put_units(self, media: Bytes, numbers: Words, lines: Bytes) -> None:
        """Write scattered lines; units that they cover in part are read first."""
        units, place, within = self._units_of(numbers)
        plain = np.empty((units.size, self._unit), np.uint8)
        partly = self._partly(units, place, within)
        if partly.any():
            plain[partly] = self._read_units(media, units[partly])
        plain.reshape(units.size, -1, LINE)[place, within] = lines
        self._write_units(media, units, plain)

    def _units_of(self, numbers: Words) -> tuple[Words, Words, Words]:
        """The units of some lines, each once; which of them each line is in, and where."""
        offsets = numbers * np.uint64(LINE) - np.uint64(self.origin)
        units, place = np.unique(offsets // self._unit_word, return_inverse=True)
        return units, place, offsets % self._unit_word // np.uint64(LINE)

    def _rows(self, media: Bytes) -> Bytes:
        """The medium of this range, a row for each unit."""
        return media[self.origin : self.origin + self._size].reshape(-1, self._unit)

    def _read_units(self, media: Bytes, units: Words) -> Bytes:
        """Scattered units: (n, unit)."""
        rows = self._rows(media)[units]
        if self._macs is not None:
            self._macs.check(media, rows.reshape(-1), self._lines_of(units))
        ivs = self._binding.at(units, self._width)
        self._cipher.units(True, self._unit, ivs, rows.reshape(-1), rows.reshape(-1))
        return rows

    def _write_units(self, media: Bytes, units: Words, plain: Bytes) -> None:
        ivs = self._binding.at(units, self._width)
        self._cipher.units(False, self._unit, ivs, plain.reshape(-1), plain.reshape(-1))
        self._rows(media)[units] = plain
        if self._macs is not None:
            self._macs.seal(media, plain.reshape(-1), self._lines_of(units))

    def _lines_of(self, units: Words) -> Words:
        """The numbers of the lines of units, on the device."""
        first = (units * self._unit_word + np.uint64(self.origin)) // np.uint64(LINE)
        return (first[:, None] + np.arange(self._unit // LINE).astype(np.uint64)).reshape(-1)
