"""Machines by name: media and their controller, and what encrypts in front of them."""

from __future__ import annotations

from typing import Any

from mktme.timing.caches import Cache
from mktme.timing.controller import Controller
from mktme.timing.media import Media

CPU = "Intel 248966-042, Cascade Lake"
YANG = "Yang et al., FAST 2020"
DDR4 = "DDR4-2666, six channels"

LEVELS = {
    "l1": Cache(size=32 << 10, ways=8, latency_ns=1.6),
    "l2": Cache(
        size=1 << 20,
        ways=16,
        latency_ns=4.5,
        sources={"size": CPU, "ways": CPU, "latency_ns": f"{CPU}: 14 cycles at 3.1 GHz"},
    ),
    "llc": Cache(
        size=22 << 20,
        ways=11,
        latency_ns=21.0,
        sources={
            "size": f"{CPU}: 1.375 MiB a core, 16 cores",
            "ways": CPU,
            "latency_ns": "assumed: 65 cycles at 3.1 GHz",
        },
    ),
}


def _with(component: Any, values: dict[str, tuple[Any, str]]) -> Any:
    """A component with values, each from its source."""
    for name, (value, source) in values.items():
        component = component.with_values({name: value}, source)
    return component


DRAM = (
    _with(
        Controller(),
        {
            "line_bus_ns": (3.64, "OptaneStudy, fig. 4: 105.6 GB/s from six channels"),
            "enter_ns": (55.0, f"{YANG}: store, CLWB and fence take 57 ns on DRAM, less the store's 2"),
            "nontemporal_ns": (29.0, f"{YANG}: a nontemporal store and a fence take 86 ns on DRAM"),
            "interleave": (256, "assumed: a typical interleave of DDR4 channels"),
        },
    ),
    _with(
        Media(),
        {
            "unit": (4096, "assumed: an open row's share of a page"),
            "buffer_units": (16, "DDR4: 16 banks, a row open in each"),
            "buffer_ways": (16, "DDR4: any row may be open"),
            "read_ns": (80.0, f"{YANG}: 101 ns at random, less the last-level cache's 21"),
            "buffer_read_ns": (60.0, f"{YANG}: 81 ns in order, less the last-level cache's 21"),
            "unit_read_ns": (0.0, "banks work side by side: the bus is the limit"),
            "unit_write_ns": (0.0, "banks work side by side: the bus is the limit"),
            "merge_read_ns": (0.0, "DRAM writes lines"),
            "whole_units": (False, "DRAM writes lines"),
            "read_pj_per_bit": (1.17, "Lee et al., ISCA 2009: DRAM array read"),
            "write_pj_per_bit": (0.39, "Lee et al., ISCA 2009: DRAM array write"),
        },
    ),
)
OPTANE = (Controller(), Media())
PCM = (
    _with(
        Controller(),
        {
            "channels": (1, "assumed, after Zuo et al., MICRO 2019: one channel"),
            "write_queue": (64, "assumed, after Zuo et al., MICRO 2019: 64 entries"),
            "line_bus_ns": (5.0, "DDR3-1600: 12.8 GB/s"),
            "enter_ns": (20.0, "assumed: way to the queue, no published figure"),
            "nontemporal_ns": (0.0, "assumed: none beyond"),
        },
    ),
    _with(
        Media(),
        {
            "unit": (64, "lines are written alone: Lee et al., ISCA 2009"),
            "buffer_units": (0, "no row buffer is modelled"),
            "read_ns": (60.0, "assumed, after Ye et al., MICRO 2018 (Osiris)"),
            "unit_read_ns": (60.0, "assumed: the bank is busy as long"),
            "unit_write_ns": (150.0, "assumed, after Ye et al., MICRO 2018"),
            "whole_units": (False, "lines are written alone"),
            "banks": (8, "assumed, after Zuo et al., MICRO 2019: 8 banks"),
        },
    ),
)
CXL = (
    _with(
        Controller(),
        {
            "channels": (1, "an expander behind x8 lanes of PCIe 5"),
            "read_queue": (256, "assumed: not published"),
            "line_bus_ns": (2.5, "Sun et al., MICRO 2023: about 25 GB/s from one expander"),
            "enter_ns": (120.0, "assumed: half a round trip more than DRAM"),
            "nontemporal_ns": (30.0, "as DRAM"),
        },
    ),
    _with(
        DRAM[1],
        {
            "read_ns": (210.0, "Sun et al., MICRO 2023: CXL memory at 2 to 3 times local DRAM's latency"),
            "buffer_read_ns": (190.0, "Sun et al., MICRO 2023, and DRAM's 20 ns for an open row"),
        },
    ),
)
MEMORIES: dict[str, tuple[Controller, Media]] = {"optane": OPTANE, "pcm": PCM, "dram": DRAM, "cxl": CXL}
# What is compared: values of a machine's components.
CONFIGURATIONS: dict[str, dict[str, Any]] = {
    "none": {},
    "xts": {"engine.mode": "xts"},
    "ctr-wt": {"engine.mode": "counter"},
    "ctr-wt-coalesce": {"engine.mode": "counter", "counters.coalesce": True},
    "ctr-wb": {"engine.mode": "counter", "counters.policy": "write-back"},
    "ctr-battery": {"engine.mode": "counter", "counters.policy": "battery"},
    "ctr-battery-tree": {"engine.mode": "counter", "counters.policy": "battery", "counters.tree": True},
    "ctr-wb-tree": {"engine.mode": "counter", "counters.policy": "write-back", "counters.tree": True},
    "fsencr": {"engine.mode": "counter", "counters.policy": "write-back", "counters.per_page": 2},
    "deuce": {"engine.mode": "counter", "counters.policy": "battery", "engine.deuce": True},
    "page": {"place": "page"},
    "inline": {"place": "page", "pages.crypt": "inline"},
    "bounce": {"place": "page", "pages.crypt": "software"},
}
EXPLAINED = {
    "none": "DAX without encryption",
    "xts": "in the memory controller: AES-XTS on each line",
    "ctr-wt": "counter mode, counters written through",
    "ctr-wt-coalesce": "the same, combined in the write queue (SecPM, SuperMem)",
    "ctr-wb": "counter mode, counters written back with a stop-loss (Osiris)",
    "ctr-battery": "counter mode, a counter cache that survives",
    "ctr-battery-tree": "the same, with an integrity tree",
    "ctr-wb-tree": "ctr-wb with an integrity tree",
    "fsencr": "ctr-wb with a second pad, the file's own (FsEncr)",
    "deuce": "ctr-battery, changed words only (DEUCE)",
    "page": "page cache without encryption",
    "inline": "page cache, an inline engine behind it",
    "bounce": "page cache, AES in software through bounce pages (fscrypt)",
}
