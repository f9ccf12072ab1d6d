"""The commands `mktme replay` and `mktme trace`: thin skins over the timing model."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

from mktme.console import (
    JsonPath,
    check_files,
    check_folder,
    listed,
    output_console,
    progress_bar,
    write_json,
)
from mktme.errors import TimingError, TraceError
from mktme.timing.access import KINDS
from mktme.timing.generators import GENERATORS
from mktme.timing.parameters import GIVEN
from mktme.timing.presets import CONFIGURATIONS, MEMORIES
from pmem.geometry import PAGE, format_size, parse_size

trace_app = typer.Typer(
    no_args_is_help=True,
    help="Make, record, convert and look at traces for `mktme replay`.",
    epilog="For example:\n\nmktme trace convert ycsb_a:count=1000000 y.parquet; mktme trace info y.parquet",
)

Source = Annotated[
    str,
    typer.Argument(
        metavar="TRACE",
        help="A file (Valgrind lackey, pmemcheck, fio iolog, CSV, or ours; plain, gzip, zstd), or a "
        "generator: NAME[:count=N,argument=value,...].",
    ),
]
Format = Annotated[str, typer.Option("--format", help="Of the file: lackey, pmemcheck, fio, csv, parquet.")]
Malformed = Annotated[str, typer.Option(help="Lines that can't be read: refuse, or skip (and count).")]
Pages = Annotated[
    str, typer.Option(help="Addresses: as they are, or first-touch: pages numbered as they are touched.")
]
Range = Annotated[str, typer.Option("--range", help="BASE+SIZE: addresses of the device in the trace.")]
Outside = Annotated[str, typer.Option(help="Accesses outside of --range: refuse, or skip (and count).")]


def replay(
    source: Annotated[
        str,
        typer.Argument(
            metavar="[TRACE]",
            help="A file (Valgrind lackey, pmemcheck, fio iolog, CSV, or ours; plain, gzip, zstd), or a "
            f"generator: NAME[:count=N,argument=value,...], one of {', '.join(GENERATORS)}.",
        ),
    ] = "",
    engine: Annotated[
        str, typer.Option(help=f"What is compared with none: {', '.join(CONFIGURATIONS)}; or all.")
    ] = "xts,ctr-wt,ctr-wb,inline,bounce",
    memory: Annotated[str, typer.Option(help=f"{', '.join(MEMORIES)}.")] = "optane",
    size: Annotated[str, typer.Option(help="Bytes of the device.")] = "1TiB",
    settings: Annotated[
        list[str] | None,
        typer.Option(
            "--set", metavar="NAME=VALUE", help="A parameter, as in --show-parameters (repeatable)."
        ),
    ] = None,
    warm_up: Annotated[int, typer.Option(min=0, help="Records in front that aren't counted.")] = 0,
    jobs: Annotated[int, typer.Option(min=1, help="Configurations that run at a time, over one pass.")] = 2,
    format: Format = "",
    malformed: Malformed = "refuse",
    pages: Pages = "as they are",
    range_: Range = "",
    outside: Outside = "refuse",
    measure_host: Annotated[
        bool, typer.Option("--measure-host", help="Take AES, copy and system-call costs from this machine.")
    ] = False,
    json_path: JsonPath = None,
    plot: Annotated[Path | None, typer.Option(metavar="DIR", help="Write figures there.")] = None,
    show_parameters: Annotated[
        bool, typer.Option("--show-parameters", help="Print name, value, unit and source of each parameter.")
    ] = False,
    validate: Annotated[
        bool, typer.Option("--validate", help="Hold the model against published figures (a minute).")
    ] = False,
) -> None:
    """Model what the hardware would take for a trace: caches, encryption, persistent memory.

    Each configuration replays the same trace, beside the one without encryption. Times are
    modelled, from parameters with sources; docs/timing.md says how far to believe them.

    For example:

    mktme replay ycsb_a:count=200000 --engine xts,ctr-wb,bounce

    mktme replay trace.parquet --memory pcm --set engine.aes_ns=20 --json results.json

    valgrind --tool=lackey --trace-mem=yes ls 2> ls.lackey; mktme replay ls.lackey --pages first-touch
    """
    from mktme.lab.iv.plots import require
    from mktme.lab.timing import plots, show

    check_files({"--json": json_path})
    if plot is not None:
        require()
        check_folder("--plot", plot)
    if validate:
        _validate(json_path, plot)
        return
    machines = _machines(engine, memory, size, settings or [], measure_host)
    if show_parameters:
        seen = {row.name: row for machine in machines for row in machine.rows()}
        show.show_parameters(seen.values(), output_console())
        return
    if not source:
        raise typer.BadParameter("name a trace: a file or a generator", param_hint="TRACE")
    trace = _trace(source, format, malformed, pages, range_, outside)
    from mktme.lab import machine
    from mktme.timing.replay import SCHEMA
    from mktme.timing.replay import replay as run

    with progress_bar() as (console, tell):
        expected = int(getattr(trace, "records", 0))  # 0: not known
        results = run(
            trace,
            machines,
            jobs=jobs,
            warm_up=warm_up,
            progress=lambda done: tell(f"{trace.name}: {done / 1e6:.1f} M records", done, expected),
        )
    write_json(
        {
            "schema": SCHEMA,
            "machine": machine.describe(),
            "memory": memory,
            "trace": {"name": trace.name, "source": source, **_noticed(trace)},
            "parameters": {m.name: {row.name: row.value for row in m.rows()} for m in machines},
            "results": [result.values for result in results],
        },
        json_path,
    )
    records = results[0]["accesses.records"]
    show.show_replay(results, output_console(), f"{trace.name}, {records:,} records, on {memory}")
    for what, number in _noticed(trace).items():
        console.print(f"{what.replace('_', ' ')}: {number}", highlight=False)
    if plot is not None:
        for path in plots.save_replay(results, f"{trace.name} on {memory}", plot):
            console.print(f"results: {path}", highlight=False)
    if json_path is not None:
        console.print(f"results: {json_path}", highlight=False)


def _validate(json_path: Path | None, plot: Path | None) -> None:
    from mktme.lab.timing import plots, show
    from mktme.lab.timing.validation import validate

    with progress_bar() as (console, tell):
        outcome = validate(tell)
    write_json(outcome, json_path)
    show.show_validation(outcome, output_console())
    if plot is not None:
        for path in plots.save_validation(outcome, plot):
            console.print(f"results: {path}", highlight=False)


def _machines(engine: str, memory: str, size: str, settings: list[str], measured: bool) -> list[Any]:
    """The machine without encryption, and those that are compared with it. Raises TimingError."""
    from mktme.timing.machine import Machine

    values: dict[str, str] = {}
    for text in settings:
        name, equals, value = text.partition("=")
        if not equals:
            raise TimingError(f"--set {text!r}: write NAME=VALUE")
        values[name.strip()] = value.strip()
    found: dict[str, float] = {}
    if measured:
        from mktme.timing import host

        found = host.measure()
    names = list(CONFIGURATIONS) if engine == "all" else listed(engine)
    made = []
    for name in dict.fromkeys(["none", *names]):
        machine = Machine.preset(memory, name, size=parse_size(size))
        made.append(machine.with_values(found, "measured on this machine").with_values(values, GIVEN))
    return made


def _trace(source: str, format: str, malformed: str, pages: str, range_: str, outside: str) -> Any:
    """The trace that a command names. Raises TraceError."""
    from mktme.timing.traces import open_trace
    from mktme.timing.traces.generated import generated
    from mktme.timing.traces.pages import FirstTouch, Window

    name, _, arguments = source.partition(":")
    if name in GENERATORS and not Path(source).exists():
        return generated(name, listed(arguments))
    path = Path(source)
    if source != "-" and not path.is_file():
        raise TraceError(f"{source!r} is no file, and no generator: {', '.join(GENERATORS)}")
    trace: Any = open_trace(path, format, malformed)
    if range_:
        base, _, length = range_.partition("+")
        try:
            trace = Window(trace, int(base, 0), parse_size(length), outside)
        except ValueError as error:
            raise TraceError(
                f"--range {range_!r}: write BASE+SIZE, as 0x7f0000000000+64MiB: {error}"
            ) from None
    if pages == "first-touch":
        return FirstTouch(trace)
    if pages != "as they are":
        raise TraceError(f"--pages {pages!r}: as they are, or first-touch")
    return trace


def _noticed(trace: Any) -> dict[str, int]:
    """What a reading left out."""
    found: dict[str, int] = {}
    while trace is not None:
        if getattr(trace, "pages", 0):
            found["pages_touched"] = trace.pages
        if getattr(trace, "skipped", 0):
            found["skipped_outside_of_the_range"] = trace.skipped
        if getattr(trace, "trims", 0):
            found["trims_left_out"] = trace.trims
        problems = getattr(trace, "problems", None)
        if problems is not None and problems.count:
            found["malformed_lines_skipped"] = problems.count
            found["first_malformed_line"] = problems.first[0][0]
        trace = getattr(trace, "trace", None)
    return found


@trace_app.command("record", context_settings={"ignore_unknown_options": True})
def record(
    script: Annotated[Path, typer.Argument(exists=True, dir_okay=False, help="A Python script.")],
    arguments: Annotated[list[str] | None, typer.Argument(help="Its arguments.")] = None,
    output: Annotated[Path, typer.Option("--output", "-o", help="The trace.")] = Path("trace.parquet"),
    data: Annotated[bool, typer.Option("--data", help="With the bytes that are stored.")] = False,
) -> None:
    """Record what a script does to its mapped regions.

    For example:

    mktme trace record -o btree.parquet -- examples/crash/btree.py
    """
    import runpy

    from mktme.timing.record import recording

    check_files({"--output": output})
    before, path = sys.argv, sys.path[:]
    sys.argv, sys.path[0:0] = [str(script), *(arguments or [])], [str(script.resolve().parent)]
    try:
        with recording(output, data=data) as made:
            try:
                runpy.run_path(str(script), run_name="__main__")
            except SystemExit as leaving:
                if leaving.code not in (None, 0):
                    raise
        Console(stderr=True).print(f"{made.records} records: {output}", highlight=False)
    finally:
        sys.argv, sys.path[:] = before, path


@trace_app.command("convert")
def convert(
    source: Source,
    output: Annotated[Path, typer.Argument(help="The trace in our format (Parquet).")],
    format: Format = "",
    malformed: Malformed = "refuse",
    pages: Pages = "as they are",
    range_: Range = "",
    outside: Outside = "refuse",
) -> None:
    """Write a trace, of a file or a generator, as a Parquet file of ours.

    For example:

    mktme trace convert ls.lackey.gz ls.parquet --pages first-touch

    mktme trace convert ycsb_a:count=1000000,space=4GiB ycsb.parquet
    """
    from mktme.timing.traces.columns import write

    check_files({"OUTPUT": output})
    trace = _trace(source, format, malformed, pages, range_, outside)
    count = write(output, trace.chunks())
    console = Console(stderr=True)
    console.print(f"{count} records: {output}", highlight=False)
    for what, number in _noticed(trace).items():
        console.print(f"{what.replace('_', ' ')}: {number}", highlight=False)


@trace_app.command("info")
def info(
    source: Source,
    format: Format = "",
    malformed: Malformed = "refuse",
    json_path: JsonPath = None,
) -> None:
    """Say what is in a trace: records by kind, addresses, pages, threads.

    For example:

    mktme trace info ls.lackey.gz

    mktme trace info ycsb_a:count=100000 --json trace.json
    """
    check_files({"--json": json_path})
    found = _summary(_trace(source, format, malformed, "as they are", "", "refuse"))
    write_json(found, json_path)
    console = output_console()
    for name, value in found.items():
        console.print(f"{name.replace('_', ' '):<24}{value}", highlight=False)


def _summary(trace: Any) -> dict[str, Any]:
    import numpy as np

    from mktme.timing.access import Chunk
    from mktme.timing.traces.pages import WITHOUT, FirstTouch

    kinds, low, high, size, threads = np.zeros(256, np.int64), 1 << 64, 0, 0, set[int]()
    timed = with_data = False

    def look(chunk: Chunk) -> None:
        nonlocal low, high, size, timed, with_data
        kinds[:] += np.bincount(chunk.kind, minlength=256)
        placed = ~WITHOUT[np.minimum(chunk.kind, len(WITHOUT) - 1)]
        if placed.any():
            begin = chunk.address[placed]
            low = min(low, int(begin.min()))
            high = max(high, int(begin.max()) + int(chunk.size[placed][begin.argmax()]))
            size += int(chunk.size[placed].sum())
        if chunk.thread is not None:
            threads.update(np.unique(chunk.thread).tolist())
        timed, with_data = timed or chunk.time is not None, with_data or chunk.offsets is not None

    class Seen:
        name = trace.name

        def chunks(self) -> Iterator[Chunk]:
            for chunk in trace.chunks():
                look(chunk)
                yield chunk

    pages = FirstTouch(Seen())
    for _ in pages.chunks():
        pass
    return {
        "name": trace.name,
        "records": int(kinds.sum()),
        **{f"{KINDS[i]}_records": int(kinds[i]) for i in range(len(KINDS)) if kinds[i]},
        "bytes_accessed": size,
        "lowest_address": f"{low:#x}" if high else "none",
        "end_of_the_highest": f"{high:#x}" if high else "none",
        "pages_touched": pages.pages,
        "footprint": format_size(pages.pages * PAGE),
        "threads": max(1, len(threads)),
        "time_stamps": timed,
        "data": with_data,
    }
