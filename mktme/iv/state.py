"""What a scheme keeps beside the data: drawn IVs and write counters, in metadata on the device.

    random   16 bytes a data unit: its IV
    global   a page with the next counter (64 bits), then 8 bytes a line: its counter
    split    64 bytes a page of 4 KiB: the major counter (64 bits), then 64 minor counters of 7 bits
    deuce    8 bytes a line: the leading counter (32 bits), then a bit for each of its 32 words of
             2 bytes that says whether the word was modified in this epoch

All numbers are little-endian. Fresh metadata is zeros: nothing was written. A store keeps no copy,
so what is on the device is what counts, also after a crash. Not thread-safe: the path that holds
a store takes turns.
"""

from __future__ import annotations

import os
from typing import ClassVar, Protocol

import numpy as np

from mktme.crypto.cipher import Bytes, Words
from mktme.crypto.kernel import inline, kernel
from mktme.crypto.native import address
from mktme.crypto.simd import peek, poke
from mktme.errors import CountersExhausted
from pmem.geometry import LINE, PAGE

EPOCH = 32  # writes after which DEUCE encrypts a whole line anew
MINOR_MAX = 127
WORD = np.uint64((1 << 64) - 1)
SPLIT_LINES = PAGE // LINE  # lines that share a major counter


class Store(Protocol):
    """The state of a mapped range; `numbers` are those of its data units, each once."""

    WIDTHS: ClassVar[tuple[int, ...]]  # bytes at each of its `places` that are of those units alone

    def __init__(self, metadata: Bytes) -> None: ...

    @staticmethod
    def size(length: int, unit: int) -> int:
        """Bytes of metadata for a range of `length` bytes."""

    def current(self, numbers: Words) -> dict[str, Words]:
        """The coordinates with which units were last written."""

    def advance(self, numbers: Words) -> dict[str, Words]:
        """The coordinates with which units are to be written now, recorded."""

    @staticmethod
    def places(numbers: Words) -> list[Words]:
        """Offsets in the metadata of what writing units changes; no entry crosses a page."""

    def check(self, first: int, last: int) -> None:
        """Refuse to write units first to last once more. Raises CountersExhausted."""


