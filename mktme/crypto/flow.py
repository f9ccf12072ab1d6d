"""How the data of a long request moves: what is asked for ahead, and stores around the cache."""

from __future__ import annotations

from mktme.crypto.aes import Vector
from mktme.crypto.kernel import inline
from mktme.crypto.simd import prefetch_far, store, store_stream, store_stream16

AHEAD = 8192  # how far ahead of its place a long source is asked for, in bytes

# How a pass stores: through the cache, or around it to a destination at a multiple of 64, or 16
# bytes past one (where the C library's allocator puts every large buffer).
CACHED, STREAM, STREAM16 = 0, 1, 2


@inline
def put(to: int, x: Vector, how: int) -> None:
    """Store a pack of whole lines, one of the ways above."""
    if how == CACHED:
        store(to, x)
    elif how == STREAM:
        store_stream(to, x)
    else:
        store_stream16(to, x)


@inline
def around(to: int, stream: bool) -> int:
    """How to store to a place: around the cache if that is wanted and possible there."""
    if not stream:
        return CACHED
    return STREAM if to & 63 == 0 else STREAM16 if to & 63 == 16 else CACHED


@inline
def ask(address: int, length: int, how: int) -> None:
    """Prefetch what lies ahead of a place, in requests long enough to be streamed."""
    if how:
        for i in range(0, length, 64):
            prefetch_far(address + AHEAD + i)
