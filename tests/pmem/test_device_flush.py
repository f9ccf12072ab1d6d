"""Flushing the device: which pages msync is given, and what it says when it fails."""

from __future__ import annotations

import errno
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import pmem
import pmem.device
from pmem import PAGE

PATTERN = bytes(range(1, 129)) * 32  # a page without a zero


def test_a_flush_hands_the_pages_of_its_range_to_msync(path: Path, library: Any) -> None:
    with pmem.create(path, 4 * PAGE) as device:
        for offset, length in ((PAGE + 1, 10), (0, None), (PAGE, None), (2 * PAGE - 1, 2), (PAGE, 0)):
            device.flush(offset, length)
        device.flush(4 * PAGE)
        device.persist(np.uint64(PAGE), np.int16(1))  # type: ignore[arg-type]
        spans = [(address - device.base, length) for address, length, _ in library.calls]
    assert spans == [(PAGE, 11), (0, 4 * PAGE), (PAGE, 3 * PAGE), (PAGE, PAGE + 1), (PAGE, 1)]
    assert {flags for _, _, flags in library.calls} == {4}  # MS_SYNC


def test_a_flush_starts_at_a_page_of_the_system_where_that_is_longer(
    path: Path, library: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pmem.create(path, 1 << 20) as device:
        monkeypatch.setattr(pmem.device.mmap, "PAGESIZE", 1 << 16)
        device.flush((1 << 16) + PAGE, 64)
        assert library.calls == [(device.base + (1 << 16), PAGE + 64, 4)]


def test_a_flush_that_fails_says_what_is_not_durable(path: Path, library: Any) -> None:
    with pmem.create(path, PAGE) as device:
        device.write(0, PATTERN)
        library.code = errno.EIO
        for flush in (device.flush, device.persist):
            with pytest.raises(pmem.DeviceFailed, match="bytes 64 to 73 are not durable") as caught:
                flush(64, 10)
            assert caught.value.errno == errno.EIO
            assert caught.value.filename == str(path)
        assert device.read(0, PAGE) == PATTERN


def test_a_flush_of_every_range_succeeds_on_a_real_mapping(path: Path) -> None:
    with pmem.create(path, 4 * PAGE) as device:
        for offset in (0, 1, PAGE - 1, PAGE, 4 * PAGE - 1, 4 * PAGE):
            device.write(offset, b"x" * min(1, 4 * PAGE - offset))
            device.flush(offset)
            device.persist(offset, 0)
            device.persist(0, offset)
        device.drain()
    with pmem.open(path, "r") as device:
        device.persist()
