"""Which store granularity a mapping has: what must be flushed for a store to be durable.

The three answers are libpmem2's (``pmem2_map_get_store_granularity(3)``).
"""

from __future__ import annotations

import os
from enum import StrEnum
from pathlib import Path


class StoreGranularity(StrEnum):
    """What the smallest unit of a durable store is."""

    BYTE = "byte"  # the CPU cache is in the persistence domain (eADR): a store is durable
    CACHE_LINE = "cache line"  # stores are durable once their lines are flushed (ADR)
    PAGE = "page"  # an ordinary file: msync


def of_synchronous_mapping(fd: int, sysfs: Path = Path("/sys")) -> StoreGranularity:
    """The granularity of a mapping that the kernel granted ``MAP_SYNC``.

    It is BYTE where the NVDIMM region under the file says that its persistence domain is
    ``cpu_cache`` (Documentation/ABI/testing/sysfs-bus-nvdimm), else CACHE_LINE.
    """
    device = os.fstat(fd).st_dev
    block = (sysfs / "dev/block" / f"{os.major(device)}:{os.minor(device)}").resolve()
    for folder in block.parents:
        try:
            domain = (folder / "persistence_domain").read_text().strip()
        except OSError:
            continue
        return StoreGranularity.BYTE if domain == "cpu_cache" else StoreGranularity.CACHE_LINE
    return StoreGranularity.CACHE_LINE
