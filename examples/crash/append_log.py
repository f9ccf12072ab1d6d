"""An append-only log: a record is written behind the tail, then the tail moves on past it.

    python examples/crash/append_log.py
    mktme crash examples/crash/append_log.py
    mktme crash examples/crash/append_log.py --program missing_flush

    line 0      magic (8 bytes), tail (8): the offset past the last record
    from 64 on  records one after another: length (4 bytes), then so many bytes

The order that it lives by: a record is durable (flush, drain) before the tail is stored that makes it
part of the log, and the tail is durable before `append` returns. The tail is one aligned store of 8
bytes; so the log has a record whole or not at all, and needs no checksum. What lies behind the tail
means nothing.

It relies on power-fail atomicity of 64 bytes: a line reaches the medium whole, with what a scheme keeps
beside it. Unencrypted, 8 bytes would do. Under a cipher of 16-byte blocks a line torn between two words
of a block loses the block: the magic beside the tail, or the end of the last record beside the new one.
"""

from __future__ import annotations

import os
import struct
import tempfile
from collections.abc import Iterator
from pathlib import Path

import mktme
import pmem

SIZE = "4KiB"

MAGIC = int.from_bytes(b"mktmelog", "little")
AT_MAGIC, AT_TAIL, START = 0, 8, 64
WORD = struct.Struct("<Q")
LENGTH = struct.Struct("<I")


class Log:
    """A log on a region that `format` has prepared.

    Raises ValueError if there is none: another key makes noise of it, too.
    """

    def __init__(self, region: mktme.Region) -> None:
        if not formatted(region):
            raise ValueError("there is no log in the region, or it is under another key: format makes one")
        self.region = region
        self.tail = load(region, AT_TAIL)
        if not START <= self.tail <= region.size:
            raise ValueError(f"the tail is {self.tail}, outside of {START} to {region.size}")

    def append(self, record: bytes) -> None:
        """Add a record; it is durable on return. Raises ValueError if there is no room for it."""
        data = LENGTH.pack(len(record)) + record
        end = self.tail + len(data)
        if end > self.region.size:
            raise ValueError(
                f"a record of {len(record)} bytes doesn't fit behind {self.tail} of {self.region.size}: "
                "clear the log"
            )
        self.region.write(self.tail, data)
        self._make_durable(self.tail, len(data))
        self._move_tail(end)

    def clear(self) -> None:
        """Forget all records; durable on return."""
        self._move_tail(START)

    def records(self) -> list[bytes]:
        """All records, the oldest first. Raises ValueError if the last doesn't end at the tail."""
        data, at = self.region[START : self.tail], 0
        found: list[bytes] = []
        while at < len(data):
            begin = at + LENGTH.size
            if begin <= len(data):
                at = begin + LENGTH.unpack_from(data, at)[0]
            if not begin <= at <= len(data):
                raise ValueError(f"record {len(found)} runs past the tail, which is {self.tail}")
            found.append(data[begin:at])
        return found

    def _make_durable(self, offset: int, length: int) -> None:
        self.region.flush(offset, length)
        self.region.drain()

    def _move_tail(self, tail: int) -> None:
        store(self.region, AT_TAIL, tail)
        self.region.persist(AT_TAIL, WORD.size)
        self.tail = tail


class LogWithoutFlush(Log):
    """The bug: a fence alone. It orders nothing, since the record's lines are still in the cache."""

    def _make_durable(self, offset: int, length: int) -> None:
        self.region.drain()


def format(region: mktme.Region) -> None:
    """Make an empty log. The magic comes last: what has it is a log, however the power fails."""
    store(region, AT_TAIL, START)
    region.persist(AT_TAIL, WORD.size)
    store(region, AT_MAGIC, MAGIC)
    region.persist(AT_MAGIC, WORD.size)


def formatted(region: mktme.Region) -> bool:
    """Whether a region has a log."""
    return load(region, AT_MAGIC) == MAGIC


def load(region: mktme.Region, offset: int) -> int:
    """The 64-bit integer at an offset."""
    word: int = WORD.unpack(region.read(offset, WORD.size))[0]
    return word


def store(region: mktme.Region, offset: int, word: int) -> None:
    """Store 8 bytes at once, aligned."""
    assert offset % WORD.size == 0
    region.write(offset, WORD.pack(word))


# What is explored: records from none to 140 bytes, within a line and over lines; None clears the log, so that
# old records lie where the next ones go.
RECORDS = [bytes([ord("a") + i]) * (29 * i % 141) for i in range(22)]
WORK: list[bytes | None] = [*RECORDS[:12], None, *RECORDS[12:]]


def program(region: mktme.Region, kind: type[Log] = Log) -> Iterator[bytes | None]:
    """Format, append and clear; yield each operation when it is durable."""
    format(region)
    log = kind(region)
    for record in WORK:
        if record is None:
            log.clear()
        else:
            log.append(record)
        yield record


def missing_flush(region: mktme.Region) -> Iterator[bytes | None]:
    """The same, and a record isn't flushed before the tail moves."""
    return program(region, LogWithoutFlush)


def check(region: mktme.Region, promised: list[bytes | None]) -> None:
    """After a power failure: all promised records are there, and at most the next operation.

    Raises AssertionError.
    """
    if not formatted(region):
        assert not promised, f"the log is gone; {len(promised)} operations were promised"
        return
    try:
        found = Log(region).records()
    except ValueError as error:
        raise AssertionError(f"damaged after {len(promised)} promised operations: {error}") from error
    expected = [after(promised), after(WORK[: len(promised) + 1])]
    assert found in expected, (
        f"after {len(promised)} promised operations the log has {len(found)} records, "
        f"of which {agreeing(found, expected[0])} are right; {len(expected[0])} were promised"
    )


def after(work: list[bytes | None]) -> list[bytes]:
    """The records that operations leave."""
    records: list[bytes] = []
    for record in work:
        if record is None:
            records.clear()
        else:
            records.append(record)
    return records


def agreeing(found: list[bytes], expected: list[bytes]) -> int:
    """How many records from the first on are the expected ones."""
    return next(
        (i for i, pair in enumerate(zip(found, expected, strict=False)) if pair[0] != pair[1]),
        min(len(found), len(expected)),
    )


def main() -> None:
    """A log on an image, under a key, and again after a restart."""
    key = os.urandom(64)
    with tempfile.TemporaryDirectory() as folder:
        image = Path(folder) / "log.img"
        with pmem.create(image, SIZE) as device:
            for operation in program(mapped(device, key)):
                print("cleared" if operation is None else f"appended {len(operation)} bytes")
            print("Plaintext on the medium:", RECORDS[-1] in device.media.tobytes())
        with pmem.open(image) as device:
            log = Log(mapped(device, key))
            check(log.region, WORK)
            print(f"After a restart: {len(log.records())} records, the tail at {log.tail}")
        with pmem.open(image) as device:
            print("A log, by another key:", formatted(mapped(device, os.urandom(64))))


def mapped(device: pmem.Device, key: bytes) -> mktme.Region:
    """The whole device under a key."""
    controller = mktme.Controller(device)
    keyid = controller.program_key(mktme.Key.from_bytes("aes-xts-256", key))
    return controller.map(0, device.size, keyid)


if __name__ == "__main__":
    main()
