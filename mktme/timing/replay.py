"""Several machines over one pass of a trace."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor

from mktme.errors import TimingError
from mktme.timing.access import Chunk, Trace
from mktme.timing.machine import Machine, Run
from mktme.timing.results import Result

SCHEMA = "mktme-replay/1"  # of results files
Progress = Callable[[int], None]  # called with the number of records so far


def replay(
    trace: Trace,
    machines: Sequence[Machine],
    *,
    jobs: int = 1,
    warm_up: int = 0,
    progress: Progress | None = None,
) -> list[Result]:
    """Run machines over a trace that is read once, `jobs` of them at a time, each in a thread.

    The next chunk is read while the machines work at one, and no more of the trace is held.
    Results are in the order of the machines, and don't depend on `jobs`. The first `warm_up` records aren't
    counted. Raises TraceError at a record that can't be, and no result is returned; TimingError.
    """
    if jobs < 1 or warm_up < 0:
        raise TimingError(f"{jobs} jobs and a warm-up of {warm_up} records: at least 1, and 0")
    runs, done = [Run(machine, warm_up) for machine in machines], 0
    with ThreadPoolExecutor(jobs) as pool:
        for chunk in _ahead(trace.chunks()):
            for _ in pool.map(lambda run, chunk=chunk: run.feed(chunk), runs):
                pass
            done += len(chunk)
            if progress is not None:
                progress(done)
        return list(pool.map(Run.finish, runs))


def _ahead(chunks: Iterator[Chunk]) -> Iterator[Chunk]:
    """The same chunks; each next one is made in another thread, meanwhile."""
    with ThreadPoolExecutor(1) as reader:
        coming = reader.submit(next, chunks, None)
        while (chunk := coming.result()) is not None:
            coming = reader.submit(next, chunks, None)
            yield chunk
