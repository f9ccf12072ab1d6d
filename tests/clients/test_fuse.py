"""A volume as a mount: what programs that nobody here wrote do there, signals, kills, users."""

from __future__ import annotations

import ctypes.util
import filecmp
import json
import mmap
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

import mktme
import pmem
from mktme.cli import app
from mktme.clients.volumes import PLACES, system_of
from pmem import dax

MISSING = [
    what
    for what, there in {
        "/dev/fuse": os.access("/dev/fuse", os.R_OK | os.W_OK),
        "libfuse3": ctypes.util.find_library("fuse3"),
        "fusermount3": shutil.which("fusermount3"),
    }.items()
    if not there
]
pytestmark = pytest.mark.skipif(bool(MISSING), reason=f"no mounts here without {', '.join(MISSING)}")
TREE = Path(mktme.__file__).parent / "iv"
MARK = b"a text that would be seen on the medium"


class Daemon:
    """`mktme mount` in a process of its own."""

    def __init__(self, image: Path, users: dict[str, Path], path: str, folder: Path, *more: str) -> None:
        self.image, self.users, self.path = image, users, path
        self.folders = {user: folder / f"mnt_{user}" for user in users}
        for each in self.folders.values():
            each.mkdir(exist_ok=True)
        options = [text for user in users for text in ("--as", user)]
        if path != "none":
            options += [text for key in users.values() for text in ("--key", str(key))]
        self.process = subprocess.Popen(
            [
                *(sys.executable, "-c", "from mktme.cli import main; main()", "mount", str(image)),
                *(str(each) for each in self.folders.values()),
                *options,
                *("--path", path, *more),
            ],
            stderr=subprocess.PIPE,
        )
        self.events: list[dict[str, Any]] = []
        for _ in users:
            self.told("mounted")

    def told(self, event: str) -> dict[str, Any]:
        """The next event of a kind on its standard error."""
        assert self.process.stderr is not None
        for line in self.process.stderr:
            self.events.append(json.loads(line))
            if self.events[-1]["event"] == event:
                return self.events[-1]
        raise AssertionError(self.events)

    def __getitem__(self, user: str) -> Path:
        return self.folders[user]

    def end(self, number: int = signal.SIGTERM) -> int:
        """Its status after a signal."""
        self.process.send_signal(number)
        status = self.process.wait(30)
        assert self.process.stderr is not None
        self.process.stderr.close()
        if number == signal.SIGKILL:
            for each in self.folders.values():
                subprocess.run(["fusermount3", "-u", "-z", str(each)], check=True)
        return status


@pytest.fixture
def keys(tmp_path: Path) -> dict[str, Path]:
    found = {}
    for number, user in enumerate(("alice", "bob")):
        found[user] = tmp_path / f"{user}.key"
        found[user].touch(mode=0o600)
        found[user].write_bytes(np.random.default_rng(number).bytes(64))
    return found


@pytest.fixture
def alice(keys: dict[str, Path]) -> dict[str, Path]:
    return {"alice": keys["alice"]}


def mounted(tmp_path: Path, users: dict[str, Path], path: str = "line") -> Daemon:
    return Daemon(tmp_path / "pool, \\one.img", users, path, tmp_path, "--create", "64MiB")


@pytest.fixture(params=list(PLACES))
def daemon(request: pytest.FixtureRequest, tmp_path: Path, alice: dict[str, Path]) -> Iterator[Daemon]:
    made = mounted(tmp_path, alice, request.param)
    try:
        yield made
    finally:
        assert made.end() == 0
    with pmem.open(made.image) as device, dax.mount(device) as volume:
        assert dax.check(volume).problems == []


