"""Trace files: what is read is what was written, and what can't be read is named."""

from __future__ import annotations

import gzip
import random
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mktme.errors import TraceError
from mktme.timing.access import (
    FENCE,
    FLUSH,
    FSYNC,
    KINDS,
    PREAD,
    PWRITE,
    READ,
    RECORDS,
    WORK,
    WRITE,
    Chunk,
    chunk,
)
from mktme.timing.traces import open_trace
from mktme.timing.traces.columns import Columns, write
from mktme.timing.traces.lackey import Lackey
from mktme.timing.traces.pages import FirstTouch, Window
from mktme.timing.traces.table import Table

VECTORS = Path(__file__).parents[1] / "vectors" / "traces"
PAGE = 4096


class Given:
    """A trace of given chunks."""

    name = "given"

    def __init__(self, *chunks: Chunk) -> None:
        self._chunks = chunks

    def chunks(self) -> Iterable[Chunk]:
        return iter(self._chunks)


def records(trace: Any) -> list[tuple[Any, ...]]:
    """Every record as a tuple; checks what holds for all chunks."""
    found: list[tuple[Any, ...]] = []
    for one in trace.chunks():
        assert one.first == len(found)
        assert len(one.kind) == len(one.address) == len(one.size) <= RECORDS + RECORDS
        assert (one.kind.dtype, one.address.dtype, one.size.dtype) == (np.uint8, np.uint64, np.uint32)
        columns = [one.kind.tolist(), one.address.tolist(), one.size.tolist()]
        for column in (one.thread, one.time):
            if column is not None:
                columns.append(column.tolist())
        if one.offsets is not None:
            data = one.data.tobytes()
            columns.append([data[a:b] for a, b in zip(one.offsets, one.offsets[1:], strict=False)])
        found += list(zip(*columns, strict=True))
    return found


def lackey(text: str) -> list[tuple[int, int, int]]:
    """A plain reading of lackey's format, to compare with."""
    found, waiting = [], 0
    for line in text.splitlines():
        if line.startswith("==") or not line:
            continue
        kind, rest = line[:2].strip(), line[2:].strip()
        address, size = rest.split(",")
        if kind == "I":
            waiting += 1
            continue
        if waiting:
            found.append((WORK, 0, waiting))
            waiting = 0
        if kind in "LM":
            found.append((READ, int(address, 16), int(size)))
        if kind in "SM":
            found.append((WRITE, int(address, 16), int(size)))
    return [*found, (WORK, 0, waiting)] if waiting else found


@pytest.mark.parametrize("block", [7, 64, 1000, 1 << 20])
def test_lackey(block: int) -> None:
    expected = lackey((VECTORS / "true.lackey").read_text())
    assert len(expected) > 150
    assert {kind for kind, _, _ in expected} == {READ, WRITE, WORK}
    assert records(Lackey(VECTORS / "true.lackey", block=block)) == expected


def test_lackey_over_more_than_a_chunk(tmp_path: Path) -> None:
    rng = random.Random(1)
    lines = []
    for _ in range(3 * RECORDS):
        kind = rng.choice(["I ", " L", " S", " M"])
        lines.append(
            f"{kind} {rng.getrandbits(rng.choice([20, 47, 64])):08x},{rng.choice([1, 2, 4, 8, 16, 32])}"
        )
    path = tmp_path / "long"
    path.write_text("\n".join(lines) + "\n")
    assert records(Lackey(path, block=100_000)) == lackey(path.read_text())


@pytest.mark.parametrize(
    "bad",
    [
        "L 10,4",
        " L 10",
        " L ,4",
        " L 10,",
        " L 1g,4",
        " X 10,4",
        " L 11112222333344445,4",
        " L 10,9999999",
        " L 10,0",
        "hello",
    ],
)
def test_lackey_malformed(tmp_path: Path, bad: str) -> None:
    path = tmp_path / "bad"
    path.write_text(f"==1== Lackey\n L 40,8\r\n\n{bad}\n S 48,8\n")
    with pytest.raises(TraceError) as refused:
        records(Lackey(path))
    assert "line 4" in str(refused.value)
    assert bad.strip()[:8] in str(refused.value)
    trace = Lackey(path, malformed="skip")
    assert records(trace) == [(READ, 0x40, 8), (WRITE, 0x48, 8)]
    assert (trace.problems.count, trace.problems.first[0][0]) == (1, 4)


