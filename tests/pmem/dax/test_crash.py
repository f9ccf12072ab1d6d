"""The power fails before every store and fence of every operation: nothing is half-done, nothing lost."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import pytest

import pmem.dax
from pmem.dax.store import Store

BLOCK = 4096


def text(length: int, seed: int) -> bytes:
    return random.Random(seed).randbytes(length)


SCRIPTS: dict[str, list[tuple[Any, ...]]] = {
    "names": [
        ("mkdir", "/d", {}),
        ("create", "/a", {b"context": b"k" * 40}),
        ("create", "/d/b", {}),
        ("rename", "/a", "/d/a"),
        ("rename", "/d/a", "/d/b"),
        ("mkdir", "/d/e", {b"x": b"1"}),
        ("rename", "/d", "/f"),
        ("setxattr", "/f/b", b"large", text(900, 1)),
        ("setxattr", "/f/b", b"larger", text(2500, 2)),
        ("removexattr", "/f/b", b"larger"),
        ("removexattr", "/f/b", b"large"),
        ("rmdir", "/f/e"),
        ("unlink", "/f/b"),
        ("create", "/g", {}),
        ("rmdir", "/f"),
    ],
    "contents": [
        ("create", "/a", {}),
        ("write", "/a", 0, text(100, 1)),
        ("write", "/a", 50, text(100, 2)),
        ("write", "/a", 9000, text(9000, 3)),
        ("write", "/a", 4000, text(200, 4)),
        ("truncate", "/a", 10000),
        ("truncate", "/a", 20000),
        ("write", "/a", 30000, text(10, 5)),
        ("punch", "/a", 4000, 9000),
        ("fallocate", "/a", 0, 50000),
        ("write", "/a", 45000, text(100, 6)),
        ("relocate", "/a"),
        ("punch", "/a", 100, 50),
        ("defragment", "/a"),
        ("truncate", "/a", 0),
        ("write", "/a", 0, text(5000, 7)),
        ("unlink", "/a"),
    ],
    "sharing": [
        ("create", "/a", {b"context": b"k" * 40}),
        ("write", "/a", 0, text(20000, 1)),
        ("reflink", "/a", "/b"),
        ("write", "/b", 5000, text(100, 2)),
        ("write", "/a", 0, text(4096, 3)),
        ("reflink", "/b", "/c"),
        ("truncate", "/b", 6000),
        ("truncate", "/b", 9000),
        ("punch", "/c", 5000, 100),
        ("unlink", "/a"),
        ("relocate", "/b"),
        ("rename", "/c", "/b"),
        ("unlink", "/b"),
    ],
}


@pytest.mark.parametrize("log_structured", [False, True])
@pytest.mark.parametrize("script", list(SCRIPTS))
def test_a_power_failure_at_any_moment_leaves_the_tree_before_or_after(
    laboratory: Callable[..., Any], try_crashes: Callable[..., int], script: str, log_structured: bool
) -> None:
    lab = laboratory(4 << 20 if log_structured else 1 << 20, log_structured=log_structured)
    count = sum(try_crashes(lab, operation, (0, 1, 0.5, "last", "some")) for operation in SCRIPTS[script])
    assert count > 100


def test_the_journal_begins_anew_only_once_everything_is_in_place(
    laboratory: Callable[..., Any], try_crashes: Callable[..., int]
) -> None:
    """Changes of more than the journal holds, so that it goes round twice."""
    lab = laboratory(1 << 20)
    try_crashes(lab, ("create", "/a", {}), ())
    journal = lab.volume.core.store.journal
    epochs = {journal.epoch}
    for i in range(2 * journal.capacity // 4096):
        try_crashes(lab, ("setxattr", "/a", b"x", text(3000, i)), ("last",))
        epochs.add(journal.epoch)
    assert len(epochs) >= 3


def test_a_replay_doesnt_write_to_what_was_metadata_and_is_data_now(laboratory: Callable[..., Any]) -> None:
    lab = laboratory(1 << 20)
    lab.do(("create", "/a", {}))
    lab.do(("setxattr", "/a", b"x", text(3000, 1)))
    lab.do(("removexattr", "/a", b"x"))
    everything = text(lab.volume.free, 2)  # all free blocks: that of the attributes, too
    lab.do(("write", "/a", 0, everything))
    lab.settle()
    for share in (0, 0.5, 1):
        lab.restart(lab.power.image(lab.chance, share))
        with lab.volume.open("/a") as file:
            assert file.read() == everything


def test_making_a_volume_is_atomic_too(
    laboratory: Callable[..., Any], sound: Callable[[Any], None], recorder: Callable[..., Any]
) -> None:
    """Over the remains of another one: no volume, or the new one, never the old one's parts in it."""
    lab = laboratory(1 << 20)
    lab.do(("create", "/old", {}))
    lab.do(("write", "/old", 0, text(200000, 1)))
    lab.volume.close()
    lab.settle()
    lab.medium = recorder(lab.power.now.copy())
    with pmem.dax.make(lab.medium, inodes=20) as volume:
        volume.create("/new").close()
    mounted = refused = 0
    for image in lab.crashes((0, 0.5, 1, "last", "some")):
        try:
            volume = pmem.dax.mount(recorder(image))
        except pmem.dax.VolumeCorrupt:
            refused += 1
            continue
        sound(volume)
        assert [entry.name for entry in volume.list()] in ([], [b"old"], [b"new"])
        if not volume.list():
            volume.create("/a").write(0, text(300000, 2))
            sound(volume)
        mounted += 1
    assert mounted > 3
    assert refused > 3


