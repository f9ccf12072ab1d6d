"""Set-associative write-back caches: the processor's, and those of counters and of pages.

The victim is the line of its set that was used least recently. An entry is the number of what it holds, plus
one, shifted left by one; its lowest bit says that it is dirty. A cache holds nothing else: what a
line's bytes are is nobody's business here.
"""

from __future__ import annotations

from dataclasses import dataclass

from mktme.crypto.kernel import inline, part
from mktme.errors import TimingError
from mktme.timing import sets
from mktme.timing.parameters import Component, parameter
from mktme.timing.words import State, Words, prefetch, ps
from pmem.geometry import LINE, format_size

# Words of a cache's header. Counts: lookups that found the line or didn't, dirty victims.
MASK, WAYS, DELAY, HITS, MISSES, VICTIMS, ENTRIES = range(7)
HEADER = 8  # then the order of each set, and from ENTRIES on the entries, sets.WAYS for each set
EMPTY = 0
NONE = -1  # no line
HIT = -2


@dataclass(frozen=True, kw_only=True)
class Cache(Component):
    """A cache of 64-byte lines.

    Raises TimingError if the size isn't a power of two of sets.
    """

    size: int = parameter(32 << 10, "B", "Intel 248966-042, Cascade Lake", low=LINE)
    ways: int = parameter(8, "", "Intel 248966-042, Cascade Lake", low=1, high=sets.WAYS)
    latency_ns: float = parameter(1.6, "ns", "Intel 248966-042: 5 cycles at 3.1 GHz")

    def __post_init__(self) -> None:
        super().__post_init__()
        lines, rest = divmod(self.size, LINE)
        count, some = divmod(lines, self.ways)
        if rest or some or count == 0 or count & (count - 1):
            raise TimingError(
                f"a cache of {self.size} bytes in {self.ways} ways has {lines / self.ways:g} sets of "
                f"{LINE}-byte lines: it must be a power of two, as {_near(self.size, self.ways)} give"
            )

    def lay(self, words: Words) -> int:
        """Its place among the words."""
        return lay(words, self.size // LINE // self.ways, self.ways, ps(self.latency_ns))


def _near(size: int, ways: int) -> str:
    count = max(1, 1 << max(0, (size // (LINE * ways)).bit_length() - 1))
    return f"{format_size(count * ways * LINE)} or {format_size(2 * count * ways * LINE)}"


def lay(words: Words, count: int, ways: int, delay: int) -> int:
    """The place of a cache of anything; `count` sets, a power of two; `delay` in ps."""
    place = words.take(HEADER + count, count - 1, ways, delay)
    words.fill(place + HEADER, count, sets.ORDER)
    words[place + ENTRIES] = words.take(count * sets.WAYS)
    return place


@inline
def _base(s: State, c: int, line: int) -> int:
    """Where the entries of a line's set are."""
    return s[c + ENTRIES] + (line & s[c + MASK]) * sets.WAYS


@inline
def access(s: State, c: int, line: int, dirty: int) -> int:
    """Use a line, which is taken in if it isn't there; dirty if asked. Counts.

    Returns HIT, or of a miss the line that leaves if it is dirty, else NONE.
    """
    base, at = _base(s, c, line), c + HEADER + (line & s[c + MASK])
    way = sets.find(s, base, (line + 1) << 1)
    if way < sets.WAYS:
        s[at] = sets.used(s[at], way)
        s[base + way] |= dirty
        s[c + HITS] += 1
        return HIT
    s[c + MISSES] += 1
    return _take_in(s, c, base, at, line, dirty)


@inline
def _take_in(s: State, c: int, base: int, at: int, line: int, dirty: int) -> int:
    way = sets.oldest(s[at], s[c + WAYS])
    left = s[base + way]
    s[at] = sets.used(s[at], way)
    s[base + way] = ((line + 1) << 1) | dirty
    if left & 1:
        s[c + VICTIMS] += 1
        return (left >> 1) - 1
    return NONE


@part
def put(s: State, c: int, line: int) -> int:
    """A dirty line comes from the cache above; returns the dirty line that leaves, or NONE."""
    place = find(s, c, line)
    if place >= 0:
        s[place] |= 1
        return NONE
    return _take_in(s, c, _base(s, c, line), c + HEADER + (line & s[c + MASK]), line, 1)


@inline
def find(s: State, c: int, line: int) -> int:
    """Where a line's entry is, or NONE; it isn't used by that."""
    base = _base(s, c, line)
    way = sets.find(s, base, (line + 1) << 1)
    return base + way if way < sets.WAYS else NONE


@part
def clean(s: State, c: int, line: int) -> bool:
    """Make a line clean where it is; whether it was dirty."""
    place = find(s, c, line)
    if place < 0 or not s[place] & 1:
        return False
    s[place] &= ~1
    return True


@part
def drop(s: State, c: int, line: int) -> bool:
    """Let go of a line where it is; whether it was dirty."""
    place = find(s, c, line)
    if place < 0:
        return False
    was, at = s[place] & 1, c + HEADER + (line & s[c + MASK])
    s[place] = EMPTY
    s[at] = sets.emptied(s[at], place - _base(s, c, line), s[c + WAYS])
    return was == 1


@inline
def end(s: State, c: int) -> int:
    """Where the entries end, that begin at s[c + ENTRIES]."""
    return s[c + ENTRIES] + (s[c + MASK] + 1) * sets.WAYS


@part
def dirty_lines(s: State, c: int) -> int:
    """How many entries are dirty."""
    count = 0
    for i in range(s[c + ENTRIES], end(s, c)):
        count += s[i] & 1
    return count


@inline
def soon(s: State, c: int, line: int) -> None:
    """A line will be used soon: have the host fetch what is kept of its set."""
    base = _base(s, c, line)
    prefetch(s, c + HEADER + (line & s[c + MASK]))
    prefetch(s, base)
    prefetch(s, base + 8)