def test_files_that_are_cut_short(tmp_path: Path) -> None:
    text = (VECTORS / "true.lackey").read_bytes()
    plain, packed = tmp_path / "plain", tmp_path / "packed.gz"
    plain.write_bytes(text[: text.rindex(b"\n", 0, 3000) + 6])
    with pytest.raises(TraceError, match=r"plain is cut short: line \d+, the last one, has no end"):
        records(Lackey(plain))
    whole = gzip.compress(text)
    packed.write_bytes(whole)
    assert records(open_trace(packed)) == lackey(text.decode())
    packed.write_bytes(whole[:-20])
    with pytest.raises(TraceError, match=r"packed.gz is cut short or damaged behind line"):
        records(Lackey(packed))


def test_zstd(tmp_path: Path) -> None:
    import pyarrow as pa

    text = (VECTORS / "true.lackey").read_bytes()
    path = tmp_path / "packed"
    with pa.CompressedOutputStream(str(path), "zstd") as file:
        file.write(text)
    assert records(open_trace(path)) == lackey(text.decode())
    path.write_bytes(path.read_bytes()[:-30])
    with pytest.raises(TraceError, match="cut short"):
        records(Lackey(path))


def test_fio() -> None:
    trace = open_trace(VECTORS / "three.fio")
    ms = 1_000_000
    assert records(trace) == [
        (PWRITE, 0, 4096, ms),
        (PWRITE, 8192 + 8192, 1000, 2 * ms),
        (PREAD, 4096, 4096, 3 * ms),
        (FSYNC, 0, 0, 4 * ms),
    ]
    assert trace.files == {"/a": 0, "/b": 8192}
    assert trace.trims == 1
    assert records(open_trace(VECTORS / "two.fio")) == [
        (PWRITE, 0, 4096, 0),
        (FSYNC, 0, 0, 250_000),
        (PREAD, 0, 512, 250_000),
    ]


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ("0 /a read 5", "read has 1 numbers"),
        ("0 /a erase 0 5", "there is no action 'erase'"),
        ("x /a open", "invalid literal"),
        ("0 /a read -5 5", "out of range"),
        ("0 /a wait 5", "version 3 has no wait"),
        ("0", "not enough values"),
    ],
)
def test_fio_malformed(tmp_path: Path, line: str, says: str) -> None:
    path = tmp_path / "log"
    path.write_text(f"fio version 3 iolog\n0 /a add\n{line}\n1 /a write 0 512\n")
    with pytest.raises(TraceError, match="line 3") as refused:
        records(open_trace(path))
    assert says in str(refused.value)
    assert records(open_trace(path, malformed="skip")) == [(PWRITE, 0, 512, 1_000_000)]


def test_pmemcheck(tmp_path: Path) -> None:
    path = tmp_path / "log"
    path.write_text(
        "==1== START|REGISTER_FILE;/p;0x10000;0x1800;0x0|STORE;0x10008;0x1122;0x8|FLUSH;0x10000;0x40|FENCE|"
        "REGISTER_FILE;/q;0x40000;0x1000;0x0|STORE;0x40000;0xff;0x1|STORE;0x90000;0x1;0x1|STOP\n"
    )
    with pytest.raises(TraceError, match=r"event 6.*1 bytes at 0x90000.*outside of every registered file"):
        records(open_trace(path))
    trace = open_trace(path, malformed="skip")
    assert records(trace) == [
        (WRITE, 8, 8, (0x1122).to_bytes(8, "little")),
        (FLUSH, 0, 64, b""),
        (FENCE, 0, 0, b""),
        (WRITE, 2 * PAGE, 1, b"\xff"),
    ]
    assert trace.problems.count == 1
    path.write_text("START|STORE;0x10008;0x1122;0x8|")
    with pytest.raises(TraceError, match="has no STOP"):
        records(open_trace(path))


