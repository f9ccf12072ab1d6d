"""The device when others, the disk or the limits of the process get in the way."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

import pmem
from pmem import PAGE

PATTERN = bytes(range(1, 129)) * 32  # a page without a zero
ROOT = os.geteuid() == 0
NAMESPACE = ("unshare", "-m") if ROOT else ("unshare", "-rm")
OPEN = "import sys, pmem; pmem.open(sys.argv[1]).close()"


def child(code: str, *arguments: object, prefix: tuple[str, ...] = ()) -> list[str]:
    """The lines that a Python program prints, run in a process of its own; it has to succeed."""
    command = [*prefix, sys.executable, "-c", code, *map(str, arguments)]
    run = subprocess.run(command, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr
    return run.stdout.splitlines()


@pytest.fixture
def mount(tmp_path: Path) -> Path:
    """A folder that a child in a mount namespace of its own can mount on."""
    folder = tmp_path / "mount"
    folder.mkdir()
    mounting = [*NAMESPACE, "mount", "-t", "tmpfs", "none", str(folder)]
    try:
        run = subprocess.run(mounting, capture_output=True, text=True, check=False)
    except FileNotFoundError as error:
        pytest.skip(str(error))
    if run.returncode:
        pytest.skip(f"no file system can be mounted here: {run.stderr.strip()}")
    return folder


# Says what each of some uses raises: the class, then the message.
REPORT = """if 1:
    import os, resource, subprocess, sys
    import numpy as np
    import pmem

    def report(*uses):
        for use in uses:
            try:
                use()
            except pmem.PmemError as error:
                print(type(error).__name__, error)
            else:
                print("no error")
"""


def test_one_writer_at_a_time_over_processes(path: Path) -> None:
    with pmem.create(path, PAGE) as device:
        device.write(0, PATTERN)
        uses = "report(lambda: pmem.open(sys.argv[1]), lambda: pmem.create(sys.argv[1], 4096, exist_ok=True))"
        said = child(f"{REPORT}\n    {uses}\n    print(pmem.open(sys.argv[1], 'r').read(0, 3))", path)
        for line in said[:2]:
            assert line.startswith("DeviceLocked ")
            assert str(path) in line
            assert 'mode="r"' in line
        assert said[2] == repr(PATTERN[:3])
        assert device.read(0, PAGE) == PATTERN
    child(OPEN, path)


def test_the_lock_of_another_process_ends_with_it(path: Path) -> None:
    code = "import sys, pmem; device = pmem.create(sys.argv[1], 4096); print('open', flush=True); input()"
    with subprocess.Popen(
        [sys.executable, "-c", code, str(path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == "open\n"
            with pytest.raises(pmem.DeviceLocked, match=str(path)):
                pmem.open(path)
            pmem.open(path, "r").close()
        finally:
            process.kill()
    pmem.open(path).close()


def test_a_program_that_is_started_does_not_inherit_the_lock(path: Path) -> None:
    device = pmem.create(path, PAGE)
    command = [sys.executable, "-S", "-c", "print('runs', flush=True); input()"]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, close_fds=False
    ) as process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == "runs\n"
            device.close()
            pmem.open(path).close()
        finally:
            process.communicate("\n")


def test_what_was_persisted_survives_a_kill(path: Path) -> None:
    code = """if 1:
        import sys, pmem
        device = pmem.create(sys.argv[1], "1MiB")
        for offset in range(0, 1 << 19, 4096 + 64):
            device.write(offset, offset.to_bytes(8, "little") * 8)
            device.persist(offset, 64)
        print("now", flush=True)
        while True:
            device.write(1 << 19, b"perhaps!" * 8192)
    """
    with subprocess.Popen(
        [sys.executable, "-c", code, str(path)], stdout=subprocess.PIPE, text=True
    ) as process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == "now\n"
        finally:
            process.kill()
    expected = bytearray(1 << 19)
    for offset in range(0, 1 << 19, 4096 + 64):
        expected[offset : offset + 64] = offset.to_bytes(8, "little") * 8
    with pmem.open(path) as device:
        assert device.read(0, 1 << 19) == expected
        assert set(device.read(1 << 19, 1 << 19)) <= set(b"perhaps!\0")


def test_opening_a_tebibyte_takes_no_memory_and_no_room(path: Path) -> None:
    code = """if 1:
        import os, sys, pmem
        resident = lambda: int(open("/proc/self/statm").read().split()[1]) * os.sysconf("SC_PAGESIZE")
        pmem.create(sys.argv[1], "1TiB").close()
        before = resident()
        device = pmem.open(sys.argv[1])
        opened = resident()
        device.write(device.size - 5, b"hello")
        device.persist(device.size - 5, 5)
        print(opened - before, resident() - before, device.read(device.size - 5, 5))
    """
    opened, used, kept = child(code, path)[0].split(" ")
    assert int(opened) < 5 << 20
    assert int(used) < 5 << 20
    assert kept == "b'hello'"
    assert path.stat().st_size == 1 << 40
    assert path.stat().st_blocks * 512 <= 1 << 20


def give(*paths: Path) -> None:
    """Give files to the user that `UNPRIVILEGED` becomes."""
    for path in paths:
        if ROOT:
            os.chown(path, 65534, 65534)


UNPRIVILEGED = f"""{REPORT}
    os.chdir(sys.argv[1])
    if os.geteuid() == 0:
        os.setgroups([])
        os.setgid(65534)
        os.setuid(65534)
