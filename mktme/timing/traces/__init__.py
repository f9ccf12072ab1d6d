"""Trace files: what other programs write, and our own; see `open_trace`."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from mktme.errors import TraceError
from mktme.timing.traces.columns import MAGIC, Columns
from mktme.timing.traces.fio import Fio
from mktme.timing.traces.lackey import Lackey
from mktme.timing.traces.pmemcheck import StoreLog
from mktme.timing.traces.source import opened
from mktme.timing.traces.table import Table

FORMATS = ("lackey", "pmemcheck", "fio", "csv", "parquet")
_LOOKED = 1 << 16  # bytes that a format is recognised by


def open_trace(path: Path, format: str = "", malformed: str = "refuse") -> Any:
    """A trace in a file, plain or compressed (gzip, zstd), by its format or by how it begins.

    Raises TraceError for a format that isn't known, OSError.
    """
    kind = format or _recognised(path)
    if kind == "parquet":
        return Columns(path)
    readers = {"lackey": Lackey, "pmemcheck": StoreLog, "fio": Fio, "csv": Table}
    if kind not in readers:
        raise TraceError(f"{kind!r} is no format that is known: {', '.join(FORMATS)}")
    return readers[kind](path, malformed)


def _recognised(path: Path) -> str:
    if str(path) == "-":
        raise TraceError(f"say which format standard input has: {', '.join(FORMATS[:-1])}")
    with opened(path) as file:
        try:
            begin = file.read(_LOOKED)
        except (EOFError, OSError) as error:
            raise TraceError(f"{path} can't be decompressed: {error}") from None
    if begin.startswith(MAGIC):
        return "parquet"
    text = begin.decode(errors="replace")
    if text.startswith("fio version"):
        return "fio"
    if "START|" in text:
        return "pmemcheck"
    if "address" in text.split("\n")[0].lower().split(","):
        return "csv"
    if re.search(r"^(I | [LSM]) [0-9a-fA-F]+,\d+\r?$", text, re.MULTILINE):
        return "lackey"
    raise TraceError(f"{path} is of no format that is known: {', '.join(FORMATS)}")