class RandomIvs:
    """IVs drawn by the operating system; not coordinates but the IV itself, as two words."""

    WIDTHS: ClassVar[tuple[int, ...]] = (16,)

    def __init__(self, metadata: Bytes) -> None:
        self._ivs = metadata[: metadata.size // 16 * 16].view("<u8").reshape(-1, 2)

    @staticmethod
    def size(length: int, unit: int) -> int:
        """Bytes of metadata for a range."""
        return length // unit * 16

    def current(self, numbers: Words) -> dict[str, Words]:
        return {"iv": self._ivs[numbers].astype(np.uint64)}

    def advance(self, numbers: Words) -> dict[str, Words]:
        self._ivs[numbers] = np.frombuffer(os.urandom(16 * numbers.size), "<u8").reshape(-1, 2)
        return self.current(numbers)

    @staticmethod
    def places(numbers: Words) -> list[Words]:
        return [numbers * np.uint64(16)]

    def check(self, first: int, last: int) -> None:
        """There are always more."""


class GlobalCounters:
    """One counter of all writes; each line keeps the value that it was written under."""

    WIDTHS: ClassVar[tuple[int, ...]] = (0, 8)

    def __init__(self, metadata: Bytes) -> None:
        words = metadata[: metadata.size // 8 * 8].view("<u8")
        self._next, self._lines = words[:1], words[PAGE // 8 :]

    @staticmethod
    def size(length: int, unit: int) -> int:
        """Bytes of metadata for a range."""
        return PAGE + length // LINE * 8

    def current(self, numbers: Words) -> dict[str, Words]:
        return {"counter": self._lines[numbers].astype(np.uint64)}

    def advance(self, numbers: Words) -> dict[str, Words]:
        """Raises CountersExhausted."""
        self.check(0, numbers.size - 1)
        # A line's counter rises also where a crash lost the next one: its number is in the IV.
        last = max(int(self._next[0]), int(self._lines[numbers].max(initial=0)))
        self._next[0] = last + numbers.size
        values = np.uint64(last) + np.arange(1, numbers.size + 1, dtype=np.uint64)
        self._lines[numbers] = values
        return {"counter": values}

    @staticmethod
    def places(numbers: Words) -> list[Words]:
        return [np.zeros(1, np.uint64), numbers * np.uint64(8) + np.uint64(PAGE)]

    def check(self, first: int, last: int) -> None:
        if int(self._next[0]) + last + 1 - first >= 1 << 64:
            raise CountersExhausted(
                "ctr-global has counted 2^64 writes: map the range anew under another key"
            )


@inline
def minor_at(page: int, slot: int) -> int:
    """A 7-bit minor counter of a page's counters."""
    bit = 7 * slot
    word, shift = page + 8 + (bit >> 6 << 3), bit & 63
    value = peek(word) >> shift
    if shift > 57:
        value = (value & ((1 << (64 - shift)) - 1)) | peek(word + 8) << (64 - shift)
    return int(value & 127)


@inline
def set_minor(page: int, slot: int, value: int) -> None:
    bit = 7 * slot
    word, shift = page + 8 + (bit >> 6 << 3), bit & 63
    poke(word, (peek(word) & ~(127 << shift)) | value << shift)
    if shift > 57:
        left = 64 - shift  # bits of it in the first word
        poke(word + 8, (peek(word + 8) & ~(127 >> left)) | value >> left)


@kernel()
def split_counters(counters: int, numbers: int, n: int, more: int, majors: int, minors: int) -> None:
    """The counters of n lines, their minor ones increased by `more` (0 or 1) and written back."""
    for i in range(n):
        line = peek(numbers + 8 * i)
        page, slot = counters + (line >> 6 << 6), line & 63
        minor = minor_at(page, slot) + more
        if more:
            set_minor(page, slot, minor)
        poke(majors + 8 * i, peek(page))
        poke(minors + 8 * i, minor)


class SplitCounters:
    """A major counter for a page, minor ones for its lines."""

    WIDTHS: ClassVar[tuple[int, ...]] = (LINE,)

    def __init__(self, metadata: Bytes) -> None:
        self._metadata = metadata
        self._pages = metadata[: metadata.size // LINE * LINE].view("<u8").reshape(-1, 8)

    @staticmethod
    def size(length: int, unit: int) -> int:
        """Bytes of metadata for a range."""
        return length // PAGE * LINE

    def current(self, numbers: Words) -> dict[str, Words]:
        return self._counters(numbers, 0)

    def advance(self, numbers: Words) -> dict[str, Words]:
        """None of the lines may be in a page of `full`."""
        return self._counters(numbers, 1)

    def full(self, numbers: Words) -> Words:
        """The pages of some lines whose minor counters would overflow at the next write of those."""
        minors = self.current(numbers)["minor"]
        return np.unique(numbers[minors == MINOR_MAX] // np.uint64(SPLIT_LINES))

    def turn(self, page: int) -> None:
        """Begin a page anew: the next major counter, all minor ones zero. Raises CountersExhausted."""
        major = int(self._pages[page, 0]) + 1
        if major >= 1 << 64:
            raise self._exhausted(page)
        self._pages[page] = 0
        self._pages[page, 0] = major

    def _exhausted(self, page: int) -> CountersExhausted:
        return CountersExhausted(
            f"page {page} of the range has had 2^64 major counters: map it anew under another key"
        )

    def _counters(self, numbers: Words, more: int) -> dict[str, Words]:
        made = np.empty((2, numbers.size), np.uint64)
        at = address(made)
        base = address(self._metadata)
        split_counters(base, address(numbers), numbers.size, more, at, at + 8 * numbers.size)
        return {"major": made[0], "minor": made[1]}

    @staticmethod
    def places(numbers: Words) -> list[Words]:
        return [numbers // np.uint64(SPLIT_LINES) * np.uint64(LINE)]

    def check(self, first: int, last: int) -> None:
        page = first // SPLIT_LINES
        majors = self._pages[page : last // SPLIT_LINES + 1, 0]
        for i in np.flatnonzero(majors == WORD).tolist():
            begin = max(first, (page + i) * SPLIT_LINES)
            lines = np.arange(begin, min(last + 1, (page + i + 1) * SPLIT_LINES), dtype=np.uint64)
            if self.full(lines).size:
                raise self._exhausted(page + i)


class DeuceCounters:
    """A line's leading counter, and which of its words were modified in this epoch."""

    WIDTHS: ClassVar[tuple[int, ...]] = (8,)

    def __init__(self, metadata: Bytes) -> None:
        self._lines = metadata[: metadata.size // 8 * 8].view("<u4").reshape(-1, 2)

    @staticmethod
    def size(length: int, unit: int) -> int:
        """Bytes of metadata for a range."""
        return length // LINE * 8

    def current(self, numbers: Words) -> dict[str, Words]:
        """The leading counter and, as `modified`, the bits of the words that are under it."""
        lines = self._lines[numbers]
        return {"counter": lines[:, 0].astype(np.uint64), "modified": lines[:, 1].astype(np.uint64)}

    def advance(self, numbers: Words) -> dict[str, Words]:
        """The next leading counters; a new epoch's has no modified words. Raises CountersExhausted.

        A line's first write begins an epoch, so that nothing counts as modified by it.
        """
        found = self.current(numbers)
        counter = np.where(found["counter"] == 0, np.uint64(EPOCH), found["counter"] + np.uint64(1))
        if (counter >> np.uint64(32)).any():
            raise self._exhausted()
        modified = np.where(counter % np.uint64(EPOCH) == 0, np.uint64(0), found["modified"])
        return {"counter": counter, "modified": modified}

    def record(self, numbers: Words, counter: Words, modified: Words) -> None:
        """Write back what `advance` returned, with the words modified now."""
        self._lines[numbers] = np.stack([counter, modified], axis=1).astype("<u4")

    @staticmethod
    def places(numbers: Words) -> list[Words]:
        return [numbers * np.uint64(8)]

    def check(self, first: int, last: int) -> None:
        if (self._lines[first : last + 1, 0] == np.uint32(0xFFFFFFFF)).any():
            raise self._exhausted()

    def _exhausted(self) -> CountersExhausted:
        return CountersExhausted("a line has been written 2^32 times: map the range anew under another key")


STORES: dict[str, type[Store]] = {
    "random": RandomIvs,
    "global": GlobalCounters,
    "split": SplitCounters,
    "deuce": DeuceCounters,
}
