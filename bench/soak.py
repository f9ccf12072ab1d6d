"""kill -9 at random moments of real programs on a real image, and a look at what is left, again and again.

    python bench/soak.py [--rounds N] [--seed N] [--only NAME] [--folder PATH]

A program runs in a process of its own and says after each operation that it is done. It is killed,
its image is opened again, what it had promised must be there and the structure sound; then it goes
on from there. What a mapping was given survives the process, as it does in the page cache; what is
in the modelled CPU cache dies with it, as in a power failure under ADR that spares no dirty line.
"""

from __future__ import annotations

import argparse
import os
import random
import select
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

import pmem
from mktme import Controller, FileSystem
from mktme.fscrypt import Keyring, Policy
from mktme.lab import crash
from mktme.stack import BlockDevice, Bounce, CryptoProfile, Inline, Line
from mktme.stack.path import FilePath
from pmem import LINE, dax

SIZE = 8 << 20
FILES = 8
MASTER = bytes(range(64))
RECORDS = 4000
PATHS: dict[str, Callable[[pmem.Device], FilePath[Any]]] = {
    "bounce": Bounce,
    "inline": lambda device: Inline(BlockDevice(device, CryptoProfile(3))),
    "line": lambda device: Line(Controller(device), 3),
}
# Lines that are written by themselves. The model keeps ciphertext, counters and MACs together in a power
# failure, but cannot where the process that plays the controller is killed between them.
SUBJECTS = ("pmem-line", "pmem-page", "plain64/aes-xts-256")


def contents(number: int) -> bytes:
    """What operation `number` writes: its number, then bytes drawn by it."""
    draw = np.random.Generator(np.random.PCG64(number))
    return number.to_bytes(8, "little") + draw.bytes(int(draw.integers(0, 9000)))


# Encrypted files: each operation replaces one, by way of a new file and a rename


@contextmanager
def mounted(image: Path, path: str, domain: str | None) -> Iterator[FileSystem]:
    """The encrypted volume on an image, with its key."""
    with pmem.open(image, domain=domain) as device, dax.mount(device) as volume:
        ring = Keyring(volume.uuid)
        ring.add(MASTER)
        yield FileSystem(volume, PATHS[path](device), keyring=ring)


def make_files(image: Path, path: str) -> None:
    """A volume with an encrypted folder."""
    with pmem.create(image, SIZE) as device, dax.make(device, inodes=64) as volume:
        ring = Keyring(volume.uuid)
        files = FileSystem(volume, PATHS[path](device), keyring=ring)
        files.mkdir("/d")
        files.set_policy("/d", Policy(ring.add(MASTER)))


def run_files(image: Path, path: str, domain: str | None, first: int) -> Iterator[int]:
    """Replace files, from operation `first` on."""
    with mounted(image, path, domain) as files:
        number = first
        while True:
            name = f"/d/{number % FILES}"
            with files.create(f"{name}.new") as file:
                file.write(0, contents(number))
            files.rename(f"{name}.new", name)
            yield number
            number += 1


def check_files(image: Path, path: str, promised: int) -> int:
    """The number of the last operation that is there; removes a file that was on its way."""
    with mounted(image, path, None) as files:
        report = dax.check(files.volume)
        assert not report.problems, report.problems
        found = []
        for entry in files.list("/d"):
            if entry.name.endswith(".new"):
                files.unlink(f"/d/{entry.name}")
                continue
            with files.open(f"/d/{entry.name}") as file:
                data = file.read()
            number = int.from_bytes(data[:8], "little")
            assert data == contents(number), f"file {entry.name} has not what operation {number} wrote"
            assert number % FILES == int(entry.name)
            found.append(number)
        last = max(found, default=-1)
        assert sorted(found) == list(range(max(0, last + 1 - FILES), last + 1)), sorted(found)
        assert promised <= last <= promised + 1, f"{promised} was promised, {last} is there"
        return last


# A mapped region: records of a line, each persisted, then the count


def run_region(image: Path, subject: str, domain: str | None, first: int) -> Iterator[int]:
    """Append records, from number `first` on; round and round."""
    with pmem.open(image, domain=domain) as device:
        region = crash.world(subject, (RECORDS + 1) * LINE)(device)
        number = first
        while True:
            at = (number % RECORDS + 1) * LINE
            region.write(at, record(number))
            region.persist(at, LINE)
            region.write(0, (number + 1).to_bytes(8, "little").ljust(LINE, b"\0"))
            region.persist(0, LINE)
            yield number
            number += 1


