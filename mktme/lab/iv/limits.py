"""Where schemes end: IVs that occur twice, counters that run out or are lost, chosen plaintexts."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from mktme.errors import CountersExhausted
from mktme.fscrypt.kdf import inode_hash
from mktme.iv.compiled import Binding
from mktme.lab.iv.attacks import LINE, PadThief, Watermarker
from mktme.lab.iv.dimm import Image
from mktme.lab.iv.subjects import Subject
from mktme.lab.iv.world import (
    ALICE,
    BOB,
    SLOT,
    WIRING,
    Bytes,
    File,
    World,
    coordinates,
    predicted_ivs,
    rewired,
)
from mktme.mapping import metadata_bytes

FILES, UNITS = 64, 512  # of the sweep over the coordinates of files
FAR = 1 << 32  # sectors: 2 TiB
MARKS = 64  # units of a watermarked file
WRITES = 160  # of one place: more than a 7-bit counter counts


def reuse(folder: Path, subject: Subject, data: Bytes) -> dict[str, Any]:
    """A sweep over coordinates as they are used: data units that share key and IV, and a proof.

    Swept are the blocks of FILES files one after another on the device, and the same again 2^32
    sectors further on. `repeated`: how many of the `units` have an IV that an earlier one had.
    `proof`: two places with equal IVs, stored with equal data, have equal ciphertext.
    """
    scheme = subject.scheme
    if scheme.state:
        return _state_reuse(folder, subject, data)
    seen = []
    for far in (0, 1):
        for number in range(FILES):
            file = File(100 + number + far * FILES, bytes([number + 1, far]) * 8)
            values = coordinates(scheme, file, number * SLOT + far * FAR * 512)
            binding = Binding(scheme, scheme.unit, values)
            ivs = binding.ivs(0, UNITS, binding.words)
            key = np.full((UNITS, 1), far * FILES + number if scheme.file_key else 0, np.uint64)
            seen.append(np.concatenate([key, ivs], axis=1))
    every = np.concatenate(seen)
    _, first = np.unique(every, axis=0, return_index=True)
    found = {"units": len(every), "repeated": len(every) - len(first)} | _proof(folder, subject, data)
    return found | ({"birthday": birthday()} if scheme.name == "ino-lblk-32" else {})


def _proof(folder: Path, subject: Subject, data: Bytes) -> dict[str, Any]:
    """Whether equal data of two files is equal on the medium, near each other and far apart."""
    size = min(data.size, 64 << 10)
    found = {}
    far = rewired(first_sector=WIRING.first_sector + FAR - SLOT // 512, system=1 << 44)
    for name, wiring in (("equal_in_two_files", WIRING), ("equal_past_2^32_sectors", far)):
        with World(folder, subject) as world:
            world.write(ALICE, 0, data[:size])
            world.write(BOB, 1, data[:size], wiring=wiring)
            dimm = world.dimm
            found[name] = bool((dimm.save(0, size).data == dimm.save(1, size).data).all())
    return found


def _state_reuse(folder: Path, subject: Subject, data: Bytes) -> dict[str, Any]:
    """The same for schemes with state: lines written over and over, always with other words.

    Compared are the pads (ciphertext xor plaintext) of counter mode, or the IVs that were drawn.
    `units`: how many data units were written, in all the `writes`.
    """
    size, seen = 4096, []
    with World(folder, subject) as world, world.file(ALICE, 0, 64 << 10) as region:
        dimm = world.dimm
        for number in range(WRITES):
            plain = data[:size] ^ np.uint8(number + 1)
            region.write(0, plain)
            image = dimm.save(0, 64 << 10)
            drawn = image.beside[: size // subject.scheme.unit * 16]
            seen.append(drawn if subject.scheme.state == "random" else image.data[:size] ^ plain)
        turned = getattr(region.lines(), "turned", None)
    rows = np.concatenate(seen).view("V16" if subject.scheme.state == "random" else f"V{LINE}")
    repeated = rows.size - np.unique(rows).size
    made = {"writes": WRITES, "units": int(rows.size), "repeated": int(repeated)}
    made |= {} if turned is None else {"pages_encrypted_anew": int(turned)}
    return made | {"equal_in_two_files": False, "equal_past_2^32_sectors": False}


def birthday(seed: int = 1, files: int = 4096, units: int = 4096) -> dict[str, Any]:
    """ino-lblk-32: pairs of files whose IVs overlap, counted, against the birthday bound.

    Two files of m units overlap with probability (2m - 1) / 2^32, so n of them have
    n (n - 1) / 2 times as many pairs. Counted under 8 keys of the inode hash.
    """
    rng = np.random.default_rng(seed)
    counted = []
    for _ in range(8):
        key = rng.bytes(16)
        starts = np.array([inode_hash(key, inode) for inode in range(files)])
        around = np.sort(np.concatenate([starts, starts + (1 << 32)]))
        reach = np.searchsorted(around, around[:files] + units, side="left") - np.arange(files) - 1
        counted.append(int(reach.sum()))
    expected = files * (files - 1) / 2 * (2 * units - 1) / (1 << 32)
    return {"files": files, "units": units, "expected_pairs": expected, "counted_pairs": counted}


def watermark(folder: Path, subject: Subject, seed: int) -> dict[str, Any]:
    """Mallory has Alice store a file that she made from the IVs that she predicts.

    `found`: units that she tells on the medium afterwards, of `marked`. Where IVs are drawn or
    encrypted under a key she predicts what she can: the IV before it is sealed.
    """
    scheme = subject.scheme
    count = max(MARKS, MARKS * 512 // scheme.unit)
    marker = Watermarker(predicted_ivs(scheme, ALICE, 0, count), scheme.unit, seed)
    made = marker.file()
    data = np.concatenate([made, np.zeros(-made.size % (64 << 10), np.uint8)])
    with World(folder, subject) as world:
        world.write(ALICE, 0, data)
        return {"marked": count, "found": marker.found(world.dimm.save(0, data.size).data[: made.size])}


def lost_state(folder: Path, subject: Subject, old: Bytes, new: Bytes) -> dict[str, Any]:
    """A power failure loses what was kept beside the data; the next write begins from there again.

    Mallory has the medium from before and after, and knows the old plaintext. `kept`: bytes that
    are lost. `changed`: bytes that differ between the versions; `recovered`: the fraction of those
    whose new plaintext she computes (as much as 1/256 is chance).
    """
    with World(folder, subject) as world:
        dimm = world.dimm
        before = dimm.save(0, old.size)
        world.write(ALICE, 0, old)
        earlier = dimm.save(0, old.size)
        dimm.put(0, Image(earlier.data, before.beside))  # the data was durable, the state was not
        world.write(ALICE, 0, new)
        later = dimm.save(0, old.size)
    guess = PadThief(earlier.data, later.data).plaintext(old)
    differ = old != new
    return {
        "kept": metadata_bytes(subject.scheme.name, old.size, integrity=subject.integrity),
        "changed": int(differ.sum()),
        "recovered": float((guess == new)[differ].mean()),
    }


def exhaustion(folder: Path, subject: Subject) -> dict[str, Any]:
    """What happens when a counter has no next value, by setting it there."""
    kind = subject.scheme.state
    if kind not in ("global", "split", "deuce"):
        return {"counter": None}
    with World(folder, subject) as world:
        data = np.arange(64 << 10, dtype=np.uint32).view(np.uint8)[: 64 << 10]
        world.write(ALICE, 0, data)
        dimm = world.dimm
        image = dimm.save(0, data.size)
        beside = image.beside.copy()
        words = beside.view("<u8" if kind != "deuce" else "<u4")
        words[:1] = np.iinfo(words.dtype).max
        if kind == "split":  # every minor counter of the first page full, too
            beside[8:64] = 0xFF
        dimm.put(0, Image(image.data, beside))
        try:
            with world.file(ALICE, 0, data.size) as region:
                region.write(0, bytes(64))
        except CountersExhausted as error:
            return {"counter": kind, "outcome": "refused", "evidence": str(error)}
    return {"counter": kind, "outcome": "wrapped", "evidence": "the write was taken"}
