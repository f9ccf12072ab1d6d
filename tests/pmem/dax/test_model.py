"""A volume against plain dicts, with any operations in any order, and power failures between and within."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    precondition,
    rule,
    run_state_machine_as_test,
)

from pmem.dax.directory import Directory
from pmem.dax.store import Store

NAMES = ["a", "b", "c", "d" * 255]
OFFSETS = st.one_of(st.integers(0, 40000), st.sampled_from([0, 4096, 8192, 20480]))


class Machine(RuleBasedStateMachine):
    laboratory: ClassVar[Callable[..., Any]]
    try_crashes: ClassVar[Callable[..., int]]
    sound: ClassVar[Callable[[Any], None]]
    log_structured: ClassVar[bool]
    size: ClassVar[int] = 2 << 20

    @initialize(seed=st.integers(0, 1000))
    def make(self, seed: int) -> None:
        size = 2 * self.size if self.log_structured else self.size
        self.lab = type(self).laboratory(size, log_structured=self.log_structured, seed=seed)

    def paths(self, kind: str) -> list[str]:
        return sorted(path for path, node in self.lab.model.items() if node[0] == kind)

    def vacant(self, data: Any) -> str:
        folders = ["", *self.paths("directory")]
        return data.draw(st.sampled_from(folders)) + "/" + data.draw(st.sampled_from(NAMES))

    def do(self, data: Any, *operation: Any) -> None:
        """Some operations with a power failure in the middle, after which the volume goes on from there."""
        before = self.lab.do(operation)
        if data.draw(st.integers(0, 3)) == 0:
            images = list(self.lab.crashes((data.draw(st.sampled_from([0.0, 0.5, 1.0, "last", "some"])),)))
            if images:
                image = images[data.draw(st.integers(0, len(images) - 1))]
                after = self.lab.model
                self.lab.restart(image)
                type(self).sound(self.lab.volume)
                seen = type(self).observe(self.lab.volume)
                assert type(self).allowed(seen, before, after, operation)
                self.lab.model = seen
        self.lab.settle()

    @rule(data=st.data(), value=st.binary(max_size=100))
    def create(self, data: Any, value: bytes) -> None:
        path = self.vacant(data)
        if path in self.lab.model:
            with pytest.raises(FileExistsError):
                self.lab.volume.create(path)
        else:
            self.do(data, "create", path, {b"context": value} if value else {})

    @rule(data=st.data())
    def mkdir(self, data: Any) -> None:
        path = self.vacant(data)
        if path not in self.lab.model and path.count("/") < 4:
            self.do(data, "mkdir", path, {})

    @precondition(lambda self: self.paths("file"))
    @rule(data=st.data(), offset=OFFSETS, length=st.integers(1, 20000))
    def write(self, data: Any, offset: int, length: int) -> None:
        content = bytes([data.draw(st.integers(1, 255))]) * length
        self.do(data, "write", data.draw(st.sampled_from(self.paths("file"))), offset, content)

    @precondition(lambda self: self.paths("file"))
    @rule(
        data=st.data(),
        kind=st.sampled_from(["punch", "fallocate"]),
        offset=OFFSETS,
        length=st.integers(1, 30000),
    )
    def change(self, data: Any, kind: str, offset: int, length: int) -> None:
        self.do(data, kind, data.draw(st.sampled_from(self.paths("file"))), offset, length)

    @precondition(lambda self: self.paths("file"))
    @rule(data=st.data(), size=OFFSETS)
    def truncate(self, data: Any, size: int) -> None:
        self.do(data, "truncate", data.draw(st.sampled_from(self.paths("file"))), size)

    @precondition(lambda self: self.paths("file"))
    @rule(data=st.data(), kind=st.sampled_from(["unlink", "relocate", "defragment"]))
    def on_file(self, data: Any, kind: str) -> None:
        self.do(data, kind, data.draw(st.sampled_from(self.paths("file"))))

    @precondition(lambda self: self.paths("directory"))
    @rule(data=st.data())
    def rmdir(self, data: Any) -> None:
        path = data.draw(st.sampled_from(self.paths("directory")))
        if any(other.startswith(path + "/") for other in self.lab.model):
            with pytest.raises(OSError, match="entries"):
                self.lab.volume.rmdir(path)
        else:
            self.do(data, "rmdir", path)

    @precondition(lambda self: self.paths("file"))
    @rule(data=st.data())
    def reflink(self, data: Any) -> None:
        path = self.vacant(data)
        if path not in self.lab.model:
            self.do(data, "reflink", data.draw(st.sampled_from(self.paths("file"))), path)

    @precondition(lambda self: self.lab.model)
    @rule(data=st.data())
    def rename(self, data: Any) -> None:
        old, new = data.draw(st.sampled_from(sorted(self.lab.model))), self.vacant(data)
        below = new.startswith(old + "/")
        source, target = self.lab.model[old][0], self.lab.model.get(new, (None,))[0]
        full = any(path.startswith(new + "/") for path in self.lab.model)
        if below or (old != new and target and (source != target or full)):
            with pytest.raises(OSError, match=r"below itself|would replace it|entries"):
                self.lab.volume.rename(old, new)
        else:
            self.do(data, "rename", old, new)

    @precondition(lambda self: self.lab.model)
    @rule(data=st.data(), name=st.sampled_from([b"x", b"y"]), size=st.integers(0, 1800))
    def setxattr(self, data: Any, name: bytes, size: int) -> None:
        path = data.draw(st.sampled_from(sorted(self.lab.model)))
        self.do(data, "setxattr", path, name, bytes(size))

    @precondition(lambda self: self.log_structured)
    @rule(data=st.data())
    def clean(self, data: Any) -> None:
        self.do(data, "clean", 2)

    @rule()
    def look(self) -> None:
        type(self).sound(self.lab.volume)
        assert type(self).observe(self.lab.volume) == self.lab.model

    def teardown(self) -> None:
        if hasattr(self, "lab"):
            self.look()
            self.lab.volume.close()
            self.lab.settle()
            self.lab.restart(self.lab.medium.device.mapping())
            self.look()


@pytest.mark.parametrize("log_structured", [False, True])
def test_a_volume_shows_what_plain_dicts_show(machine: type[Machine], log_structured: bool) -> None:
    run(machine, log_structured=log_structured)


def test_so_it_does_if_all_names_have_two_hashes_and_changes_go_in_small_steps(
    machine: type[Machine], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Directory, "hash", lambda self, name: len(name) % 2)
    monkeypatch.setattr(Store, "batch", 2)
    run(machine, log_structured=False)


@pytest.fixture
def machine(
    laboratory: Any, try_crashes: Any, sound: Any, observe: Any, allowed: Any
) -> type[RuleBasedStateMachine]:
    parts = {"laboratory": laboratory, "sound": sound, "observe": observe, "allowed": allowed}
    return type("Machine", (Machine,), {name: staticmethod(part) for name, part in parts.items()})


def run(machine: type[Machine], *, log_structured: bool) -> None:
    machine.log_structured = log_structured
    run_state_machine_as_test(
        machine,
        settings=settings(
            max_examples=25, stateful_step_count=25, deadline=None, derandomize=True, database=None
        ),
    )
