"""The `mktme` command: a thin skin over `mktme.lab`."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

from mktme import __version__, cli_clients, cli_report, cli_study, cli_timing
from mktme.console import (
    JsonPath,
    Seed,
    check_files,
    check_folder,
    listed,
    output_console,
    progress_bar,
    write_json,
)
from mktme.errors import MktmeError
from mktme.fscrypt import crypt as fscrypt
from mktme.fscrypt import modes
from mktme.fscrypt.settings import KDFS, Settings, from_hex, key_identifier
from mktme.lab import crash, iv, machine, overhead, programs
from mktme.lab import paths as file_paths
from mktme.lab.crash.engines import ENGINES
from mktme.lab.crash.show import show_atomicity, show_explored, show_residual, show_stale
from mktme.lab.iv import plots
from mktme.lab.iv.show import check_explained, show_matrix, show_scheme
from mktme.lab.paths import plots as path_plots
from mktme.lab.paths.show import show_paths
from mktme.lab.programs import PROGRAMS
from mktme.lab.programs.show import show_programs
from mktme.lab.show import show_bench
from mktme.lab.workloads import GROUPS
from pmem.errors import PmemError
from pmem.geometry import PAGE, parse_size

app = typer.Typer(
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="markdown",  # paragraphs are wrapped at the width of the terminal
    help="A laboratory for encrypted persistent memory.",
    epilog="""
For example:

mktme bench --json bench.json; mktme compare-iv --json iv.json; mktme report bench.json iv.json

mktme replay ycsb_a:count=200000 --engine xts,ctr-wb,bounce

