"""Every speed that this project promises, measured here and now beside its target.

    python bench/figures.py [--only TEXT] [--json PATH] [--quick]

Each figure is a ratio (or a time) of things that ran in turns in this one process.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import asdict
from pathlib import Path

from figure import Figure
from figures_bulk import bulk, threads
from figures_clients import clients
from figures_crash import crashes
from figures_files import files
from figures_inline import inline
from figures_kernel import kernels
from figures_schemes import ciphers, schemes
from figures_small import scattered, small, starting
from figures_study import studies
from figures_timing import timing
from figures_volume import volumes
from rich.console import Console
from rich.table import Table

from mktme.crypto import backend
from mktme.lab.machine import describe

ROUNDS = 15


def show(figures: list[Figure]) -> None:
    """Print the figures as a table."""
    where = describe()
    table = Table(
        title=f"{where['processor']}, {where['backend']}, numba {where['numba']}, numpy {where['numpy']}"
    )
    for name in ("figure", "median", "quartiles", "target", "", "note"):
        table.add_column(name, justify="left" if name in ("figure", "note", "") else "right")
    for figure in figures:
        target = f"{'<' if figure.below else '>='} {figure.target:g}{figure.unit}" if figure.target else ""
        holds = ("holds" if figure.holds else "falls short") if target else ""
        spread = "{:.3g} - {:.3g}".format(*figure.spread) if figure.spread else ""
        table.add_row(figure.name, f"{figure.value:.3g}{figure.unit}", spread, target, holds, figure.note)
    Console(width=170 if not sys.stdout.isatty() else None).print(table)


def main() -> None:
    """Measure, print, and write the results."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--only", default="", help="only the groups whose name has this text")
    parser.add_argument("--json", type=Path, help="write the figures to this file")
    parser.add_argument("--quick", action="store_true", help="fewer rounds")
    options = parser.parse_args()
    if backend.chosen == "portable":
        sys.exit("the figures are promised for the native backends, and this processor runs the portable one")
    rounds = 3 if options.quick else ROUNDS
    with tempfile.TemporaryDirectory(dir="/dev/shm" if Path("/dev/shm").is_dir() else None) as name:
        folder = Path(name)
        groups: dict[str, Callable[[], Iterator[Figure]]] = {
            "kernel": lambda: kernels(4 * rounds),
            "bulk": lambda: bulk(folder, rounds),
            "threads": lambda: threads(folder, rounds),
            "lines": lambda: scattered(folder, rounds),
            "small": lambda: small(folder, rounds),
            "start": lambda: starting(folder, rounds),
            "schemes": lambda: schemes(folder, rounds),
            "ciphers": lambda: ciphers(rounds),
            "volume": lambda: volumes(folder, rounds),
            "files": lambda: files(folder, rounds),
            "inline": lambda: inline(folder, rounds),
            "crash": lambda: crashes(folder, rounds),
            "timing": lambda: timing(folder, rounds),
            "studies": lambda: studies(folder, rounds),
            "clients": lambda: clients(folder, rounds),
        }
        figures: list[Figure] = []
        for group, measure in groups.items():
            if options.only in group:
                figures += measure()
    show(figures)
    if options.json:
        rows = [{**asdict(figure), "holds": figure.holds} for figure in figures]
        options.json.write_text(json.dumps({"machine": describe(), "figures": rows}, indent=1) + "\n")


if __name__ == "__main__":
    main()