def record(number: int) -> bytes:
    """A record: its number, eight times."""
    return number.to_bytes(8, "little") * 8


def make_region(image: Path, subject: str) -> None:
    """An image with an empty log."""
    size = crash.room(subject, (RECORDS + 1) * LINE)
    with pmem.create(image, size) as device:
        crash.zeroed(crash.world(subject, (RECORDS + 1) * LINE)(device))


def check_region(image: Path, subject: str, promised: int) -> int:
    """The number of the last record that is there."""
    with pmem.open(image) as device:
        region = crash.world(subject, (RECORDS + 1) * LINE)(device)
        count = int.from_bytes(region.read(0, 8), "little")
        assert promised + 1 <= count <= promised + 2, f"{promised} was promised, {count} are counted"
        for number in range(max(0, count - RECORDS + 1), count):
            at = (number % RECORDS + 1) * LINE
            assert region.read(at, LINE) == record(number), f"record {number} is not what was appended"
        return count - 1


PROGRAMS: dict[str, tuple[Callable[..., None], Callable[..., Iterator[int]], Callable[..., int]]] = {
    **{f"files on {path}": (make_files, run_files, check_files) for path in PATHS},
    **{f"records under {subject}": (make_region, run_region, check_region) for subject in SUBJECTS},
}


def child(image: Path, name: str, domain: str | None, first: int) -> None:
    """Run a program until somebody kills this process; each promise is a line on standard output."""
    _, run, _ = PROGRAMS[name]
    os.write(1, b"ready\n")
    for number in run(image, name.rsplit(" ", 1)[1], domain, first):
        os.write(1, b"%d\n" % number)


def kill_once(image: Path, name: str, domain: str | None, first: int, draw: random.Random) -> int:
    """Start a program, kill it somewhen; the last number that it promised, `first` - 1 for none."""
    arguments = [__file__, "--child", str(image), name, domain or "", str(first)]
    with subprocess.Popen([sys.executable, *arguments], stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        output, end = process.stdout.fileno(), None
        said, awaited = b"", 2 if draw.random() < 0.9 else 1  # lines: in the first operation now and then
        while end is None or time.monotonic() < end:
            wait = 60.0 if end is None else max(0.0, end - time.monotonic())
            if not select.select([output], [], [], wait)[0]:
                break
            part = os.read(output, 1 << 16)
            if not part:
                break
            said += part
            if end is None and said.count(b"\n") >= awaited:
                end = time.monotonic() + draw.uniform(0, 0.25)
        process.send_signal(signal.SIGKILL)
        said += process.stdout.read()
        assert process.wait() == -signal.SIGKILL, "the program ended by itself"
    done = said.split(b"\n")[1:-1]  # a line that was cut short was not promised
    return int(done[-1]) if done else first - 1


def soak(folder: Path, rounds: int, seed: int, only: str = "") -> dict[str, int]:
    """So many kills of each program; how many operations each had done. Raises AssertionError."""
    done = {}
    for name, (make, _, check) in PROGRAMS.items():
        if only not in name:
            continue
        draw, which = random.Random(f"{seed} {name}"), name.rsplit(" ", 1)[1]
        image = folder / f"{name.replace(' ', '-').replace('/', '-')}.img"
        make(image, which)
        last = -1
        for number in range(rounds):
            domain = (None, "adr", "page")[number % 3]
            promised = kill_once(image, name, domain, last + 1, draw)
            last = check(image, which, promised)
        done[name] = last + 1
        image.unlink()
    return done


def main() -> None:
    """Run the soak, or (for itself) a program of it."""
    if sys.argv[1:2] == ["--child"]:
        image, name, domain, first = sys.argv[2:]
        child(Path(image), name, domain or None, int(first))
        return
    parser = argparse.ArgumentParser(description="kill -9 at random moments, and a look at what is left")
    parser.add_argument("--rounds", type=int, default=30, help="kills of each program")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", default="", help="only programs whose name has this text")
    parser.add_argument("--folder", type=Path, help="where the images are (default: a temporary folder)")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=options.folder, prefix="soak-") as name:
        for program, count in soak(Path(name), options.rounds, options.seed, options.only).items():
            print(f"{program}: killed {options.rounds} times, {count} operations, nothing lost")


if __name__ == "__main__":
    main()
