"""Recording what a script does to its regions."""

from __future__ import annotations

import threading
from pathlib import Path

import numpy as np
import pytest

import mktme
import pmem
from mktme.errors import TraceError
from mktme.region import Region
from mktme.timing.access import FENCE, FLUSH, KINDS, READ, WRITE
from mktme.timing.record import recording
from mktme.timing.traces import open_trace


def test_what_is_recorded(tmp_path: Path) -> None:
    path = tmp_path / "trace.parquet"
    untouched = Region._read
    with pmem.create(tmp_path / "image", "1MiB") as device:
        controller = mktme.Controller(device)
        keyid = controller.program_key(mktme.Key.generate("aes-xts-128"))
        region = controller.map(4096, "64KiB", keyid, iv="pmem-line")
        with recording(path, data=True) as made:
            region[10:15] = b"hello"
            region.persist(10, 5)
            assert bytes(region[10:12]) == b"he"
            array = region.array(np.uint32, shape=(4, 8), offset=4096)
            array[1, :] = 7
            array[:, 2] = 9
            assert array[1, 3] == 7
            rows = controller.read_lines(np.array([4096, 4160], np.uint64))
            controller.write_lines(np.array([8192], np.uint64), rows[:1])
            region.drain()
            with pytest.raises(TraceError, match="already running"), recording(tmp_path / "other"):
                pass
        assert made.records == 14
        region[0:1] = b"x"  # isn't recorded any more
    assert Region._read is untouched
    seven, nine = np.uint32(7).tobytes(), np.uint32(9).tobytes()
    expected = [
        (WRITE, 4106, 5, b"hello"),
        (FLUSH, 4106, 5, b""),
        (FENCE, 0, 0, b""),
        (READ, 4106, 2, b""),
        (WRITE, 8192 + 32, 32, 8 * seven),
        *((WRITE, 8192 + 32 * i + 8, 4, nine) for i in range(4)),
        (READ, 8192 + 32 + 12, 4, b""),
        (READ, 4096, 64, b""),
        (READ, 4160, 64, b""),
        (WRITE, 8192, 64, rows[0].tobytes()),
        (FENCE, 0, 0, b""),
    ]
    found = []
    for one in open_trace(path).chunks():
        data = one.data.tobytes()
        pieces = [data[a:b] for a, b in zip(one.offsets, one.offsets[1:], strict=False)]
        found += list(zip(one.kind.tolist(), one.address.tolist(), one.size.tolist(), pieces, strict=True))
    assert found == expected


def test_threads_are_told_apart_and_nothing_is_lost(tmp_path: Path) -> None:
    path = tmp_path / "trace.parquet"
    with pmem.create(tmp_path / "image", "1MiB") as device:
        controller = mktme.Controller(device)
        region = controller.map(
            0, "64KiB", controller.program_key(mktme.Key.generate("aes-xts-128")), iv="pmem-line"
        )

        def work(own: int) -> None:
            for i in range(200):
                region[own * 4096 + i : own * 4096 + i + 1] = b"."

        with recording(path):
            threads = [threading.Thread(target=work, args=(own,)) for own in range(4)]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
    (one,) = open_trace(path).chunks()
    assert len(one) == 800
    for own in range(4):
        mine = one.thread[one.address // np.uint64(4096) == own]
        assert len(mine) == 200
        assert len(set(mine.tolist())) == 1
    assert len(set(one.thread.tolist())) == 4


def test_a_block_that_raises_leaves_no_file(tmp_path: Path) -> None:
    before = Region._write
    with pytest.raises(RuntimeError, match="no"), recording(tmp_path / "trace.parquet"):
        raise RuntimeError("no")
    assert list(tmp_path.iterdir()) == []
    assert Region._write is before
    assert len(KINDS) == 10
