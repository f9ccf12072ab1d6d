"""A region for the benchmarks, over an image whose pages are in memory."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

import pmem
from mktme import Controller, Key, Region

SIZE = 64 << 20


@pytest.fixture(params=["aes-xts-128", "aes-xts-256"])
def region(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Region]:
    """64 MiB under one key, one thread."""
    with pmem.create(tmp_path / "bench.img", SIZE) as device:
        controller = Controller(device, threads=1)
        made = controller.map(0, SIZE, controller.program_key(Key.generate(request.param)))
        made.fill(7)
        yield made
    (tmp_path / "bench.img").unlink()
