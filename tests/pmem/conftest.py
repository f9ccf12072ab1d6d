"""An image's path, a C library that fails where told, and what a test left behind."""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

import pmem.device


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "pool.img"


@pytest.fixture
def descriptors() -> Callable[[Path], int]:
    """How many file descriptors this process has on a file, removed or not."""

    def count(path: Path) -> int:
        links = []
        for entry in Path("/proc/self/fd").iterdir():
            with suppress(OSError):
                links.append(str(entry.readlink()))
        return sum(link.removesuffix(" (deleted)") == str(path) for link in links)

    return count


@pytest.fixture
def raising() -> Callable[..., Callable[..., Any]]:
    """A function that takes anything and raises an error of a class, made anew each time."""

    def of(kind: type[BaseException], *arguments: Any) -> Callable[..., Any]:
        def call(*_: Any, **__: Any) -> Any:
            raise kind(*arguments)

        return call

    return of


class Library:
    """The C library, whose msync records what it is asked for and fails with `code` unless 0."""

    def __init__(self) -> None:
        self.calls: list[tuple[int, int, int]] = []
        self.code = 0

    def msync(self, address: int, length: int, flags: int) -> int:
        self.calls.append((address, length, flags))
        ctypes.set_errno(self.code)
        return -1 if self.code else 0


@pytest.fixture
def library(monkeypatch: pytest.MonkeyPatch) -> Library:
    made = Library()
    monkeypatch.setattr(pmem.device, "_libc", made)
    return made
