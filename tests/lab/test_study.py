"""Studies: their grids, runs on processes and on a Dask cluster, and going on after what went wrong."""

from __future__ import annotations

import fcntl
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from mktme.lab.study import Dataset, StudyError, cells, estimate, grid, read, run
from mktme.lab.study.workers import Lost, Processes, Task
from mktme.timing import generators
from mktme.timing.traces import columns

pytest.importorskip("pyarrow")

ROOT = str(Path(__file__).parents[2])
ENVIRONMENT = os.environ | {"PYTHONPATH": ROOT}
SMALL = """
seed = 7
repetitions = 2
[replay]
traces = ["ycsb_a:count=300", "log_append:count=300"]
engines = ["none", "xts"]
[replay.parameters]
"media.read_ns" = [100, 200]
"""


def study(text: str, folder: Path) -> grid.Study:
    path = folder / "study.toml"
    path.write_text(text)
    return read(path)


def rows(folder: Path, *without: str) -> list[dict[str, Any]]:
    """All results, but for when and where they were made."""
    found = Dataset(folder).read().to_pylist()
    drop = {"seconds", "host", *without}
    made = [{key: value for key, value in row.items() if key not in drop} for row in found]
    return sorted(made, key=lambda row: (row["cell"], row["subject"], row["request"], row["metric"]))


# Grids


def test_a_grid_is_the_product_of_its_axes_and_repetitions(tmp_path: Path) -> None:
    made = study(SMALL, tmp_path)
    assert len(made.cells) == 2 * 2 * 2 * 2
    assert len({cell.id for cell in made.cells}) == 16
    assert len({cell.seed for cell in made.cells}) == 2  # what is compared has one trace
    assert str(made.cells[0]) == "replay ycsb_a:count=300 optane none media.read_ns=100 #0"


def test_a_cell_is_known_by_what_it_does_and_not_by_its_place_in_the_file(tmp_path: Path) -> None:
    before = {cell.id for cell in study(SMALL, tmp_path).cells}
    more = SMALL.replace('["none", "xts"]', '["ctr-wb", "xts", "none"]').replace(
        "seed = 7", "seed = 7\nname = 'b'"
    )
    assert before < {cell.id for cell in study(more, tmp_path).cells}
    assert not before & {cell.id for cell in study(SMALL.replace("seed = 7", "seed = 8"), tmp_path).cells}


def test_names_with_dots_need_no_quotes_and_the_order_of_parameters_does_not_matter(tmp_path: Path) -> None:
    head = "[replay]\ntraces = 'btree'\nsize = '1GiB'\n[replay.parameters]\n"
    (quoted,) = study(head + '"media.read_ns" = 1\n"engine.aes_ns" = 2\n', tmp_path).cells
    (plain,) = study(head + "engine.aes_ns = 2\nmedia.read_ns = 1\n", tmp_path).cells
    (bytes_,) = study(
        head.replace("'1GiB'", "1073741824") + "engine.aes_ns = 2\nmedia.read_ns = 1\n", tmp_path
    ).cells
    assert quoted.values["parameters"] == {"media.read_ns": 1, "engine.aes_ns": 2}
    assert quoted.id == plain.id == bytes_.id


def test_a_trace_in_a_file_is_replayed_once_and_is_another_when_it_changes(tmp_path: Path) -> None:
    text = 'repetitions = 3\n[replay]\ntraces = "t.parquet"\n'
    columns.write(tmp_path / "t.parquet", generators.ycsb(100).chunks())
    (cell,) = study(text, tmp_path).cells
    (tmp_path / "else").mkdir()
    (tmp_path / "t.parquet").rename(tmp_path / "else" / "t.parquet")
    (moved,) = study(text, tmp_path / "else").cells
    columns.write(tmp_path / "t.parquet", generators.ycsb(101).chunks())
    (changed,) = study(text, tmp_path).cells
    assert cell.id == moved.id != changed.id


