"""What somebody can do who writes to the medium without the key: move, replay, flip a bit."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from mktme.crypto.algorithms import ALGORITHMS
from mktme.errors import PoisonError
from mktme.lab.iv.attacks import Mover, Replayer
from mktme.lab.iv.subjects import Subject
from mktme.lab.iv.world import ALICE, MALLORY, Bytes, World, predicted_ivs
from mktme.mapping import Mapping
from pmem.geometry import LINE

FLIPS = 48
CHANCE = 0.02  # of bytes: guesses that hit by chance are 1/256
# What a scheme keeps beside the data, in the order of `Mapping.beside`; then there may be MACs.
KEPT = {
    "random": ("drawn IVs",),
    "global": ("next counter", "line counters"),
    "split": ("page counters",),
    "deuce": ("line counters",),
}


def relocation(folder: Path, subject: Subject, data: Bytes) -> dict[str, Any]:
    """Mallory puts Alice's ciphertext over a file of her own, at the same blocks, and reads it.

    `recovered`: the fraction of Alice's bytes that she has then (1/256 by chance), `masked`:
    whether she took off the known xor of two IVs. `detected`: a MAC stopped it.
    """
    scheme = subject.scheme
    count = data.size // scheme.unit
    ivs = predicted_ivs(scheme, MALLORY, 1, count), predicted_ivs(scheme, ALICE, 0, count)
    xored = ALGORITHMS[subject.algorithm].iv_xored
    with World(folder, subject) as world:
        world.write(ALICE, 0, data)
        world.write(MALLORY, 1, np.zeros_like(data))
        mover = Mover(world.dimm, scheme.unit, xored, None if scheme.seal else ivs)
        mover.put(0, 1, data.size)
        try:
            guess = mover.recover(world.read(MALLORY, 1, data.size))
        except PoisonError as error:
            return {"detected": True, "recovered": 0.0, "masked": False, "evidence": str(error)}
    return {"detected": False, "recovered": float((guess == data).mean()), "masked": mover.masked}


def replay(folder: Path, subject: Subject, old: Bytes, new: Bytes) -> dict[str, Any]:
    """Mallory saves a place, Alice writes it anew, Mallory puts back what was there.

    Once the data alone, once with the metadata beside it. `outcome`: what Alice reads then is the
    old data ("accepted"), the old data in part ("partly"), something else ("garbage") or nothing
    ("detected"). `restored`: the fraction of the bytes that she had changed which read as
    before; `as_old`: the same of all bytes, also those that the two versions have in common.
    """
    outcome = {}
    for name, beside in (("data", False), ("data and metadata", True)):
        with World(folder, subject) as world:
            world.write(ALICE, 0, old)
            replayer = Replayer(world.dimm, 0, old.size)
            world.write(ALICE, 0, new)
            replayer.put_back(beside=beside)
            try:
                seen = world.read(ALICE, 0, old.size)
            except PoisonError:
                outcome[name] = {"outcome": "detected", "restored": 0.0, "as_old": 0.0}
            else:
                outcome[name] = _restored(seen, old, new)
    return outcome


def _restored(seen: Bytes, old: Bytes, new: Bytes) -> dict[str, Any]:
    same = seen == old
    restored = float(same[old != new].mean())
    outcome = "accepted" if same.all() else "partly" if restored > CHANCE else "garbage"
    return {"outcome": outcome, "restored": restored, "as_old": float(same.mean())}


def flips(folder: Path, subject: Subject, data: Bytes, seed: int) -> dict[str, Any]:
    """Mallory flips bits of the ciphertext, one at a time, then bits of what is kept beside it.

    `detected`: how often a MAC stops it; `nothing`, `garbage`: how often the plaintext stays as it
    was or changes. `bits`: how many bits of it change, on average; `span`: from the first to the
    last changed byte, at most. `alone`: how often it is exactly one bit, and `chosen_next`:
    how often that of the next 16-byte block changes and no other of its byte; both are the
    bit that was flipped, where it was one of ciphertext. `beside`: the same for each kind of
    metadata, but for `chosen_next`.
    """
    rng = np.random.default_rng(seed)
    with World(folder, subject) as world:
        world.write(ALICE, 0, data ^ np.uint8(0xFF))
        world.write(ALICE, 0, data)  # the second time, so that counters have moved on
        dimm = world.dimm
        found = _flip(world, data, rng.integers(0, 8 * data.size, FLIPS).tolist(), dimm.flip, True)
        beside = {}
        for name, bits in _bits_beside(subject, data.size, rng).items():
            beside[name] = _flip(world, data, bits, dimm.flip_beside, False)
    return found | {"beside": beside}


def _bits_beside(subject: Subject, size: int, rng: np.random.Generator) -> dict[str, list[int]]:
    """For each kind of metadata, bits of entries of the first slot that writing to it changes."""
    scheme = subject.scheme
    mapping = Mapping(scheme, scheme.unit, World.address(0), size, subject.integrity)
    lines = np.arange(0, size, LINE, dtype=np.uint64) + np.uint64(World.address(0))
    kinds = KEPT.get(scheme.state, ()) + (("MACs",) if subject.integrity else ())
    made = {}
    for name, places in zip(kinds, mapping.beside(lines), strict=True):
        entries = np.unique(places)
        # Entries lie side by side; one alone is a counter of 64 bits.
        bits = 8 * (int(np.diff(entries).min()) if entries.size > 1 else 8)
        made[name] = [
            8 * int(entry) + int(rng.integers(bits)) for entry in rng.choice(entries, FLIPS, replace=True)
        ]
    return made


def _flip(
    world: World, data: Bytes, places: list[int], flip: Callable[[int, int], None], own: bool
) -> dict[str, Any]:
    """Flip one bit after the other, and back; `own`: they are the data's own bits."""
    bits, spans, detected, alone, following = [], [], 0, 0, 0
    for bit in places:
        flip(0, bit)
        try:
            delta = world.read(ALICE, 0, data.size) ^ data
        except PoisonError:
            detected += 1
        else:
            touched = np.flatnonzero(delta)
            if touched.size:
                bits.append(int(np.bitwise_count(delta[touched]).sum()))
                spans.append(int(touched[-1] - touched[0]) + 1)
                at, mask = bit // 8, 1 << bit % 8
                alone += bits[-1] == 1 and (not own or bool(delta[at] == mask))
                following += own and at + 16 < data.size and bool(delta[at + 16] == mask)
        flip(0, bit)
    found = {
        "tries": len(places),
        "detected": detected,
        "nothing": len(places) - detected - len(bits),
        "garbage": len(bits),
        "bits": sum(bits) / max(1, len(bits)),
        "span": max(spans, default=0),
        "alone": alone,
    }
    return found | ({"chosen_next": following} if own else {})
