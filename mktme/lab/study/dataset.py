"""The results of a study: a Parquet dataset that grows by a file for each cell, each whole or not there.

OUTPUT/results/ holds the parts; `pyarrow.dataset`, polars, pandas and DuckDB read the folder as one table,
in long form: a row for each metric. Small parts are merged now and then.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from mktme.lab.study.cells import FAILED
from mktme.lab.study.grid import Cell, StudyError
from mktme.timing.traces.source import arrow

TEXTS = ("kind", "path", "scheme", "cipher", "workload", "experiment", "trace", "memory", "engine")
SMALL = 256  # parts that are merged into one
PART, MERGED = "cell-", "merged-"


class Dataset:
    """The folder of a study's results. One process at a time writes it: a context manager that locks.

    Not thread-safe. Raises StudyError if another process runs the study, or files were damaged; OSError.
    """

    def __init__(self, folder: Path) -> None:
        self.folder, self.results = folder, folder / "results"
        self._arrow = arrow()
        self._lock: Any = None
        self.done: dict[str, str] = {}  # status by cell

    def __enter__(self) -> Dataset:
        self.results.mkdir(parents=True, exist_ok=True)
        self._lock = (self.folder / "lock").open("w")
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            self._lock.close()
            raise StudyError(
                f"{self.folder} is being written to by another run: wait for it, or name another --output"
            ) from None
        try:
            self._look()
        except BaseException:
            self._lock.close()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self._lock.close()

    def _look(self) -> None:
        """What is there already: half-written files go, and cells that are in a merged part, too."""
        for torn in self.results.glob("*.tmp"):
            torn.unlink()
        for part in sorted(self.results.glob(f"{MERGED}*.parquet")):
            self.done.update(self._statuses(part))
        for part in sorted(self.results.glob(f"{PART}*.parquet")):
            cell = part.stem.removeprefix(PART)
            if cell in self.done:
                part.unlink()  # the merge was interrupted here
            else:
                self.done.update(self._statuses(part))

    def _statuses(self, part: Path) -> dict[str, str]:
        try:
            table = self._arrow.parquet.read_table(part, columns=["cell", "status"])
        except (self._arrow.ArrowException, OSError) as error:
            raise StudyError(
                f"{part} is damaged ({error}): delete it, and its cells will run again"
            ) from None
        return dict(zip(table["cell"].to_pylist(), table["status"].to_pylist(), strict=True))

    def add(self, cell: Cell, outcome: dict[str, Any]) -> None:
        """Keep what a cell came to: durable, and visible as a whole, when this returns."""
        table = self._arrow.Table.from_pylist(self._rows(cell, outcome), schema=self._schema())
        self._write(table, f"{PART}{cell.id}.parquet")
        self.done[cell.id] = outcome["status"]

    def _write(self, table: Any, name: str) -> None:
        temporary = self.results / f"{name}.tmp"
        self._arrow.parquet.write_table(table, temporary, compression="zstd")
        handle = os.open(temporary, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
        temporary.replace(self.results / name)

    def _rows(self, cell: Cell, outcome: dict[str, Any]) -> list[dict[str, Any]]:
        values = dict(cell.values)
        head: dict[str, Any] = {name: str(values.pop(name, "")) for name in TEXTS} | {
            "cell": cell.id,
            "kind": cell.kind,
            "unit": values.pop("unit", None),
            "settings": json.dumps({k: v for k, v in values.items() if k != "parameters"}),
            "parameters": json.dumps(values.get("parameters", {})),
            "repetition": cell.repetition,
            "seed": cell.seed,
            "status": outcome["status"],
            "error": outcome["error"],
            "seconds": outcome["seconds"],
            "host": outcome["host"],
        }
        nothing = {"subject": "", "request": "", "metric": "", "value": None, "text": ""}
        return [head | row for row in outcome["rows"] or [nothing]]

    def _schema(self) -> Any:
        pa = self._arrow
        texts = ("cell", *TEXTS)
        return pa.schema(
            [
                *((name, pa.string()) for name in texts),
                ("unit", pa.int64()),
                ("settings", pa.string()),
                ("parameters", pa.string()),
                ("repetition", pa.int64()),
                ("seed", pa.int64()),
                ("subject", pa.string()),
                ("request", pa.string()),
                ("metric", pa.string()),
                ("value", pa.float64()),
                ("text", pa.string()),
                ("status", pa.string()),
                ("error", pa.string()),
                ("seconds", pa.float64()),
                ("host", pa.string()),
            ]
        )

    def merge(self, least: int = SMALL) -> None:
        """Make one file of small parts, if there are at least so many. No result is lost at any moment."""
        parts = sorted(self.results.glob(f"{PART}*.parquet"))
        if len(parts) < max(2, least):
            return
        pa = self._arrow
        table = pa.concat_tables([pa.parquet.read_table(part) for part in parts])
        digest = hashlib.sha256("".join(part.name for part in parts).encode()).hexdigest()[:16]
        self._write(table, f"{MERGED}{digest}.parquet")
        for part in parts:
            part.unlink()

    def forget(self, cells: Iterable[str]) -> None:
        """Drop the results of cells, which are to run again."""
        gone = set(cells)
        pa = self._arrow
        for part in sorted(self.results.glob("*.parquet")):
            statuses = self._statuses(part)
            if not gone & set(statuses):
                continue
            table = pa.parquet.read_table(part)
            kept = table.filter([cell not in gone for cell in table["cell"].to_pylist()])
            if kept.num_rows:
                self._write(kept, part.name)
            else:
                part.unlink()
        for cell in gone:
            self.done.pop(cell, None)

    def failed(self) -> list[str]:
        """The cells that failed."""
        return [cell for cell, status in self.done.items() if status == FAILED]

    def read(self) -> Any:
        """Everything, as an Arrow table."""
        parts = sorted(self.results.glob("*.parquet"))
        if not parts:
            return self._schema().empty_table()
        return self._arrow.concat_tables([self._arrow.parquet.read_table(part) for part in parts])
