"""A model of what a power failure may leave, for whatever stores, flushes and fences; a small heap."""

from __future__ import annotations

import gc

import pytest

LINE = 64


class LinesModel:
    """What each line may be after a power failure: what it was when it was last fenced, or anything since."""

    def __init__(self) -> None:
        self.now = bytearray(4096)
        self.versions: dict[int, list[bytes]] = {}  # since the last fence, the durable one first
        self.flushed: dict[int, int] = {}  # which of them will be durable at the next fence

    def line(self, number: int) -> bytes:
        return bytes(self.now[number * LINE : (number + 1) * LINE])

    def store(self, offset: int, data: bytes) -> None:
        numbers = range(offset // LINE, -(-(offset + len(data)) // LINE))
        for number in numbers:
            self.versions.setdefault(number, [self.line(number)])
        self.now[offset : offset + len(data)] = data
        for number in numbers:
            self.versions[number].append(self.line(number))

    def flush(self, offset: int, length: int) -> None:
        for number in range(offset // LINE, -(-(offset + length) // LINE)):
            if number in self.versions:
                self.flushed[number] = len(self.versions[number]) - 1

    def drain(self) -> None:
        for number, place in self.flushed.items():
            self.versions[number] = self.versions[number][place:]
            if len(self.versions[number]) == 1:
                del self.versions[number]
        self.flushed.clear()

    def durable(self, number: int) -> bytes:
        return self.versions.get(number, [self.line(number)])[0]

    def allowed(self, number: int) -> list[bytes]:
        return self.versions.get(number, [self.line(number)])


@pytest.fixture(scope="session")
def lines_model() -> type[LinesModel]:
    """The model's class."""
    return LinesModel


@pytest.fixture(scope="module", autouse=True)
def _frozen() -> None:
    """Puts what there is out of the collector's sight: who has compiled kernels has millions of objects."""
    gc.collect()
    gc.freeze()
