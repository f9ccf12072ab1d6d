"""What the tests of the block path share."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Protocol

import pytest

import pmem
from mktme import Key
from mktme.crypto.algorithms import ALGORITHMS
from mktme.stack.keyslots import BlockKey


class MakeKey(Protocol):
    def __call__(
        self, seed: int = ..., algorithm: str = ..., unit: int = ..., *, dun_bytes: int = ...
    ) -> BlockKey: ...


def material(seed: int, algorithm: str) -> bytes:
    return bytes((37 * seed + i) % 256 for i in range(sum(ALGORITHMS[algorithm].parts)))


@pytest.fixture(scope="session")
def make_key() -> MakeKey:
    """Block keys of a seed each."""

    def make(
        seed: int = 3, algorithm: str = "aes-xts-256", unit: int = 4096, *, dun_bytes: int = 8
    ) -> BlockKey:
        return BlockKey(
            algorithm,
            unit,
            lambda: Key.from_bytes(algorithm, material(seed, algorithm)),
            dun_bytes=dun_bytes,
        )

    return make


@pytest.fixture
def device(tmp_path: Path) -> Iterator[pmem.Device]:
    with pmem.create(tmp_path / "blocks.img", 1 << 20) as made:
        yield made
