"""Regions: bulk and small access, arrays."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from mktme import Region


@pytest.mark.parametrize("size", [64, 4096, 1 << 16, 1 << 20, 16 << 20])
def test_read_into(benchmark: Any, region: Region, size: int) -> None:
    buffer = np.empty(size, np.uint8)
    benchmark(region.read_into, buffer, 64)
    assert (buffer == 7).all()


@pytest.mark.parametrize("size", [64, 4096, 1 << 16, 1 << 20, 16 << 20])
def test_write(benchmark: Any, region: Region, size: int) -> None:
    buffer = np.full(size, 9, np.uint8)
    benchmark(region.write, 64, buffer)
    assert region.read(0, 65 + size) == b"\7" * 64 + b"\11" * size + b"\7"


@pytest.mark.parametrize("offset", [640, 650])
def test_read_64(benchmark: Any, region: Region, offset: int) -> None:
    assert benchmark(region.read, offset, 64) == b"\7" * 64


def test_slice_assignment(benchmark: Any, region: Region) -> None:
    benchmark(region.__setitem__, slice(640, 704), bytes(64))
    assert region[640:704] == bytes(64)


def test_column_of_an_array(benchmark: Any, region: Region) -> None:
    table = region.array(np.float64, (1000, 1000))
    column = benchmark(lambda: np.asarray(table[:, 5]))
    assert column.shape == (1000,)


def test_update_in_place(benchmark: Any, region: Region) -> None:
    table = region.array(np.int64, (1000, 1000))
    before = int(table[0, 0])
    rounds = []

    def update() -> None:
        table.__iadd__(1)
        rounds.append(1)

    benchmark(update)
    assert int(table[0, 0]) == before + len(rounds)
