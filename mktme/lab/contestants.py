"""The configurations that a benchmark runs side by side: one way each to keep bytes in an image.

`none` is the plain memory-mapped file. The `cryptography` ones are what a person writes who has
that package and no memory controller: a call a line, or a call a 4 KiB block.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes

import pmem
from mktme.controller import Controller
from mktme.keys import Key
from mktme.region import Region
from pmem.geometry import LINE, PAGE

Bytes = npt.NDArray[np.uint8]
Words = npt.NDArray[np.uint64]


class Contestant(Protocol):
    """Encrypted (or not) bytes at offsets."""

    def read_into(self, buffer: Bytes, offset: int) -> None: ...
    def write(self, offset: int, data: Bytes) -> None: ...
    def read_lines(self, addresses: Words) -> Bytes: ...
    def write_lines(self, addresses: Words, lines: Bytes) -> None: ...


class Copy:
    """Plain bytes: a memory-mapped file, or (the ceiling of memcpy) anonymous memory."""

    def __init__(self, memory: Bytes) -> None:
        self._memory, self._lines = memory, memory.reshape(-1, LINE)

    def read_into(self, buffer: Bytes, offset: int) -> None:
        buffer[:] = self._memory[offset : offset + buffer.size]

    def write(self, offset: int, data: Bytes) -> None:
        self._memory[offset : offset + data.size] = data

    def read_lines(self, addresses: Words) -> Bytes:
        lines: Bytes = self._lines[addresses // np.uint64(LINE)]
        return lines

    def write_lines(self, addresses: Words, lines: Bytes) -> None:
        self._lines[addresses // np.uint64(LINE)] = lines


class Line:
    """The memory controller: a region, and scattered lines of its controller."""

    def __init__(self, region: Region, controller: Controller) -> None:
        self.read_into, self.write = region.read_into, region.write
        self.read_lines, self.write_lines = controller.read_lines, controller.write_lines


class PerUnit:
    """One call into `cryptography` for each data unit of `unit` bytes, the unit's number as IV."""

    def __init__(self, memory: Bytes, key: bytes, unit: int) -> None:
        self._memory, self._unit = memory, unit
        self._algorithm = algorithms.AES(key)

    def _cipher(self, number: int) -> Any:
        return Cipher(self._algorithm, modes.XTS(number.to_bytes(16, "little")))

    def _load(self, number: int) -> bytes:
        at = number * self._unit
        context = self._cipher(number).decryptor()
        return bytes(context.update(self._memory[at : at + self._unit].data))

    def _keep(self, number: int, plain: bytes | memoryview) -> None:
        at = number * self._unit
        made = self._cipher(number).encryptor().update(plain)
        self._memory[at : at + self._unit] = np.frombuffer(made, np.uint8)

    def _pieces(self, offset: int, length: int) -> Iterator[tuple[int, int, int]]:
        """(unit, first, last) of a range, the bytes counted within the unit."""
        while length:
            number, first = divmod(offset, self._unit)
            count = min(length, self._unit - first)
            yield number, first, first + count
            offset, length = offset + count, length - count

    def read_into(self, buffer: Bytes, offset: int) -> None:
        done = 0
        for number, first, last in self._pieces(offset, buffer.size):
            plain = self._load(number)
            buffer[done : done + last - first] = np.frombuffer(plain, np.uint8)[first:last]
            done += last - first

    def write(self, offset: int, data: Bytes) -> None:
        done = 0
        for number, first, last in self._pieces(offset, data.size):
            part = data[done : done + last - first].data
            if last - first < self._unit:
                plain = bytearray(self._load(number))
                plain[first:last] = part
                part = memoryview(plain)
            self._keep(number, part)
            done += last - first

    def read_lines(self, addresses: Words) -> Bytes:
        lines = np.empty((addresses.size, LINE), np.uint8)
        for line, address in zip(lines, addresses.tolist(), strict=True):
            self.read_into(line, address)
        return lines

    def write_lines(self, addresses: Words, lines: Bytes) -> None:
        for line, address in zip(lines, addresses.tolist(), strict=True):
            self.write(address, line)


BASELINE, CEILING = "none", "memcpy"
ENCRYPTED = ("aes-xts-128", "aes-xts-256")
BY_HAND = {"cryptography, a line": LINE, "cryptography, 4 KiB": PAGE}
NAMES = (BASELINE, *ENCRYPTED, *BY_HAND, CEILING)


@contextmanager
def contestants(folder: Path, size: int, threads: int | None) -> Iterator[dict[str, Contestant]]:
    """Every configuration over an image of `size` bytes of its own, its pages in memory."""
    with ExitStack() as stack:
        made: dict[str, Contestant] = {}
        images = {}
        for number, name in enumerate(n for n in NAMES if n != CEILING):
            device = stack.enter_context(pmem.create(folder / f"{number}.img", size))
            _touch(device.write, size)
            images[name] = device
        made[BASELINE] = Copy(images[BASELINE].mapping())
        for name in ENCRYPTED:
            controller = Controller(images[name], threads=threads)
            key = Key.generate(name)
            made[name] = Line(controller.map(0, size, controller.program_key(key)), controller)
            key.clear()
        for name, unit in BY_HAND.items():
            made[name] = PerUnit(images[name].mapping(), _random_key(), unit)
        memory = np.empty(size, np.uint8)
        _touch(lambda at, data: memory.__setitem__(slice(at, at + data.size), data), size)
        made[CEILING] = Copy(memory)
        try:
            yield made
        finally:
            made.clear()  # its arrays would keep the devices from being closed


def _touch(write: Callable[[int, Bytes], object], size: int) -> None:
    """Give every page memory, so that no page fault is timed."""
    block = np.ones(min(size, 1 << 20), np.uint8)
    for at in range(0, size, block.size):
        write(at, block[: size - at])


def _random_key() -> bytes:
    key = Key.generate("aes-xts-128")
    return b"".join(bytes(half) for half in key.parts())