def test_csv(tmp_path: Path) -> None:
    path = tmp_path / "some.csv"
    path.write_text(
        'address,kind,size,thread,time,data\n0x40,w,2,1,5,"0aff"\n128,Fence,0,0,6,\n130,read,8,0,7,\n\n'
    )
    assert records(open_trace(path)) == [
        (WRITE, 64, 2, 1, 5, b"\x0a\xff"),
        (FENCE, 128, 0, 0, 6, b""),
        (READ, 130, 8, 0, 7, b""),
    ]
    path.write_text("kind,address,size\n" + "".join(f"{name},{i},{i + 1}\n" for i, name in enumerate(KINDS)))
    assert records(Table(path, block=5)) == [(i, i, i + 1) for i in range(len(KINDS))]


@pytest.mark.parametrize(
    "line",
    [
        "read,5",
        "read,5,5,5",
        "peek,5,5",
        "read,-1,5",
        "read,5,4294967296",
        "read,x,5",
        "read,18446744073709551616,1",
    ],
)
def test_csv_malformed(tmp_path: Path, line: str) -> None:
    path = tmp_path / "some.csv"
    path.write_text(f"kind,address,size\nr,1,1\n{line}\nr,2,1\n")
    with pytest.raises(TraceError, match=r"some\.csv, line 3: "):
        records(open_trace(path))
    assert records(open_trace(path, malformed="skip")) == [(READ, 1, 1), (READ, 2, 1)]


@pytest.mark.parametrize("head", ["kind,address", "kind,address,size,colour", "kind,address,size,size", ""])
def test_csv_with_another_head(tmp_path: Path, head: str) -> None:
    path = tmp_path / "some.csv"
    path.write_text(head + "\n")
    with pytest.raises(TraceError, match="line 1: the head is"):
        records(open_trace(path, "csv"))


def test_what_is_no_trace(tmp_path: Path) -> None:
    path = tmp_path / "poem"
    path.write_text("so much depends\nupon\n")
    with pytest.raises(
        TraceError, match="is of no format that is known: lackey, pmemcheck, fio, csv, parquet"
    ):
        open_trace(path)
    with pytest.raises(TraceError, match="'elf' is no format"):
        open_trace(path, "elf")
    with pytest.raises(TraceError, match="can't be 'ignore': refuse or skip"):
        Lackey(path, malformed="ignore")


