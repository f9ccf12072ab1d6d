"""Kernels: every backend, key size and unit size, in the second-level cache."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from mktme.crypto import backend
from mktme.crypto.backend import aes_xts

SIZE = 1 << 19


@pytest.mark.parametrize("unit", [64, 512, 4096])
@pytest.mark.parametrize("bits", [128, 256])
@pytest.mark.parametrize("engine", backend.available())
def test_units(benchmark: Any, engine: str, bits: int, unit: int) -> None:
    rng = np.random.default_rng(1)
    cipher = aes_xts(rng.bytes(bits // 8), rng.bytes(bits // 8), engine)
    ivs = rng.integers(0, 1 << 64, (SIZE // unit, 2), dtype=np.uint64)
    source, made, back = (
        np.frombuffer(rng.bytes(SIZE), np.uint8),
        np.empty(SIZE, np.uint8),
        np.empty(SIZE, np.uint8),
    )
    benchmark(cipher.units, False, unit, ivs, source, made)
    cipher.units(True, unit, ivs, made, back)
    assert (back == source).all()
