"""The media behind a memory channel: cells that are read and written in units, and a buffer of units.

On an Optane DIMM the unit is the XPLine of 256 bytes and the buffer what combines writes: a line of 64
bytes that is stored alone costs the cells a whole unit, and one that follows its neighbours nothing. In
DRAM the buffer is the rows that are open. Where units lie in the buffer is not published; we take sets of
`buffer_ways`, and the least recently used unit leaves first.

Reads go before writes that have not begun, and wait for the one in progress.
"""

from __future__ import annotations

from dataclasses import dataclass

from mktme.crypto.kernel import inline, part
from mktme.errors import TimingError
from mktme.timing import sets
from mktme.timing.parameters import Component, parameter
from mktme.timing.words import State, Words, ps
from pmem.geometry import LINE

# Words of the header. READS, WRITES: of the cells, in units (WRITES in lines, unless whole units are
# written); FOUND: reads that the buffer served; MERGED: stores to a line that was still in the buffer;
# PARTIAL: units that left the buffer incomplete.
(SHIFT, SETS, WAYS, HIT, MISS, READING, WRITING, MERGING, WHOLE, BANKS) = range(10)
(READS, WRITES, FOUND, MERGED, PARTIAL, CHANNEL, BLOCKS, ALL) = range(10, 18)
(ORDERS, UNITS, STATES) = range(18, 21)
HEADER = 24
# A channel's block: of each bank until when it reads and until when it writes; then the buffer: the order of
# each set, the units that are in its ways, plus one, shifted left by one, and of each way its dirty lines and
# when it is there. ORDERS, UNITS, STATES: where these begin.
LINES, READY, EACH = 0, 1, 2

OPTANE = "Yang et al., FAST 2020"


