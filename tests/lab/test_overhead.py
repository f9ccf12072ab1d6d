"""The overhead benchmark: every contestant keeps the bytes it was given; results are whole."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mktme.lab import measure, overhead, show, workloads
from mktme.lab.contestants import BASELINE, CEILING, ENCRYPTED, NAMES, contestants

SIZE = 1 << 20


class Flipped:
    """A way to read that flips a bit of what it read."""

    def __init__(self, honest: Any) -> None:
        self.honest = honest

    def __call__(self, buffer: Any, offset: int) -> None:
        self.honest(buffer, offset)
        buffer[-1] ^= 1


def test_every_contestant_returns_what_it_was_given(tmp_path: Path) -> None:
    rng = np.random.default_rng(1)
    with contestants(tmp_path, SIZE, 1) as found:
        assert tuple(found) == NAMES
        for contestant in found.values():
            model = np.frombuffer(rng.bytes(SIZE // 16), np.uint8).copy()
            contestant.write(0, model)
            for _ in range(20):
                start, end = sorted(rng.integers(0, model.size + 1, 2).tolist())
                model[start:end] = np.frombuffer(rng.bytes(end - start), np.uint8)
                contestant.write(start, model[start:end])
            out = np.empty_like(model)
            contestant.read_into(out, 0)
            assert (out == model).all()
            addresses = (rng.permutation(model.size // 64)[:50] * 64).astype(np.uint64)
            lines = np.frombuffer(rng.bytes(50 * 64), np.uint8).reshape(50, 64)
            contestant.write_lines(addresses, lines)
            assert (contestant.read_lines(addresses) == lines).all()
            del contestant
        del found
    assert not [path for path in tmp_path.iterdir() if path.suffix != ".img"]


def test_only_the_plain_contestants_leave_plaintext_on_the_medium(tmp_path: Path) -> None:
    mark = np.frombuffer(b"plaintext, sixty-four bytes of it, all in one line of the medium", np.uint8)
    with contestants(tmp_path, SIZE, 1) as found:
        for contestant in found.values():
            contestant.write(4096, mark)
        del contestant
    holding = [
        NAMES[int(path.stem)] for path in sorted(tmp_path.iterdir()) if mark.tobytes() in path.read_bytes()
    ]
    assert holding == [BASELINE]


def test_a_run_gives_a_row_for_each_workload_and_contestant(tmp_path: Path) -> None:
    steps: list[tuple[str, int, int]] = []
    outcome = overhead.run(
        SIZE,
        ("random", "zipfian"),
        threads=1,
        rounds=2,
        folder=tmp_path,
        progress=lambda *step: steps.append(step),
    )
    assert outcome["schema"] == overhead.SCHEMA
    assert len(outcome["results"]) == 5 * len(NAMES)
    for row in outcome["results"]:
        assert len(row["rates"]) == 2
        assert row["ratio_low"] <= row["ratio"] <= row["ratio_high"]
        assert row["ns_per_line"] == pytest.approx(64e9 / row["bytes_per_second"])
        if row["configuration"] == BASELINE:
            assert row["ratio"] == 1
        if row["configuration"] == CEILING:
            assert row["bytes_per_second"] == row["memcpy_bytes_per_second"]
    assert steps[-1][1] == steps[-1][2] == len(steps)
    assert not list(tmp_path.iterdir())


def test_files_are_stored_read_back_and_compared(tmp_path: Path) -> None:
    outcome = overhead.run(SIZE, ("files",), threads=1, rounds=1, folder=tmp_path)
    assert outcome["settings"]["verified_files"] > 10
    assert {row["workload"] for row in outcome["results"]} == {"files, write", "files, read"}


def test_a_byte_that_comes_back_changed_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    files = workloads.Files(SIZE)
    with contestants(tmp_path, SIZE, 1) as found:
        contestant: Any = found[ENCRYPTED[0]]
        assert files.verify(contestant)
        monkeypatch.setattr(contestant, "read_into", Flipped(contestant.read_into))
        assert not files.verify(contestant)
        monkeypatch.undo()
        del contestant
    monkeypatch.setattr(workloads.Files, "verify", lambda self, contestant: False)
    with pytest.raises(overhead.VerificationFailed, match="came back changed"):
        overhead.run(SIZE, ("files",), rounds=1, folder=tmp_path / "..")


def test_turns_go_on_where_the_last_one_ended() -> None:
    seen: list[int] = []

    def operation(contestant: Any, request: int) -> int:
        seen.append(request)
        return 1

    turns = workloads.Turns(workloads.Workload("w", "r", operation, range(5)), contestant=None)  # type: ignore[arg-type]
    assert turns() == 5  # all of them, since they take no time
    del seen[:]
    assert turns() == 5
    assert sorted(seen) == [0, 1, 2, 3, 4]


def test_a_slowdown_is_taken_round_by_round() -> None:
    fast, slow = measure.Sample((10.0, 20.0, 40.0)), measure.Sample((5.0, 10.0, 10.0))
    ratio = measure.slowdown(slow, fast)
    assert (ratio.median, ratio.low, ratio.high) == (2.0, 2.0, 3.0)
    assert measure.slowdown(fast, fast) == measure.Ratio(1, 1, 1, (1, 1, 1))


def test_contestants_take_turns_and_the_first_round_is_not_counted() -> None:
    calls: list[str] = []
    runs = {name: (lambda name=name: calls.append(name) or 1) for name in "ab"}  # type: ignore[misc]
    samples = measure.interleave(runs, 3)
    assert calls == list("abababab")
    assert [len(sample.rates) for sample in samples.values()] == [3, 3]


@pytest.mark.parametrize(
    ("value", "text"),
    [(1456.4, "1456"), (28.25, "28.2"), (2.345, "2.35"), (0.161, "0.16"), (0.01834, "0.0183")],
)
def test_figures_have_about_three_digits(value: float, text: str) -> None:
    assert show.figure(value) in (text, text[:-1] + "4")