def test_measured_cells_are_told_from_those_that_may_run_beside_others(tmp_path: Path) -> None:
    made = study('[files]\n[iv]\nschemes = "xe"\nexperiments = ["cost", "limits"]\n', tmp_path)
    assert [cell.how for cell in made.cells] == ["measured", "measured", "modelled"]


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("x = ", "is no TOML"),
        ("", "there is no grid: a study has some of [files], [iv], [replay]"),
        ("[bench]", "'bench' is nothing that a study has"),
        ("seed = -1\n[files]", "seed = -1: it must be a whole number, 0 or more"),
        ("repetitions = true\n[files]", "repetitions = True"),
        ("name = 3\n[files]", "name = 3: it must be text"),
        ("files = 3", "files = 3: write a table"),
        ("[files]\npath = 'line'", "[files] has no 'path': it has paths"),
        ("[files]\npaths = ['lime']", "'lime' is none that is known: one of line"),
        ("[files]\npaths = []", "[files] paths is empty"),
        ("[files]\nunits = ['4K']", "[files] units = '4K'"),
        ("[files]\nsize = ['1MiB']", "it has one value; make it a list of grids, [[files]]"),
        ("[files]\nsize = 'much'", "[files] size: "),
        ("[files.parameters]\na = 1", "only [replay] has parameters"),
        ("[iv]", "[iv] needs schemes = [...]"),
        ("[replay]\ntraces = 'none.parquet'", "is no file beside the study, and no generator"),
        (
            "[replay]\ntraces = 'btree'\nslices = 2",
            "is no Parquet trace; make it one with mktme trace convert",
        ),
        ("[replay]\ntraces = 'btree'\nslices = 0", "slices = 0: it must be a whole number, 1 or more"),
        ("[replay]\ntraces = 'btree'\nslice_range = '1KiB'", "it must be a multiple of the page, 4096"),
        ("[replay]\ntraces = 'btree'\nparameters = 3", "[replay] parameters = 3: write a table"),
        ("replay = []", "there is no grid"),
        ("[replay]\ntraces = 'btree'\n[replay.parameters]\nmedia.read_ns = []", "give it a value, or a list"),
        ("[files]\nsize = 2026-11-23", "is none that is known: a value, or a list of values"),
        ("repetitions = 99999999\n[files]", "99999999 cells: a study has at most"),
    ],
)
def test_a_file_that_is_no_study_is_refused_with_what_it_can_be(text: str, says: str, tmp_path: Path) -> None:
    with pytest.raises(StudyError) as refused:
        study(text, tmp_path)
    assert says in str(refused.value)


# Runs