@dataclass(frozen=True, kw_only=True)
class Media(Component):
    """Cells and buffer behind one channel. Latencies are those beyond the last-level cache.

    Raises TimingError for units that aren't whole lines or a buffer that isn't a power of two of sets.
    """

    unit: int = parameter(256, "B", f"{OPTANE}: XPLine", low=LINE, high=LINE * 64, power=True)
    buffer_units: int = parameter(64, "", f"{OPTANE}, section 5.1: XPBuffer of 16 KiB", high=1 << 16)
    buffer_ways: int = parameter(8, "", "assumed: not published", low=1, high=sets.WAYS)
    read_ns: float = parameter(284.0, "ns", f"{OPTANE}: 305 ns at random, less the last-level cache's 21")
    buffer_read_ns: float = parameter(
        102.7, "ns", f"{OPTANE}: 169 ns in order, of which one line in four is read from the cells"
    )
    unit_read_ns: float = parameter(38.8, "ns", f"{OPTANE}: 6.6 GB/s from one DIMM, in units of 256 B")
    unit_write_ns: float = parameter(111.3, "ns", f"{OPTANE}: 2.3 GB/s to one DIMM, in units of 256 B")
    merge_read_ns: float = parameter(
        0.0, "ns", f"{OPTANE}, section 5.1: bandwidth goes with the effective write ratio alone"
    )
    whole_units: bool = parameter(True, "", f"{OPTANE}: the cells are written in XPLines")
    banks: int = parameter(1, "", "bandwidth is given for the whole DIMM", low=1, high=1 << 10, power=True)
    read_pj_per_bit: float = parameter(2.47, "pJ/bit", "Lee et al., ISCA 2009: PCM array read")
    write_pj_per_bit: float = parameter(16.82, "pJ/bit", "Lee et al., ISCA 2009: PCM array write")

    def __post_init__(self) -> None:
        super().__post_init__()
        count, rest = divmod(self.buffer_units, self.buffer_ways)
        if self.buffer_units and (rest or count & (count - 1)):
            raise TimingError(
                f"a buffer of {self.buffer_units} units in {self.buffer_ways} ways has no power of two of "
                "sets: change Media.buffer_units or Media.buffer_ways"
            )
        if self.whole_units and not self.buffer_units and self.unit > LINE:
            raise TimingError("media that are written in whole units need a buffer: Media.buffer_units is 0")

    @property
    def write_unit(self) -> int:
        """Bytes that one write of the cells counts for."""
        return self.unit if self.whole_units else LINE

    def lay(self, words: Words, channels: int) -> int:
        """Its place among the words, for as many channels."""
        count, lines = self.buffer_units // self.buffer_ways, self.unit // LINE
        units = -(-(2 * self.banks + count) // 8) * 8
        states = units + count * sets.WAYS
        block = states + count * sets.WAYS * EACH
        place = words.take(
            HEADER + block * channels,
            lines.bit_length() - 1,
            count,
            self.buffer_ways,
            ps(self.buffer_read_ns),
            ps(self.read_ns),
            ps(self.unit_read_ns),
            ps(self.unit_write_ns),
            ps(self.merge_read_ns),
            self.whole_units,
            self.banks,
        )
        words[place + CHANNEL] = block
        words[place + BLOCKS] = channels
        words[place + ALL] = (1 << lines) - 1 if lines < 64 else -1
        words[place + ORDERS], words[place + UNITS], words[place + STATES] = 2 * self.banks, units, states
        for channel in range(channels):
            words.fill(place + HEADER + block * channel + 2 * self.banks, count, sets.ORDER)
        return place


@part
def serve_read(s: State, at: int, t: int, reading: int, writing: int) -> int:
    """When a server (free for reads at s[at], for writes at s[at + 1]) begins a read that comes at t."""
    start = max(t, s[at])
    behind = s[at + 1] - start
    if behind > 0:
        if writing:
            start += behind % writing  # the write in progress; those behind it wait
        s[at + 1] += reading
    s[at] = start + reading
    return start


@part
def serve_write(s: State, at: int, t: int, writing: int) -> int:
    """When it begins a write that comes at t."""
    start = max(t, s[at], s[at + 1])
    s[at + 1] = start + writing
    return start


@part
def ones(value: int) -> int:
    """How many bits are set."""
    count = 0
    while value:
        value &= value - 1
        count += 1
    return count


@part
def read(s: State, m: int, channel: int, line: int, t: int) -> int:
    """When a channel's line, asked for at t, has come; lines of a channel are numbered from 0."""
    block = m + HEADER + channel * s[m + CHANNEL]
    unit = line >> s[m + SHIFT]
    bank = block + 2 * (unit & (s[m + BANKS] - 1))
    if s[m + SETS] == 0:
        s[m + READS] += 1
        return serve_read(s, bank, t, s[m + READING], s[m + WRITING]) + s[m + MISS]
    chosen = unit & (s[m + SETS] - 1)
    way = sets.find(s, block + s[m + UNITS] + chosen * sets.WAYS, (unit + 1) << 1)
    if way < sets.WAYS:
        s[m + FOUND] += 1
        return max(t + s[m + HIT], s[_touch(s, m, block, chosen, way) + READY])
    s[m + READS] += 1
    start = serve_read(s, bank, t, s[m + READING], s[m + WRITING])
    ready = start + s[m + MISS]
    way = sets.oldest(s[block + s[m + ORDERS] + chosen], s[m + WAYS])
    _open(s, m, block, chosen, way, unit, ready, start)
    return ready


@part
def write(s: State, m: int, channel: int, line: int, t: int) -> int:
    """When a line that comes at t has been taken over by the media."""
    block = m + HEADER + channel * s[m + CHANNEL]
    unit = line >> s[m + SHIFT]
    if s[m + SETS] == 0:
        s[m + WRITES] += 1
        bank = block + 2 * (unit & (s[m + BANKS] - 1))
        return serve_write(s, bank, t, s[m + WRITING]) + s[m + WRITING]
    chosen = unit & (s[m + SETS] - 1)
    way = sets.find(s, block + s[m + UNITS] + chosen * sets.WAYS, (unit + 1) << 1)
    if way >= sets.WAYS:
        way = sets.oldest(s[block + s[m + ORDERS] + chosen], s[m + WAYS])
        t = _open(s, m, block, chosen, way, unit, t, t)
    state = _touch(s, m, block, chosen, way)
    bit = 1 << (line & ((1 << s[m + SHIFT]) - 1))
    if s[state + LINES] & bit:
        s[m + MERGED] += 1
    s[state + LINES] |= bit
    if s[state + LINES] == s[m + ALL] and s[m + WHOLE]:  # a complete unit doesn't wait
        t = _write_back(s, m, block, unit, s[m + ALL], t)
        s[state + LINES] = 0
    return t


@inline
def _touch(s: State, m: int, block: int, chosen: int, way: int) -> int:
    """A way of a set is used; where its state is."""
    at = block + s[m + ORDERS] + chosen
    s[at] = sets.used(s[at], way)
    return block + s[m + STATES] + (chosen * sets.WAYS + way) * EACH


@part
def _open(s: State, m: int, block: int, chosen: int, way: int, unit: int, ready: int, t: int) -> int:
    """Take a unit into a way; when there is room for it, after the write of one that leaves began."""
    state = _touch(s, m, block, chosen, way)
    at = block + s[m + UNITS] + chosen * sets.WAYS + way
    if s[state + LINES]:
        t = _write_back(s, m, block, (s[at] >> 1) - 1, s[state + LINES], t)
    s[at] = (unit + 1) << 1
    s[state + LINES], s[state + READY] = 0, ready
    return t


@part
def _write_back(s: State, m: int, block: int, unit: int, lines: int, t: int) -> int:
    """Write a unit's dirty lines to the cells; when that begins."""
    bank = block + 2 * (unit & (s[m + BANKS] - 1))
    if lines != s[m + ALL]:
        s[m + PARTIAL] += 1
    if not s[m + WHOLE]:
        count = ones(lines)
        s[m + WRITES] += count
        return serve_write(s, bank, t, count * s[m + WRITING])
    s[m + WRITES] += 1
    if lines != s[m + ALL]:
        s[m + READS] += 1
        t = serve_read(s, bank, t, s[m + MERGING], s[m + WRITING]) if s[m + MERGING] else t
    return serve_write(s, bank, t, s[m + WRITING])


@part
def drain(s: State, m: int) -> None:
    """Write back what the buffers hold, as a power failure or a quiet moment does: for the counts."""
    for channel in range(s[m + BLOCKS]):
        block = m + HEADER + channel * s[m + CHANNEL]
        for i in range(s[m + SETS] * sets.WAYS):
            state = block + s[m + STATES] + i * EACH
            if s[state + LINES]:
                unit = (s[block + s[m + UNITS] + i] >> 1) - 1
                _write_back(s, m, block, unit, s[state + LINES], 0)
                s[state + LINES] = 0
