"""SQLite on volumes and regions: its own checks, locks, power failures at every sync."""

from __future__ import annotations

import gc
import sqlite3
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import mktme
import pmem
from mktme.clients.stores import RegionStore
from mktme.errors import ClientError
from mktme.fscrypt.policy import Policy
from mktme.lab.crash.explorer import explore
from mktme.lab.crash.worlds import room, world
from mktme.lab.paths.subjects import PATHS
from pmem import dax

apsw = pytest.importorskip("apsw", reason="SQLite on encrypted memory needs apsw")
from mktme.clients import sqlite  # noqa: E402

MASTER = bytes(range(64))
MARK = "a text that would be seen on the medium"
JOURNALS = ("delete", "truncate", "persist", "wal")
ROWS = 40


def system_on(device: pmem.Device, path: str, *, new: bool) -> mktme.FileSystem:
    """A file system on a device, with the key."""
    way = PATHS[path]
    volume = dax.make(device) if new else dax.mount(device)
    system = mktme.FileSystem(volume, way.make(device), iv=way.iv)
    key = system.keyring.add(MASTER)
    if new:
        system.mkdir("/data")
        if path != "none":
            system.set_policy("/data", Policy(key))
    return system


@pytest.fixture(params=["none", "line", "line-file", "inline", "bounce"])
def system(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[mktme.FileSystem]:
    with pmem.create(tmp_path / "pool.img", "8MiB") as device:
        made = system_on(device, request.param, new=True)
        with made.volume:
            yield made


@pytest.fixture
def device(tmp_path: Path) -> Iterator[pmem.Device]:
    with pmem.create(tmp_path / "region.img", "4MiB") as made:
        yield made


def filled(connection: Any, rows: int = ROWS) -> None:
    connection.execute("CREATE TABLE IF NOT EXISTS t(id INTEGER PRIMARY KEY, text TEXT, number INTEGER)")
    with connection:
        connection.executemany("INSERT INTO t(text, number) VALUES(?, ?)", ((MARK, i) for i in range(rows)))


def sound(connection: Any) -> int:
    """Checked by SQLite itself; how many rows."""
    assert connection.pragma("integrity_check") == "ok"
    return int(connection.execute("SELECT count(*) FROM t").fetchone()[0])


@pytest.mark.parametrize("journal", JOURNALS)
def test_a_database_in_a_file_of_a_volume(system: mktme.FileSystem, journal: Any) -> None:
    connection = sqlite.connect(system, "/data/db", journal=journal)
    assert connection.pragma("journal_mode") == journal
    filled(connection)
    for i in range(20):
        connection.execute("UPDATE t SET number = ? WHERE id = ?", (1000 + i, i + 1))
    connection.execute("BEGIN; INSERT INTO t VALUES(99, 'x', 1); ROLLBACK")
    connection.close()
    left = [listed.name for listed in system.list("/data")]
    assert left == ["db"] if journal in ("delete", "wal") else sorted(left) == ["db", "db-journal"]
    connection = sqlite.connect(system, "/data/db", mode="rw")
    assert sound(connection) == ROWS
    assert (
        connection.execute("SELECT sum(number) FROM t WHERE number >= 1000").fetchone()[0] == 20 * 1000 + 190
    )
    connection.close()
    seen = MARK.encode() in system.volume.device.media.tobytes()
    assert seen == (system.path.name == "none")
    assert dax.check(system.volume).problems == []


def test_thousands_of_transactions(tmp_path: Path) -> None:
    with pmem.create(tmp_path / "pool.img", "8MiB") as device:
        system = system_on(device, "line", new=True)
        connection = sqlite.connect(system, "/data/db", journal="truncate")
        filled(connection, 100)
        for i in range(2000):
            connection.execute("UPDATE t SET number = ? WHERE id = ?", (-i, i % 100 + 1))
        assert connection.vfs.syncs > 6000
        assert sound(connection) == 100
        connection.close()
        connection = sqlite.connect(system, "/data/db")
        assert sound(connection) == 100
        assert connection.execute("SELECT min(number), max(number) FROM t").fetchone() == (-1999, -1900)
        connection.close()
        system.volume.close()


def test_the_bytes_are_a_database_for_others(system: mktme.FileSystem, tmp_path: Path) -> None:
    connection = sqlite.connect(system, "/data/db")
    filled(connection)
    connection.close()
    copy = tmp_path / "copy.db"
    with system.open("/data/db") as file:
        copy.write_bytes(file.read())
    other = sqlite3.connect(copy)
    try:
        assert other.execute("SELECT count(*), max(text) FROM t").fetchone() == (ROWS, MARK)
    finally:
        other.close()


def test_a_move_of_the_extents_changes_nothing(system: mktme.FileSystem) -> None:
    connection = sqlite.connect(system, "/data/db")
    filled(connection, 500)
    with system.open("/data/db") as file:
        before = file.file.map()
    system.relocate("/data/db")
    assert sound(connection) == 500  # under the open connection
    filled(connection, 10)
    connection.close()
    system.defragment("/data/db")
    with system.open("/data/db") as file:
        assert file.file.map() != before
    connection = sqlite.connect(system, "/data/db")
    assert sound(connection) == 510
    connection.close()


@pytest.mark.parametrize("iv", ["pmem-line", "pmem-page", "ctr-split", "plain64"])
@pytest.mark.parametrize("journal", ["truncate", "wal"])
def test_a_database_in_a_region(device: pmem.Device, iv: str, journal: Any) -> None:
    region = world(iv, "2MiB")(device)
    connection = sqlite.connect(region, journal=journal)
    filled(connection, 2000)
    for i in range(1000):  # transactions of their own
        connection.execute("UPDATE t SET number = ? WHERE id = ?", (-i, i + 1))
    connection.execute("CREATE TABLE temporary AS SELECT * FROM t ORDER BY number")
    connection.execute("DROP TABLE temporary")
    assert sound(connection) == 2000
    connection.close()
    assert MARK.encode() not in device.media.tobytes()
    RegionStore(region)  # as another process would
    connection = sqlite.connect(region)
    assert sound(connection) == 2000
    assert connection.execute("SELECT sum(number) FROM t WHERE id <= 1000").fetchone()[0] == -499500
    connection.close()


def test_two_connections_keep_out_of_each_others_way(system: mktme.FileSystem) -> None:
    one, two = (sqlite.connect(system, "/data/db") for _ in range(2))
    filled(one)
    one.execute("BEGIN IMMEDIATE")
    one.execute("UPDATE t SET number = 7")
    assert sound(two) == ROWS  # readers see what was
    with pytest.raises(apsw.BusyError):
        two.execute("BEGIN IMMEDIATE")
    reading = two.execute("SELECT * FROM t")
    next(reading)
    with pytest.raises(apsw.BusyError):
        one.execute("COMMIT")
    three = sqlite.connect(system, "/data/db")
    with pytest.raises(apsw.BusyError):  # a writer that waits lets no new reader in
        three.execute("SELECT * FROM t").fetchall()
    three.close()
    reading.close()
    one.execute("COMMIT")
    assert two.execute("SELECT DISTINCT number FROM t").fetchall() == [(7,)]
    two.execute("BEGIN EXCLUSIVE")
    with pytest.raises(apsw.BusyError):
        one.execute("SELECT * FROM t").fetchall()
    two.execute("COMMIT")
    one.close()
    two.close()


def test_a_log_belongs_to_one_connection(system: mktme.FileSystem) -> None:
    one = sqlite.connect(system, "/data/db", journal="wal")
    filled(one)
    with pytest.raises(apsw.BusyError):
        sqlite.connect(system, "/data/db").execute("SELECT * FROM t").fetchall()
    gc.collect()
    one.close()
    two = sqlite.connect(system, "/data/db")
    assert sound(two) == ROWS
    assert two.pragma("journal_mode") == "wal"
    two.close()


def overfilled(connection: Any) -> None:
    connection.execute("BEGIN")
    rows = ((MARK, i) for i in range(10**6))
    with pytest.raises(apsw.FullError):
        connection.executemany("INSERT INTO t(text, number) VALUES(?, ?)", rows)
    assert not connection.in_transaction  # SQLite has rolled it back


def test_a_full_region_keeps_what_it_has(device: pmem.Device) -> None:
    region = world("pmem-line", "128KiB")(device)
    connection = sqlite.connect(region)
    filled(connection, 100)
    overfilled(connection)
    assert sound(connection) == 100
    connection.close()


def test_a_full_volume_keeps_what_it_has(system: mktme.FileSystem) -> None:
    connection = sqlite.connect(system, "/data/db")
    filled(connection, 100)
    overfilled(connection)
    assert sound(connection) == 100
    connection.close()


def test_what_cannot_be_is_refused(system: mktme.FileSystem, device: pmem.Device) -> None:
    with pytest.raises(FileNotFoundError):
        sqlite.connect(system, "/data/none", mode="rw")
    with pytest.raises(ClientError, match="begins with /"):
        sqlite.connect(system, "db")
    with pytest.raises(ClientError, match="mode 'w': it is one of r, rw, rwc"):
        sqlite.connect(system, "/data/db", mode="w")  # type: ignore[arg-type]
    controller = mktme.Controller(device)
    keyid = controller.program_key(mktme.Key.generate("aes-xts-256"))
    with pytest.raises(ClientError, match="has no room"):
        sqlite.connect(controller.map("3MiB", "32KiB", keyid, iv="pmem-line"))
    taken = controller.map(0, "1MiB", keyid, iv="pmem-line")
    taken.write(100, b"something else")
    with pytest.raises(ClientError, match="neither zeros nor blank"):
        sqlite.connect(taken)
    taken.fill(0)
    connection = sqlite.connect(taken)
    filled(connection)
    connection.close()
    controller.unmap(taken)
    other = controller.map(
        0, "1MiB", controller.program_key(mktme.Key.generate("aes-xts-256")), iv="pmem-line"
    )
    with pytest.raises(ClientError, match="under the key and scheme"):
        sqlite.connect(other)


def test_without_the_key_there_is_no_database(system: mktme.FileSystem) -> None:
    sqlite.connect(system, "/data/db").close()
    if system.path.name == "none":
        return
    identifier = system.policy("/data").key  # type: ignore[union-attr]
    system.keyring.remove(identifier)
    with pytest.raises(FileNotFoundError, match="whose key is missing"):
        sqlite.connect(system, "/data/db", mode="rw")


def bank(connection: Any, transfers: int) -> Iterator[int]:
    """Accounts whose sum never changes; each transfer is a promise."""
    connection.execute("CREATE TABLE account(id INTEGER PRIMARY KEY, balance INTEGER)")
    with connection:
        connection.executemany("INSERT INTO account VALUES(?, 100)", ((i,) for i in range(8)))
    connection.execute("CREATE TABLE done(number INTEGER)")
    yield -1
    rng = np.random.default_rng(5)
    for number in range(transfers):
        one, two = (int(n) for n in rng.permutation(8)[:2])
        with connection:
            connection.execute("UPDATE account SET balance = balance - 10 WHERE id = ?", (one,))
            connection.execute("UPDATE account SET balance = balance + 10 WHERE id = ?", (two,))
            connection.execute("INSERT INTO done VALUES(?)", (number,))
        yield number


def held(connection: Any, promised: list[int]) -> None:
    """What must be so after a power failure."""
    assert connection.pragma("integrity_check") == "ok"
    if not promised:
        return
    assert connection.execute("SELECT sum(balance), count(*) FROM account").fetchone() == (800, 8)
    done = [row[0] for row in connection.execute("SELECT number FROM done ORDER BY rowid")]
    assert done in (list(range(promised[-1] + 1)), list(range(promised[-1] + 2)))


def held_in(region: Any, promised: list[int]) -> None:
    """The same of the database in a region."""
    connection = sqlite.connect(region)
    try:
        held(connection, promised)
    finally:
        connection.close()


@pytest.mark.parametrize("path", ["none", "line", "line-file", "inline", "bounce"])
@pytest.mark.parametrize("journal", ["delete", "wal"])
def test_power_fails_at_every_sync_of_a_volume(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, path: str, journal: Any
) -> None:
    """Before and after each sync, with nothing, all, or some of what wasn't durable."""
    with pmem.create(tmp_path / "pool.img", "4MiB", domain="adr") as device:
        system = system_on(device, path, new=True)
        promised: list[int] = []
        failures = 0

        def fails(policy: Any, seed: int) -> None:
            nonlocal failures
            with device.crash(policy, seed=seed) as after:
                found = system_on(after, path, new=False)
                assert dax.check(found.volume).problems == []
                if found.exists("/data/db"):
                    connection = sqlite.connect(found, "/data/db")
                    held(connection, promised)
                    connection.close()
                else:
                    assert not promised
                found.volume.close()
            failures += 1

        original: Callable[..., None] = sqlite.VfsFile.xSync
        failing = False

        def sync(file: Any, flags: int) -> None:
            nonlocal failing
            if failing:  # a recovery
                original(file, flags)
                return
            failing = True
            fails("random", 2 * failures)
            original(file, flags)
            fails("none", 0)
            fails("random", 2 * failures + 1)
            failing = False

        monkeypatch.setattr(sqlite.VfsFile, "xSync", sync)
        connection = sqlite.connect(system, "/data/db", journal=journal)
        connection.pragma("synchronous", "full")
        for number in bank(connection, 3):
            promised.append(number)
        connection.close()
        system.volume.close()
        assert failures > (30 if journal == "wal" else 50)


@pytest.mark.parametrize("iv", ["pmem-line", "ctr-split"])
@pytest.mark.parametrize("journal", ["truncate", "wal"])
def test_the_crash_explorer_finds_nothing(iv: str, journal: Any) -> None:
    def program(region: Any) -> Iterator[int]:
        connection = sqlite.connect(region, journal=journal)
        connection.pragma("synchronous", "full")
        yield from bank(connection, 2)
        connection.close()

    result = explore(program, held_in, setup=world(iv, "256KiB"), size=room(iv, "256KiB"), limit=12, seed=1)
    assert result.consistent, result.smallest
    assert result.states > 100


@pytest.mark.parametrize("path", ["none", "line", "line-file", "inline", "bounce"])
def test_the_crash_explorer_finds_nothing_on_a_volume(path: str) -> None:
    """At every fence of the database, of the file system, and of the volume's metadata."""

    def program(system: mktme.FileSystem) -> Iterator[int]:
        connection = sqlite.connect(system, "/data/db", journal="delete")
        connection.pragma("synchronous", "full")
        yield from bank(connection, 1)
        connection.close()
        system.volume.close()

    def check(system: mktme.FileSystem, promised: list[int]) -> None:
        assert dax.check(system.volume).problems == []
        if system.exists("/data/db"):
            connection = sqlite.connect(system, "/data/db")
            try:
                held(connection, promised)
            finally:
                connection.close()
        else:
            assert not promised
        system.volume.close()

    result = explore(
        program,
        check,
        setup=lambda device: system_on(device, path, new=True),
        reopen=lambda device: system_on(device, path, new=False),
        size="2MiB",
        limit=4,
        seed=1,
    )
    assert result.consistent, result.smallest
    assert result.points > 60
    assert result.states > 200


def test_the_crash_explorer_finds_a_sync_that_does_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    def program(region: Any) -> Iterator[int]:
        with monkeypatch.context() as patch:
            patch.setattr(sqlite.VfsFile, "xSync", lambda file, flags: file._file._store.settle())
            connection = sqlite.connect(region, journal="truncate")
            yield from bank(connection, 2)
            connection.close()

    result = explore(program, held_in, setup=world("pmem-line", "256KiB"), size="256KiB", limit=12, seed=1)
    assert not result.consistent
