"""Long requests: a region against the kernel and memcpy, several threads against one."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from pathlib import Path

import numpy as np
from figure import ALGORITHMS, Figure, aligned, key_of, repeated, speedup, with_region

from mktme import Region
from mktme.crypto.backend import aes_xts
from mktme.lab.measure import Run, interleave

LARGE = 256 << 20
CALLS = (("read_into", "copy out"), ("write", "copy in"))


def bulk(folder: Path, rounds: int) -> Iterator[Figure]:
    """`read_into` and `write` against the kernel (1 MiB) and against memcpy (256 MiB)."""
    for algorithm in ALGORITHMS:
        yield from with_region(folder, 1 << 20, algorithm, partial(of_kernel, algorithm, 2 * rounds))
        yield from with_region(folder, LARGE, algorithm, partial(of_memcpy, algorithm, max(3, rounds // 2)))


def of_kernel(algorithm: str, rounds: int, one: Region, all_: Region) -> Iterator[Figure]:
    """A region's calls at 1 MiB against the kernel, called from Python too, on the same bytes."""
    size, buffer, media = one.size, aligned(one.size), one.device.mapping()
    cipher, base = aes_xts(*key_of(algorithm)), one.device.base
    runs: dict[str, Run] = {
        "copy out": repeated(partial(cipher.read, media, base, 0, buffer), size),
        "read_into": repeated(partial(one.read_into, buffer), size),
        "copy in": repeated(partial(cipher.write, media, base, 0, buffer), size),
        "write": repeated(partial(one.write, 0, buffer), size),
    }
    samples = interleave(runs, rounds)
    for name, peer in CALLS:
        yield speedup("bulk", f"{algorithm} {name}, 1 MiB, of the kernel", samples[name], samples[peer], 0.95)


def of_memcpy(algorithm: str, rounds: int, one: Region, all_: Region) -> Iterator[Figure]:
    """A region's calls at 256 MiB against numpy's copy of the same bytes; threads against one."""
    media = one.device.mapping()
    for place, buffer in (("aligned buffer", aligned(LARGE)), ("numpy's buffer", np.ones(LARGE, np.uint8))):
        runs: dict[str, Run] = {}
        for word, region in (("1 thread", one), ("all threads", all_)):
            runs[f"copy out, {word}"] = repeated(partial(np.copyto, buffer, media), LARGE, 1)
            runs[f"read_into, {word}"] = repeated(partial(region.read_into, buffer), LARGE, 1)
            runs[f"copy in, {word}"] = repeated(partial(np.copyto, media, buffer), LARGE, 1)
            runs[f"write, {word}"] = repeated(partial(region.write, 0, buffer), LARGE, 1)
        samples = interleave(runs, rounds)
        for word in ("1 thread", "all threads"):
            for name, peer in CALLS:
                title = f"{algorithm} {name}, 256 MiB, {word}, {place}, of memcpy"
                yield speedup("bulk", title, samples[f"{name}, {word}"], samples[f"{peer}, {word}"], 0.75)


def threads(folder: Path, rounds: int) -> Iterator[Figure]:
    """All threads against one."""
    for size, word in ((64 << 20, "64 MiB"), (LARGE, "256 MiB")):
        yield from with_region(folder, size, "aes-xts-128", partial(of_one, word, rounds))


def of_one(word: str, rounds: int, one: Region, all_: Region) -> Iterator[Figure]:
    """A region's calls by all threads against the same by one."""
    buffer, count = aligned(one.size), all_.mapping().threads
    runs: dict[str, Run] = {}
    for name, region in (("one", one), ("all", all_)):
        runs[f"read_into {name}"] = repeated(partial(region.read_into, buffer), region.size, 1)
        runs[f"write {name}"] = repeated(partial(region.write, 0, buffer), region.size, 1)
    samples = interleave(runs, rounds)
    for name, _ in CALLS:
        title = f"aes-xts-128 {name}, {word}, {count} threads of one"
        yield speedup("threads", title, samples[f"{name} all"], samples[f"{name} one"], 1.7)
