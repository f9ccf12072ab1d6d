"""What somebody can do who writes to the medium without the key: move, replay, flip a bit."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from mktme.errors import PoisonError
from mktme.lab.iv.attacks import Mover, Replayer
from mktme.lab.iv.subjects import Subject
from mktme.lab.iv.world import ALICE, MALLORY, WIRING, Bytes, Dimm, World

FLIPS = 48


def relocation(folder: Path, subject: Subject, data: Bytes) -> dict[str, Any]:
    """Mallory puts Alice's ciphertext over a file of her own, at the same blocks, and reads it.

    `recovered`: the fraction of Alice's bytes that one of her guesses has (1/256 by chance),
    `masked`: whether that took the known mask of XE or XEX. `detected`: a MAC stopped it.
    """
    with World(folder, subject) as world:
        world.write(ALICE, 0, data)
        world.write(MALLORY, 1, np.zeros_like(data))
        mover = Mover(Dimm(world), lambda: world.read(MALLORY, 1, data.size), subject.scheme)
        try:
            guesses = mover.recover(0, 1, data.size, WIRING)
        except PoisonError as error:
            return {"detected": True, "recovered": 0.0, "masked": False, "evidence": str(error)}
        right = [float((guess == data).mean()) for guess in guesses]
    best = int(np.argmax(right))
    return {"detected": False, "recovered": right[best], "masked": best > 0}


def replay(folder: Path, subject: Subject, old: Bytes, new: Bytes) -> dict[str, Any]:
    """Mallory saves a place, Alice writes it anew, Mallory puts back what was there.

    Once the data alone, once with the metadata beside it: what Alice reads then is the old
    data ("accepted"), something else ("garbage"), or nothing ("detected").
    """
    outcome = {}
    for name, beside in (("data", False), ("data and metadata", True)):
        with World(folder, subject) as world:
            world.write(ALICE, 0, old)
            replayer = Replayer(Dimm(world), 0, old.size)
            world.write(ALICE, 0, new)
            replayer.put_back(beside=beside)
            try:
                seen = world.read(ALICE, 0, old.size)
            except PoisonError:
                outcome[name] = "detected"
            else:
                outcome[name] = "accepted" if (seen == old).all() else "garbage"
    return outcome


def flips(folder: Path, subject: Subject, data: Bytes, seed: int) -> dict[str, Any]:
    """Mallory flips bits of the ciphertext, one at a time.

    `bits`: how many bits of plaintext change, on average; `span`: from the first to the last
    changed byte, at most; `chosen`: how often exactly the flipped bit changes, or is one of those
    that change outside of the 16-byte block that it lies in; `detected`: how often a MAC stops it.
    """
    rng = np.random.default_rng(seed)
    bits, spans, chosen, detected, alone = [], [], 0, 0, 0
    with World(folder, subject) as world:
        world.write(ALICE, 0, data)
        dimm = Dimm(world)
        for bit in rng.integers(0, 8 * data.size, FLIPS).tolist():
            dimm.flip(0, bit)
            try:
                delta = world.read(ALICE, 0, data.size) ^ data
            except PoisonError:
                detected += 1
            else:
                touched = np.flatnonzero(delta)
                bits.append(int(np.bitwise_count(delta[touched]).sum()))
                spans.append(int(touched[-1] - touched[0]) + 1)
                alone += bits[-1] == 1 and bool(delta[bit // 8] == 1 << bit % 8)
                following = bit // 8 + 16
                chosen += bool(following < data.size and delta[following] == 1 << bit % 8)
            dimm.flip(0, bit)
    seen = max(1, len(bits))
    return {
        "tries": FLIPS,
        "detected": detected,
        "bits": sum(bits) / seen,
        "span": max(spans, default=0),
        "alone": alone,
        "chosen_next": chosen,
    }
