"""Where tasks run: processes of this machine, or a Dask cluster. Both give results as they come.

A task is a function of a module and its arguments, which can be pickled. A worker that dies takes its task
with it; the task is given to another one, and if that dies, too, it is said to be lost.
"""

from __future__ import annotations

import itertools
import multiprocessing
import os
import signal
import sys
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from typing import Any

import mktme
from mktme.errors import LibraryMissing
from mktme.lab.study.grid import StudyError

STARTED, RESULT = "started", "result"  # what a worker says
PATIENCE = 2.0  # seconds
TRIES = 2  # of a task whose worker died
AHEAD = 4  # tasks that a cluster is given for each of its threads


@dataclass(frozen=True)
class Task:
    """A call; `key` names it among others. `function` must not raise what the run should survive."""

    key: str
    function: Callable[..., Any]
    arguments: tuple[Any, ...]


@dataclass(frozen=True)
class Lost:
    """In the place of a result: why there is none."""

    reason: str


Results = Iterator[tuple[Task, Any]]


class Processes:
    """Worker processes on this machine, each with a task at a time. Closed, they end at once."""

    def __init__(self, count: int) -> None:
        self.count, self._context = count, multiprocessing.get_context("spawn")
        self._workers: list[_Worker] = []

    def __str__(self) -> str:
        return f"{self.count} process" + ("es" if self.count > 1 else "")

    def run(self, tasks: Iterable[Task], limit: int = 0) -> Results:
        """Results in the order in which they come; `limit`: tasks at a time, 0 for all workers."""
        coming, again = iter(tasks), deque[Task]()
        tries: dict[str, int] = {}
        most = min(self.count, limit or self.count)
        busy: dict[_Worker, Task] = {}
        while True:
            while len(busy) < most and (task := again.popleft() if again else next(coming, None)):
                worker = self._idle(busy)
                busy[worker] = task
                worker.give(task)
            if not busy:
                return
            for worker in [w for w in busy if w.ready] or self._wait(busy):
                try:
                    what, result = worker.take()
                except (EOFError, OSError):
                    task = busy.pop(worker)
                    self._workers.remove(worker)
                    reason = worker.end()
                    if not worker.started:
                        raise StudyError(
                            f"a worker process ended before it began ({reason}): a script that runs a study "
                            'does it below if __name__ == "__main__"'
                        ) from None
                    tries[task.key] = tries.get(task.key, 0) + 1
                    if tries[task.key] < TRIES:
                        again.append(task)
                    else:
                        yield task, Lost(f"its worker died {TRIES} times, at last {reason}")
                    continue
                if what == STARTED:
                    worker.started = True
                else:
                    yield busy.pop(worker), result

    def _idle(self, busy: dict[_Worker, Task]) -> _Worker:
        for worker in self._workers:
            if worker not in busy:
                return worker
        self._workers.append(_Worker(self._context))
        return self._workers[-1]

    def _wait(self, busy: dict[_Worker, Task]) -> list[_Worker]:
        ready = wait([worker.pipe for worker in busy])
        return [worker for worker in busy if worker.pipe in ready]

    def close(self) -> None:
        """End the workers, whatever they do; they have PATIENCE seconds to clean up."""
        for worker in self._workers:
            worker.process.terminate()
        over = time.monotonic() + PATIENCE
        for worker in self._workers:
            worker.process.join(max(0.0, over - time.monotonic()))
            worker.end()
        self._workers.clear()


class _Worker:
    """A process, and the pipe that it takes tasks from."""

    def __init__(self, context: Any) -> None:
        self.pipe, theirs = context.Pipe()
        self.process = context.Process(target=_serve, args=(theirs,), daemon=True)
        self.process.start()
        theirs.close()
        self.started = False

    @property
    def ready(self) -> bool:
        return bool(self.pipe.poll())

    def give(self, task: Task) -> None:
        with suppress(BrokenPipeError):  # it died idle: taking its result will tell
            self.pipe.send((task.function, task.arguments))

    def take(self) -> Any:
        return self.pipe.recv()

    def end(self) -> str:
        """Kill it. Returns how it had ended, if it had."""
        if self.pipe.poll():  # its end of the pipe is closed: it is about to end
            self.process.join(0.5)
        code = self.process.exitcode
        self.process.kill()
        self.process.join()
        self.pipe.close()
        if code is None:
            return "without an answer"
        return f"by {signal.Signals(-code).name}" if code < 0 else f"with status {code}"