The status is 0 where all went well; 1 for an error (a line on stderr), for a power failure that breaks
a program (crash), for cells that failed (study); 2 for a command line that can't be; 130 after Ctrl-C.
""",
)


def _version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"mktme {__version__}")
        raise typer.Exit


@app.callback()
def common(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version and end.")
    ] = False,
) -> None:
    """The options of the program itself; the group's help is the application's."""


@app.command()
def bench(
    size: Annotated[
        str, typer.Option(help='Bytes of each image ("256MiB"), or with --paths of the file ("64MiB").')
    ] = "",
    workload: Annotated[
        list[str] | None,
        typer.Option(
            help=f"Only these: {', '.join(GROUPS)}; with --paths {', '.join(file_paths.GROUPS)}; "
            f"or real programs: {', '.join(PROGRAMS)} (may be repeated)."
        ),
    ] = None,
    threads: Annotated[
        int, typer.Option(min=1, help="Threads that the controller may use for a long request.")
    ] = 1,
    seed: Seed = 1,
    rounds: Annotated[int, typer.Option(min=1, help="Turns that each configuration gets.")] = overhead.ROUNDS,
    directory: Annotated[
        Path | None, typer.Option(exists=True, file_okay=False, help="Where the images lie while it runs.")
    ] = None,
    paths: Annotated[
        str, typer.Option(help=f"Compare files on these paths instead: {', '.join(file_paths.PATHS)}.")
    ] = "",
    json_path: JsonPath = None,
    csv_path: Annotated[Path | None, typer.Option("--csv", help="Write the results as CSV.")] = None,
    plot: Annotated[
        Path | None, typer.Option(metavar="DIR", help="With --paths: write figures there.")
    ] = None,
) -> None:
    """Measure what encryption costs against a plain memory-mapped file.

    Stores the Python standard library's files, reads them back and compares them by hash, then
    reads and writes in order and at random: without encryption, through the memory controller,
    and by hand with the cryptography package, in turns.

    With --paths it compares the places that can encrypt a file: the memory controller (line), an
    inline crypto engine (inline), fscrypt in software (bounce), and no encryption (none), each on
    a volume of its own, in time and in bytes copied and encrypted.

    For example:

    mktme bench --json results.json

    mktme bench --paths bounce,inline,line,none --plot figures

    mktme bench --size 64MiB --workload sequential --threads 1

    mktme bench --workload sqlite --workload git --workload fio
    """
    if workload and set(workload) & set(PROGRAMS):
        for option, given in (("--size", size), ("--plot", plot)):
            if given:
                raise typer.BadParameter("real programs have none of that", param_hint=option)
        _bench_programs(workload, listed(paths), rounds, directory, json_path, csv_path)
        return
    count = parse_size(size or ("64MiB" if paths else "256MiB"))
    if count == 0 or count % PAGE:
        raise typer.BadParameter(
            f"{count} bytes are not a positive multiple of the page, {PAGE}", param_hint="--size"
        )
    known = file_paths.GROUPS if paths else GROUPS
    groups = tuple(workload or known)
    for name in groups:
        if name not in known:
            raise typer.BadParameter(f"{name!r} is none of {', '.join(known)}", param_hint="--workload")
    check_files({"--json": json_path, "--csv": csv_path})
    if paths:
        _bench_paths(listed(paths), groups, count, seed, rounds, directory, json_path, csv_path, plot)
        return
    if plot is not None:
        raise typer.BadParameter(
            "there are figures of a comparison of paths only: give --paths", param_hint="--plot"
        )
    with progress_bar() as (console, progress):
        outcome = overhead.run(
            count, groups, threads=threads, seed=seed, rounds=rounds, folder=directory, progress=progress
        )
    write_json(outcome, json_path)
    if csv_path is not None:
        overhead.write_csv(outcome, csv_path)
    show_bench(outcome, output_console())
    _told(console, json_path, csv_path)


def _told(console: Console, *paths: Path | None) -> None:
    for path in paths:
        if path is not None:
            console.print(f"results: {path}", highlight=False)


def _bench_programs(
    names: list[str],
    paths: list[str],
    rounds: int,
    folder: Path | None,
    json_path: Path | None,
    csv_path: Path | None,
) -> None:
    check_files({"--json": json_path, "--csv": csv_path})
    with progress_bar() as (console, progress):
        outcome = programs.run(
            names, paths or file_paths.DEFAULT, rounds=rounds, folder=folder, progress=progress
        )
    write_json(outcome, json_path)
    if csv_path is not None:
        programs.write_csv(outcome, csv_path)
    show_programs(outcome, output_console())
    _told(console, json_path, csv_path)


def _bench_paths(
    names: list[str],
    groups: tuple[str, ...],
    size: int,
    seed: int,
    rounds: int,
    folder: Path | None,
    json_path: Path | None,
    csv_path: Path | None,
    plot: Path | None,
) -> None:
    if plot is not None:
        plots.require()
        check_folder("--plot", plot)
    with progress_bar() as (console, progress):
        outcome = file_paths.run(
            names, groups, size=size, seed=seed, rounds=rounds, folder=folder, progress=progress
        )
    write_json(outcome, json_path)
    if csv_path is not None:
        file_paths.write_csv(outcome, csv_path)
    written = [path for path in (json_path, csv_path) if path is not None]
    if plot is not None:
        written += path_plots.save(outcome, plot)
    show_paths(outcome, output_console())
    _told(console, *written)


@app.command("compare-iv")
def compare_iv(
    schemes: Annotated[
        str, typer.Option(help="Only these IV schemes, separated by commas (default: all that there are).")
    ] = "",
    experiments: Annotated[
        str, typer.Option(help=f"Only these groups of experiments: {', '.join(iv.EXPERIMENTS)}.")
    ] = "",
    explain: Annotated[str, typer.Option(metavar="SCHEME", help="Say what was done and found for one.")] = "",
    size: Annotated[str, typer.Option(help='Bytes of real data, "256KiB" to "2MiB".')] = "1MiB",
    seed: Seed = 1,
    rounds: Annotated[int, typer.Option(min=1, help="Turns of each scheme when speed is measured.")] = 5,
    json_path: JsonPath = None,
    csv_path: Annotated[Path | None, typer.Option("--csv", help="Write the matrix as CSV.")] = None,
    plot: Annotated[Path | None, typer.Option(metavar="DIR", help="Write figures there.")] = None,
) -> None:
    """Compare IV schemes by experiments: which one should encrypted persistent memory use?

    Every scheme, with the cipher that it is used with, stores real files and a database; observers
    and attackers without the key try what they can, file systems do what they want to do, and the
    cost is measured.

    For example:

    mktme compare-iv --json iv.json --plot figures

    mktme compare-iv --schemes pmem-line,xe,ctr-split --experiments tampering

    mktme compare-iv --explain xe
    """
    names = listed(schemes) if schemes else None
    if explain:
        names = names or [explain.partition("/")[0]]
        check_explained(explain, names)
    groups = listed(experiments) if experiments else iv.EXPERIMENTS
    check_files({"--json": json_path, "--csv": csv_path})
    if plot is not None:
        plots.require()
        check_folder("--plot", plot)
    with progress_bar() as (console, progress):
        outcome = iv.run(names, groups, size=size, seed=seed, rounds=rounds, progress=progress)
    write_json(outcome, json_path)
    if csv_path is not None:
        iv.write_csv(outcome, csv_path)
    written = [path for path in (json_path, csv_path) if path is not None]
    if plot is not None:
        written += plots.save(outcome, plot)
    if explain:
        show_scheme(outcome, explain, output_console())
    else:
        show_matrix(outcome, output_console())
    for path in written:
        console.print(f"results: {path}", highlight=False)


@app.command("crash")
def crash_command(
    script: Annotated[
        Path | None,
        typer.Argument(metavar="SCRIPT.py", help="Defines program(memory) and check(memory, promised)."),
    ] = None,
    scheme: Annotated[
        str,
        typer.Option(
            "--iv",
            help='IV schemes, "pmem-line,ctr-split/aes-ctr-128+mac", or all; else pmem-line, and without a '
            "script all.",
        ),
    ] = "",
    program: Annotated[str, typer.Option(help="The function to run.")] = "program",
    check: Annotated[str, typer.Option(help="The function that each state is given to.")] = "check",
    domain: Annotated[str, typer.Option(help="Persistence domain: adr, eadr or page.")] = "adr",
    atomicity: Annotated[
        int | None, typer.Option(help="Bytes that persist whole: 64 (a line), 8; for page 4096, 512.")
    ] = None,
    engine: Annotated[str, typer.Option(help=f"Which states: {', '.join(ENGINES)}.")] = "full",
    evictions: Annotated[bool, typer.Option(help="Lines that were not flushed may persist, too.")] = True,
    counter_cache: Annotated[
        str, typer.Option(help="Counters are write-through, or write-back.")
    ] = "write-through",
    limit: Annotated[
        int, typer.Option(min=1, help="States of a fence, beyond which they are drawn.")
    ] = crash.LIMIT,
    seed: Seed = 0,
    reproduce: Annotated[
        Path | None, typer.Option(help="Write a script here that reproduces the smallest failing state.")
    ] = None,
    log: Annotated[
        Path | None, typer.Option(help="Write what reached the medium here, as pmemcheck's store log.")
    ] = None,
    image: Annotated[
        Path | None, typer.Option(help="The medium before: written with --log, read with --pmemcheck.")
    ] = None,
    pmemcheck: Annotated[
        Path | None, typer.Option(help="Explore this store log instead of a program, with check(device).")
    ] = None,
    json_path: JsonPath = None,
) -> None:
    """Look at every state that a power failure can leave of a program; exits with 1 if one is refused.

    The program runs once, on a region of encrypted persistent memory in which stores stay in a CPU cache
    until they are flushed and fenced. Values that it yields are promises that all before is durable.

    Without a script: what encryption does to atomic stores, to lines in the cache when a page gets another
    key, and to what eADR saves.

    For example:

    mktme crash examples/crash/append_log.py --iv all

    mktme crash examples/crash/append_log.py --program missing_flush

    mktme crash check.py --pmemcheck pmemcheck.log --image pool.before
    """
    writes = {"--log": log, "--image": image} if pmemcheck is None else {}
    check_files({"--json": json_path, "--reproduce": reproduce, **writes})
    if script is None:
        if log is not None or image is not None or pmemcheck is not None or reproduce is not None:
            raise crash.CrashError("name a script: --log, --image, --pmemcheck and --reproduce are about one")
        _crash_experiments(scheme, seed, json_path)
        return
    names = crash.scripts.wanted(scheme or "pmem-line")
    if len(names) > 1 and log is not None:
        raise crash.CrashError(f"a log is of one run: --log with one scheme, not {len(names)}")
    made = crash.Script(script)
    found, text = {}, ""
    with progress_bar() as (_, show):
        if pmemcheck is not None:
            whole: int | str = "store" if atomicity is None else atomicity
            found[pmemcheck.name] = made.explore_log(
                pmemcheck,
                image,
                check=check,
                atomicity=whole,
                engine=engine,
                limit=limit,
                seed=seed,
                progress=show,
            )
            names = []
        for name in names:

            def advance(what: str, done: int, total: int, name: str = name) -> None:
                show(f"{name}: {what}", done, total)

            found[name], again = made.explore(
                name,
                program=program,
                check=check,
                counter_cache=counter_cache,
                domain=domain,
                atomicity=atomicity,
                engine=engine,
                evictions=evictions,
                limit=limit,
                seed=seed,
                progress=advance,
                log=log,
                image=image,
            )
            text = text or again
    outcome = {
        "schema": crash.SCHEMA,
        "machine": machine.describe(),
        "settings": {
            "script": str(script),
            "program": program if pmemcheck is None else "",
            "log": "" if pmemcheck is None else pmemcheck.name,
            "counter_cache": counter_cache,
        },
        "results": {name: result.to_json() for name, result in found.items()},
    }
    write_json(outcome, json_path)
    show_explored(str(script), program if pmemcheck is None else "what the log says", found, output_console())
    if reproduce is not None and text:
        reproduce.write_text(text)
        Console(stderr=True).print(f"to reproduce it: python {reproduce}", highlight=False)
    if not all(result.consistent for result in found.values()):
        raise typer.Exit(1)


def _crash_experiments(scheme: str, seed: int, json_path: Path | None) -> None:
    names = None if scheme in ("all", "") else listed(scheme)
    with progress_bar() as (_, show):
        outcome: dict[str, Any] = {
            "schema": crash.EXPERIMENTS_SCHEMA,
            "machine": machine.describe(),
            "settings": {"schemes": names or "all", "seed": seed},
            "atomicity": crash.atomicity.study(names, seed, show),
            "stale_lines": crash.hazards.stale_lines(seed),
            "residual_energy": crash.hazards.residual(),
        }
    write_json(outcome, json_path)
    console = output_console()
    show_atomicity(outcome["atomicity"], console)
    console.print()
    show_stale(outcome["stale_lines"], console)
    console.print()
    show_residual(outcome["residual_energy"], console)


@app.command("fscrypt-crypt")
def fscrypt_crypt(
    arguments: Annotated[
        list[str],
        typer.Argument(
            metavar="CIPHER MASTER_KEY", help=f"One of {', '.join(modes.NAMES)}; the key in hexadecimal."
        ),
    ],
    data_unit_index: Annotated[int, typer.Option(help="Index of the first data unit.")] = 0,
    data_unit_size: Annotated[int, typer.Option(help="Bytes of a data unit.")] = 4096,
    decrypt: Annotated[bool, typer.Option("--decrypt", help="Decrypt.")] = False,
    direct_key: Annotated[bool, typer.Option("--direct-key", help="The nonce is in the IV.")] = False,
    dump_key_identifier: Annotated[
        bool, typer.Option("--dump-key-identifier", help="Print the key's identifier; takes no CIPHER.")
    ] = False,
    enable_hw_kdf: Annotated[
        bool, typer.Option("--enable-hw-kdf", help="The key is the raw key in a hardware-wrapped one.")
    ] = False,
    file_nonce: Annotated[str, typer.Option(help="The file's nonce, 32 hexadecimal digits.")] = "",
    fs_uuid: Annotated[str, typer.Option(help="The file system's UUID, 32 hexadecimal digits.")] = "",
    inode_number: Annotated[int, typer.Option(help="The file's inode number.")] = 0,
    iv_ino_lblk_32: Annotated[
        bool, typer.Option("--iv-ino-lblk-32", help="The IV is the hashed inode number plus the index.")
    ] = False,
    iv_ino_lblk_64: Annotated[
        bool, typer.Option("--iv-ino-lblk-64", help="The inode number is in the IV.")
    ] = False,
    kdf: Annotated[str, typer.Option(help=f"How keys are derived: {', '.join(KDFS)}.")] = "none",
    mode_num: Annotated[int, typer.Option(help="Number of the encryption mode.")] = 0,
    padding: Annotated[
        int | None,
        typer.Option(help="Fill the last data unit to a multiple of this, not to its full size."),
    ] = None,
    use_inlinecrypt_key: Annotated[
        bool, typer.Option("--use-inlinecrypt-key", help="Encrypt under the inline encryption key.")
    ] = False,
) -> None:
    """Encrypt standard input to standard output as fscrypt does.

    It takes the options of fscrypt-crypt-util, of the Linux file-system test suite, and can take its
    place there. Like it, it takes the key on the command line, where every user of the machine can
    read it while it runs: use it for tests, and for images whose key is not secret.

    For example:

    mktme fscrypt-crypt --kdf=HKDF-SHA512 --file-nonce=$NONCE AES-256-XTS $KEY < plain > encrypted

    mktme fscrypt-crypt --dump-key-identifier --kdf=HKDF-SHA512 $KEY
    """
    if len(arguments) != (1 if dump_key_identifier else 2):
        raise typer.BadParameter(
            "give the key alone with --dump-key-identifier, else a cipher and a key",
            param_hint="CIPHER MASTER_KEY",
        )
    settings = Settings(
        decrypt=decrypt,
        data_unit_size=data_unit_size,
        data_unit_index=data_unit_index,
        kdf=kdf,
        mode_num=mode_num,
        file_nonce=from_hex("--file-nonce", file_nonce) or None,
        fs_uuid=from_hex("--fs-uuid", fs_uuid) or None,
        inode_number=inode_number,
        direct_key=direct_key,
        iv_ino_lblk_64=iv_ino_lblk_64,
        iv_ino_lblk_32=iv_ino_lblk_32,
        enable_hw_kdf=enable_hw_kdf,
        use_inlinecrypt_key=use_inlinecrypt_key,
        padding=padding,
    )
    if dump_key_identifier:
        typer.echo(key_identifier(from_hex("the master key", arguments[0]), settings).hex(), nl=False)
        return
    key = from_hex("the master key", arguments[1])
    fscrypt.crypt_stream(arguments[0], key, sys.stdin.buffer, sys.stdout.buffer, settings)
    sys.stdout.buffer.flush()


@app.command()
def info(json_path: JsonPath = None) -> None:
    """Say what runs here: processor, AES features, backend, kernel cache, versions.

    For example:

    mktme info

    MKTME_BACKEND=portable mktme info --json info.json
    """
    check_files({"--json": json_path})
    found = machine.describe()
    write_json(found, json_path)
    console = output_console()
    for name, value in found.items():
        text = ", ".join(value) if isinstance(value, list) else str(value)
        console.print(f"{name.replace('_', ' '):<14}{text}", highlight=False)


app.command()(cli_timing.replay)
app.add_typer(cli_timing.trace_app, name="trace")
app.command()(cli_study.study)
app.command()(cli_report.report)
app.command()(cli_clients.mount)
app.command()(cli_clients.serve)


def main() -> None:
    """Run the command; errors of this project are one line on stderr and exit code 1."""
    try:
        app()
    except (MktmeError, PmemError, OSError) as error:
        print(f"mktme: {error}", file=sys.stderr)
        sys.exit(1)


if __name__ == "__main__":
    main()
