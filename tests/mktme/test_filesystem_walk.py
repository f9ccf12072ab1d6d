"""Encrypted files against a model of a few lines: random walks over every path, with moves and shares."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import pmem
from mktme import Controller, FileSystem
from mktme.fscrypt import Keyring, Policy
from mktme.stack import BlockDevice, Bounce, CryptoProfile, Inline, Line, Plain
from pmem import dax

BLOCK, MOST = 4096, 60_000
PATHS: dict[str, Callable[[pmem.Device], Any]] = {
    "none": lambda device: Plain(Controller(device)),
    "bounce": Bounce,
    "inline": lambda device: Inline(BlockDevice(device, CryptoProfile(2))),
    "fallback": lambda device: Inline(BlockDevice(device)),
    "line": lambda device: Line(Controller(device), 2),
}


@pytest.fixture
def device(tmp_path: Path) -> Iterator[pmem.Device]:
    with pmem.create(tmp_path / "volume.img", 32 << 20) as made:
        yield made


class Walk:
    """A volume seen through file systems of one IV, beside its files as bytearrays."""

    def __init__(self, device: pmem.Device, paths: list[str], *, iv: str, log: bool, seed: int, unit: int):
        self.rng, self.log, self.unit = np.random.default_rng(seed), log, unit
        self.device, self.paths, self.iv = device, paths, iv
        self.volume = dax.make(device, log_structured=log)
        self.ring = Keyring(self.volume.uuid)
        self.key = self.ring.add(bytes(range(64)))
        self.files: dict[str, bytearray] = {}
        self.held: list[tuple[Any, bytearray]] = []  # open files, some without a name by now
        self.mount()
        first = self.system()
        for folder in ("/a", "/b"):
            first.mkdir(folder)
            if paths != ["none"]:
                first.set_policy(folder, Policy(self.key, log2_data_unit_size=unit))

    def mount(self) -> None:
        made = [PATHS[name](self.device) for name in self.paths]
        self.systems = [FileSystem(self.volume, path, keyring=self.ring, iv=self.iv) for path in made]

    def system(self) -> FileSystem:
        return self.systems[int(self.rng.integers(len(self.systems)))]

    def place(self) -> str:
        return f"/{'ab'[int(self.rng.integers(2))]}/{int(self.rng.integers(6))}"

    def named(self) -> str | None:
        names = sorted(self.files)
        return names[int(self.rng.integers(len(names)))] if names else None

    def step(self) -> None:
        kinds = ["write"] * 8 + ["change"] * 4 + ["hold"] * 2
        kinds += ["unlink", "rename", "reflink", "relocate", "defragment", "map", "clean", "let go", "locked"]
        getattr(self, kinds[int(self.rng.integers(len(kinds)))].replace(" ", "_"))()

    def write(self) -> None:
        path = self.place()
        system = self.system()
        fresh = path not in self.files
        with system.create(path) if fresh else system.open(path) as file:
            self.put(file, self.files.setdefault(path, bytearray()))

    def put(self, file: Any, data: bytearray) -> None:
        """A write: anywhere, at the end, whole blocks, or a line."""
        kind, at = int(self.rng.integers(4)), int(self.rng.integers(MOST))
        size = int(self.rng.integers(1, 12_000))
        if kind == 1:
            at = len(data)
        elif kind == 2:
            at, size = at // BLOCK * BLOCK, -(-size // BLOCK) * BLOCK
        elif kind == 3:
            at, size = at // 64 * 64, 64
        new = self.rng.bytes(size)
        file.write(at, new)
        data.extend(bytes(max(0, at + size - len(data))))
        data[at : at + size] = new
        assert file.size == len(data)

    def change(self) -> None:
        path = self.named()
        if path is None:
            return
        data, kind, at = self.files[path], int(self.rng.integers(3)), int(self.rng.integers(MOST))
        size = int(self.rng.integers(1, 20_000))
        with self.system().open(path) as file:
            if kind == 0:
                file.truncate(at)
                del data[at:]
                data.extend(bytes(at - len(data)))
            elif kind == 1:
                file.punch(at, size)
                end = min(at + size, len(data))
                data[at:end] = bytes(max(0, end - at))
            else:
                file.fallocate(at, size)
                data.extend(bytes(max(0, at + size - len(data))))
            first = int(self.rng.integers(MOST))
            assert file.read(first, 9000) == data[first : first + 9000]

    def hold(self) -> None:
        path = self.named()
        if path is not None and len(self.held) < 4:
            self.held.append((self.system().open(path), self.files[path]))

    def let_go(self) -> None:
        if self.held:
            file, data = self.held.pop(int(self.rng.integers(len(self.held))))
            self.put(file, data)
            assert file.read() == data
            file.close()

    def unlink(self) -> None:
        path = self.named()
        if path is not None:
            self.system().unlink(path)
            del self.files[path]

    def rename(self) -> None:
        path, new = self.named(), self.place()
        if path is not None:
            self.system().rename(path, new)
            self.files[new] = self.files.pop(path)

    def reflink(self) -> None:
        path, new = self.named(), self.place()
        if path is not None and new not in self.files:
            self.system().reflink(path, new)
            self.files[new] = bytearray(self.files[path])

    def relocate(self) -> None:
        path = self.named()
        if path is not None:
            at = int(self.rng.integers(10)) * BLOCK
            self.system().relocate(path, at, int(self.rng.integers(1, 30_000)))

    def defragment(self) -> None:
        self.system().defragment(None if self.rng.random() < 0.5 else self.named())

    def map(self) -> None:
        path, system = self.named(), self.system()
        if path is None or not system.path.mappable or self.log or not self.files[path]:
            return
        data = self.files[path]
        with system.open(path) as file:
            try:
                mapped = file.map()
            except dax.FileBusy:
                return  # shared blocks
            at = int(self.rng.integers(len(data)))
            new = self.rng.bytes(min(len(data) - at, 9000))
            mapped.write(at, new)
            data[at : at + len(new)] = new
            assert mapped.read(0, mapped.size) == data
            self.put(file, data)

    def clean(self) -> None:
        if self.log:
            self.system().clean(1)

    def locked(self) -> None:
        """Blocks of logical IVs move without the key."""
        if self.iv or self.held or self.paths == ["none"]:
            return
        self.ring.remove(self.key)
        self.volume.defragment()
        self.clean()
        self.ring.add(bytes(range(64)))

    def check(self) -> None:
        for path, data in self.files.items():
            for system in self.systems:
                with system.open(path) as file:
                    assert file.read() == data, (path, system.path.name)
        for file, data in self.held:
            assert file.read() == data
        for folder in ("/a", "/b"):
            named = {f"{folder}/{entry.name}" for entry in self.system().list(folder)}
            assert named == {path for path in self.files if path.startswith(folder)}


ENCRYPTED = ["bounce", "inline", "fallback", "line"]
WALKS = [
    *[pytest.param([name], "", 0, False, id=name) for name in PATHS],
    pytest.param(ENCRYPTED, "", 0, False, id="all"),
    pytest.param(ENCRYPTED, "", 9, False, id="all-512"),
    pytest.param(ENCRYPTED, "", 0, True, id="all-log"),
    pytest.param(["none"], "", 0, True, id="none-log"),
    pytest.param(["bounce", "line"], "pmem-line", 0, False, id="pmem-line"),
    pytest.param(["bounce", "line"], "pmem-page", 0, True, id="pmem-page-log"),
    pytest.param(ENCRYPTED, "plain64", 0, False, id="plain64"),
]


@pytest.mark.parametrize("seed", range(2))
@pytest.mark.parametrize(("paths", "iv", "unit", "log"), WALKS)
def test_files_are_as_the_model_says_whatever_happens_to_them(
    device: pmem.Device, paths: list[str], iv: str, unit: int, log: bool, seed: int
) -> None:
    walk = Walk(device, paths, iv=iv, log=log, seed=seed, unit=unit)
    for step in range(100):
        walk.step()
        if step % 20 == 19:
            walk.check()
    for file, data in walk.held:
        assert file.read() == data
        file.close()
    walk.held.clear()
    walk.check()
    assert dax.check(walk.volume).problems == []
    free = walk.volume.free
    while walk.files:
        walk.unlink()
    assert walk.volume.free >= free
    assert dax.check(walk.volume).problems == []
    for system in walk.systems:
        if isinstance(system.path, Line):
            assert system.path.controller.keyids == ()
            assert system.path.controller.regions == ()
    walk.volume.close()
