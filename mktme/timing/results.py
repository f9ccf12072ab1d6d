"""What a run came to: counts, times, rates and energy, as nested plain data."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from mktme.timing import caches, cells, controller, core, counters, engine, histogram, media, pagecache
from mktme.timing.controller import Controller
from mktme.timing.media import Media
from mktme.timing.words import CELLS, CORE, DRAM, ENGINE, L1, L2, LATENCIES, LLC, PAGES, PMEM, Vector
from pmem.geometry import LINE, PAGE

if TYPE_CHECKING:
    from mktme.timing.machine import Machine

BITS = 8 * LINE


@dataclass(frozen=True, slots=True)
class Result:
    """What a machine did with a whole trace. `values` is nested plain data (JSON takes it)."""

    name: str
    values: dict[str, Any]

    @property
    def time_ns(self) -> float:
        """Until the last thread was done."""
        return float(self.values["time_ns"])

    def __getitem__(self, name: str) -> Any:
        """A value by its names with dots between: result["media.writes"]. Raises KeyError."""
        found: Any = self.values
        for key in name.split("."):
            found = found[key]
        return found


def collect(machine: Machine, s: Vector, records: int, over: int, lines: int, pages: int) -> Result:
    """The result of a run that ended at `over` ps with dirty lines and pages in its caches."""
    k = int(s[CORE])
    accesses = {
        "records": records,
        "loads": int(s[k + core.LOADS]),
        "stores": int(s[k + core.STORES]),
        "nontemporal": int(s[k + core.STREAMED]),
        "flushes": int(s[k + core.FLUSHES]),
        "written_by_flushes": int(s[k + core.FLUSHED]),
        "fences": int(s[k + core.FENCES]),
        "instructions": int(s[k + core.WORK]),
        "system_calls": int(s[k + core.CALLS]),
    }
    memory = _memory(s, int(s[PMEM]), machine.queues, machine.media, over)
    values: dict[str, Any] = {
        "configuration": machine.name,
        "complete": True,
        "time_ns": over / 1000,
        "accesses": accesses,
        "read_latency": histogram.result(s, int(s[LATENCIES])),
        "caches": {name: _cache(s, int(s[place])) for name, place in (("l1", L1), ("l2", L2), ("llc", LLC))},
        "dirty_at_end": {"lines": lines, "pages": pages},
        "engine": _engine(machine, s),
        "memory": memory,
    }
    if s[DRAM]:
        values["page_cache"] = _pages(s)
        values["dram"] = _memory(s, int(s[DRAM]), machine.dram_queues, machine.dram, over)
    c = int(s[CELLS])
    if s[c + cells.ACTIVE]:
        compared, flips = int(s[c + cells.LINES]), int(s[c + cells.FLIPS])
        values["bit_flips"] = {
            "lines": compared,
            "flips": flips,
            "share": flips / (compared * BITS) if compared else 0.0,
        }
    values["energy_nj"] = _energy(machine, s)
    return Result(machine.name, values)


def _cache(s: Vector, c: int) -> dict[str, Any]:
    hits, misses = int(s[c + caches.HITS]), int(s[c + caches.MISSES])
    return {
        "hits": hits,
        "misses": misses,
        "hit_rate": hits / (hits + misses) if hits + misses else 0.0,
        "dirty_victims": int(s[c + caches.VICTIMS]),
    }


def _memory(s: Vector, q: int, queues: Controller, cell: Media, over: int) -> dict[str, Any]:
    m = int(s[q + controller.MEDIA])
    reads, writes = int(s[q + controller.READS]), int(s[q + controller.WRITES])
    media_writes = int(s[m + media.WRITES]) * cell.write_unit
    media_reads = int(s[m + media.READS]) * cell.unit if cell.buffer_units else reads * LINE
    seconds = over / 1e12  # of picoseconds
    return {
        "reads": reads,
        "writes": writes,
        "read_bytes": reads * LINE,
        "written_bytes": writes * LINE,
        "read_gb_per_s": reads * LINE / seconds / 1e9 if over else 0.0,
        "write_gb_per_s": writes * LINE / seconds / 1e9 if over else 0.0,
        "read_queue_ns": int(s[q + controller.READ_STALLS]) / 1000,
        "write_queue_ns": int(s[q + controller.WRITE_STALLS]) / 1000,
        "coalesced": int(s[q + controller.COALESCED]),
        "media": {
            "reads": int(s[m + media.READS]),
            "writes": int(s[m + media.WRITES]),
            "read_bytes": media_reads,
            "written_bytes": media_writes,
            "buffer_hits": int(s[m + media.FOUND]),
            "merged_writes": int(s[m + media.MERGED]),
            "partial_units": int(s[m + media.PARTIAL]),
            "write_amplification": media_writes / (writes * LINE) if writes else 0.0,
        },
    }


def _engine(machine: Machine, s: Vector) -> dict[str, Any]:
    e = int(s[ENGINE])
    found: dict[str, Any] = {
        "mode": machine.engine.mode,
        "line_reads": int(s[e + engine.READS]),
        "line_writes": int(s[e + engine.WRITES]),
        "partial_writes": int(s[e + engine.PARTIAL]),
        "lines": int(s[e + engine.CRYPTED]),
    }
    if c := int(s[e + engine.COUNTERS]):
        found["counters"] = {
            "policy": machine.counters.policy,
            "cache": _cache(s, int(s[c + counters.CACHE])),
            "fetched": int(s[c + counters.FETCHED]),
            "written": int(s[c + counters.WRITTEN]),
            "written_by_stop_loss": int(s[c + counters.FORCED]),
            "tree_fetched": int(s[c + counters.TREE_FETCHED]),
            "tree_written": int(s[c + counters.TREE_WRITTEN]),
            "overflows": int(s[c + counters.OVERFLOWS]),
        }
    return found


def _pages(s: Vector) -> dict[str, Any]:
    p = int(s[PAGES])
    return {
        "faults": int(s[p + pagecache.FAULTS]),
        "pages_read": int(s[p + pagecache.READ]),
        "pages_written": int(s[p + pagecache.WRITTEN]),
        "dirty_evictions": int(s[p + pagecache.EVICTED]),
        "copied_bytes": int(s[p + pagecache.COPIED]),
        "crypted_bytes": int(s[p + pagecache.CRYPTED]) * PAGE,
        "slots_programmed": int(s[p + pagecache.PROGRAMMED]),
    }


def _energy(machine: Machine, s: Vector) -> dict[str, float]:
    """What bits moved at the media, and through the cipher, cost.

    Reads and writes of the cells at pJ a bit; of writes, where the trace carries data, the bits that
    change (as in Lee et al., ISCA 2009: only these are written).
    """
    m = int(s[s[PMEM] + controller.MEDIA])
    read_unit = machine.media.unit if machine.media.buffer_units else LINE
    read = int(s[m + media.READS]) * read_unit * 8 * machine.media.read_pj_per_bit
    c = int(s[CELLS])
    bits = int(s[m + media.WRITES]) * machine.media.write_unit * 8
    if s[c + cells.ACTIVE]:
        lines = int(s[c + cells.LINES])
        beside = int(s[s[PMEM] + controller.WRITES]) - lines  # counters and nodes: half of their bits
        bits = int(s[c + cells.FLIPS]) + max(0, beside) * BITS // 2
    crypted = int(s[s[ENGINE] + engine.CRYPTED]) * BITS
    if s[PAGES] and machine.pages.crypt != "none":
        crypted = int(s[s[PAGES] + pagecache.CRYPTED]) * PAGE * 8
    write, aes = bits * machine.media.write_pj_per_bit, crypted * machine.engine.aes_pj_per_bit
    return {
        "media_read": read / 1000,
        "media_write": write / 1000,
        "aes": aes / 1000,
        "total": (read + write + aes) / 1000,
    }