@pytest.fixture(scope="module")
def once(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    """The results of SMALL, of one run on one process."""
    folder = tmp_path_factory.mktemp("once")
    outcome = run(study(SMALL, folder), folder / "out", jobs=1)
    assert (outcome.done, outcome.before, outcome.failed) == (16, 0, ())
    return rows(folder / "out")


def test_results_are_those_of_the_model_whatever_the_number_of_processes(
    once: list[dict[str, Any]], tmp_path: Path
) -> None:
    from mktme.timing.machine import Machine

    made = study(SMALL, tmp_path)
    run(made, tmp_path / "out", jobs=2)
    assert rows(tmp_path / "out") == once
    cell = made.cells[3]
    machine = Machine.preset("optane", cell.values["engine"]).with_values(cell.values["parameters"])
    expected = machine.run(generators.ycsb(300, mix="a", seed=cell.seed).chunks())
    own = {row["metric"]: row for row in once if row["cell"] == cell.id}
    assert own["time_ns"]["value"] == expected.time_ns
    assert own["memory.media.writes"]["value"] == expected["memory.media.writes"]
    assert json.loads(own["read_latency.bins"]["text"]) == expected["read_latency.bins"]
    assert own["time_ns"]["engine"] == cell.values["engine"]
    assert json.loads(own["time_ns"]["parameters"]) == cell.values["parameters"]


def test_a_run_that_was_killed_goes_on_where_it_was(once: list[dict[str, Any]], tmp_path: Path) -> None:
    made = study(SMALL, tmp_path)
    command = [sys.executable, "-m", "mktme.cli", "study", "study.toml", "-o", "out", "--jobs", "1"]
    with subprocess.Popen(command, cwd=tmp_path, env=ENVIRONMENT, stderr=subprocess.PIPE) as process:
        while len(list((tmp_path / "out" / "results").glob("cell-*.parquet"))) < 3:
            assert process.poll() is None, process.communicate()
            time.sleep(0.01)
        process.send_signal(signal.SIGKILL)
    there = {path.name: path.read_bytes() for path in (tmp_path / "out" / "results").glob("cell-*.parquet")}
    outcome = run(made, tmp_path / "out", jobs=2)
    assert outcome.before == len(there) >= 3
    assert outcome.done == 16 - len(there)
    for name, content in there.items():  # none was done again
        assert (tmp_path / "out" / "results" / name).read_bytes() == content
    assert rows(tmp_path / "out") == once
    assert run(made, tmp_path / "out").done == 0


def test_bad_cells_are_reported_and_stop_nothing(tmp_path: Path) -> None:
    text = """
    [files]
    ciphers = ["aes-xts-256", "aes-hctr2-256", "rot13"]
    units = [4096, 1000]
    size = "1MiB"
    rounds = 1
    [iv]
    schemes = ["xe", "nonsense"]
    ciphers = ["", "adiantum"]
    size = "256KiB"
    [replay]
    traces = ["ycsb_a:count=100", "ycsb_a:sugar=1"]
    [replay.parameters]
    "media.read_ns" = [100, -1]
    """
    made = study(text, tmp_path)
    outcome = run(made, tmp_path / "out", jobs=2)
    errors = {str(cell): error for cell, error in outcome.failed}
    assert outcome.done == 3
    assert len(errors) == len(made.cells) - 3 == 11
    assert "no cipher of files' contents" in errors["files line policy aes-hctr2-256 4096 small #0"]
    assert "no cipher that there is" in errors["files line policy rot13 4096 small #0"]
    assert "powers of two" in errors["files line policy aes-xts-256 1000 small #0"]
    assert "xe/adiantum is not compared" in errors["iv xe adiantum tampering #0"]
    assert "nonsense" in errors["iv nonsense tampering #0"]
    assert "sugar" in errors["replay ycsb_a:sugar=1 optane none media.read_ns=100 #0"]
    assert "must be at least" in errors["replay ycsb_a:count=100 optane none media.read_ns=-1 #0"]
    statuses = [row["status"] for row in Dataset(tmp_path / "out").read().to_pylist() if not row["metric"]]
    assert statuses == ["failed"] * 11
    again = run(made, tmp_path / "out")  # they stay as they are, and are told
    assert again.failed == ()
    assert {str(cell): error for cell, error in again.earlier} == errors
    assert len(run(made, tmp_path / "out", retry=True).failed) == 11


def test_files_and_iv_cells_find_what_their_studies_do(tmp_path: Path) -> None:
    text = """
    [files]
    paths = ["line", "inline", "bounce"]
    units = [512]
    size = "1MiB"
    rounds = 1
    [iv]
    schemes = "ctr-split"
    ciphers = "aes-ctr-128+mac"
    size = "256KiB"
    """
    made = study(text, tmp_path)
    assert run(made, tmp_path / "out").failed == ()
    found = {(r["path"], r["subject"], r["request"], r["metric"]): r for r in rows(tmp_path / "out")}
    assert found["line", "update, persist", "64B", "encrypted_per_byte"]["value"] == 1
    assert found["inline", "update, persist", "64B", "encrypted_per_byte"]["value"] == 512 / 64
    assert found["bounce", "update, persist", "64B", "encrypted_per_byte"]["value"] == 4096 / 64
    assert found["inline", "update, persist", "64B", "encrypted_per_byte"]["unit"] == 512
    mac = "ctr-split/aes-ctr-128+mac"
    assert found["", mac, "", "relocation.grade"]["text"] == "good"
    assert found["", mac, "", "flips.detected"]["value"] == found["", mac, "", "flips.tries"]["value"]


def test_two_runs_do_not_write_one_folder(tmp_path: Path) -> None:
    made = study(SMALL, tmp_path)
    with Dataset(tmp_path / "out"), pytest.raises(StudyError, match="is being written to by another run"):
        run(made, tmp_path / "out")


def test_parts_are_merged_and_none_is_lost_or_doubled_when_that_is_interrupted(
    once: list[dict[str, Any]], tmp_path: Path
) -> None:
    made = study(SMALL, tmp_path)
    run(made, tmp_path / "out", jobs=2)
    results = tmp_path / "out" / "results"
    parts = {path: path.read_bytes() for path in results.iterdir()}
    with Dataset(tmp_path / "out") as dataset:
        dataset.merge(least=16)
    assert len(list(results.iterdir())) == 1
    for path, content in list(parts.items())[:5]:  # as if it had been killed before it dropped them
        path.write_bytes(content)
    (results / ".cell-0123.parquet.tmp").write_bytes(b"torn")
    assert rows(tmp_path / "out") == once  # nor does a reader see one twice
    assert run(made, tmp_path / "out").before == 16
    assert rows(tmp_path / "out") == once


def test_a_damaged_part_is_named(tmp_path: Path) -> None:
    results = tmp_path / "out" / "results"
    results.mkdir(parents=True)
    (results / "cell-0123456789abcdef.parquet").write_bytes(b"PAR1 no more")
    with pytest.raises(StudyError, match=r"is damaged .*: delete it, and its cells will run again"):
        run(study(SMALL, tmp_path), tmp_path / "out")


def test_cells_that_measure_wait_for_each_other_on_one_host() -> None:
    with cells._alone():
        handle = os.open(__import__("tempfile").gettempdir(), os.O_RDONLY)
        with pytest.raises(BlockingIOError):
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    fcntl.flock(handle, fcntl.LOCK_EX)
    os.close(handle)


def test_a_dry_run_says_what_is_to_do_and_keeps_nothing(tmp_path: Path) -> None:
    made = study(SMALL + '[iv]\nschemes = ["xe", "xex"]\nsize = "256KiB"\n', tmp_path)
    found = estimate.estimate(made, tmp_path / "out")
    assert {(one.kind, one.cells) for one in found} == {("modelled", 8), ("modelled", 4)}
    assert sum(one.cells for one in found) == len(made.cells)
    assert all(one.seconds > 0 and not one.error for one in found)
    assert not (tmp_path / "out").exists()


def test_a_dry_run_reckons_with_what_it_can_read_and_says_what_it_cannot(tmp_path: Path) -> None:
    text = '[replay]\ntraces = ["ycsb_a:count=50000000", "ycsb_a:sugar=1"]\n'
    (found,) = estimate.estimate(study(text, tmp_path), tmp_path / "out")
    assert found.cells == 2
    assert found.seconds > 10 * found.sample_seconds > 0
    assert "sugar" in found.error
    (tmp_path / "t.csv").write_text("address,size,kind\n0,8,read\n")
    (found,) = estimate.estimate(study('[replay]\ntraces = "t.csv"\n', tmp_path), tmp_path / "out")
    assert found.error.startswith("at least")


def test_records_of_a_generator_are_reckoned_from_its_first_operations() -> None:
    for name, make in generators.GENERATORS.items():
        made = make(20_000)
        exact = sum(len(chunk) for chunk in made.chunks())
        assert made.about() == pytest.approx(exact, rel=0.1), name


# Workers that die


def test_a_task_whose_worker_dies_goes_to_another_and_at_last_is_lost(tmp_path: Path) -> None:
    flag = tmp_path / "died"
    once_only = (
        f"import os, pathlib\np = pathlib.Path({str(flag)!r})\nif not p.exists(): p.touch(); os._exit(7)"
    )
    tasks = [Task(f"t{n}", pow, (n, 2)) for n in range(6)]
    tasks[2:2] = [
        Task("always", os.kill, (os.getpid(), 0)),
        Task("dies", os._exit, (3,)),
        Task("once", exec, (once_only,)),
    ]
    workers = Processes(2)
    found = {task.key: result for task, result in workers.run(tasks)}
    workers.close()
    assert {key: found[key] for key in found if key.startswith("t")} == {f"t{n}": n * n for n in range(6)}
    assert isinstance(found["dies"], Lost)
    assert "2 times, at last with status 3" in found["dies"].reason
    assert found["once"] is None
    assert flag.exists()


def test_a_script_without_a_guard_is_told_so_and_nothing_is_kept(tmp_path: Path) -> None:
    (tmp_path / "study.toml").write_text('[replay]\ntraces = "btree:count=10"\n')
    script = "from pathlib import Path\nfrom mktme.lab.study import read, run\n"
    (tmp_path / "script.py").write_text(script + "run(read(Path('study.toml')), Path('out'), jobs=1)\n")
    done = subprocess.run(
        [sys.executable, "script.py"],
        cwd=tmp_path,
        env=ENVIRONMENT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1
    assert 'does it below if __name__ == "__main__"' in done.stderr.splitlines()[-1]
    assert not list((tmp_path / "out" / "results").iterdir())


def test_an_interrupted_run_leaves_no_images_behind(tmp_path: Path) -> None:
    (tmp_path / "study.toml").write_text('[files]\nworkloads = "random"\nrounds = 50\nsize = "1MiB"\n')
    # A shell that starts the tests in the background has SIGINT ignored, and so would this.
    heeds = "import signal; signal.signal(signal.SIGINT, signal.default_int_handler)\n"
    code = heeds + "from mktme.cli import main\nif __name__ == '__main__': main()\n"
    (tmp_path / "study.py").write_text(code)
    command = [sys.executable, "study.py", "study", "study.toml", "--jobs", "1"]
    before = set(Path("/dev/shm").glob("mktme-study-*"))
    with subprocess.Popen(command, cwd=tmp_path, env=ENVIRONMENT, stderr=subprocess.PIPE) as process:
        mine: set[Path] = set()
        while not mine and process.poll() is None:
            time.sleep(0.05)
            for path in set(Path("/dev/shm").glob("mktme-study-*")) - before:
                if list(path.glob("*/line.img")):
                    mine.add(path)
        process.send_signal(signal.SIGINT)
        process.wait()
    assert process.returncode == 130
    assert not [path for path in mine if path.exists() and _owner(path) is None]


def test_what_a_killed_run_left_goes_with_the_next_one(tmp_path: Path) -> None:
    made = study('[iv]\nschemes = "xe"\nsize = "256KiB"\n', tmp_path)
    left = tmp_path / "mktme-study-left"
    (left / "mktme-1").mkdir(parents=True)
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "images").write_text(str(left))
    assert run(made, tmp_path / "out", jobs=1).failed == ()
    assert not left.exists()
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["lock", "results"]


def _owner(path: Path) -> str | None:
    """A process that has something below a folder open: of another test that runs beside this one."""
    for link in Path("/proc").glob("[0-9]*/fd/*"):
        try:
            if str(link.readlink()).startswith(f"{path}/"):
                return str(link)
        except OSError:
            continue
    return None


def test_workers_end_with_the_run_that_has_them(tmp_path: Path) -> None:
    workers = Processes(2)
    results = workers.run([Task("a", os.getpid, ()), Task("b", time.sleep, (600,))])
    task, pid = next(results)
    assert task.key == "a"
    workers.close()
    assert not Path(f"/proc/{pid}").exists()


# Slices, and a cluster


SLICED = """
[replay]
traces = "t.parquet"
engines = ["none", "xts", "ctr-wb"]
slices = 4
slice_range = "64KiB"
"""


@pytest.fixture
def large(tmp_path: Path) -> grid.Study:
    columns.ROWS, before = 2000, columns.ROWS
    try:
        columns.write(tmp_path / "t.parquet", generators.ycsb(3000, space="64MiB").chunks())
    finally:
        columns.ROWS = before
    return study(SLICED, tmp_path)


def test_sliced_traces_are_merged_and_what_was_done_of_them_is_kept(
    large: grid.Study, tmp_path: Path
) -> None:
    assert run(large, tmp_path / "one", jobs=1).failed == ()
    assert run(large, tmp_path / "out", jobs=2).failed == ()
    exact = rows(tmp_path / "one")
    assert rows(tmp_path / "out") == exact
    partial = sorted((tmp_path / "out" / "slices").glob("*/results/*/*.json"))
    assert len(partial) == 3 * 4
    for part in (tmp_path / "out" / "results").iterdir():  # as if the run had been killed in the middle
        part.unlink()
    partial[0].unlink()
    partial[1].write_text("")  # torn by a power failure
    note = next(iter((tmp_path / "out" / "slices").glob("*/0.json")))
    note.write_text("")
    kept = {
        path: path.stat().st_mtime_ns for path in (tmp_path / "out" / "slices").rglob("*") if path.is_file()
    }
    assert run(large, tmp_path / "out").done == 3
    changed = {path for path, at in kept.items() if path.stat().st_mtime_ns != at}
    dealt = {note.parent / str(number) / "0.parquet" for number in range(4)}
    assert changed == {partial[1], note, *dealt, tmp_path / "out" / "lock"} & (changed | {note, *dealt})
    assert rows(tmp_path / "out") == exact


def test_a_bad_trace_among_those_in_slices_fails_its_own_cells(large: grid.Study, tmp_path: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    pq.write_table(pa.table({"x": [1, 2]}), tmp_path / "bad.parquet")
    made = study(SLICED.replace('"t.parquet"', '["bad.parquet", "t.parquet"]'), tmp_path)
    outcome = run(made, tmp_path / "out", jobs=1)
    assert outcome.done == 3
    assert len(outcome.failed) == 3
    assert "is no trace of this format" in outcome.failed[0][1]


def test_a_trace_that_changes_while_the_study_runs_fails_its_cells(large: grid.Study, tmp_path: Path) -> None:
    columns.write(tmp_path / "t.parquet", generators.ycsb(10).chunks())
    outcome = run(large, tmp_path / "out", jobs=1)
    assert len(outcome.failed) == 3
    assert "changed while the study ran" in outcome.failed[0][1]


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[tuple[str, list[subprocess.Popen[bytes]]]]:
    """A Dask scheduler and two workers, each a process of its own."""
    pytest.importorskip("distributed")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    address = f"tcp://127.0.0.1:{port}"
    quiet: Any = {
        "env": ENVIRONMENT,
        "stdout": subprocess.DEVNULL,
        "stderr": subprocess.DEVNULL,
        "cwd": tmp_path,
    }
    dask = [sys.executable, "-m", "dask"]
    scheduler = [*dask, "scheduler", "--host", "127.0.0.1", "--port", str(port), "--no-dashboard"]
    worker = [*dask, "worker", address, "--nthreads", "1", "--no-nanny", "--no-dashboard"]
    worker += ["--local-directory", str(tmp_path / "dask"), "--memory-limit", "0"]
    started = [subprocess.Popen(scheduler, **quiet)]
    try:
        started += [subprocess.Popen(worker, **quiet) for _ in range(2)]
        yield address, started[1:]
    finally:
        for process in started:
            process.kill()
        for process in started:
            process.wait()


def wait_for_workers(address: str) -> None:
    from distributed import Client

    with Client(address, timeout=30, set_as_default=False) as client:
        client.wait_for_workers(2, timeout=60)


@pytest.mark.filterwarnings("ignore")
def test_a_cluster_gives_the_same_results_and_survives_a_worker_that_is_killed(
    cluster: tuple[str, list[subprocess.Popen[bytes]]],
    once: list[dict[str, Any]],
    large: grid.Study,
    tmp_path: Path,
) -> None:
    address, workers = cluster
    wait_for_workers(address)
    (tmp_path / "small").mkdir()
    made = study(SMALL, tmp_path / "small")

    def kill(what: str, done: int, total: int) -> None:
        if done == 4:
            workers[0].kill()

    outcome = run(made, tmp_path / "out", scheduler=address, progress=kill)
    assert workers[0].wait() == -signal.SIGKILL
    assert (outcome.done, outcome.failed) == (16, ())
    assert rows(tmp_path / "out") == once
    assert run(large, tmp_path / "sliced", scheduler=address).failed == ()  # on the one that is left
    assert run(large, tmp_path / "alone", jobs=1).failed == ()
    assert rows(tmp_path / "sliced") == rows(tmp_path / "alone")


@pytest.mark.filterwarnings("ignore")
def test_a_scheduler_that_is_not_there_is_said_to_be_missing(tmp_path: Path) -> None:
    pytest.importorskip("distributed")
    from mktme.lab.study.workers import Cluster

    with pytest.raises(StudyError, match=r"no Dask scheduler answers at tcp://127\.0\.0\.1:9"):
        Cluster("tcp://127.0.0.1:9", timeout=0.5)


def test_the_command_shows_what_failed_and_exits_with_1(tmp_path: Path) -> None:
    (tmp_path / "study.toml").write_text('[replay]\ntraces = ["btree:count=50", "btree:count=-1"]\n')
    command = [sys.executable, "-m", "mktme.cli", "study", "study.toml"]
    done = subprocess.run(command, cwd=tmp_path, env=ENVIRONMENT, capture_output=True, text=True, check=False)
    assert done.returncode == 1, done.stderr
    assert "study: 1 cells done, 1 failed" in done.stdout
    assert "failed replay btree:count=-1 optane none #0: TraceError" in done.stdout
    assert (tmp_path / "study.results" / "results").is_dir()
    dry = subprocess.run(
        [*command, "--dry-run"], cwd=tmp_path, env=ENVIRONMENT, capture_output=True, text=True, check=False
    )
    assert dry.returncode == 0, dry.stderr
    assert "2 cells, 0 to do" in dry.stdout
