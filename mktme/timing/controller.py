"""The memory controller's queues: interleaved channels, each with a bus, a read queue and a WPQ.

A read waits for a place among the reads in flight, a write for a place in the write-pending queue; it is
durable (ADR) when it has one.
"""

from __future__ import annotations

from dataclasses import dataclass

from mktme.crypto.kernel import inline, part
from mktme.timing import media, slots
from mktme.timing.media import Media, serve_read, serve_write
from mktme.timing.parameters import Component, parameter
from mktme.timing.words import State, Words, ps
from pmem.geometry import LINE

# Words of the header. READ_STALLS, WRITE_STALLS: ps that requests waited for a place in their queue.
(CHANNELS, SHIFT, READ_QUEUE, WRITE_QUEUE, BUS, MEDIA, CHANNEL) = range(7)
(READS, WRITES, READ_STALLS, WRITE_STALLS, COALESCED, ENTERING) = range(7, 13)
HEADER = 16
# A channel's block: until when the bus carries reads and writes, the next place of each queue, then when
# each place comes free (reads, writes), and which line is in it (writes).
SLOTS, NEXT_READ, NEXT_WRITE, QUEUES = 0, 2, 3, 8


@dataclass(frozen=True, kw_only=True)
class Controller(Component):
    """Queues in front of the media."""

    channels: int = parameter(6, "", "Yang et al., FAST 2020: six DIMMs, one a channel", low=1, high=64)
    interleave: int = parameter(
        4096, "B", "Yang et al., FAST 2020: 4 KiB to a DIMM in turn", low=LINE, high=1 << 30, power=True
    )
    read_queue: int = parameter(48, "", "a channel's reads in flight: Skylake-SP's RPQ", low=1, high=4096)
    write_queue: int = parameter(24, "", "a channel's WPQ: Skylake-SP", low=1, high=4096)
    line_bus_ns: float = parameter(3.0, "ns", "DDR4-2666: 21.3 GB/s a channel")
    enter_ns: float = parameter(
        60.0, "ns", "Yang et al., FAST 2020: store, CLWB and fence take 62 ns, less the store's 2"
    )
    nontemporal_ns: float = parameter(
        30.0, "ns", "Yang et al., FAST 2020: a nontemporal store and a fence take 90 ns"
    )

    def lay(self, words: Words, cells: Media) -> int:
        """Its place among the words, and that of the media behind it."""
        block = -(-(QUEUES + self.read_queue + 2 * self.write_queue) // 8) * 8
        place = words.take(
            HEADER + block * self.channels,
            self.channels,
            (self.interleave // LINE).bit_length() - 1,
            self.read_queue,
            self.write_queue,
            ps(self.line_bus_ns),
        )
        words[place + CHANNEL] = block
        words[place + ENTERING] = ps(self.enter_ns)
        words[place + MEDIA] = cells.lay(words, self.channels)
        return place


@inline
def _where(s: State, q: int, line: int) -> tuple[int, int]:
    """The channel that a line is on, and its number there."""
    channels, shift = s[q + CHANNELS], s[q + SHIFT]
    stripe = line >> shift
    turn = stripe // channels
    return stripe - turn * channels, (turn << shift) | (line & ((1 << shift) - 1))


@part
def read(s: State, q: int, line: int, t: int) -> int:
    """When a line that is asked for at t has come."""
    channel, own = _where(s, q, line)
    block = q + HEADER + channel * s[q + CHANNEL]
    place = slots.take(s, block + QUEUES, s[q + READ_QUEUE], block + NEXT_READ, t)
    s[q + READS] += 1
    if s[place] > t:
        s[q + READ_STALLS] += s[place] - t
        t = s[place]
    if s[q + BUS]:  # a slot on the bus is taken when the request goes out: what is quick may overtake
        t = serve_read(s, block + SLOTS, t, s[q + BUS], s[q + BUS])
    came = media.read(s, s[q + MEDIA], channel, own, t)
    s[place] = came
    return came


@part
def write(s: State, q: int, line: int, t: int) -> int:
    """When a line that comes at t is in the write-pending queue: durable."""
    channel, own = _where(s, q, line)
    block = q + HEADER + channel * s[q + CHANNEL]
    place = slots.take(s, block + QUEUES + s[q + READ_QUEUE], s[q + WRITE_QUEUE], block + NEXT_WRITE, t)
    s[q + WRITES] += 1
    arrives = t
    if s[place] > t:
        s[q + WRITE_STALLS] += s[place] - t
        t = s[place]
    over = t
    if s[q + BUS]:
        over = serve_write(s, block + SLOTS, t, s[q + BUS]) + s[q + BUS]
    s[place] = media.write(s, s[q + MEDIA], channel, own, over)
    s[place + s[q + WRITE_QUEUE]] = line + 1
    return max(t, arrives + s[q + ENTERING])


@part
def waiting(s: State, q: int, line: int, t: int) -> bool:
    """Whether a line's last write is still in the queue at t: another one can take its place."""
    channel, _ = _where(s, q, line)
    block = q + HEADER + channel * s[q + CHANNEL]
    base = block + QUEUES + s[q + READ_QUEUE]
    count = s[q + WRITE_QUEUE]
    for place in range(base, base + count):
        if s[place] > t and s[place + count] == line + 1:
            s[q + COALESCED] += 1
            return True
    return False
