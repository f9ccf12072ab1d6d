"""The encryption engine between caches and memory controller.

- xts: the tweak is computed while the line is fetched, the data's AES is on the way of every read; before
  a write come both. AES is pipelined: its latency is paid by each line, its rate by all of them.
- counter: the pad is computed while the line is fetched, if the counter is at hand, see `counters`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from mktme.crypto.kernel import part
from mktme.errors import TimingError
from mktme.timing import cells, controller, counters
from mktme.timing.counters import Counters
from mktme.timing.parameters import Component, parameter
from mktme.timing.words import ENGINE, PMEM, State, Words, ps

MODES = ("none", "xts", "counter")
NONE, XTS, COUNTER = range(3)
# Words of the header. FREE: when the pipeline takes the next line; LINES: that went through it.
MODE, AES, LINE, XOR, FREE, COUNTERS, READS, WRITES, PARTIAL, CRYPTED = range(10)
HEADER = 16


@dataclass(frozen=True, kw_only=True)
class Engine(Component):
    """What encrypts a line on its way. `mode`: none, xts or counter."""

    CHOICES: ClassVar = MODES

    mode: str = parameter("none", "", "what is compared: none, xts, counter")
    aes_ns: float = parameter(40.0, "ns", "assumed, after Ye et al., MICRO 2018 (Osiris): AES latency")
    xor_ns: float = parameter(0.3, "ns", "a cycle at 3.1 GHz")
    line_ns: float = parameter(
        0.5, "ns", "assumed: a pipeline a channel, a block of 16 B a cycle at 1.33 GHz: as fast as the bus"
    )
    deuce: bool = parameter(False, "", "counter mode rewrites changed words only (Young et al., ASPLOS 2015)")
    aes_pj_per_bit: float = parameter(
        2.36, "pJ/bit", "Mathew et al., JSSC 46(4), 2011: 125 mW at 53 Gbit/s, 45 nm"
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.mode not in MODES:
            raise TimingError(f"Engine.mode = {self.mode!r}: it must be one of {', '.join(MODES)}")
        if self.deuce and self.mode != "counter":
            raise TimingError(f"Engine.deuce is a counter mode: the mode is {self.mode}")

    @property
    def cells(self) -> int:
        """The model of bits that change."""
        if self.mode == "counter":
            return cells.DEUCE if self.deuce else cells.COUNTER
        return cells.XTS if self.mode == "xts" else cells.PLAIN

    def lay(self, words: Words, counting: Counters, lines: int) -> int:
        """Its place among the words, for a device of as many lines."""
        mode = MODES.index(self.mode)
        place = words.take(HEADER, mode, ps(self.aes_ns), ps(self.line_ns), ps(self.xor_ns))
        if mode == COUNTER:
            words[place + COUNTERS] = counting.lay(words, lines)
        return place


@part
def _enter(s: State, e: int, t: int) -> int:
    """How long a line that is asked for at t waits for its turn in the pipeline."""
    start = max(t, s[e + FREE])
    s[e + FREE] = start + s[e + LINE]
    s[e + CRYPTED] += 1
    return start - t


@part
def fetch(s: State, g: State, line: int, t: int) -> int:
    """When a line of the device, asked for at t, has come as plaintext."""
    e = s[ENGINE]
    s[e + READS] += 1
    came = controller.read(s, s[PMEM], line, t)
    mode = s[e + MODE]
    if mode == NONE:
        return came
    if mode == XTS:
        return came + _enter(s, e, t) + s[e + AES]
    known = counters.for_read(s, g, s[e + COUNTERS], line, t)
    pad = known + _enter(s, e, t) + s[e + AES]
    return max(came, pad) + s[e + XOR]


@part
def write_back(s: State, g: State, line: int, t: int) -> int:
    """When a whole line, handed over at t, is durable."""
    e = s[ENGINE]
    s[e + WRITES] += 1
    cells.written(s, g, line)
    mode = s[e + MODE]
    if mode == NONE:
        return controller.write(s, s[PMEM], line, t)
    if mode == XTS:
        return controller.write(s, s[PMEM], line, t + _enter(s, e, t) + 2 * s[e + AES])
    c = s[e + COUNTERS]
    known = counters.for_write(s, g, c, line, t)
    sealed = known + _enter(s, e, t) + s[e + AES] + s[e + XOR]
    durable = controller.write(s, s[PMEM], line, sealed)
    return max(durable, counters.update(s, g, c, line, sealed))


@part
def write_part(s: State, g: State, line: int, t: int) -> int:
    """The same for some bytes of a line: under encryption it is read first."""
    s[s[ENGINE] + PARTIAL] += 1
    if s[s[ENGINE] + MODE] != NONE:
        t = fetch(s, g, line, t)
    return write_back(s, g, line, t)
