"""IV schemes in bulk: compiled into a pass that fills an array of IVs, else called on numpy arrays.

A compiled scheme is a function ``fill(table, first, n, to)`` that kernels call by its address
(`mktme.crypto.ivs`). The table has three 64-bit words for each coordinate: its value at unit 0, by
how much it grows from unit to unit, and instead of both the address of an array of its values.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from itertools import pairwise
from typing import Any

import numba
import numpy as np
from llvmlite import binding as llvm
from llvmlite import ir
from numba import carray
from numba.core import types
from numba.cpython.unsafe.tuple import tuple_setitem

from mktme.crypto.cipher import Words
from mktme.crypto.ivs import call_fill
from mktme.crypto.kernel import callback, digest, inline, kernel
from mktme.crypto.native import address
from mktme.crypto.simd import Pack, intrinsic, peek, poke, scratch
from mktme.errors import SchemeError
from mktme.iv import coordinates as known
from mktme.iv.scheme import Scheme

SIGNATURE = types.void(*[types.int64] * 4)
BATCH = 128  # units whose IVs are made at a time
ROOM = Pack(512, BATCH // 2)  # scratch for four words a unit
KEPT = 16384  # units for which the array of a coordinate that stays is kept
SAMPLE = 1024  # units at either end of a range on which a user's scheme is tried
NO_RAISING = "it can raise an exception (divides by 0, leaves a table ...), and a kernel can't stop for one"


class Compiled:
    """A scheme's fill functions by the words of an IV (2, 4), each compiled when it is first asked for.

    `made`: how many words the scheme's IVs have.
    `reason` says why there are none, where the scheme doesn't compile.
    """

    def __init__(self, scheme: Scheme, function: Any, made: int, reason: str = "") -> None:
        self.reason = reason
        self.made = made
        self._scheme, self._function = scheme, function
        self._fills: dict[int, Any] = {}

    def fill(self, width: int) -> int:
        """The address of the function that makes IVs of `width` words; 0 if there is none."""
        if self.reason:
            return 0
        if width not in self._fills:
            self._fills[width] = _fill(self._scheme, self._function, self.made, width)
        address_: int = self._fills[width].address
        return address_


@cache
def compile_scheme(scheme: Scheme) -> Compiled:
    """Compile a scheme, once in a process.

    A user's that could raise is left to numpy: a kernel has no way to stop for an exception of
    the function that it calls.

    Raises SchemeError if it compiles but returns anything but two or four integers.
    """
    if not scheme.own:  # known to compile, so the disk's copy will do
        function = numba.njit(nogil=True, error_model="numpy")(scheme.iv)
        return Compiled(scheme, function, scheme.words)
    try:
        function = numba.njit(nogil=True, boundscheck=True)(scheme.iv)
        function.compile((types.int64,) * len(scheme.coordinates))
        returned = function.nopython_signatures[0].return_type
    except Exception as error:  # Numba's own, and whatever its compiler stumbles over
        lines = [text.strip() for text in str(error).splitlines()[1:] if text.strip()]
        return Compiled(scheme, None, 0, (lines[0] if lines else type(error).__name__)[:120])
    if not isinstance(returned, types.Integer | types.Float) and not hasattr(returned, "__iter__"):
        raise SchemeError(f"{scheme.name} returns {returned}: return a tuple, the words of the IV")
    parts = list(returned) if hasattr(returned, "__iter__") else [returned]
    if any(isinstance(word, types.misc.Optional) for word in parts):
        return Compiled(scheme, None, 0, "a word may be None, as far as Numba can tell")
    check_words(scheme, len(parts), [str(t) for t in parts if not isinstance(t, types.Integer)])
    if _can_raise(function):
        return Compiled(scheme, None, 0, NO_RAISING)
    return Compiled(scheme, function, len(parts))


def _can_raise(function: Any) -> bool:
    """Whether a way through a compiled function ends in an exception: else all return status 0."""
    made = function.overloads[function.signatures[0]]
    module = llvm.parse_assembly(made.library.get_llvm_str())
    blocks = module.get_function(made.fndesc.llvm_func_name).blocks
    returns = [str(i).strip() for block in blocks for i in block.instructions if i.opcode == "ret"]
    return returns != ["ret i32 0"] * len(returns)


@intrinsic
def pointer_to(typing: Any, to: Any) -> Any:
    """An address as a pointer, so that a compiler sees an array behind it."""

    def codegen(context: Any, b: Any, signature: Any, args: Any) -> Any:
        return b.inttoptr(args[0], ir.IntType(8).as_pointer())

    return types.voidptr(types.int64), codegen


def check_words(scheme: Scheme, count: int, wrong: list[str]) -> None:
    """Refuse what isn't the words of an IV: how many there are, and the types that aren't integers."""
    if wrong:
        how = ", made with //, not /" if wrong[0].startswith("float") else ""
        raise SchemeError(f"{scheme.name} returns {wrong[0]}: the words of an IV are integers{how}")
    if count not in (2, 4):
        raise SchemeError(f"{scheme.name} returns {count} words: an IV has two of 64 bits, or four")


def _fill(scheme: Scheme, iv: Any, made: int, width: int) -> Any:
    """The compiled pass over units of a scheme that makes IVs of so many words, `width` with zeros."""
    arity = len(scheme.coordinates)
    blank = (0,) * arity

    @inline
    def put(words: Any, out: Any, i: int) -> None:
        out[0, i], out[1, i] = words[0], words[1]
        if width == 4:
            out[2, i] = words[2] if made == 4 else 0
            out[3, i] = words[3] if made == 4 else 0

    def constant(table: int, first: int, n: int, to: int) -> None:
        out = carray(pointer_to(to), (width, n), np.int64)
        for i in range(n):
            put(iv(), out, i)

    def fill(table: int, first: int, n: int, to: int) -> None:
        out = carray(pointer_to(to), (width, n), np.int64)
        bases, steps, arrays = blank, blank, 0
        for k in range(arity):
            step, array = peek(table + 24 * k + 8), peek(table + 24 * k + 16)
            bases = tuple_setitem(bases, k, peek(table + 24 * k) + step * first)
            steps = tuple_setitem(steps, k, step)
            arrays |= array
        values = blank
        if arrays:
            for i in range(n):
                for k in range(arity):
                    array = peek(table + 24 * k + 16)
                    value = peek(array + 8 * (first + i)) if array else bases[k] + steps[k] * i
                    values = tuple_setitem(values, k, value)
                put(iv(*values), out, i)
        else:
            for i in range(n):
                for k in range(arity):
                    values = tuple_setitem(values, k, bases[k] + steps[k] * i)
                put(iv(*values), out, i)

    variant = None  # a function of the project is known by its name, whatever its scheme is called
    if not scheme.own:
        variant = (scheme.iv.__module__, scheme.iv.__qualname__, arity, made, width, digest())
    return callback(fill if arity else constant, SIGNATURE, variant)


@kernel()
def run(fill: int, table: int, first: int, n: int, width: int, to: int) -> None:
    """The IVs of n units in a row, each IV's words together."""
    room = scratch(ROOM)
    for u in range(0, n, BATCH):
        m = min(BATCH, n - u)
        call_fill(fill, table, first + u, m, room)
        for w in range(width):
            for i in range(m):
                poke(to + 8 * (width * (u + i) + w), peek(room + 8 * (m * w + i)))


