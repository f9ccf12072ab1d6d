"""A medium whose power can fail, and a model of what a volume shows."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest

import pmem.dax
from pmem.dax import Medium, Volume

LINE = 64
BLOCK = 4096
Share = float | str
Event = tuple[str, int, Any]
Visible = dict[str, tuple[Any, ...]]


class Image:
    """What a medium needs of a device, over an array."""

    path = "image"

    def __init__(self, array: np.ndarray) -> None:
        self.array, self.size, self.mounted = array, array.size, set[Any]()

    def mapping(self) -> np.ndarray:
        return self.array

    def reserve(self, offset: int, length: int) -> None:
        assert 0 <= offset <= offset + length <= self.size

    def flush(self) -> None:
        pass


class Recorder(Medium):
    """A medium that notes every store, flush and fence."""

    def __init__(self, array: np.ndarray) -> None:
        super().__init__(Image(array))  # type: ignore[arg-type]
        self.trace: list[Event] = []

    def store(self, address: int, data: Any) -> None:
        self.trace.append(("store", address, bytes(data)))
        super().store(address, data)

    def fill(self, address: int, count: int, value: int) -> None:
        self.trace.append(("store", address, np.full(count, value, "<u2").tobytes()))
        super().fill(address, count, value)

    def zero(self, address: int, length: int) -> None:
        self.trace.append(("store", address, bytes(length)))
        super().zero(address, length)

    def flush(self, address: int, length: int) -> None:
        self.trace.append(("flush", address, length))

    def fence(self) -> None:
        self.trace.append(("fence", 0, 0))


class Power:
    """What has reached the medium: each aligned word of a line that wasn't flushed and fenced may
    be as it was, or as any store since then left it."""

    def __init__(self, array: np.ndarray) -> None:
        self.durable, self.now = array.copy(), array.copy()
        self.pending: dict[int, list[tuple[int, bytes]]] = {}  # number of the store, the line after it
        self.flushed: dict[int, int] = {}
        self.stores = 0

    def apply(self, event: Event) -> None:
        kind, address, data = event
        if kind == "store":
            self.stores += 1
            self.now[address : address + len(data)] = np.frombuffer(data, np.uint8)
            for line in range(address // LINE, (address + len(data) - 1) // LINE + 1 if data else 0):
                content = self.now[line * LINE : (line + 1) * LINE].tobytes()
                self.pending.setdefault(line, []).append((self.stores, content))
        elif kind == "flush":
            for line in range(address // LINE, (address + data - 1) // LINE + 1 if data else 0):
                if line in self.pending:
                    self.flushed[line] = len(self.pending[line])
        else:
            for line, count in self.flushed.items():
                versions = self.pending.pop(line)
                self.durable[line * LINE : (line + 1) * LINE] = np.frombuffer(
                    versions[count - 1][1], np.uint8
                )
                if versions[count:]:
                    self.pending[line] = versions[count:]
            self.flushed.clear()

    def image(self, chance: random.Random, share: Share) -> np.ndarray:
        """What is on the medium if the power fails now.

        Each word of a line got there with a probability; or the lines of the "last" store alone
        did, or of "some" stores.
        """
        image = self.durable.copy()
        some = {number for number in range(1, self.stores + 1) if chance.random() < 0.5}
        for line, versions in self.pending.items():
            lines = image[line * LINE : (line + 1) * LINE]
            if isinstance(share, str):
                chosen = some if share == "some" else {self.stores}
                for number, content in versions:
                    if number in chosen:
                        lines[:] = np.frombuffer(content, np.uint8)
                continue
            for at in range(0, LINE, 8):
                if share == 1 or chance.random() < share:
                    _, content = versions[-1] if share == 1 else chance.choice(versions)
                    lines[at : at + 8] = np.frombuffer(content[at : at + 8], np.uint8)
        return image


def observe(volume: Volume) -> Visible:
    """Everything that a volume shows."""
    found: Visible = {}
    for path, entry in volume.walk():
        attributes = {name: volume.getxattr(entry.number, name) for name in volume.listxattr(entry.number)}
        if entry.is_directory:
            found["/" + path.decode()] = ("directory", attributes)
        else:
            with volume.open(entry.number) as file:
                found["/" + path.decode()] = ("file", attributes, file.read())
    return found


def perform(volume: Volume, operation: tuple[Any, ...]) -> None:
    """Do one operation: its name, paths, and arguments."""
    name, *rest = operation
    if name == "create":
        volume.create(rest[0], xattrs=rest[1]).close()
    elif name == "mkdir":
        volume.mkdir(rest[0], xattrs=rest[1])
    elif name in ("write", "truncate", "punch", "fallocate"):
        with volume.open(rest[0]) as file:
            getattr(file, name)(*rest[1:])
    elif name in ("relocate", "defragment"):
        with volume.open(rest[0]) as file:
            getattr(volume, name)(file)
    else:
        getattr(volume, name)(*rest)


def expect(before: Visible, operation: tuple[Any, ...]) -> Visible:
    """What a volume shows after an operation, from plain dicts and bytes."""
    after = dict(before)
    name, *rest = operation
    if name == "create":
        after[rest[0]] = ("file", dict(rest[1]), b"")
    elif name == "mkdir":
        after[rest[0]] = ("directory", dict(rest[1]))
    elif name in ("unlink", "rmdir"):
        del after[rest[0]]
    elif name == "rename":
        old, new = rest
        if old != new:
            after.pop(new, None)
            for path in [path for path in after if path == old or path.startswith(old + "/")]:
                after[new + path[len(old) :]] = after.pop(path)
    elif name == "reflink":
        after[rest[1]] = after[rest[0]]
    elif name in ("setxattr", "removexattr"):
        kind, attributes, *data = after[rest[0]]
        attributes = {key: value for key, value in attributes.items() if key != rest[1]}
        if name == "setxattr":
            attributes[rest[1]] = rest[2]
        after[rest[0]] = (kind, attributes, *data)
    elif name in ("write", "truncate", "punch", "fallocate"):
        kind, attributes, data = after[rest[0]]
        after[rest[0]] = (kind, attributes, contents(data, name, *rest[1:]))
    return after


def contents(data: bytes, name: str, *rest: Any) -> bytes:
    if name == "truncate":
        return data[: rest[0]].ljust(rest[0], b"\0")
    offset, what = rest
    length = what if isinstance(what, int) else len(what)
    end = offset + length
    if name == "punch":
        end = min(end, len(data))
        return data if end <= offset else data[:offset] + bytes(end - offset) + data[end:]
    if name == "fallocate":
        return data.ljust(end, b"\0")
    return data if not length else data[:offset].ljust(offset, b"\0") + what + data[end:]


def allowed(seen: Visible, before: Visible, after: Visible, operation: tuple[Any, ...]) -> bool:
    """Whether a volume may show this after the power failed during an operation."""
    if seen in (before, after):
        return True
    name, path, *_ = operation
    if name not in ("write", "punch") or {**seen, path: 0} != {**before, path: 0}:
        return False
    # In place, the bytes asked for may be old or new.
    old, new, found = before[path][2], after[path][2], seen[path][2]
    if seen[path][:2] != before[path][:2] or len(found) not in (len(old), len(new)):
        return False
    old, new = old.ljust(len(found), b"\0")[: len(found)], new[: len(found)]
    return all(c in (a, b) for a, b, c in zip(old, new, found, strict=True))


class Laboratory:
    """A volume on a medium whose power can fail, beside a model of it."""

    def __init__(self, size: int, *, log_structured: bool = False, seed: int = 0) -> None:
        self.chance = random.Random(seed)
        self.medium = Recorder(np.zeros(size, np.uint8))
        uuid = self.chance.randbytes(16)
        self.volume = pmem.dax.make(self.medium, inodes=64, log_structured=log_structured, uuid=uuid)
        self.power = Power(self.medium.array)
        self.medium.trace.clear()
        self.model: Visible = {}

    def do(self, operation: tuple[Any, ...]) -> Visible:
        """Do an operation on the volume and the model; what the model was before."""
        before = self.model
        perform(self.volume, operation)
        self.model = expect(before, operation)
        return before

    def crashes(self, shares: tuple[Share, ...]) -> Iterator[np.ndarray]:
        """Images of a power failure before each store and fence since the last call."""
        trace, self.medium.trace = self.medium.trace, []
        for event in trace:
            if event[0] != "flush" and self.power.pending and shares:
                for share in shares:
                    yield self.power.image(self.chance, share)
            self.power.apply(event)

    def settle(self) -> None:
        """Go on to the next operation without a power failure."""
        for _ in self.crashes(()):
            pass

    def restart(self, image: np.ndarray) -> None:
        """Go on with a volume from an image."""
        self.medium = Recorder(image.copy())
        self.volume = pmem.dax.mount(self.medium)
        self.power = Power(image)
        self.settle()


def sound(volume: Volume) -> None:
    """Fail if a check finds anything."""
    problems = pmem.dax.check(volume).problems
    assert not problems, "; ".join(problems)


def try_crashes(laboratory: Laboratory, operation: tuple[Any, ...], shares: tuple[Share, ...]) -> int:
    """Do an operation, and look at what every power failure during it leaves; how many."""
    before = laboratory.do(operation)
    count = 0
    for image in laboratory.crashes(shares):
        volume = pmem.dax.mount(Recorder(image))
        sound(volume)
        seen = observe(volume)
        assert allowed(seen, before, laboratory.model, operation), (operation, seen)
        count += 1
    assert observe(laboratory.volume) == laboratory.model, operation
    return count


@pytest.fixture
def laboratory() -> Callable[..., Laboratory]:
    return Laboratory


@pytest.fixture(name="sound")
def sound_fixture() -> Callable[[Volume], None]:
    return sound


@pytest.fixture(name="try_crashes")
def try_crashes_fixture() -> Callable[..., int]:
    return try_crashes


@pytest.fixture(name="observe")
def observe_fixture() -> Callable[[Volume], Visible]:
    return observe


@pytest.fixture(name="allowed")
def allowed_fixture() -> Callable[..., bool]:
    return allowed


@pytest.fixture
def recorder() -> type[Recorder]:
    return Recorder
