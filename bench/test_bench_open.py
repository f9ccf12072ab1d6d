"""Opening a very large image, programming a key, mapping a range."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pmem
from mktme import Controller, Key, Region


def test_open_a_tebibyte(benchmark: Any, tmp_path: Path) -> None:
    path = tmp_path / "large.img"
    pmem.create(path, "1TiB").close()

    def cycle() -> int:
        with pmem.open(path) as device:
            return device.size

    assert benchmark(cycle) == 1 << 40


def test_program_a_key(benchmark: Any, region: Region) -> None:
    key = Key.generate("aes-xts-256")
    assert benchmark(region.mapping().program_key, key, 9) == 9


def test_map_and_unmap_among_a_thousand_regions(benchmark: Any, tmp_path: Path) -> None:
    with pmem.create(tmp_path / "map.img", "1GiB") as device:
        controller = Controller(device)
        keyid = controller.program_key(Key.generate("aes-xts-128"))
        for number in range(1000):
            controller.map(number * 8192, 4096, keyid)

        def cycle() -> None:
            controller.unmap(controller.map(500 * 8192 + 4096, 4096, keyid))

        benchmark(cycle)
        assert len(controller.regions) == 1000
