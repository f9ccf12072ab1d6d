"""What a scheme costs: time, room, writes, and bits that flip on the medium."""

from __future__ import annotations

from contextlib import ExitStack
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

from mktme.iv import find
from mktme.lab.iv.attacks import BLOCK, LINE
from mktme.lab.iv.subjects import Subject
from mktme.lab.iv.world import ALICE, Bytes, World
from mktme.lab.measure import Run, interleave, slowdown
from mktme.mapping import metadata_bytes

BASE = "pmem-line/aes-xts-128"
SCATTERED = 96  # lines that are written alone


def speed(folder: Path, subjects: list[Subject], data: Bytes, rounds: int) -> dict[str, dict[str, Any]]:
    """Rates of reading and writing `data` in one request, all subjects and pmem-line in turns.

    For each subject's name: `read` and `write` in bytes a second, and `read_ratio` and
    `write_ratio`, the speed against pmem-line with AES-128-XTS (median of the rounds' ratios).
    """
    base = Subject(find("pmem-line"), "aes-xts-128")
    everyone = subjects if any(s.name == BASE for s in subjects) else [base, *subjects]
    runs: dict[str, Run] = {}
    with ExitStack() as open_:
        for subject in everyone:
            world = open_.enter_context(World(folder, subject))
            region = open_.enter_context(world.file(ALICE, 0, data.size))
            region.write(0, data)
            out = np.empty_like(data)

            def read(region: Any = region, out: Bytes = out) -> int:
                region.read_into(out)
                return out.size

            def write(region: Any = region) -> int:
                region.write(0, data)
                return data.size

            runs |= {f"{subject.name} read": read, f"{subject.name} write": write}
        samples = interleave(runs, rounds)
        found = {}
        for subject in subjects:
            row: dict[str, Any] = {}
            for way in ("read", "write"):
                sample = samples[f"{subject.name} {way}"]
                row[way] = sample.rate
                row[f"{way}_ratio"] = 1 / slowdown(sample, samples[f"{BASE} {way}"]).median
            found[subject.name] = row
    return found


def room(subject: Subject) -> int:
    """Bytes that are kept beside a GiB of data."""
    return metadata_bytes(subject.scheme.name, "1GiB", integrity=subject.integrity)


def amplification(folder: Path, subject: Subject, data: Bytes, seed: int) -> dict[str, Any]:
    """Lines of the medium that change when single lines of data are written, on average.

    A line of data that is written to a larger unit whose blocks hang together changes all of it;
    counters, drawn IVs and MACs change lines of their own.
    """
    rng = np.random.default_rng(seed)
    lines = rng.choice(data.size // LINE, SCATTERED, replace=False)
    changed = 0
    with World(folder, subject) as world, world.file(ALICE, 0, data.size) as region:
        region.write(0, data)
        before = _medium(world, data.size)
        for line in lines.tolist():
            region.write(LINE * line, rng.bytes(LINE))
            now = _medium(world, data.size)
            changed += int((now != before).reshape(-1, LINE).any(axis=1).sum())
            before = now
    return {"writes": SCATTERED, "lines_changed": changed, "amplification": changed / SCATTERED}


def _medium(world: World, size: int) -> Bytes:
    """The bytes of the first slot and of what is kept beside it."""
    image = world.dimm.save(0, size)
    return np.concatenate([image.data, image.beside])


def bit_flips(folder: Path, subject: Subject, versions: list[Bytes]) -> dict[str, Any]:
    """Bits that change on the medium when the lines that differ between versions are written.

    A line counts once for each version that changes it, and has 512 bits. `plain`, `encrypted`:
    the fraction of the written lines' bits that change, in plaintext and under the scheme.
    `beside`: what changes elsewhere (the rest of the unit, counters, MACs), as the same fraction.
    `blocks_plain`, `blocks_encrypted`: the fraction of the written lines' 16-byte blocks in which
    any bit changes.
    """
    written = plain = encrypted = everything = blocks = sealed = 0
    with World(folder, subject) as world, world.file(ALICE, 0, versions[0].size) as region:
        region.write(0, versions[0])
        size = versions[0].size
        media = _medium(world, size)
        for old, new in pairwise(versions):
            lines = np.flatnonzero((old != new).reshape(-1, LINE).any(axis=1))
            for start, end in _runs(lines):
                region.write(start * LINE, new[start * LINE : end * LINE])
            now = _medium(world, size)
            delta = np.bitwise_count(now ^ media)
            within = delta[:size].reshape(-1, LINE)[lines].sum(dtype=np.int64)
            written += lines.size
            plain += int(np.bitwise_count(old ^ new).sum(dtype=np.int64))
            encrypted += int(within)
            everything += int(delta.sum(dtype=np.int64))
            blocks += _blocks(old ^ new, lines)
            sealed += _blocks(delta[:size], lines)
            media = now
    bits = max(1, 8 * LINE * written)
    beside = (everything - encrypted) / bits
    parts = max(1, LINE // BLOCK * written)
    return {
        "lines": written,
        "plain": plain / bits,
        "encrypted": encrypted / bits,
        "beside": beside,
        "blocks_plain": blocks / parts,
        "blocks_encrypted": sealed / parts,
    }


def _blocks(delta: Bytes, lines: Any) -> int:
    """How many 16-byte blocks of some lines have changed bytes."""
    return int(delta.reshape(-1, LINE // BLOCK, BLOCK)[lines].any(axis=2).sum())


def _runs(lines: Any) -> list[tuple[int, int]]:
    """Neighbouring line numbers as (first, end)."""
    if not lines.size:
        return []
    edges = np.flatnonzero(np.diff(lines) != 1) + 1
    return [(int(part[0]), int(part[-1]) + 1) for part in np.split(lines, edges)]