"""


def test_a_file_without_permission_is_refused(tmp_path: Path) -> None:
    tmp_path.chmod(0o755)
    readable, closed = tmp_path / "readable.img", tmp_path / "closed.img"
    for path, mode in ((readable, 0o400), (closed, 0)):
        path.write_bytes(PATTERN)
        give(path)
        path.chmod(mode)
    code = """
    report(
        lambda: pmem.open("readable.img", "r").close(),
        lambda: pmem.open("readable.img"),
        lambda: pmem.create("readable.img", 4096, exist_ok=True),
        lambda: pmem.open("closed.img", "r"),
        lambda: pmem.open("closed.img"),
    )
    """
    first, *others = child(UNPRIVILEGED + code, tmp_path)
    assert first == "no error"
    assert len(others) == 4
    for said, name in zip(others, ["readable.img"] * 2 + ["closed.img"] * 2, strict=True):
        assert said.startswith("DeviceDenied ")
        assert "Permission denied" in said
        assert 'mode="r"' in said
        assert said.endswith(repr(name))
    for path in (readable, closed):
        path.chmod(0o600)
        assert path.read_bytes() == PATTERN


def test_a_folder_without_permission_is_refused_and_nothing_made(tmp_path: Path) -> None:
    tmp_path.chmod(0o755)
    kept, hidden = tmp_path / "kept", tmp_path / "hidden"
    for folder, mode in ((kept, 0o500), (hidden, 0)):
        folder.mkdir()
        (folder / "old.img").write_bytes(PATTERN)
        give(folder, folder / "old.img")
        folder.chmod(mode)
    code = """
    report(
        lambda: pmem.open("kept/old.img").close(),
        lambda: pmem.create("kept/old.img", 4096, exist_ok=True).close(),
        lambda: pmem.create("kept/new.img", 4096),
        lambda: pmem.create("kept/new.img", 4096, exist_ok=True),
        lambda: pmem.create("hidden/new.img", 4096),
        lambda: pmem.create("hidden/new.img", 4096, exist_ok=True),
        lambda: pmem.create("hidden/old.img", 4096, exist_ok=True),
        lambda: pmem.open("hidden/old.img"),
    )
    """
    try:
        said = child(UNPRIVILEGED + code, tmp_path)
    finally:
        kept.chmod(0o700)
        hidden.chmod(0o700)
    assert said[:2] == ["no error"] * 2
    assert [line.split()[0] for line in said[2:]] == ["DeviceDenied"] * 6
    for folder in (kept, hidden):
        assert [entry.name for entry in folder.iterdir()] == ["old.img"]
        assert (folder / "old.img").read_bytes() == PATTERN


def test_a_full_disk_is_an_error_before_anything_is_written_and_passes(mount: Path) -> None:
    code = """
    folder = sys.argv[1]
    path = folder + "/pool.img"
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m,nr_inodes=4", "none", folder], check=True)
    file = lambda: open(path, "rb").read()
    with pmem.create(path, "16MiB") as device:
        device.write(0, b"kept" * 1024)
        device.persist()
        before = file()
        addresses = np.arange(0, 16 << 20, 65536)
        report(
            lambda: device.write(4096, b"x" * (2 << 20)),
            lambda: device.write((16 << 20) - (2 << 20), b"x" * (2 << 20)),
            lambda: device.write_lines(addresses, np.ones((256, 64), np.uint8)),
        )
        print(file() == before)
        report(device.persist, lambda: device.write(100, b"there is room"))
        print(device.read(0, 4), device.read(100, 13))
        report(device.persist)
    for name in "ab":
        open(f"{folder}/{name}", "wb").close()
    report(lambda: pmem.create(folder + "/new.img", 4096))
    print(sorted(os.listdir(folder)))
    os.unlink(path)
    report(lambda: pmem.create(folder + "/new.img", "16MiB").write(0, b"x" * (1 << 19)))
    """
    said = child(REPORT + code, mount, prefix=NAMESPACE)
    for line in said[:3]:
        assert line.startswith("DeviceFull ")
        assert "nothing was written" in line
        assert "free some space" in line
        assert str(mount / "pool.img") in line
    assert said[3:8] == ["True", "no error", "no error", "b'kept' b'there is room'", "no error"]
    assert said[8].startswith("DeviceFull ")
    assert str(mount / "new.img") in said[8]
    assert said[9:] == ["['a', 'b', 'pool.img']", "no error"]


def test_the_write_that_a_full_disk_refused_succeeds_once_there_is_room(mount: Path) -> None:
    code = """
    folder = sys.argv[1]
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "none", folder], check=True)
    with open(folder + "/ballast", "wb") as ballast:
        ballast.write(bytes(600 << 10))
    with pmem.create(folder + "/pool.img", "1MiB") as device:
        write = lambda: device.write(0, b"x" * (600 << 10))
        report(write)
        os.unlink(folder + "/ballast")
        report(write, device.persist)
        print(device.read(0, 600 << 10) == b"x" * (600 << 10))
    """
    refused, *rest = child(REPORT + code, mount, prefix=NAMESPACE)
    assert refused.startswith("DeviceFull ")
    assert rest == ["no error", "no error", "True"]


def test_a_read_only_file_system_is_read_and_not_written(mount: Path) -> None:
    code = """
    folder = sys.argv[1]
    path = folder + "/pool.img"
    subprocess.run(["mount", "-t", "tmpfs", "none", folder], check=True)
    with pmem.create(path, 4096) as device:
        device.write(0, b"kept")
    subprocess.run(["mount", "-o", "remount,ro", folder], check=True)
    report(
        lambda: pmem.open(path),
        lambda: pmem.create(path, 4096, exist_ok=True),
        lambda: pmem.create(folder + "/new.img", 4096),
    )
    with pmem.open(path, "r") as device:
        print(device.read(0, 4))
    print(os.listdir(folder))
    """
    *refused, kept, left = child(REPORT + code, mount, prefix=NAMESPACE)
    assert len(refused) == 3
    for line in refused:
        assert line.startswith("DeviceFailed ")
        assert "Read-only file system" in line
        assert str(mount) in line
    assert (kept, left) == ("b'kept'", "['pool.img']")


def test_an_image_longer_than_the_process_may_make_files_is_refused_and_not_left(path: Path) -> None:
    code = """
    path = sys.argv[1]
    device = pmem.create(path, "2MiB")
    resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, 1 << 20))
    report(
        lambda: pmem.create(path + ".new", "2MiB"),
        lambda: device.write((2 << 20) - 4, b"kept"),
        device.persist,
        device.close,
    )
    """
    refused, *others = child(REPORT + code, path)
    assert refused.startswith("DeviceFull ")
    assert f"{path}.new" in refused
    assert others == ["no error"] * 3
    assert list(path.parent.iterdir()) == [path]
    assert path.read_bytes() == bytes((2 << 20) - 4) + b"kept"


def test_a_process_out_of_file_descriptors_leaves_files_and_locks_as_they_were(path: Path) -> None:
    path.write_bytes(PATTERN)
    code = """
    path = sys.argv[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (64, 64))
    held = []
    try:
        while True:
            held.append(os.open("/dev/null", os.O_RDONLY))
    except OSError:
        pass
    tries = (lambda: pmem.create(path + ".new", 4096), lambda: pmem.open(path), lambda: pmem.open(path, "r"))
    report(*tries)
    os.close(held.pop())  # one is enough for the file; the mapping takes another
    report(*tries)
    for descriptor in held:
        os.close(descriptor)
    report(lambda: pmem.open(path).close())
    """
    *refused, after = child(REPORT + code, path)
    assert [line.split()[0] for line in refused] == ["DeviceFailed"] * 6
    assert ["Too many open files" in line for line in refused] == [True] * 6
    assert ["can't map" in line for line in refused] == [False] * 3 + [True] * 3
    assert after == "no error"
    assert list(path.parent.iterdir()) == [path]
    assert path.read_bytes() == PATTERN


def test_an_image_beyond_the_address_space_is_refused_and_not_left(path: Path) -> None:
    code = """
    path = sys.argv[1]
    pmem.create(path, "1TiB").close()
    resource.setrlimit(resource.RLIMIT_AS, (1 << 39, 1 << 39))
    report(lambda: pmem.open(path), lambda: pmem.open(path, "r"), lambda: pmem.create(path + ".new", "1TiB"))
    """
    for line in child(REPORT + code, path):
        assert line.startswith("DeviceFailed ")
        assert "can't map the image" in line
        assert str(path) in line
    assert list(path.parent.iterdir()) == [path]
    pmem.open(path).close()
