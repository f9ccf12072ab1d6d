"""Which subsets of the stores at a fence are looked at: the engines of pmreorder, by its names.

(https://pmem.io/pmdk/manpages/linux/master/pmreorder/pmreorder.1/, "ENGINES".)
"""

from __future__ import annotations

import itertools
import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from mktme.errors import CrashError

Subset = tuple[int, ...]
PARTIAL = 3  # subsets that the partial engine draws, as many as pmreorder does by default


@dataclass(frozen=True)
class Engine:
    """A way to choose among n stores: how many subsets it gives, and the subsets, as ascending indices."""

    name: str
    what: str
    count: Callable[[int], int]
    subsets: Callable[[int, int], Iterator[Subset]]  # of n, by a seed


def _full(n: int, seed: int) -> Iterator[Subset]:
    return (chosen for k in range(n + 1) for chosen in itertools.combinations(range(n), k))


def _partial(n: int, seed: int) -> Iterator[Subset]:
    draw = random.Random(seed)
    masks = draw.sample(range(1 << n), min(PARTIAL, 1 << n)) if n < 60 else _masks(draw, n)
    return (tuple(i for i in range(n) if mask >> i & 1) for mask in masks)


def _masks(draw: random.Random, n: int) -> list[int]:
    drawn: dict[int, None] = {}
    while len(drawn) < PARTIAL:
        drawn[draw.getrandbits(n)] = None
    return list(drawn)


ENGINES = {
    engine.name: engine
    for engine in (
        Engine("none", "all stores are there", lambda n: 1, lambda n, seed: iter([tuple(range(n))])),
        Engine("full", "every subset", lambda n: 1 << n, _full),
        Engine("partial", f"{PARTIAL} subsets, drawn", lambda n: min(PARTIAL, 1 << n), _partial),
        Engine(
            "accumulative",
            "none, the first store, the first two, and so on",
            lambda n: n + 1,
            lambda n, seed: (tuple(range(i)) for i in range(n + 1)),
        ),
        Engine(
            "reverse-accumulative",
            "none, the last store, the last two, and so on",
            lambda n: n + 1,
            lambda n, seed: (tuple(range(n - i, n)) for i in range(n + 1)),
        ),
    )
}


def engine_of(name: str) -> Engine:
    """An engine by its name. Raises CrashError."""
    if name not in ENGINES:
        raise CrashError(f"there is no engine {name!r}: there are {', '.join(ENGINES)}")
    return ENGINES[name]