def _serve(pipe: Connection) -> None:
    """A worker's life: until the other end of the pipe is gone."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for who gives the tasks
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # folders for temporary files are removed
    pipe.send((STARTED, None))
    while True:
        try:
            function, arguments = pipe.recv()
        except EOFError:
            return
        pipe.send((RESULT, function(*arguments)))


class Cluster:
    """The workers of a Dask scheduler. Raises StudyError if it can't be reached, or has other versions."""

    def __init__(self, address: str, timeout: float = 10.0) -> None:
        try:
            from distributed import Client
        except ImportError:
            raise LibraryMissing("a cluster needs Dask: pip install 'mktme[cluster]'") from None
        try:
            self._client = Client(address, timeout=timeout, name="mktme-study", set_as_default=False)
        except (OSError, ValueError) as error:
            raise StudyError(
                f"no Dask scheduler answers at {address} ({error}): start one with dask scheduler, and "
                "workers with dask worker ADDRESS"
            ) from None
        try:
            self._check()
        except BaseException:
            self.close()
            raise
        self._address = address

    def _check(self) -> None:
        if not self._threads():
            raise StudyError("the scheduler has no workers: start some with dask worker ADDRESS")
        for worker, found in self.everywhere(versions).items():
            if found != versions():
                raise StudyError(
                    f"the worker at {worker} has {found}, and here it is {versions()}: install the same"
                )

    def everywhere(self, function: Callable[..., Any], *arguments: Any) -> dict[str, Any]:
        """What a function gives on each worker. Raises StudyError where it can't be run."""
        try:
            return dict(self._client.run(function, *arguments))
        except Exception as error:  # of whatever kind the worker's was
            raise StudyError(
                f"a worker can't run this package's code ({type(error).__name__}: {error}): install mktme on "
                "each, in the same version"
            ) from None

    def _threads(self) -> int:
        return sum(self._client.nthreads().values())

    def __str__(self) -> str:
        return f"{len(self._client.nthreads())} workers of {self._address}"

    @property
    def count(self) -> int:
        """Threads of all workers, now."""
        return max(1, self._threads())

    def run(self, tasks: Iterable[Task], limit: int = 0) -> Results:
        """Results in the order in which they come. Workers may come and go meanwhile."""
        from distributed import as_completed

        coming, running = iter(tasks), dict[str, Task]()
        pending = as_completed(loop=self._client.loop)

        def give(count: int) -> None:
            for task in itertools.islice(coming, count):
                name = f"{task.key}-{os.urandom(4).hex()}"
                running[name] = task
                pending.add(self._client.submit(task.function, *task.arguments, key=name, pure=False))

        give(limit or AHEAD * self.count)
        for future in pending:
            task = running.pop(future.key)
            if future.status == "finished":
                yield task, future.result()
            elif future.status in ("pending", "lost"):  # it was done, on a worker that is gone: again
                running[future.key] = task
                pending.add(future)
                continue
            elif future.status == "cancelled":
                raise StudyError(
                    f"the scheduler at {self._address} dropped the tasks, or is gone: start it again, and "
                    "the same command goes on"
                )
            else:
                yield task, Lost(f"{type(future.exception()).__name__}: {future.exception()}")
            future.release()
            give(max(0, (limit or AHEAD * self.count) - len(running)))

    def close(self) -> None:
        """Leave the cluster, which goes on. What it was given and hasn't done is dropped."""
        self._client.close()


def versions() -> dict[str, str]:
    """What must be the same here and on a worker."""
    import numpy as np

    return {"mktme": mktme.__version__, "numpy": np.__version__.split(".")[0]}