def test_files_as_anywhere(daemon: Daemon) -> None:
    """Most of what programs do with files, on one mount."""
    root = daemon["alice"]
    shutil.copytree(TREE, root / "tree")
    compared = filecmp.dircmp(TREE, root / "tree")
    assert compared.left_only + compared.right_only + compared.diff_files == []
    assert (root / "tree/scheme.py").stat().st_mtime == (TREE / "scheme.py").stat().st_mtime

    data = np.random.default_rng(3).bytes(3_000_017)
    (root / "big").write_bytes(data + MARK)
    assert (root / "big").read_bytes() == data + MARK
    with (root / "big").open("r+b") as file:
        file.seek(1_234_567)
        file.write(b"changed")
        file.truncate(2_000_000)
    assert (root / "big").read_bytes() == data[:1_234_567] + b"changed" + data[1_234_574:2_000_000]
    os.truncate(root / "big", 2_500_000)
    assert (root / "big").read_bytes()[2_000_000:] == bytes(500_000)

    (root / "big").rename(root / "tree/moved")
    assert not (root / "big").exists()
    (root / "tree/moved").chmod(0o640)
    os.utime(root / "tree/moved", ns=(1, 1_600_000_000_123_456_789))
    found = (root / "tree/moved").stat()
    assert (found.st_mode & 0o7777, found.st_mtime_ns) == (0o640, 1_600_000_000_123_456_789)
    (root / "tree/scheme.py").rename(root / "tree/moved")  # replaces it
    assert filecmp.cmp(root / "tree/moved", TREE / "scheme.py", shallow=False)

    with (root / "gone").open("w+b") as file:
        file.write(MARK)
        (root / "gone").unlink()
        file.seek(0)
        assert file.read() == MARK
    with (root / "sparse").open("wb") as file:
        os.posix_fallocate(file.fileno(), 0, 100_000)
        file.seek(1 << 20)
        file.write(b"end")
    assert (root / "sparse").stat().st_size == (1 << 20) + 3

    with pytest.raises(FileNotFoundError):
        (root / "none").read_bytes()
    with pytest.raises(FileExistsError):
        (root / "tree").mkdir()
    with pytest.raises(OSError, match="not empty"):
        (root / "tree").rmdir()
    with pytest.raises(OSError, match=r"permitted|implemented"):
        (root / "link").symlink_to("tree")
    with pytest.raises(OSError, match="No space"):
        (root / "more").write_bytes(bytes(70 << 20))
    (root / "more").unlink()
    free = os.statvfs(root)
    assert free.f_bavail * free.f_bsize > 40 << 20
    shutil.rmtree(root / "tree")
    assert sorted(path.name for path in root.iterdir()) == ["sparse"]


def test_maps_of_files(daemon: Daemon) -> None:
    path = daemon["alice"] / "mapped"
    path.write_bytes(bytes(200_000))
    with path.open("r+b") as file, mmap.mmap(file.fileno(), 0) as shared:
        shared[100_000 : 100_000 + len(MARK)] = MARK
        shared.flush()
        with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY) as private:
            private[:4] = b"mine"
    assert path.read_bytes() == bytes(100_000) + MARK + bytes(100_000 - len(MARK))
    assert (MARK in daemon.image.read_bytes()) == (daemon.path == "none")


@pytest.mark.parametrize("program", ["git", "sqlite3", "rsync", "fio"])
def test_programs(program: str, tmp_path: Path, alice: dict[str, Path]) -> None:
    if shutil.which(program) is None:
        pytest.skip(f"{program} isn't installed")
    daemon = mounted(tmp_path, alice)
    root = daemon["alice"]

    def run(*command: str) -> str:
        done = subprocess.run(command, cwd=root, capture_output=True, text=True, check=False, timeout=120)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    try:
        if program == "git":
            shutil.copytree(TREE, root / "work")
            run("git", "init", "-q", "work")
            who = ("-c", "user.name=Alice", "-c", "user.email=alice@example.org")
            for message in ("one", "two"):
                (root / "work/note").write_text(message)
                run("git", "-C", "work", "add", "-A")
                run("git", "-C", "work", *who, "commit", "-q", "-m", message)
            run("git", "-C", "work", "gc", "-q")
            run("git", "-C", "work", "fsck", "--strict")
            run("git", "clone", "-q", "work", "copy")
            assert (root / "copy/note").read_text() == "two"
        elif program == "sqlite3":
            for mode in ("delete", "wal"):
                text = (
                    f"PRAGMA journal_mode={mode}; CREATE TABLE {mode}_(n); WITH RECURSIVE c(n) AS (SELECT 1 "
                )
                text += f"UNION ALL SELECT n+1 FROM c LIMIT 5000) INSERT INTO {mode}_ SELECT n FROM c; "
                text += f"SELECT sum(n) FROM {mode}_; PRAGMA integrity_check;"
                assert run("sqlite3", "db", text).split() == [mode, "12502500", "ok"]
        elif program == "rsync":
            run("rsync", "-a", f"{TREE}/", "tree")
            assert run("rsync", "-ain", "--checksum", f"{TREE}/", "tree") == ""
        else:
            for engine in ("psync", "mmap"):
                job = f"--name=job --filename=file --size=4m --rw=randrw --bs=4k --ioengine={engine}"
                run("fio", *job.split(), "--verify=crc32c", "--verify_fatal=1", "--fsync=64")
    finally:
        assert daemon.end() == 0


