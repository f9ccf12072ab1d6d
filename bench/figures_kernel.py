"""The XTS kernels against the AES ceiling and OpenSSL."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

import numpy as np
from ceiling import Ceiling
from figure import ALGORITHMS, Figure, aligned, key_of, repeated, speedup
from peer_openssl import speed

from mktme.crypto.backend import aes_xts
from mktme.crypto.native import address
from mktme.lab.measure import Run, interleave

L2 = 1 << 19  # bytes of a buffer that stays in the second-level cache, with another one

# At 64 bytes a unit costs the AES of 5 blocks for 4 (its tweak's too), at 4096 that of 257 for 256.
SCALE = {"64 B units": 5 / 4, "64 B units, IVs given": 5 / 4, "4096 B units": 257 / 256}
TARGET = {"64 B units": 0.90, "64 B units, IVs given": 0.90, "4096 B units": 0.92}


def kernels(rounds: int) -> Iterator[Figure]:
    """Against pure AES, and against OpenSSL's loop, with everything in the second-level cache."""
    for algorithm in ALGORITHMS:
        samples = interleave(contestants(algorithm), rounds)
        for (unit, scale), target in zip(SCALE.items(), TARGET.values(), strict=True):
            for word in ("encrypt", "decrypt"):
                title = f"{algorithm} {word}, {unit}, of the AES ceiling"
                sample = samples[f"{word}, {unit}"]
                yield speedup("kernel", title, sample, samples["ceiling"], target, scale)
        for unit, size, target in (("64 B units", 64, 4.5), ("4096 B units", 16384, 1.7)):
            peer, rate = speed(f"aes-{algorithm[-3:]}-xts", size), samples[f"encrypt, {unit}"].rate
            if peer is not None:
                note = f"{rate / 1e9:.1f} against {peer / 1e9:.1f} GB/s"
                title = f"{algorithm} encrypt, {unit}, of OpenSSL at {size} B"
                yield Figure("kernel", title, rate / peer, "x", target, note=note)


def contestants(algorithm: str) -> dict[str, Run]:
    """The ceiling, and the kernels of each kind of unit, both ways."""
    source, to, cipher = aligned(L2), aligned(L2), aes_xts(*key_of(algorithm))
    runs: dict[str, Run] = {"ceiling": repeated(partial(Ceiling(int(algorithm[-3:])), L2), L2)}
    runs["encrypt, 64 B units"] = repeated(partial(cipher.write, to, address(to), 0, source), L2)
    runs["decrypt, 64 B units"] = repeated(partial(cipher.read, source, address(source), 0, to), L2)
    for unit, name in ((64, "64 B units, IVs given"), (4096, "4096 B units")):
        ivs = np.zeros((L2 // unit, 2), np.uint64)
        ivs[:, 0] = np.arange(L2 // unit)
        for back, word in ((False, "encrypt"), (True, "decrypt")):
            runs[f"{word}, {name}"] = repeated(partial(cipher.units, back, unit, ivs, source, to), L2)
    return runs
