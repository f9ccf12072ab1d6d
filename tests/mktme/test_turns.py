"""Threads that use different bytes of one data unit, or of one line with a MAC."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest

from mktme import Controller, Key, Region
from mktme.crypto.algorithms import ALGORITHMS
from mktme.stack.turns import Turns

PAGE, META = 4096, 1 << 18
KINDS: list[tuple[str, str, int, bool]] = [
    ("plain64", "aes-cbc-256", 4096, False),
    ("plain64", "adiantum", 4096, False),
    ("plain64", "aes-hctr2-256", 4096, False),
    ("plain64", "aes-xts-256", 4096, True),
    ("plain64", "aes-cbc-256", 512, True),
    ("random", "aes-hctr2-256", 512, True),
    ("ctr-split", "aes-ctr-128", 64, True),
]


def mapped(controller: Controller, name: str, algorithm: str, unit: int, integrity: bool) -> Region:
    key = Key.from_bytes(algorithm, bytes(range(3, 3 + sum(ALGORITHMS[algorithm].parts))))
    options: dict[str, Any] = {"sector": 8} if name == "plain64" else {}
    if integrity or name != "plain64":
        options["metadata"] = META
    return controller.map(
        0, 4 * PAGE, controller.program_key(key), iv=name, unit=unit, integrity=integrity, **options
    )


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: "-".join(map(str, kind)))
def test_no_write_to_a_part_of_a_unit_is_lost_and_no_read_sees_half_of_one(
    controller: Controller, kind: tuple[str, str, int, bool]
) -> None:
    """Each thread has 16 bytes in each of some units to itself: less than a line, where MACs are."""
    region, threads, rounds = mapped(controller, *kind), 8, 25
    region.write(0, bytes(4 * PAGE))
    begin = threading.Barrier(threads)
    piece = 16 if kind[3] or kind[0] == "random" else 64

    def work(who: int) -> None:
        rng, places = np.random.default_rng(who), [2 * PAGE * (who % 2) + piece * who, PAGE + piece * who]
        begin.wait()
        for _ in range(rounds):
            for place in places:
                data = rng.bytes(piece)
                region.write(place, data)
                assert region.read(place, piece) == data
                if who % 3 == 0:
                    region.array(np.uint8, (4, PAGE))[:2, piece * who] = who
                    assert (np.asarray(region.array(np.uint8, (4, PAGE))[:2, piece * who]) == who).all()

    with ThreadPoolExecutor(threads) as pool:
        for future in [pool.submit(work, who) for who in range(threads)]:
            future.result()


def test_readers_share_and_a_writer_waits_for_those_that_overlap() -> None:
    turns, order = Turns(), []

    def enter(name: str, first: int, end: int) -> None:
        with turns.write(first, end):
            order.append(name)

    with turns.read(0, 100), turns.read(50, 60):
        same = threading.Thread(target=enter, args=("same", 99, 200))
        beside = threading.Thread(target=enter, args=("beside", 200, 300))
        same.start()
        beside.start()
        beside.join()
        assert order == ["beside"]
        with turns.write(10, 20):  # one's own turns don't stand in one's way
            order.append("own")
    same.join()
    assert order == ["beside", "own", "same"]


def test_a_turn_ends_with_an_exception() -> None:
    turns = Turns()
    with pytest.raises(ZeroDivisionError), turns.write(0, 10):
        raise ZeroDivisionError
    done = []
    other = threading.Thread(target=lambda: (turns.write(0, 10).__enter__(), done.append(1)))
    other.start()
    other.join()
    assert done == [1]
