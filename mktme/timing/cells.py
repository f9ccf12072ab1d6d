"""Bits that change in the cells when a line is written, where the trace carries what is stored.

Of each line that the trace stores to we keep what it is now and what is on the media, as plaintext; what
its ciphertext is follows from a pad that depends on line and counter. The pad is drawn by a mixing
function (SplitMix64, Steele et al., OOPSLA 2014), not by AES: only how many bits differ is of interest
here, and two pads differ in half of their bits either way.

- plain: the bits that the stores changed.
- counter: a new pad for every write: half of all bits.
- xts: each block of 16 bytes that changed is half new; the others stay, as XTS is deterministic.
- deuce: Young, Nair, Qureshi, ASPLOS 2015: words of 2 bytes that have changed since the beginning of the
  epoch (32 writes) get the new pad; the others keep the epoch's. Changes of the 32 bits that mark such words
  are counted, those of the counter are not, in any model.

Lines are taken to be 0 at first, encrypted with counter 0.
"""

from __future__ import annotations

from mktme.crypto.kernel import part
from mktme.timing import growing
from mktme.timing.words import CELLS, State, Words
from pmem.geometry import LINE, PAGE

PLAIN, COUNTER, XTS, DEUCE = range(4)
# Words of the header; LINES: written lines that were compared, FLIPS: of their bits.
MODEL, LINES, FLIPS, ACTIVE = range(4)
EPOCH = 32  # writes; DEUCE, section 4
# A page's slot: counters of its lines and how often each has changed since its line of counters was persisted
# (for counter mode, eight to a word); where there is data, its 512 words now and on the media, writes and
# marks of each line.
MINORS, UPDATES, NOW, MEDIA, WRITES, MARKS = 0, 8, 16, 528, 1040, 1104
WORDS = LINE // 8
WITHOUT_DATA, WITH_DATA = 16, 1168
_PAGE_LINES = PAGE // LINE


def lay(words: Words, model: int, data: bool) -> int:
    """Its place among the words."""
    return words.take(8, model, 0, 0, data)


@part
def mix(value: int) -> int:
    """SplitMix64's output function, on the bits of a signed word."""
    z = value * -7046029254386353131
    z = (z ^ ((z >> 30) & 0x3FFFFFFFF)) * -4658895280553007687
    z = (z ^ ((z >> 27) & 0x1FFFFFFFFF)) * -7723592293110705685
    return z ^ ((z >> 31) & 0x1FFFFFFFF)


@part
def ones(value: int) -> int:
    """How many of 64 bits are set."""
    v = value - ((value >> 1) & 0x5555555555555555)
    v = (v & 0x3333333333333333) + ((v >> 2) & 0x3333333333333333)
    v = (v + (v >> 4)) & 0x0F0F0F0F0F0F0F0F
    return ((v * 0x0101010101010101) >> 56) & 0x7F


@part
def store(g: State, address: int, size: int, data: State, at: int) -> None:
    """Bytes of the trace are stored; at most to the end of a line."""
    base = growing.slot(g, address // PAGE)
    for i in range(size):
        place = (address + i) % PAGE
        word, bits = base + NOW + place // 8, 8 * (place % 8)
        g[word] = (g[word] & ~(0xFF << bits)) | (data[at + i] << bits)


@part
def pad(line: int, word: int, counter: int) -> int:
    """64 bits of the pad of a line under a counter."""
    return mix(mix(line * 8 + word) ^ mix(counter + 0x5851F42D4C957F2D))


@part
def written(s: State, g: State, line: int) -> None:
    """Count the bits that change as a line is written to the media."""
    c = s[CELLS]
    if not s[c + ACTIVE]:
        return
    base = growing.slot(g, line // _PAGE_LINES)
    number = line % _PAGE_LINES
    now, there = base + NOW + number * WORDS, base + MEDIA + number * WORDS
    model = s[c + MODEL]
    if model == PLAIN:
        flips = 0
        for i in range(WORDS):
            flips += ones(g[now + i] ^ g[there + i])
    elif model == XTS:
        flips = _xts(g, now, there, line)
    elif model == COUNTER:
        flips = _counter(g, now, there, line, g[base + WRITES + number])
    else:
        flips = _deuce(g, now, there, line, base + WRITES + number, base + MARKS + number)
    g[base + WRITES + number] += 1
    for i in range(WORDS):
        g[there + i] = g[now + i]
    s[c + LINES] += 1
    s[c + FLIPS] += flips


@part
def _counter(g: State, now: int, there: int, line: int, count: int) -> int:
    flips = 0
    for i in range(WORDS):
        flips += ones(g[now + i] ^ g[there + i] ^ pad(line, i, count) ^ pad(line, i, count + 1))
    return flips


@part
def _xts(g: State, now: int, there: int, line: int) -> int:
    flips = 0
    for i in range(0, WORDS, 2):
        if g[now + i] != g[there + i] or g[now + i + 1] != g[there + i + 1]:
            before = mix(mix(g[there + i] ^ mix(line * 8 + i)) ^ g[there + i + 1])
            after = mix(mix(g[now + i] ^ mix(line * 8 + i)) ^ g[now + i + 1])
            flips += ones(before ^ after) + ones(mix(before) ^ mix(after))
    return flips


@part
def _deuce(g: State, now: int, there: int, line: int, writes: int, marks: int) -> int:
    count, before = g[writes] + 1, g[marks]
    if count % EPOCH == 0:
        after = 0
    else:
        after = before
        for i in range(WORDS):
            change = g[now + i] ^ g[there + i]
            for part_of in range(4):
                if (change >> (16 * part_of)) & 0xFFFF:
                    after |= 1 << (4 * i + part_of)
    flips = ones(before ^ after)
    old_epoch, epoch = (count - 1) // EPOCH * EPOCH, count // EPOCH * EPOCH
    for i in range(WORDS):
        was = g[there + i] ^ _mixed(pad(line, i, count - 1), pad(line, i, old_epoch), before >> (4 * i))
        will = g[now + i] ^ _mixed(pad(line, i, count), pad(line, i, epoch), after >> (4 * i))
        flips += ones(was ^ will)
    g[marks] = after
    return flips


@part
def _mixed(new: int, old: int, marks: int) -> int:
    """The new pad for the marked words of 16 bits, the old for the others."""
    mask = 0
    for part_of in range(4):
        if (marks >> part_of) & 1:
            mask |= 0xFFFF << (16 * part_of)
    return (new & mask) | (old & ~mask)
