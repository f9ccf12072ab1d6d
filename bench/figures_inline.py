"""The block path with an inline crypto engine: a keyslot's look-up, and bios against the bare cipher."""

from __future__ import annotations

import statistics
import timeit
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import numpy as np
from figure import Figure, aligned, key_of, repeated, speedup

import pmem
from mktme import Key
from mktme.crypto.algorithms import make
from mktme.lab.measure import Run, interleave
from mktme.stack import BlockDevice, CryptoProfile
from mktme.stack.bio import SECTOR, Bio
from mktme.stack.keyslots import BlockKey

ALGORITHM = "aes-xts-256"
UNIT = 4096
CALLS = 20_000


def inline(folder: Path, rounds: int) -> Iterator[Figure]:
    """Every figure, on an image of a folder."""
    yield keyslot(rounds)
    yield from bios(folder, rounds)


def keyslot(rounds: int) -> Figure:
    """A keyslot found by its key, and given back."""
    profile, key = CryptoProfile(), BlockKey.of(Key.generate(ALGORITHM))
    profile.put(profile.get(key))
    return microseconds("keyslot look-up on a hit", lambda: profile.put(profile.get(key)), rounds, 2)


def bios(folder: Path, rounds: int) -> Iterator[Figure]:
    """A bio of one data unit, and one of 256."""
    with pmem.create(folder / "inline.img", 2 << 20) as device:
        for size in (UNIT, 1 << 20):
            yield from against_cipher(device, size, rounds)
        engine, key, data = BlockDevice(device, CryptoProfile()), block_key(), aligned(UNIT)
        for what, write in (("write", True), ("read", False)):
            call = partial(submit, engine, write, data, key)
            yield microseconds(f"4 KiB {what} bio on the engine", call, rounds, 0)


def against_cipher(device: pmem.Device, size: int, rounds: int) -> Iterator[Figure]:
    """A bio on the engine, and in software, of the cipher's call, which has its IVs ready-made."""
    cipher, key = make(ALGORITHM, list(key_of(ALGORITHM))), block_key()
    data, media = aligned(size), device.mapping()[UNIT:][:size]
    ivs = np.zeros((size // UNIT, 2), np.uint64)
    ivs[:, 0] = np.arange(len(ivs))
    ways = {"engine": BlockDevice(device, CryptoProfile()), "fallback": BlockDevice(device)}
    times = max(1, (8 << 20) // size)
    for what, write in (("write", True), ("read", False)):
        pair = (data, media) if write else (media, data)
        bare = partial(cipher.units, not write, UNIT, ivs, *pair)
        runs: dict[str, Run] = {"cipher": repeated(bare, size, times)}
        for name, blocks in ways.items():
            runs[name] = repeated(partial(submit, blocks, write, data, key), size, times)
        samples = interleave(runs, rounds)
        for name in ways:
            text = f"{size >> 10} KiB {what} bio, {name}, of the cipher's call"
            yield speedup("inline", text, samples[name], samples["cipher"], 0)


def block_key() -> BlockKey:
    """The key of `key_of`, for bios."""
    return BlockKey.of(Key.from_bytes(ALGORITHM, b"".join(key_of(ALGORITHM))), UNIT)


def submit(blocks: BlockDevice, write: bool, data: np.ndarray, key: BlockKey) -> None:
    """A new bio each time, as a file system makes them."""
    blocks.submit(Bio(write, UNIT // SECTOR, (data,), key, 0))


def microseconds(name: str, call: Callable[[], object], rounds: int, target: float) -> Figure:
    """A call's time."""
    call()
    took = [timeit.timeit(call, number=CALLS) / CALLS * 1e6 for _ in range(rounds)]
    low, middle, high = statistics.quantiles(took, n=4)
    return Figure("inline", name, middle, " us", target, below=True, spread=(low, high))
