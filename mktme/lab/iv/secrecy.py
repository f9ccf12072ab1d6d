"""What somebody sees who only looks: equal plaintext at different places, and at different times."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from mktme.lab.iv.attacks import Linker, Watcher, lines_of
from mktme.lab.iv.subjects import Subject
from mktme.lab.iv.world import ALICE, BOB, Bytes, World


def places(folder: Path, subject: Subject, data: Bytes) -> dict[str, Any]:
    """Equal plaintext at different places: one file's data stored as two files.

    `lines`: lines whose plaintext is somewhere else, too. `linked`: those of them that an
    observer of the medium tells. `wrong`: lines that it tells and that aren't.
    """
    with World(folder, subject) as world:
        world.write(ALICE, 0, data)
        world.write(BOB, 1, data)
        dimm = world.dimm
        media = np.concatenate([dimm.save(slot, data.size).data for slot in (0, 1)])
    linked = Linker(media).linked()
    truth = Linker(np.concatenate([data, data])).linked()
    return {
        "lines": int(truth.sum()),
        "linked": int((linked & truth).sum()),
        "wrong": int((linked & ~truth).sum()),
    }


def times(folder: Path, subject: Subject, versions: list[Bytes]) -> dict[str, Any]:
    """Equal plaintext at different times: versions of a database stored over each other.

    Version 0, then 1, then 0 again. `recurring`: lines that changed and came back.
    `recognised`: those of them that an observer tells. `kept`, `kept_seen`: the same for lines
    that were written three times with the same bytes. `wrong`: lines that it tells and that
    hold something else.
    """
    first, second = versions[0], versions[-1]
    with World(folder, subject) as world:
        dimm, moments = world.dimm, []
        for version in (first, second, first):
            world.write(ALICE, 0, version)
            moments.append(dimm.save(0, first.size).data)
    same = Watcher(moments).same(0, 2)
    changed = lines_of(first) != lines_of(second)
    back = Watcher(moments).same(0, 1)
    return {
        "recurring": int(changed.sum()),
        "recognised": int((same & changed).sum()),
        "kept": int((~changed).sum()),
        "kept_seen": int((back & ~changed).sum()),
        "wrong": int((back & changed).sum()),
    }