def test_each_user_has_her_own_files(tmp_path: Path, keys: dict[str, Path]) -> None:
    daemon = mounted(tmp_path, keys)
    (daemon["alice"] / "letter").write_bytes(MARK)
    (daemon["bob"] / "letter").write_bytes(b"another")
    assert (daemon["alice"] / "letter").read_bytes() == MARK
    assert [path.name for path in daemon["bob"].iterdir()] == ["letter"]
    subprocess.run(["fusermount3", "-u", str(daemon["alice"])], check=True)
    assert daemon.told("unmounted")["folder"] == str(daemon["alice"])
    assert (daemon["bob"] / "letter").read_bytes() == b"another"  # the other one goes on
    command = Path(f"/proc/{daemon.process.pid}/cmdline").read_bytes()
    surroundings = Path(f"/proc/{daemon.process.pid}/environ").read_bytes()
    for key in keys.values():
        for shape in (key.read_bytes(), key.read_bytes().hex().encode()):
            assert shape not in command + surroundings
    assert daemon.end() == 0
    with pmem.open(daemon.image) as device, dax.mount(device) as volume:
        system = system_of(volume, "bounce", {"bob": keys["bob"]})  # another path, the same format
        with system.open("/bob/letter") as file:
            assert file.read() == b"another"
        assert [listed.name for listed in system.list("/alice")] != ["letter"]
        with pytest.raises(OSError, match="key"):
            system.open("/alice/" + system.list("/alice")[0].name)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_signals_unmount_also_while_a_file_is_open(
    number: signal.Signals, tmp_path: Path, alice: dict[str, Path]
) -> None:
    daemon = mounted(tmp_path, alice)
    file = (daemon["alice"] / "open").open("wb")
    file.write(MARK)
    file.flush()
    assert daemon.end(number) == 0
    assert not os.path.ismount(daemon["alice"])
    with pytest.raises(OSError, match=r"connect|abort"):
        os.fsync(file.fileno())
    with suppress(OSError):
        file.close()
    daemon = mounted(tmp_path, alice)
    assert (daemon["alice"] / "open").read_bytes() == MARK
    assert daemon.end() == 0


def test_a_killed_daemon_loses_nothing_that_was_synced(tmp_path: Path, alice: dict[str, Path]) -> None:
    rng = np.random.default_rng(8)
    kept: dict[str, bytes] = {}
    for turn in range(3):
        daemon = mounted(tmp_path, alice)
        root = daemon["alice"]
        assert {path.name: path.read_bytes() for path in root.iterdir()} == kept
        for number in range(8):
            name, data = f"{turn}-{number}", rng.bytes(int(rng.integers(1, 100_000)))
            with (root / name).open("wb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            kept[name] = data
        if turn:
            (root / f"{turn - 1}-0").unlink()
            del kept[f"{turn - 1}-0"]
        assert daemon.end(signal.SIGKILL) == -signal.SIGKILL
        with pmem.open(daemon.image) as device, dax.mount(device) as volume:
            assert dax.check(volume).problems == []


def test_what_cannot_be_mounted(tmp_path: Path, keys: dict[str, Path]) -> None:
    image, point = tmp_path / "pool.img", tmp_path / "mnt"
    point.mkdir()
    with pmem.create(image, "16MiB") as device, dax.make(device) as volume:
        system_of(volume, "line", {"alice": keys["alice"]})
    wide, full = tmp_path / "wide.key", tmp_path / "full"
    wide.write_bytes(bytes(64))
    wide.chmod(0o640)
    short = tmp_path / "short.key"
    short.touch(mode=0o600)
    short.write_bytes(b"short")
    full.mkdir()
    (full / "file").touch()
    alice = ("--as", "alice", "--key", str(keys["alice"]))
    for arguments, status, says in (
        ((str(image), str(tmp_path / "nowhere"), *alice), 1, "is no folder to mount"),
        ((str(image), str(full), *alice), 1, "isn't empty"),
        ((str(image), str(point), "--as", "alice", "--key", str(keys["bob"])), 1, "under another key"),
        ((str(image), str(point), "--as", "alice", "--key", str(wide)), 1, "chmod 600"),
        ((str(image), str(point), "--as", "alice", "--key", str(short)), 1, "a key of 5 bytes"),
        ((str(image), str(point), "--as", "alice", "--path", "none"), 1, "is encrypted"),
        ((str(image), str(point)), 1, "give --as USER"),
        ((str(image), str(point), *alice, "--path", "cloud"), 1, "'cloud' is no path"),
        ((str(image), str(point), str(full), *alice), 2, "1 users and 2 mountpoints"),
        ((str(tmp_path / "none.img"), str(point), *alice), 1, "there is no image"),
        ((str(keys["alice"]), str(point), *alice), 1, "64 bytes"),
    ):
        done = CliRunner().invoke(app, ["mount", *arguments])
        said = done.output + str(done.exception)
        assert done.exit_code == status, said
        assert says in said
    assert not os.path.ismount(point)
