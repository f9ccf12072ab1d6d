"""Set-associative write-back caches: the processor's, and those of counters, pages and open units.

The ways of a set are kept in the order of their last use, so the victim is the last one. An entry is
the number of what it holds, plus one, shifted left by one; its lowest bit says that it is dirty. A cache
holds nothing else: what a line's bytes are is nobody's business here.
"""

from __future__ import annotations

from dataclasses import dataclass

from mktme.crypto.kernel import inline, part
from mktme.errors import TimingError
from mktme.timing.parameters import Component, parameter
from mktme.timing.words import State, Words, ps
from pmem.geometry import LINE, format_size, parse_size

# Words of a cache's header. Counts: lookups that found the line or didn't, dirty victims.
MASK, WAYS, DELAY, HITS, MISSES, VICTIMS = range(6)
HEADER = 8  # then the entries, set by set
EMPTY = 0
NONE = -1  # no line


@dataclass(frozen=True, kw_only=True)
class Cache(Component):
    """A cache of 64-byte lines.

    Raises TimingError if the size isn't a power of two of sets.
    """

    size: int = parameter(32 << 10, "B", "Intel 248966-042, Cascade Lake", low=LINE)
    ways: int = parameter(8, "", "Intel 248966-042, Cascade Lake", low=1, high=64)
    latency_ns: float = parameter(1.6, "ns", "Intel 248966-042: 5 cycles at 3.1 GHz")

    def __post_init__(self) -> None:
        super().__post_init__()
        lines, rest = divmod(self.size, LINE)
        sets, some = divmod(lines, self.ways)
        if rest or some or sets == 0 or sets & (sets - 1):
            raise TimingError(
                f"a cache of {self.size} bytes in {self.ways} ways has {lines / self.ways:g} sets of "
                f"{LINE}-byte lines: it must be a power of two, as {_near(self.size, self.ways)} give"
            )

    def lay(self, words: Words) -> int:
        """Its place among the words."""
        return lay(words, self.size // LINE // self.ways, self.ways, ps(self.latency_ns))


def _near(size: int, ways: int) -> str:
    sets = max(1, 1 << max(0, (size // (LINE * ways)).bit_length() - 1))
    return f"{format_size(sets * ways * LINE)} or {format_size(2 * sets * ways * LINE)}"


def sized(text: str | int) -> int:
    """A size in bytes, as a number or as "32KiB"."""
    return parse_size(text)


def lay(words: Words, sets: int, ways: int, delay: int) -> int:
    """The place of a cache of anything; `sets` is a power of two, `delay` in ps."""
    return words.take(HEADER + sets * ways, sets - 1, ways, delay)


@inline
def use(s: State, c: int, line: int, dirty: int) -> bool:
    """Look a line up; if it is there make it the last used one, and dirty if asked. Counts."""
    base = c + HEADER + (line & s[c + MASK]) * s[c + WAYS]
    entry = s[base]
    if entry & ~1 == (line + 1) << 1:
        s[base] = entry | dirty
        s[c + HITS] += 1
        return True
    return _search(s, c, base, (line + 1) << 1, dirty)


@part
def _search(s: State, c: int, base: int, wanted: int, dirty: int) -> bool:
    """The same for the ways but the first of a set."""
    for way in range(1, s[c + WAYS]):
        entry = s[base + way]
        if entry & ~1 == wanted:
            for i in range(base + way, base, -1):
                s[i] = s[i - 1]
            s[base] = entry | dirty
            s[c + HITS] += 1
            return True
    s[c + MISSES] += 1
    return False


@part
def insert(s: State, c: int, line: int, dirty: int) -> int:
    """Take in a line that isn't there. Returns the line that leaves if it is dirty, else NONE."""
    ways = s[c + WAYS]
    base = c + HEADER + (line & s[c + MASK]) * ways
    last = s[base + ways - 1]
    for i in range(base + ways - 1, base, -1):
        s[i] = s[i - 1]
    s[base] = ((line + 1) << 1) | dirty
    if last & 1:
        s[c + VICTIMS] += 1
        return (last >> 1) - 1
    return NONE


@part
def find(s: State, c: int, line: int) -> int:
    """Where a line's entry is, or NONE; it isn't used by that."""
    ways = s[c + WAYS]
    base = c + HEADER + (line & s[c + MASK]) * ways
    wanted = (line + 1) << 1
    for way in range(ways):
        if s[base + way] & ~1 == wanted:
            return base + way
    return NONE


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
    was = s[place] & 1
    last = c + HEADER + (line & s[c + MASK]) * s[c + WAYS] + s[c + WAYS] - 1
    for i in range(place, last):
        s[i] = s[i + 1]
    s[last] = EMPTY
    return was == 1


@part
def dirty_lines(s: State, c: int) -> int:
    """How many entries are dirty."""
    count = 0
    for i in range(c + HEADER, c + HEADER + (s[c + MASK] + 1) * s[c + WAYS]):
        count += s[i] & 1
    return count
