"""Places of a queue: a word each, of when the place comes free."""

from __future__ import annotations

from mktme.crypto.kernel import inline, part
from mktme.timing.words import State


@inline
def take(s: State, base: int, count: int, turn: int, t: int) -> int:
    """A place for what comes at t: the next in turn if it is free by then, else the first to come free.

    `turn` is a word that counts. The place is to be set by what takes it.
    """
    place = base + s[turn]
    following = s[turn] + 1
    s[turn] = 0 if following == count else following
    if s[place] <= t:
        return place
    return _first(s, base, count)


@part
def _first(s: State, base: int, count: int) -> int:
    place, least = base, s[base]
    for at in range(base + 1, base + count):
        free = s[at]
        if free < least:
            place, least = at, free
    return place