@settings(max_examples=20, deadline=None)
@given(st.data())
def test_parquet_gives_back_what_it_was_given(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    rng = np.random.default_rng(data.draw(st.integers(0, 1 << 30)))
    with_thread, with_time, with_data = data.draw(st.tuples(st.booleans(), st.booleans(), st.booleans()))
    chunks = []
    for n in data.draw(st.lists(st.integers(0, 2000), min_size=1, max_size=4)):
        sizes = rng.integers(0, 50, n)
        chunks.append(
            Chunk(
                rng.integers(0, 10, n).astype(np.uint8),
                rng.integers(0, 1 << 63, n).astype(np.uint64) * np.uint64(2),
                sizes.astype(np.uint32),
                rng.integers(0, 256, n).astype(np.uint8) if with_thread else None,
                np.sort(rng.integers(0, 1 << 50, n)) if with_time else None,
                rng.integers(0, 256, int(sizes.sum())).astype(np.uint8) if with_data else None,
                np.concatenate([[0], sizes.cumsum()]).astype(np.int64) if with_data else None,
            )
        )
    path = tmp_path_factory.mktemp("columns") / "trace.parquet"
    total = sum(len(one) for one in chunks)
    assert write(path, chunks) == total
    firsts = np.cumsum([0, *(len(one) for one in chunks)])
    numbered = [
        Chunk(c.kind, c.address, c.size, c.thread, c.time, c.data, c.offsets, int(first))
        for c, first in zip(chunks, firsts, strict=False)
    ]
    trace = open_trace(path)
    assert isinstance(trace, Columns)
    assert trace.records == total
    assert records(trace) == records(Given(*numbered))


def test_parquet_that_is_not_whole(tmp_path: Path) -> None:
    path = tmp_path / "trace.parquet"
    write(path, [chunk(READ, np.arange(5000) * 64, 8)])
    whole = path.read_bytes()
    assert [one.name for one in tmp_path.iterdir()] == ["trace.parquet"]
    path.write_bytes(whole[:-100])
    with pytest.raises(TraceError, match="is no whole Parquet file"):
        open_trace(path)
    path.write_bytes(whole[:2000] + bytes(200) + whole[2200:])
    with pytest.raises(TraceError, match=r"trace\.parquet is"):
        records(open_trace(path))

    import pyarrow as pa
    import pyarrow.parquet

    pyarrow.parquet.write_table(pa.table({"kind": [1]}), path)
    with pytest.raises(TraceError, match="is no trace of this format, version 1"):
        open_trace(path)


def test_a_writing_that_breaks_off_leaves_what_was_there(tmp_path: Path) -> None:
    path = tmp_path / "trace.parquet"

    def broken() -> Iterable[Chunk]:
        yield chunk(READ, [0], 8)
        raise TraceError("cut short")

    with pytest.raises(TraceError, match="cut short"):
        write(path, broken())
    assert list(tmp_path.iterdir()) == []
    write(path, [])
    assert records(open_trace(path)) == []
    with pytest.raises(
        TraceError, match="from record 1 on the trace has kind, address, size, time, and before"
    ):
        write(path, [chunk(READ, [0], 8), chunk(READ, [0], 8, time=[1])])
    assert records(open_trace(path)) == []


def first_touch(accesses: list[tuple[Any, ...]]) -> tuple[list[tuple[Any, ...]], int]:
    frames: dict[int, int] = {}
    found: list[tuple[Any, ...]] = []
    for kind, address, size, *rest in accesses:
        if kind in (FENCE, WORK, FSYNC):
            found.append((kind, 0, size, *rest))
            continue
        at, end, data = address, address + size, rest[-1] if rest else b""
        while True:
            piece = min(end, (at // PAGE + 1) * PAGE) - at
            frame = frames.setdefault(at // PAGE, len(frames))
            own, data = data[:piece], data[piece:]
            found.append((kind, frame * PAGE + at % PAGE, piece, *([own] if rest else [])))
            at += piece
            if at >= end:
                break
    return found, len(frames)


@settings(max_examples=40, deadline=None)
@given(
    st.lists(
        st.tuples(st.integers(0, 9), st.integers(0, 400 * PAGE), st.integers(0, 3 * PAGE)),
        min_size=1,
        max_size=600,
    ),
    st.booleans(),
)
def test_pages_as_they_are_touched(accesses: list[tuple[int, int, int]], with_data: bool) -> None:
    columns = np.array(accesses, np.int64)
    stored = np.where(columns[:, 0] == WRITE, columns[:, 2], 0)
    given_ = Chunk(
        columns[:, 0].astype(np.uint8),
        columns[:, 1].astype(np.uint64),
        columns[:, 2].astype(np.uint32),
        data=np.random.default_rng(1).integers(0, 256, int(stored.sum())).astype(np.uint8)
        if with_data
        else None,
        offsets=np.concatenate([[0], stored.cumsum()]).astype(np.int64) if with_data else None,
    )
    trace = FirstTouch(Given(given_))
    expected, pages = first_touch(records(Given(given_)))
    assert records(trace) == expected
    assert trace.pages == pages


def test_a_window_of_addresses() -> None:
    base, size = 0x7F0000000000, 2 * PAGE
    addresses = [base, base - 1, base + size - 8, base + size - 7, 0]
    accesses = chunk([READ, READ, WRITE, WRITE, FENCE], addresses, 8)
    with pytest.raises(TraceError, match=r"record 1, 8 bytes at 0x7effffffffff, is outside of 8192 bytes"):
        records(Window(Given(accesses), base, size))
    trace = Window(Given(accesses), base, size, outside="skip")
    assert records(trace) == [(READ, 0, 8), (WRITE, size - 8, 8), (FENCE, 0, 8)]
    assert trace.skipped == 2
