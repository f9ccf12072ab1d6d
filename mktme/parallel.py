"""A long request over several threads. The kernels release the GIL, so it really runs in parallel."""

from __future__ import annotations

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

SPLIT_FROM = 8 << 20  # bytes of a request below which one thread is enough
_pool: ThreadPoolExecutor | None = None


def cpus() -> int:
    """How many processors this process may use."""
    return len(os.sched_getaffinity(0))


def _forget() -> None:
    """The threads of a pool don't survive a fork."""
    global _pool
    _pool = None


os.register_at_fork(after_in_child=_forget)


def split(work: Callable[[int, int], None], length: int, grain: int, threads: int) -> None:
    """Call work(first, last) over [0, length) in up to `threads` pieces, broken at multiples of
    `grain`. The calling thread does one of them; the first error is raised once all have ended.
    """
    global _pool
    step = -(-length // (threads * grain)) * grain if threads > 1 else length
    if step >= length:
        return work(0, length)
    if _pool is None:
        _pool = ThreadPoolExecutor(max_workers=max(cpus(), threads), thread_name_prefix="mktme")
    waiting = [_pool.submit(work, first, min(first + step, length)) for first in range(step, length, step)]
    try:
        work(0, step)
    finally:
        errors = [job.exception() for job in waiting if job.exception() is not None]
        waiting.clear()
    try:
        for error in errors:
            raise error  # type: ignore[misc]
    finally:  # an error that this frame names would hold itself, and the arrays of the request
        errors.clear()
        error = None
    return None
