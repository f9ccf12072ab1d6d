"""IV schemes in bulk: compiled into a pass that fills an array of IVs, else called on numpy arrays.

A compiled scheme is a function ``fill(table, first, n, to)`` that kernels call by its address
(`mktme.crypto.ivs`). The table has three 64-bit words for each coordinate: its value at unit 0, by
how much it grows from unit to unit, and instead of both the address of an array of its values.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any

import numba
import numpy as np
from numba.core import types
from numba.core.errors import NumbaError
from numba.cpython.unsafe.tuple import tuple_setitem

from mktme.crypto.cipher import Words
from mktme.crypto.ivs import call_fill
from mktme.crypto.kernel import callback, digest, inline, kernel
from mktme.crypto.native import address
from mktme.crypto.simd import peek, poke
from mktme.errors import SchemeError
from mktme.iv import coordinates as known
from mktme.iv.scheme import Scheme

SIGNATURE = types.void(*[types.int64] * 4)
SAMPLE = 1024  # units at either end of a range on which a user's scheme is tried


@dataclass(frozen=True)
class Compiled:
    """The fill functions of a scheme by the words of an IV (2, 4), or the reason why there are none."""

    fills: Mapping[int, Any]
    reason: str = ""


@cache
def compile_scheme(scheme: Scheme) -> Compiled:
    """Compile a scheme, once in a process.

    Raises SchemeError if it compiles but returns anything but two or four integers.
    """
    function = numba.njit(nogil=True, error_model="numpy")(scheme.iv)
    if not scheme.own:  # known to compile, so the disk's copy will do
        widths = (2, 4) if scheme.words == 2 else (4,)
        return Compiled({width: _fill(scheme, function, scheme.words, width) for width in widths})
    try:
        function.compile((types.int64,) * len(scheme.coordinates))
        returned = function.nopython_signatures[0].return_type
    except (NumbaError, TypeError, NotImplementedError) as error:
        line = next(
            (text.strip() for text in str(error).splitlines()[1:] if text.strip()), type(error).__name__
        )
        return Compiled({}, line[:120])
    parts = list(returned) if hasattr(returned, "__iter__") else [returned]
    check_words(scheme, len(parts), [str(t) for t in parts if not isinstance(t, types.Integer)])
    widths = (2, 4) if len(parts) == 2 else (4,)
    return Compiled({width: _fill(scheme, function, len(parts), width) for width in widths})


def check_words(scheme: Scheme, count: int, wrong: list[str]) -> None:
    """Refuse what isn't the words of an IV: how many there are, and the types that aren't integers."""
    if wrong:
        raise SchemeError(
            f"{scheme.name} returns {wrong[0]}: the words of an IV are integers, made with //, not /"
        )
    if count not in (2, 4):
        raise SchemeError(f"{scheme.name} returns {count} words: an IV has two of 64 bits, or four")


def _fill(scheme: Scheme, iv: Any, made: int, width: int) -> Any:
    """The compiled pass over units of a scheme that makes IVs of so many words, `width` with zeros."""
    arity = len(scheme.coordinates)
    blank = (0,) * arity

    @inline
    def put(words: Any, to: int) -> None:
        poke(to, words[0])
        poke(to + 8, words[1])
        if width == 4:
            poke(to + 16, words[2] if made == 4 else 0)
            poke(to + 24, words[3] if made == 4 else 0)

    def constant(table: int, first: int, n: int, to: int) -> None:
        for i in range(n):
            put(iv(), to + 8 * width * i)

    def fill(table: int, first: int, n: int, to: int) -> None:
        bases, steps, arrays = blank, blank, blank
        for k in range(arity):
            bases = tuple_setitem(bases, k, peek(table + 24 * k))
            steps = tuple_setitem(steps, k, peek(table + 24 * k + 8))
            arrays = tuple_setitem(arrays, k, peek(table + 24 * k + 16))
        for i in range(n):
            values = blank
            for k in range(arity):
                value = bases[k] + steps[k] * (first + i)
                if arrays[k]:
                    value = peek(arrays[k] + 8 * (first + i))
                values = tuple_setitem(values, k, value)
            put(iv(*values), to + 8 * width * i)

    variant = None if scheme.own else (scheme.name, width, digest())
    return callback(fill if arity else constant, SIGNATURE, variant)


@kernel()
def run(fill: int, table: int, first: int, n: int, to: int) -> None:
    """The IVs of n units in a row."""
    call_fill(fill, table, first, n, to)


@kernel()
def run_at(fill: int, table: int, numbers: int, n: int, width: int, to: int) -> None:
    """The IVs of the n units whose numbers are at `numbers`."""
    for i in range(n):
        call_fill(fill, table, peek(numbers + 8 * i), 1, to + 8 * width * i)


class Binding:
    """A scheme at a place: its coordinates at unit 0, and the size of its units.

    `values` has each coordinate's value at unit 0 but for those that the scheme keeps itself,
    which are passed with each call. Thread-safe.

    Raises SchemeError for what the scheme returns, or a unit that one of its coordinates can't
    tell apart.
    """

    def __init__(self, scheme: Scheme, unit: int, values: Mapping[str, int]) -> None:
        self.scheme, self.unit = scheme, unit
        self._table = np.zeros((max(1, len(scheme.coordinates)), 3), np.int64)
        for row, name in zip(self._table, scheme.coordinates, strict=False):
            value = values.get(name, 0)
            row[0], row[1] = value - (1 << 64 if value >> 63 else 0), known.step(name, unit)
        self._compiled = compile_scheme(scheme)
        self._at = address(self._table)

    def plan(self, width: int) -> tuple[int, int] | None:
        """The addresses of the fill function and its table; None for a scheme on numpy arrays."""
        fill = self._compiled.fills.get(width)
        return (fill.address, self._at) if fill else None

    def ivs(self, first: int, n: int, width: int) -> Words:
        """The IVs of n units from number `first` on: (n, width) uint64."""
        if not self._compiled.fills:
            return self._call(np.arange(first, first + n, dtype=np.uint64), width, {})
        out = np.empty((n, width), np.uint64)
        run(self._compiled.fills[width].address, self._at, first, n, address(out))
        return out

    def at(self, numbers: Words, width: int, **state: Words) -> Words:
        """The IVs of units of any numbers: (n, width) uint64; `state` has what the scheme keeps."""
        if not self._compiled.fills:
            return self._call(numbers, width, state)
        out = np.empty((numbers.size, width), np.uint64)
        fill = self._compiled.fills[width].address
        if not state:
            run_at(fill, self._at, address(numbers), numbers.size, width, address(out))
            return out
        table, kept = self._table.copy(), []
        for row, name in zip(table, self.scheme.coordinates, strict=True):
            values = state.get(name)
            if values is None:  # from a number of the unit to its value
                values = row[0].view(np.uint64) + row[1].view(np.uint64) * numbers
            kept.append(np.ascontiguousarray(values, np.uint64))
            row[2] = address(kept[-1])
        run(fill, address(table), 0, numbers.size, address(out))
        return out

    def _call(self, numbers: Words, width: int, state: Mapping[str, Words]) -> Words:
        """The scheme on arrays of coordinates."""
        values = [
            state[name] if name in state else row[0].view(np.uint64) + row[1].view(np.uint64) * numbers
            for row, name in zip(self._table, self.scheme.coordinates, strict=False)
        ]
        made = self.scheme.iv(*values)
        words = [np.asarray(word) for word in made] if isinstance(made, tuple | list) else [np.asarray(made)]
        wrong = [str(w.dtype) for w in words if w.dtype.kind not in "ui"]
        check_words(self.scheme, len(words), wrong)
        out = np.zeros((numbers.size, width), np.uint64)
        for column, word in zip(out.T, words, strict=False):
            if word.shape not in ((), numbers.shape):
                raise SchemeError(
                    f"{self.scheme.name} returns an array of shape {word.shape} for {numbers.size} units: "
                    "one word for each unit"
                )
            column[:] = word.astype(np.uint64)
        return out

    def repeats(self, units: int, width: int) -> int:
        """How many IVs of a range's first and last units occur there before: a sample, not a proof."""
        ranges = [(0, min(units, SAMPLE))]
        if units > SAMPLE:
            ranges.append((max(SAMPLE, units - SAMPLE), units))
        made = np.concatenate([self.ivs(a, b - a, width) for a, b in ranges])
        return int(len(made) - len(np.unique(made, axis=0)))
