"""Scattered lines, in one call."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from mktme import Region


@pytest.mark.parametrize("count", [1, 64, 4096, 100_000])
def test_read_lines(benchmark: Any, region: Region, count: int) -> None:
    addresses = np.random.default_rng(1).integers(0, region.size // 64, count) * 64
    lines = benchmark(region.mapping().read_lines, addresses)
    assert (lines == 7).all()


@pytest.mark.parametrize("count", [1, 64, 4096, 100_000])
def test_write_lines(benchmark: Any, region: Region, count: int) -> None:
    addresses = np.random.default_rng(1).integers(0, region.size // 64, count) * 64
    lines = np.full((count, 64), 9, np.uint8)
    benchmark(region.mapping().write_lines, addresses, lines)
    assert (region.mapping().read_lines(addresses) == 9).all()