@kernel()
def run_at(fill: int, table: int, numbers: int, n: int, width: int, to: int) -> None:
    """The IVs of the n units whose numbers are at `numbers`."""
    for i in range(n):
        call_fill(fill, table, peek(numbers + 8 * i), 1, to + 8 * width * i)


@kernel()
def interleave(lows: int, highs: int, n: int, to: int) -> None:
    """The IVs whose two words are at two places."""
    for i in range(n):
        poke(to + 16 * i, peek(lows + 8 * i))
        poke(to + 16 * i + 8, peek(highs + 8 * i))


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
        self._starts = [int(start) for start, _, _ in self._rows()]
        self._steps = [int(step) for _, step, _ in self._rows()]
        self._constants: dict[int, Words] = {}
        self._compiled = compile_scheme(scheme)
        self._at = address(self._table)

    @property
    def words(self) -> int:
        """The words of the IVs that the scheme makes; one on numpy is asked by trying it."""
        if not self._compiled.reason:
            return self._compiled.made
        count = len(self._words([self._running(k, 0, 1) for k in range(len(self._starts))]))
        check_words(self.scheme, count, [])
        return count

    def plan(self, width: int) -> tuple[int, int] | None:
        """The addresses of the fill function and its table; None for a scheme on numpy arrays."""
        fill = self._compiled.fill(width)
        return (fill, self._at) if fill else None

    def ivs(self, first: int, n: int, width: int) -> Words:
        """The IVs of n units from number `first` on: (n, width) uint64.

        Raises SchemeError for what a user's function raises or returns.
        """
        out = np.empty((n, width), np.uint64)
        fill = self._compiled.fill(width)
        if fill:
            run(fill, self._at, first, n, width, address(out))
        else:
            self._call([self._running(k, first, n) for k in range(len(self._starts))], out)
        return out

    def at(self, numbers: Words, width: int, **state: Words) -> Words:
        """The IVs of units of any numbers: (n, width) uint64; `state` has what the scheme keeps.

        Raises as `ivs`.
        """
        out = np.empty((numbers.size, width), np.uint64)
        fill = self._compiled.fill(width)
        if not fill:
            rows = zip(self._rows(), self.scheme.coordinates, strict=True)
            given = [state[name] if name in state else row[0] + row[1] * numbers for row, name in rows]
            self._call(given, out)
            return out
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
        run(fill, address(table), 0, numbers.size, width, address(out))
        return out

    def _rows(self) -> Words:
        """The table, a row for each coordinate, unsigned."""
        return self._table[: len(self.scheme.coordinates)].view(np.uint64)

    def _running(self, k: int, first: int, n: int) -> Words:
        """A coordinate's values at n units in a row; of one that stays, a part of an array kept."""
        step = self._steps[k]
        start = self._starts[k] + step * first
        if step:
            if start + step * n < 1 << 63:
                return np.arange(start, start + step * n, step, np.uint64)  # type: ignore[call-overload, no-any-return]
            return np.uint64(start % (1 << 64)) + np.uint64(step) * np.arange(n, dtype=np.uint64)
        kept = self._constants.get(k)
        if kept is None or kept.size < n:
            kept = np.full(max(n, KEPT), start, np.uint64)
            kept.flags.writeable = False
            self._constants[k] = kept
        return kept[:n]

    def _call(self, values: list[Words], out: Words) -> None:
        """The scheme on arrays of coordinates, into `out`."""
        n = len(out)
        words = [self._word(word, n) for word in self._words(values)]
        check_words(self.scheme, len(words), [])
        if len(words) > out.shape[1]:
            raise SchemeError(f"{self.scheme.name} makes IVs of 32 bytes, and the cipher takes 16")
        if len(words) == out.shape[1] == 2:
            interleave(address(words[0]), address(words[1]), n, address(out))
            return
        out[:, len(words) :] = 0
        for column, word in zip(out.T, words, strict=False):
            column[:] = word

    def _words(self, values: list[Words]) -> list[Any] | tuple[Any, ...]:
        """What the scheme returns for arrays of coordinates, word by word."""
        try:
            with np.errstate(divide="raise"):
                made: Any = self.scheme.iv(*values)
        except Exception as error:
            raise SchemeError(
                f"{self.scheme.name} raised {type(error).__name__} on arrays of its coordinates: {error} "
                f"(it isn't compiled: {self._compiled.reason})"
            ) from error
        return made if isinstance(made, tuple | list) else (made,)

    def _word(self, word: Any, n: int) -> Any:
        """What the scheme returned for a word, as n words side by side."""
        if not isinstance(word, np.ndarray) or not word.shape:
            word = np.full(n, word)
        if word.dtype != np.uint64:
            if word.dtype.kind not in "ui":
                check_words(self.scheme, 2, [str(word.dtype)])
            word = word.astype(np.uint64)
        if word.shape != (n,):
            raise SchemeError(
                f"{self.scheme.name} returns an array of shape {word.shape} for {n} units: "
                "one word for each unit"
            )
        return word if word.flags.c_contiguous else word.copy()

    def repeats(self, units: int, width: int, counted: int = 0) -> int:
        """How many IVs of a range's first and last units occur there before: a sample, not a proof.

        In counter mode, `counted` blocks from an IV on are taken.
        """
        ranges = [(0, min(units, SAMPLE))]
        if units > SAMPLE:
            ranges.append((max(SAMPLE, units - SAMPLE), units))
        made = np.concatenate([self.ivs(a, b - a, width) for a, b in ranges])
        if counted:
            first = sorted(int.from_bytes(row.tobytes(), "big") for row in made)
            return sum(b - a < counted for a, b in pairwise(first))
        return int(len(made) - len(np.unique(made, axis=0)))
