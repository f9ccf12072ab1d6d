"""The store granularity of a synchronous mapping, as a made-up sysfs tells it."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from pmem import StoreGranularity
from pmem.granularity import of_synchronous_mapping


@pytest.mark.parametrize(
    ("domain", "expected"),
    [
        ("cpu_cache\n", StoreGranularity.BYTE),
        ("memory_controller\n", StoreGranularity.CACHE_LINE),
        ("\n", StoreGranularity.CACHE_LINE),
        (None, StoreGranularity.CACHE_LINE),
    ],
)
def test_the_nvdimm_region_says_whether_the_cache_is_persistent(
    tmp_path: Path, domain: str | None, expected: StoreGranularity
) -> None:
    file = tmp_path / "image"
    file.touch()
    device = file.stat().st_dev
    block = tmp_path / "sys/devices/ndbus0/region0/namespace0.0/block/pmem0"
    block.mkdir(parents=True)
    if domain is not None:
        (tmp_path / "sys/devices/ndbus0/region0/persistence_domain").write_text(domain)
    link = tmp_path / "sys/dev/block" / f"{os.major(device)}:{os.minor(device)}"
    link.parent.mkdir(parents=True)
    link.symlink_to(block)
    with file.open() as opened:
        assert of_synchronous_mapping(opened.fileno(), tmp_path / "sys") is expected


def test_the_three_answers_read_as_words() -> None:
    assert [str(g) for g in StoreGranularity] == ["byte", "cache line", "page"]
