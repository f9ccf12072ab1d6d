"""The store granularity of a synchronous mapping, as a made-up sysfs tells it."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from pmem import StoreGranularity
from pmem.granularity import of_synchronous_mapping

BYTE, CACHE_LINE, PAGE = StoreGranularity.BYTE, StoreGranularity.CACHE_LINE, StoreGranularity.PAGE


class Sysfs:
    """A tree in which the block device under a file is one of an NVDIMM region."""

    def __init__(self, root: Path, block: str) -> None:
        self.image = root / "image"
        self.image.touch()
        self.root = root / "sys"
        self.bus = self.root / "devices/LNXSYSTM:00/ndbus0"
        device = self.image.stat().st_dev
        link = self.root / "dev/block" / f"{os.major(device)}:{os.minor(device)}"
        (self.bus / block).mkdir(parents=True)
        link.parent.mkdir(parents=True)
        link.symlink_to(os.path.relpath(self.bus / block, link.parent))

    def granularity(self) -> StoreGranularity:
        with self.image.open() as file:
            return of_synchronous_mapping(file.fileno(), self.root)


@pytest.mark.parametrize("block", ["block/pmem0", "block/pmem0/pmem0p1"])
@pytest.mark.parametrize(
    ("domain", "expected"),
    [
        ("cpu_cache\n", BYTE),
        ("cpu_cache", BYTE),
        ("memory_controller\n", CACHE_LINE),
        ("unknown\n", CACHE_LINE),
        ("\n", CACHE_LINE),
        (None, CACHE_LINE),
    ],
)
def test_the_nvdimm_region_says_whether_the_cache_is_persistent(
    tmp_path: Path, block: str, domain: str | None, expected: StoreGranularity
) -> None:
    sysfs = Sysfs(tmp_path, f"region0/namespace0.0/{block}")
    if domain is not None:
        (sysfs.bus / "region0/persistence_domain").write_text(domain)
    assert sysfs.granularity() is expected


def test_another_region_has_no_say(tmp_path: Path) -> None:
    sysfs = Sysfs(tmp_path, "region0/namespace0.0/block/pmem0")
    (sysfs.bus / "region0/persistence_domain").write_text("memory_controller\n")
    (sysfs.bus / "region1").mkdir()
    (sysfs.bus / "region1/persistence_domain").write_text("cpu_cache\n")
    assert sysfs.granularity() is CACHE_LINE


def test_the_nearest_region_has_the_say(tmp_path: Path) -> None:
    sysfs = Sysfs(tmp_path, "region0/namespace0.0/block/pmem0")
    (sysfs.bus / "region0/persistence_domain").write_text("cpu_cache\n")
    (sysfs.bus / "persistence_domain").write_text("memory_controller\n")
    assert sysfs.granularity() is BYTE


def test_a_region_that_can_not_be_read_promises_nothing(tmp_path: Path) -> None:
    sysfs = Sysfs(tmp_path, "region0/namespace0.0/block/pmem0")
    (sysfs.bus / "region0/persistence_domain").mkdir()
    assert sysfs.granularity() is CACHE_LINE


def test_without_sysfs_nothing_is_promised_either(tmp_path: Path) -> None:
    image = tmp_path / "image"
    image.touch()
    with image.open() as file:
        assert of_synchronous_mapping(file.fileno(), tmp_path / "none") is CACHE_LINE


def test_the_systems_own_sysfs_can_be_asked(tmp_path: Path) -> None:
    image = tmp_path / "image"
    image.touch()
    with image.open() as file:
        assert of_synchronous_mapping(file.fileno()) in (BYTE, CACHE_LINE)


def test_the_three_answers_read_as_words() -> None:
    assert [str(answer) for answer in StoreGranularity] == ["byte", "cache line", "page"]
    assert list(StoreGranularity) == [BYTE, CACHE_LINE, PAGE]
