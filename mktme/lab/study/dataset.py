"""The results of a study: a Parquet dataset that grows by a file for each cell, each whole or not there.

OUTPUT/results/ holds the parts; `pyarrow.dataset`, polars, pandas and DuckDB read the folder as one table,
in long form: a row for each metric. Small parts are merged when there are SMALL of them; who reads in that
moment may see cells twice.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from mktme.lab.study import durable
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
        self.errors: dict[str, str] = {}  # of those that failed
        self._small = 0  # parts of single cells

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
        for torn in (*self.results.glob(".*.tmp"), *self.folder.glob("slices/*/*/*.part")):
            torn.unlink()
        for part in sorted(self.results.glob(f"{MERGED}*.parquet")):
            self.done.update(self._statuses(part))
        for part in sorted(self.results.glob(f"{PART}*.parquet")):
            cell = part.stem.removeprefix(PART)
            if cell in self.done:
                part.unlink()  # the merge was interrupted here
            else:
                self.done.update(self._statuses(part))
                self._small += 1

    def _statuses(self, part: Path) -> dict[str, str]:
        try:
            table = self._arrow.parquet.read_table(part, columns=["cell", "status", "error"])
        except (self._arrow.ArrowException, OSError) as error:
            raise StudyError(
                f"{part} is damaged ({error}): delete it, and its cells will run again"
            ) from None
        cells, statuses, errors = (table[name].to_pylist() for name in ("cell", "status", "error"))
        self.errors |= {cell: error for cell, error in zip(cells, errors, strict=True) if error}
        return dict(zip(cells, statuses, strict=True))

    def add(self, cell: Cell, outcome: dict[str, Any]) -> None:
        """Keep what a cell came to: durable, and visible as a whole, when this returns."""
        table = self._arrow.Table.from_pylist(self._rows(cell, outcome), schema=self._schema())
        self._write(table, f"{PART}{cell.id}.parquet")
        self.done[cell.id] = outcome["status"]
        self._small += 1
        if self._small >= SMALL:
            self.merge()

    def _write(self, table: Any, name: str) -> None:
        temporary = self.results / f".{name}.tmp"  # which readers of the folder pass over
        self._arrow.parquet.write_table(table, temporary, compression="zstd")
        durable.place(temporary, self.results / name)

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
        self._small = 0

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
            self.errors.pop(cell, None)

    def failed(self) -> list[str]:
        """The cells that failed."""
        return [cell for cell, status in self.done.items() if status == FAILED]

    def read(self) -> Any:
        """Everything, as an Arrow table."""
        pa, seen, tables = self._arrow, set[str](), [self._schema().empty_table()]
        for part in sorted(self.results.glob("*.parquet"), reverse=True):  # merged ones first
            table = pa.parquet.read_table(part)
            own = table["cell"].to_pylist()
            tables.append(table.filter([cell not in seen for cell in own]) if seen & set(own) else table)
            seen.update(own)
        return pa.concat_tables(tables)