def test_an_orphan_of_many_extents_is_finished_by_the_next_mount(
    laboratory: Callable[..., Any],
    sound: Callable[[Any], None],
    recorder: Callable[..., Any],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Freeing it takes many transactions; the power fails between any two of them."""
    monkeypatch.setattr(Store, "batch", 8)
    for last in (("unlink", "/a"), ("truncate", "/a", 3 * BLOCK), ("fallocate", "/a", 0, 95 * BLOCK)):
        lab = laboratory(2 << 20)
        for name in ("/a", "/b", "/c"):
            lab.do(("create", name, {}))
        for i in range(50):
            for name in ("/a", "/b"):
                lab.do(("write", name, i * BLOCK, b"x" * BLOCK))
        lab.do(("write", "/c", 0, b"y" * lab.volume.free))
        lab.do(("unlink", "/b"))  # what is free is in single blocks now
        lab.settle()
        before = lab.do(last)
        for image in lab.crashes((1, "last")):
            volume = pmem.dax.mount(recorder(image))
            sound(volume)
            assert volume.core.store.state.orphan == 0
            files = [entry for _, entry in volume.walk()]
            assert len(files) == 2 or last[0] == "unlink"
            for entry in files:
                size = volume.stat(entry.number).size
                assert size in {len(node[2]) for model in (before, lab.model) for node in model.values()}


def test_a_power_failure_while_the_cleaner_runs_loses_nothing(
    laboratory: Callable[..., Any], try_crashes: Callable[..., int]
) -> None:
    lab = laboratory(8 << 20, log_structured=True)
    for name in ("/a", "/b"):
        lab.do(("create", name, {}))
    for i in range(6):
        lab.do(("write", "/b", i * 100 * BLOCK, b"b" * 100 * BLOCK))
        lab.do(("write", "/a", 2 * i * BLOCK, text(BLOCK, i)))
    lab.do(("unlink", "/b"))
    lab.settle()
    with lab.volume.open("/a") as file:
        before = file.map()
    assert try_crashes(lab, ("clean", 1), (0, 0.5, 1, "last", "some")) > 50
    with lab.volume.open("/a") as file:
        assert sum(old.address != new.address for old, new in zip(before, file.map(), strict=True)) >= 4
