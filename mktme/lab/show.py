"""Results on a terminal."""

from __future__ import annotations

from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table

from mktme.lab.contestants import BASELINE, BY_HAND, CEILING, ENCRYPTED, NAMES
from pmem.geometry import format_size

# Column heads that leave room for figures on a terminal of 80 columns.
HEADS = dict(zip(BY_HAND, ("by hand,\nline", "by hand,\n4 KiB"), strict=True)) | {
    name: name.replace("aes-", "aes-\n") for name in ENCRYPTED
}


def show_bench(outcome: dict[str, Any], console: Console) -> None:
    """Print the results of `mktme.lab.overhead.run` as a table."""
    where, settings, results = outcome["machine"], outcome["settings"], outcome["results"]
    threads = settings["threads"] or where["cpus"]
    table = Table(
        title=f"What encryption costs on {where['processor']} ({where['backend']} kernels)",
        caption="Each cell: GB/s, ns a line of 64 bytes, and the time against no encryption (median, half "
        f"the range between the quartiles) over {settings['rounds']} interleaved rounds. Images of "
        f"{format_size(settings['size'])} in {settings['images']}; the controller uses {threads} "
        f"thread{'s' if threads > 1 else ''}, everything else one.",
        box=box.SIMPLE_HEAD,
        padding=(0, 1, 0, 0),
        show_edge=False,
    )
    table.add_column("", no_wrap=True)
    for name in NAMES:
        table.add_column(HEADS.get(name, name), justify="right", no_wrap=True)
    for start in range(0, len(results), len(NAMES)):
        rows = {row["configuration"]: row for row in results[start : start + len(NAMES)]}
        head = rows[BASELINE]
        table.add_row(f"{head['workload']}\n  {head['request']}", *(_cell(rows[name]) for name in NAMES))
        table.add_section()
    console.print(table)
    if settings["verified_files"]:
        amount = f"{settings['verified_files']} files ({settings['verified_bytes'] / 1e6:.1f} MB)"
        console.print(f"{amount} read back with equal SHA-256 from every configuration.", highlight=False)


def _cell(row: dict[str, Any]) -> str:
    text = f"{figure(row['bytes_per_second'] / 1e9)}\n{figure(row['ns_per_line'])}"
    if row["configuration"] in (BASELINE, CEILING):
        return text
    spread = (row["ratio_high"] - row["ratio_low"]) / 2 / row["ratio"]
    return f"{text}\n{figure(row['ratio'])}x" + (f" \u00b1{spread:.0%}" if len(row["rates"]) > 1 else "")


def figure(value: float) -> str:
    """A positive number in three digits or so, without an exponent."""
    if value >= 100:
        return f"{value:.0f}"
    return f"{value:.1f}" if value >= 10 else f"{value:.2f}" if value >= 0.1 else f"{value:.4f}"
