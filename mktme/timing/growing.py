"""A table of the pages that a trace has touched: what grows with the footprint, and with nothing else.

One vector, as a machine's: a hash table of page numbers and, for each page, a slot of words. A compiled
loop checks `full` before each access and leaves when there is no room; `grown` gives a larger one.
"""

from __future__ import annotations

import numpy as np

from mktme.crypto.kernel import inline, kernel, part
from mktme.timing.words import State, Vector, words_at

MASK, COUNT, LIMIT, WORDS, SLOTS = range(5)
TABLE = 8  # pairs: a page's number plus one, the place of its slot
MARGIN = 8  # pages that an access may add beside its own: of lines that leave caches
START = 1 << 8


def new(words: int, capacity: int = START) -> Vector:
    """A table with room for half its capacity, and slots of as many words, all 0."""
    slots = TABLE + 2 * capacity
    made = np.zeros(slots + capacity // 2 * words, np.int64)
    made[MASK], made[LIMIT], made[WORDS], made[SLOTS] = capacity - 1, capacity // 2, words, slots
    return made


def grown(table: Vector) -> Vector:
    """The same with room for twice as much."""
    made = new(int(table[WORDS]), 2 * (int(table[MASK]) + 1))
    _move(table, made)
    return made


@inline
def full(g: State, pages: int) -> bool:
    """Whether an access to some pages might need more room than there is."""
    return g[COUNT] + pages + MARGIN > g[LIMIT]


@part
def slot(g: State, page: int) -> int:
    """Where a page's slot is; it gets one at first use."""
    mask = g[MASK]
    at = (page * -7046029254386353131 >> 20) & mask  # 2**64 / golden ratio
    while True:
        key = g[TABLE + 2 * at]
        if key == page + 1:
            return g[TABLE + 2 * at + 1]
        if key == 0:
            place = g[SLOTS] + g[COUNT] * g[WORDS]
            g[COUNT] += 1
            g[TABLE + 2 * at], g[TABLE + 2 * at + 1] = page + 1, place
            return place
        at = (at + 1) & mask


@kernel()
def _move(small: Vector, large: Vector) -> None:
    old, new = words_at(small.ctypes.data), words_at(large.ctypes.data)
    for at in range(old[MASK] + 1):
        page = old[TABLE + 2 * at] - 1
        if page >= 0:
            source, target = old[TABLE + 2 * at + 1], slot(new, page)
            for i in range(old[WORDS]):
                new[target + i] = old[source + i]
