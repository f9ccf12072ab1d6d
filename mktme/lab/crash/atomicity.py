"""What encryption makes of an atomic store: the power fails while one of 8 bytes is on its way.

Each scheme writes the line once, then 8 bytes of it change and are written back. What differs on the
medium may have landed in part: words of 8 bytes, or lines of 64, of the data and of what is kept
beside it. Each such state is read as its owner would.
"""

from __future__ import annotations

import itertools
import random
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

import pmem
from mktme.errors import MktmeError
from mktme.lab.crash.worlds import room, world
from mktme.lab.iv.subjects import Subject, subjects
from pmem.geometry import LINE, PAGE

WORD = 8
SIZE = PAGE
AT = 5 * LINE + 16  # where the store goes
ALL = 8  # pieces of which all subsets are looked at
DRAWN = 96  # subsets that are looked at otherwise
Progress = Callable[[str, int, int], None]


def study(
    names: list[str] | None = None, seed: int = 0, progress: Progress | None = None
) -> list[dict[str, Any]]:
    """What each scheme makes of an atomic store, a row for each.

    `changed`: words of the data that differ on the medium, `beside`: words beside it. Under "words" (8
    bytes persist whole), "lines" (64) and "together" (lines, with what is kept beside them as one):
    `states` looked at, in how many of them the store is neither there nor not (`broken`), `lost`,
    bytes that are then neither old nor new at worst, `poisoned` states.

    Raises SchemeError for a name that isn't registered.
    """
    chosen: list[tuple[Subject | None, int | None]] = [] if names else [(None, None)]
    for subject in subjects(names):
        wide = subject.scheme.name == "direct-key"  # its ciphers take a line as a unit, too
        chosen += [(subject, LINE), (subject, None)] if wide else [(subject, None)]
    rows = []
    for i, (made, unit) in enumerate(chosen):
        if progress is not None:
            progress(made.name if made else "no encryption", i, len(chosen))
        rows.append(_row(made, unit, seed))
    return rows


def _row(subject: Subject | None, unit: int | None, seed: int) -> dict[str, Any]:
    draw = np.random.Generator(np.random.PCG64(seed))
    before, store = draw.bytes(SIZE), draw.bytes(WORD)
    after = before[:AT] + store + before[AT + WORD :]
    size = SIZE if subject is None else room(subject, SIZE)
    with (
        tempfile.TemporaryDirectory(prefix="mktme-crash-") as folder,
        pmem.create(Path(folder) / "line.img", size) as device,
    ):
        region = None if subject is None else world(subject, SIZE, unit=unit)(device)
        memory = device if region is None else region
        memory.write(0, before)
        old = device.read(0, size)
        memory.write(AT, store)
        new = device.read(0, size)

        def look(state: bytes) -> tuple[bool, int, bool]:
            device.write(0, state)
            try:
                seen = memory.read(0, SIZE)
            except MktmeError:
                return True, 0, True
            lost = sum(s not in (b, a) for s, b, a in zip(seen, before, after, strict=True))
            return seen not in (before, after), lost, False

        words = _differing(old, new, WORD)
        return {
            "scheme": subject.scheme.name if subject else "none",
            "cipher": subject.algorithm if subject else "",
            "integrity": bool(subject and subject.integrity),
            "unit": region.unit if region else None,
            "changed": sum(at < SIZE for at in words),
            "beside": sum(at >= SIZE for at in words),
            "words": _outcome(look, old, new, [[at] for at in words], WORD, seed),
            "lines": _outcome(look, old, new, [[at] for at in _differing(old, new, LINE)], LINE, seed),
            "together": _outcome(look, old, new, [_differing(old, new, LINE)], LINE, seed),
        }


def _differing(old: bytes, new: bytes, step: int) -> list[int]:
    return [at for at in range(0, len(old), step) if old[at : at + step] != new[at : at + step]]


def _outcome(
    look: Callable[[bytes], tuple[bool, int, bool]],
    old: bytes,
    new: bytes,
    pieces: list[list[int]],
    step: int,
    seed: int,
) -> dict[str, int]:
    """What is seen of the states in which some pieces have landed."""
    states = broken = lost = poisoned = 0
    for landed in _subsets(len(pieces), seed):
        image = bytearray(old)
        for i in landed:
            for at in pieces[i]:
                image[at : at + step] = new[at : at + step]
        wrong, gone, poison = look(bytes(image))
        states, broken, lost, poisoned = states + 1, broken + wrong, max(lost, gone), poisoned + poison
    return {"states": states, "broken": broken, "lost": lost, "poisoned": poisoned}


def _subsets(count: int, seed: int) -> Iterator[tuple[int, ...]]:
    """All subsets of so many pieces, or none, all, each alone and some that are drawn."""
    every = range(count)
    if count <= ALL:
        yield from (some for k in range(count + 1) for some in itertools.combinations(every, k))
        return
    yield from ((), tuple(every))
    draw = random.Random(seed)
    yield from ((i,) for i in draw.sample(every, min(count, DRAWN // 2)))
    for _ in range(DRAWN // 2):
        yield tuple(sorted(draw.sample(every, draw.randint(2, count - 1))))
