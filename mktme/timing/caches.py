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
from pmem.geometry import LINE, format_size

# Words of a cache's header. Counts: lookups that found the line or didn't, dirty victims.
MASK, WAYS, DELAY, HITS, MISSES, VICTIMS = range(6)
HEADER = 8  # then the entries, set by set
EMPTY = 0
NONE = -1  # no line
HIT = -2


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


def lay(words: Words, sets: int, ways: int, delay: int) -> int:
    """The place of a cache of anything; `sets` is a power of two, `delay` in ps."""
    return words.take(HEADER + sets * ways, sets - 1, ways, delay)


@inline
def front(s: State, c: int, line: int) -> int:
    """Where the entry of its set's last used line is: that of the line itself, after `access`."""
    return c + HEADER + (line & s[c + MASK]) * s[c + WAYS]


@inline
def access(s: State, c: int, line: int, dirty: int) -> int:
    """Use a line, which is taken in if it isn't there; dirty if asked. Counts.

    Returns HIT, or of a miss the line that leaves if it is dirty, else NONE.
    """
    base = front(s, c, line)
    entry = s[base]
    if entry & ~1 == (line + 1) << 1:
        s[base] = entry | dirty
        s[c + HITS] += 1
        return HIT
    return _search(s, c, base, (line + 1) << 1, dirty)


@part
def _search(s: State, c: int, base: int, wanted: int, dirty: int) -> int:
    """The same for the ways but the first of a set: each entry moves back by one until the line is found."""
    moving = s[base]
    for at in range(base + 1, base + s[c + WAYS]):
        entry = s[at]
        s[at] = moving
        if entry & ~1 == wanted:
            s[base] = entry | dirty
            s[c + HITS] += 1
            return HIT
        moving = entry
    s[base] = wanted | dirty
    s[c + MISSES] += 1
    return _left(s, c, moving)


@part
def put(s: State, c: int, line: int) -> int:
    """A dirty line comes from the cache above; returns the dirty line that leaves, or NONE."""
    place = find(s, c, line)
    if place >= 0:
        s[place] |= 1
        return NONE
    base = front(s, c, line)
    moving = s[base]
    for at in range(base + 1, base + s[c + WAYS]):
        s[at], moving = moving, s[at]
    s[base] = ((line + 1) << 1) | 1
    return _left(s, c, moving)


@inline
def _left(s: State, c: int, entry: int) -> int:
    if entry & 1:
        s[c + VICTIMS] += 1
        return (entry >> 1) - 1
    return NONE


@part
def find(s: State, c: int, line: int) -> int:
    """Where a line's entry is, or NONE; it isn't used by that."""
    base = front(s, c, line)
    wanted = (line + 1) << 1
    for at in range(base, base + s[c + WAYS]):
        if s[at] & ~1 == wanted:
            return at
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
    last = front(s, c, line) + s[c + WAYS] - 1
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
