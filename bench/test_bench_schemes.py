"""Ciphers at their data units, and requests to ranges under each IV scheme."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mktme.crypto import backend
from mktme.crypto.algorithms import ALGORITHMS, make
from mktme.lab.iv.subjects import Subject, subjects
from mktme.lab.iv.world import ALICE, World

SIZE = 1 << 18


CIPHERS = [
    (name, unit)
    for name, algorithm in ALGORITHMS.items()
    for unit in (16, 64, 512, 4096)
    if algorithm.takes(unit) and not algorithm.family.endswith("-cts")
]


@pytest.mark.parametrize(("name", "unit"), CIPHERS)
def test_cipher(benchmark: Any, name: str, unit: int) -> None:
    algorithm = ALGORITHMS[name]
    rng = np.random.default_rng(1)
    cipher = make(name, [rng.bytes(n) for n in algorithm.parts], backend.chosen)
    ivs = rng.integers(0, 1 << 64, (SIZE // unit, algorithm.iv_bytes // 8), dtype=np.uint64)
    source = np.frombuffer(rng.bytes(SIZE), np.uint8)
    made, back = np.empty(SIZE, np.uint8), np.empty(SIZE, np.uint8)
    benchmark(cipher.units, False, unit, ivs, source, made)
    cipher.units(True, unit, ivs, made, back)
    assert (back == source).all()


@pytest.mark.parametrize("way", ["read", "write"])
@pytest.mark.parametrize("subject", subjects(), ids=lambda subject: subject.name)
def test_scheme(benchmark: Any, tmp_path: Path, subject: Subject, way: str) -> None:
    data = np.frombuffer(np.random.default_rng(1).bytes(SIZE), np.uint8)
    out = np.empty_like(data)
    with World(tmp_path, subject) as world, world.file(ALICE, 0, SIZE) as region:
        region.write(0, data)
        if way == "read":
            benchmark(region.read_into, out)
        else:
            benchmark(region.write, 0, data)
        region.read_into(out)
    assert (out == data).all()
