"""`mktme replay --validate`: the model beside published figures, as plain data."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from mktme.lab.machine import describe
from mktme.lab.timing import encryption, limits, published

SCHEMA = "mktme-validation/1"
Progress = Callable[[str, int, int], None]


def validate(progress: Progress | None = None) -> dict[str, Any]:
    """Every figure beside ours, and the workloads behind those that are means; about a minute."""
    steps = (
        "latencies",
        "sizes",
        "threads",
        "write combining",
        "counter mode",
        "changed bits",
        "files",
        "limits",
    )

    def tell(done: int) -> None:
        if progress is not None:
            progress(steps[min(done, len(steps) - 1)], done, len(steps))

    tell(0)
    figures = published.latencies()
    tell(1)
    sizes = published.by_size()
    figures += sizes + published.ratios(sizes)
    tell(2)
    figures += published.by_threads()
    tell(3)
    figures += published.buffering()
    tell(4)
    found, counters = encryption.counter_mode()
    figures += found
    tell(5)
    found, bits = encryption.changed_bits()
    figures += found
    tell(6)
    files = {}
    for memory in ("pcm", "optane"):
        found, files[memory] = encryption.headline(memory)
        figures += found
    work = encryption.by_work()
    tell(7)
    figures += limits.limits()
    tell(8)
    return {
        "schema": SCHEMA,
        "machine": describe(),
        "figures": [figure.to_json() for figure in figures],
        "counter_mode": counters,
        "changed_bits": bits,
        "files": files,
        "by_work": work,
        "complete": True,
    }
