"""What the programs do, step by step: each step is timed, on files that are new each round."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np

from mktme.errors import ClientError, LibraryMissing
from mktme.lab.paths.subjects import Subject
from mktme.lab.workloads import library_files

ROWS, QUERIES, UPDATES, SCANS = 20_000, 2_000, 200, 3
CACHE = 256  # KiB that SQLite keeps of a database of 3 MB: queries reach the files
TREE = 200  # files of the standard library that git keeps
FILE = 16 << 20  # bytes of fio's file


class Step(NamedTuple):
    """What was timed: `amount` of `unit` in so many seconds."""

    name: str
    seconds: float
    amount: float
    unit: str


class Program(NamedTuple):
    """`run(subject, folder, number)`: its steps in round `number`; `folder` is where the subject's files are
    mounted, None for a program that needs none. `needs`: commands.
    """

    summary: str
    run: Callable[[Subject, Path | None, int], Iterator[Step]]
    needs: tuple[str, ...]
    mounted: bool

    def check(self) -> None:
        """Raise LibraryMissing if it can't run here."""
        for command in self.needs:
            if shutil.which(command) is None:
                raise LibraryMissing(f"{command} isn't installed: apt-get install {command}")
        if self.mounted:
            from mktme.clients.fuse import library

            library()
        else:
            import mktme.clients.sqlite  # noqa: F401


def _timed(name: str, amount: float, unit: str, what: Callable[[], object]) -> Step:
    begin = time.perf_counter()
    what()
    return Step(name, time.perf_counter() - begin, amount, unit)


def sqlite(subject: Subject, folder: Path | None, number: int) -> Iterator[Step]:
    """A table of rows of about 150 bytes, by way of the VFS; rollback journal, synchronous=FULL."""
    from mktme.clients.sqlite import connect

    rng = np.random.default_rng(number)
    name = f"database-{number}"
    connection = connect(subject.system, f"{subject.folder}/{name}")
    connection.pragma("synchronous", "full")
    connection.pragma("cache_size", -CACHE)
    connection.execute("CREATE TABLE t(id INTEGER PRIMARY KEY, number INTEGER, text TEXT)")
    rows = [(i, int(n), f"{n:032x}" * 4) for i, n in enumerate(rng.integers(0, 1 << 60, ROWS))]

    def load() -> None:
        with connection:
            connection.executemany("INSERT INTO t VALUES(?, ?, ?)", rows)

    def query() -> None:
        for i in rng.integers(0, ROWS, QUERIES).tolist():
            found = connection.execute("SELECT number FROM t WHERE id = ?", (i,)).fetchall()
            if found != [(rows[i][1],)]:
                raise ClientError(f"row {i} has {found}, and {rows[i][1]} was stored")

    def update() -> None:
        for i in rng.integers(0, ROWS, UPDATES).tolist():
            connection.execute("UPDATE t SET number = -number WHERE id = ?", (i,))

    def scan() -> None:
        for _ in range(SCANS):
            connection.execute("SELECT sum(length(text)), max(number) FROM t").fetchone()

    yield _timed("bulk load", ROWS, "rows", load)
    yield _timed("point queries", QUERIES, "queries", query)
    yield _timed("updates, each durable", UPDATES, "transactions", update)
    yield _timed("scans", SCANS * ROWS, "rows", scan)
    if connection.pragma("integrity_check") != "ok":
        raise ClientError(f"SQLite finds {name} damaged on the path {subject.name}")
    connection.close()
    subject.remove(name)


def _command(*command: str, folder: Path) -> str:
    surroundings = {name: text for name, text in os.environ.items() if not name.startswith("GIT_")}
    surroundings |= {"GIT_CONFIG_NOSYSTEM": "1", "GIT_CONFIG_GLOBAL": "/dev/null", "LC_ALL": "C"}
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False, env=surroundings)
    if done.returncode:
        raise ClientError(f"{' '.join(command[:3])} failed: {(done.stderr or done.stdout).strip()[-300:]}")
    return done.stdout


def git(subject: Subject, folder: Path | None, number: int) -> Iterator[Step]:
    """The standard library's first files in a repository."""
    assert folder is not None
    place = folder / f"repository-{number}"
    files = library_files()[:TREE]
    who = ("-c", "user.name=A", "-c", "user.email=a@example.org", "-c", "gc.auto=0", "-c", "core.fsync=all")

    def copy() -> None:
        for at, file in enumerate(files):
            (place / f"{at // 50}").mkdir(exist_ok=True)
            shutil.copyfile(file, place / f"{at // 50}" / f"{at}.py")

    def commit() -> None:
        _command("git", "add", "-A", folder=place)
        _command("git", *who, "commit", "-q", "-m", "all", folder=place)

    def change() -> None:
        for at in range(0, TREE, 10):
            with (place / f"{at // 50}" / f"{at}.py").open("a") as file:
                file.write(f"# {number}\n")
        _command("git", *who, "commit", "-q", "-a", "-m", "some", folder=place)

    place.mkdir()
    _command("git", "init", "-q", folder=place)
    yield _timed("copy of the files", TREE, "files", copy)
    yield _timed("add and commit", TREE, "files", commit)
    yield _timed("change and commit", TREE // 10, "files", change)
    yield _timed("gc", 1, "time", lambda: _command("git", "gc", "-q", folder=place))
    _command("git", "fsck", "--strict", folder=place)
    yield _timed("clone", TREE, "files", lambda: _command("git", "clone", "-q", ".", "../copy", folder=place))
    shutil.rmtree(folder / "copy")
    shutil.rmtree(place)


FIO = {
    "in order, write, 1 MiB": ("write", 1 << 20, 0),
    "in order, read, 1 MiB": ("read", 1 << 20, 0),
    "random, read, 4 KiB": ("randread", 4096, 0),
    "random, write, 4 KiB": ("randwrite", 4096, 0),
    "random, write, 4 KiB, each synced": ("randwrite", 4096, 1),
}
SYNCED = 256  # requests of the last one


def fio(subject: Subject, folder: Path | None, number: int) -> Iterator[Step]:
    """Requests on one file, past the kernel's page cache where they are read."""
    assert folder is not None
    for name, (kind, block, sync) in FIO.items():
        moved = SYNCED * block if sync else FILE
        told = _command(
            *("fio", "--output-format=json", "--name=job", "--filename=file", "--ioengine=psync"),
            *(f"--size={FILE}", f"--io_size={moved}", f"--rw={kind}", f"--bs={block}", f"--fsync={sync}"),
            *("--invalidate=1", "--end_fsync=1", f"--randseed={number + 1}"),
            folder=folder,
        )
        job = json.loads(told[told.index("{") :])["jobs"][0]
        side = job["read" if "read" in kind else "write"]
        yield Step(name, side["runtime"] / 1000 or 0.0005, side["io_bytes"] / 1e6, "MB")
    (folder / "file").unlink()


PROGRAMS = {
    "sqlite": Program("SQLite by way of the VFS", sqlite, (), False),
    "git": Program("git on a mount", git, ("git",), True),
    "fio": Program("fio on a mount", fio, ("fio",), True),
}
