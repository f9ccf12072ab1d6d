"""The comparison of the paths on a terminal."""

from __future__ import annotations

from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from mktme.lab.paths.subjects import PATHS
from mktme.lab.show import figure


def show_paths(outcome: dict[str, Any], console: Console) -> None:
    """Print the results of `mktme.lab.paths.run`: a table of times, and one of bytes and keys."""
    where, settings, results = outcome["machine"], outcome["settings"], outcome["results"]
    names = settings["paths"]
    rows = [results[at : at + len(names)] for at in range(0, len(results), len(names))]
    console.print(_times(rows, names, f"Time on {where['processor']} ({where['backend']} kernels)"))
    console.print(
        "Each cell: MB/s, latency in us (median and 99th percentile)"
        + (", and the time against none" if "none" in names else "")
        + f"; {settings['rounds']} rounds in turns, images in {settings['images']}.\n",
        highlight=False,
    )
    console.print(_bytes(rows, names))
    console.print(
        "Each cell: bytes copied/encrypted/decrypted for each byte asked, exact; keys programmed in "
        f"{rows[0][0]['requests_counted']} requests, where there are any.\n",
        highlight=False,
    )
    for name in names:
        console.print(Text.assemble((f"{name:<11}", "bold"), PATHS[name].summary))


def _table(title: str, names: list[str]) -> Table:
    table = Table(title=title, box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), show_edge=False)
    table.add_column("", no_wrap=True)
    for name in names:
        table.add_column(name, justify="right", no_wrap=True)
    return table


def _times(rows: list[list[dict[str, Any]]], names: list[str], title: str) -> Table:
    table = _table(title, names)
    for row in rows:
        cells = []
        for each in row:
            text = f"{figure(each['bytes_per_second'] / 1e6)}\n"
            text += f"{figure(each['median_us'])} / {figure(each['p99_us'])}"
            if "ratio" in each and each["path"] != "none":
                text += f"\n{figure(each['ratio'])}x"
            cells.append(text)
        table.add_row(_head(row[0]), *cells)
        table.add_section()
    return table


def _bytes(rows: list[list[dict[str, Any]]], names: list[str]) -> Table:
    table = _table("Bytes for each byte asked", names)
    for row in rows:
        table.add_row(_head(row[0]), *(_amounts(each) for each in row))
        table.add_section()
    return table


def _head(row: dict[str, Any]) -> str:
    return f"{row['workload']}\n  {row['request']}"


def _amounts(row: dict[str, Any]) -> str:
    amounts = (row["copied_per_byte"], row["encrypted_per_byte"], row["decrypted_per_byte"])
    text = "/".join(_amount(amount) for amount in amounts)
    return text + (f"\n{row['keys_programmed']} keys" if row["keys_programmed"] else "")


def _amount(value: float) -> str:
    return "0" if value < 0.005 else f"{value:.0f}" if value >= 100 else f"{value:.3g}"
