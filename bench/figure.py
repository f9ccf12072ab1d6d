"""What a figure is, and what its measurements share."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

import pmem
from mktme import Controller, Key, Region
from mktme.lab.measure import Run, Sample, slowdown

ALGORITHMS = ("aes-xts-128", "aes-xts-256")


@dataclass(frozen=True)
class Figure:
    """A measured value, what it is, and its target: at least it, or (a time, a size) below it; 0: none."""

    group: str
    name: str
    value: float
    unit: str
    target: float
    below: bool = False
    spread: tuple[float, float] | None = None  # quartiles over the rounds
    note: str = ""

    @property
    def holds(self) -> bool:
        """Whether the target is met."""
        return self.value < self.target if self.below else self.value >= self.target


def speedup(group: str, name: str, sample: Sample, peer: Sample, target: float, scale: float = 1) -> Figure:
    """How many times as fast as a peer, round by round, times a factor; both rates as a note."""
    slow = slowdown(sample, peer)
    note = f"{sample.rate / 1e9:.1f} against {peer.rate / 1e9:.1f} GB/s"
    spread = scale / slow.high, scale / slow.low
    return Figure(group, name, scale / slow.median, "x", target, spread=spread, note=note)


def key_of(algorithm: str) -> tuple[bytes, bytes]:
    """Fixed halves for a cipher that is only timed."""
    size = int(algorithm[-3:]) // 8
    return bytes(range(size)), bytes(range(100, 100 + size))


def aligned(size: int) -> np.ndarray:
    """A uint8 buffer that begins at a 64-byte boundary, its pages in memory."""
    room = np.ones(size + 64, np.uint8)
    start = -room.ctypes.data % 64
    return room[start : start + size]


def repeated(call: Callable[[], object], size: int, times: int = 16) -> Run:
    """A turn that makes a call several times, each of which moves `size` bytes."""

    def run() -> int:
        for _ in range(times):
            call()
        return times * size

    return run


def with_region(
    folder: Path, size: int, algorithm: str, work: Callable[[Region, Region], Iterator[Figure]]
) -> list[Figure]:
    """Figures of a region that is the whole of a device: used by one thread, and by all."""
    key = Key.from_bytes(algorithm, b"".join(key_of(algorithm)))
    with pmem.create(folder / "figures.img", size) as device:
        regions = []
        for threads in (1, None):
            controller = Controller(device, threads=threads)
            regions.append(controller.map(0, size, controller.program_key(key)))
        regions[0].fill(1)
        figures = list(work(regions[0], regions[1]))
    (folder / "figures.img").unlink()
    return figures
