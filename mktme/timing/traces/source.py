"""A trace file as a stream of bytes, and what to do with lines that can't be read."""

from __future__ import annotations

import gzip
import sys
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from mktme.errors import TraceError

BLOCK = 1 << 20  # bytes that are read at once
GZIP, ZSTD = b"\x1f\x8b", b"\x28\xb5\x2f\xfd"
SHOWN = 5  # malformed lines that are kept to be shown
POLICIES = ("refuse", "skip")


def arrow() -> Any:
    """The pyarrow package. Raises TraceError if it isn't installed."""
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError:
        raise TraceError("this needs pyarrow: pip install 'mktme[trace]'") from None
    return pyarrow


@contextmanager
def opened(path: Path) -> Iterator[Any]:
    """A file's bytes, decompressed if they begin as gzip or zstd do; "-" is standard input.

    Raises TraceError, OSError.
    """
    if str(path) == "-":
        yield sys.stdin.buffer
        return
    with path.open("rb") as raw:
        magic = raw.read(4)
        raw.seek(0)
        if magic.startswith(GZIP):
            with gzip.open(raw) as file:
                yield file
        elif magic == ZSTD:
            with arrow().CompressedInputStream(raw, "zstd") as file:
                yield file
        else:
            yield raw


def blocks(path: Path, size: int = BLOCK) -> Iterator[bytes]:
    """The decompressed bytes, some at a time.

    Raises TraceError, with the number of the line that was reached, where compressed data end too early.
    """
    lines = 0
    try:
        with opened(path) as file:
            while block := file.read(size):
                lines += block.count(b"\n")
                yield block
    except (EOFError, zlib.error, OSError) as error:
        if getattr(error, "errno", None) is not None:  # the system's, not a decompressor's
            raise
        raise TraceError(f"{path} is cut short or damaged behind line {lines}: {error}") from None


def lines(path: Path, *, ended: bool = True, size: int = BLOCK) -> Iterator[tuple[int, str]]:
    """Lines without their ends, numbered from 1.

    Raises TraceError where the last one has no end, if it is to have one (`ended`).
    """
    rest, number = b"", 0
    for block in blocks(path, size):
        *whole, rest = (rest + block).split(b"\n")
        for line in whole:
            number += 1
            yield number, line.rstrip(b"\r").decode(errors="replace")
    if rest:
        if ended:
            raise cut(path, number + 1)
        yield number + 1, rest.rstrip(b"\r").decode(errors="replace")


def cut(path: Path, number: int) -> TraceError:
    """The error for a file whose last line has no end."""
    return TraceError(f"{path} is cut short: line {number}, the last one, has no end")


class Problems:
    """Malformed lines: refused, or skipped and counted. `first`: where the first ones are, and their text."""

    def __init__(self, policy: str, name: str) -> None:
        if policy not in POLICIES:
            raise TraceError(f"malformed lines can't be {policy!r}: {' or '.join(POLICIES)} them")
        self.policy, self.name = policy, name
        self.clear()

    def clear(self) -> None:
        """Forget those of an earlier reading."""
        self.count = 0
        self.first: list[tuple[int, str]] = []

    def report(self, number: int, text: str, why: str, unit: str = "line") -> None:
        """A line that can't be read. Raises TraceError if such are refused."""
        shown = text if len(text) <= 80 else text[:77] + "..."
        if self.policy == "refuse":
            raise TraceError(
                f"{self.name}, {unit} {number}: {shown!r} {why}; or leave such lines out (malformed: skip)"
            )
        self.count += 1
        if len(self.first) < SHOWN:
            self.first.append((number, shown))
