"""Bits that change: the model's pads against real ciphers on a real image."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

import mktme
import pmem
from mktme.errors import TraceError
from mktme.timing import generators
from mktme.timing.access import READ, WRITE, Chunk, chunk
from mktme.timing.machine import Machine

LINES, LINE = 64, 64


def stores(trace: generators.Generated) -> list[tuple[int, bytes]]:
    found = []
    for one in trace.chunks():
        assert one.data is not None
        assert one.offsets is not None
        data = one.data.tobytes()
        for i in np.flatnonzero(one.kind == WRITE):
            found.append((int(one.address[i]), data[one.offsets[i] : one.offsets[i + 1]]))
    return found


def share(device: pmem.Device, region: Any, written: list[tuple[int, bytes]]) -> float:
    """Of the bits of the lines that are written to the image, how many change."""
    flips = 0
    for address, data in written:
        before = device.media[address : address + LINE].copy()
        region.write(address, data)
        flips += int(np.bitwise_count(before ^ device.media[address : address + LINE]).sum())
    return flips / (len(written) * LINE * 8)


@pytest.mark.parametrize("what", generators.OVERWRITES)
def test_as_many_bits_change_as_under_real_ciphers(tmp_path: Path, what: str) -> None:
    trace = generators.overwrites(3000, what=what, space=LINES * LINE)
    written = stores(trace)
    with pmem.create(tmp_path / "image", "1MiB") as device:
        controller = mktme.Controller(device)
        key = mktme.Key("aes-xts-128", data_key=bytes(range(16)), tweak_key=bytes(range(16, 32)))
        keyid = controller.program_key(key)
        for scheme, configuration in (("none", "none"), ("pmem-line", "xts"), ("ctr-split", "ctr-battery")):
            if scheme == "none":
                region = controller.map(0, 4096, 0)
            elif scheme == "ctr-split":
                counted = controller.program_key(mktme.Key("aes-ctr-128", data_key=bytes(range(16))))
                region = controller.map(0, 4096, counted, iv=scheme, metadata=1 << 16)
            else:
                region = controller.map(0, 4096, keyid, iv=scheme)
            region.fill(0)
            real = share(device, region, written)
            controller.unmap(region)
            ours = Machine.preset("pcm", configuration).run(trace.chunks())
            assert ours["bit_flips.lines"] == len(written)
            assert ours["bit_flips.share"] == pytest.approx(real, abs=0.004, rel=0.01)
            if configuration == "none":
                assert ours["bit_flips.share"] == real


def words(line: bytes) -> list[bytes]:
    return [line[i : i + 2] for i in range(0, LINE, 2)]


def test_deuce_rewrites_the_words_that_changed_in_the_epoch() -> None:
    """Of 32 words some have changed since the epoch began: half of their bits change, no others'."""
    trace = generators.overwrites(64 * 100, what="pointers", space=LINES * LINE)
    expected, state = 0.0, {i * LINE: (bytes(LINE), 0, set[int]()) for i in range(LINES)}
    marks = 0
    for address, data in stores(trace):
        before, count, changed = state[address]
        count += 1
        new = {i for i, (a, b) in enumerate(zip(words(before), words(data), strict=True)) if a != b}
        if count % 32 == 0:
            marks += len(changed)
            expected += 0.5 * 512
            changed = set()
        else:
            marks += len(new - changed)
            changed = changed | new
            expected += 0.5 * 16 * len(changed)
        state[address] = data, count, changed
    result = Machine.preset("pcm", "deuce").run(trace.chunks())
    assert result["bit_flips.flips"] == pytest.approx(expected + marks, rel=0.005)


def test_parts_of_lines_and_lines_that_wait_in_caches() -> None:
    """What is written back late is compared as a whole: two stores, one write."""
    data = np.frombuffer(b"\xff\x0f" + b"\xf0" * 100, np.uint8)
    trace = Chunk(
        np.array([WRITE, WRITE], np.uint8),
        np.array([63, 200], np.uint64),
        np.array([2, 100], np.uint32),
        data=data,
        offsets=np.array([0, 2, 102], np.int64),
    )
    flushed = Chunk(
        np.array([2, 2], np.uint8),
        np.array([0, 128], np.uint64),
        np.array([128, 256], np.uint32),
        data=np.empty(0, np.uint8),
        offsets=np.array([0, 0, 0], np.int64),
        first=2,
    )
    result = Machine.preset("pcm").run([trace, flushed])
    assert result["bit_flips.lines"] == 4  # two that begin the device, two from byte 192 on
    assert result["bit_flips.flips"] == 8 + 4 + 400


def test_data_in_all_chunks_or_in_none() -> None:
    with pytest.raises(TraceError, match="from record 1 on the trace has no data: all of it, or none"):
        Machine.preset("pcm").run(
            [
                Chunk(
                    np.array([WRITE], np.uint8),
                    np.array([0], np.uint64),
                    np.array([1], np.uint32),
                    data=np.array([1], np.uint8),
                    offsets=np.array([0, 1], np.int64),
                ),
                chunk(READ, [0], 8, first=1),
            ]
        )
