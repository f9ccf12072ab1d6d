"""The tree against a dict."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import pmem
from pmem import dax
from pmem.dax.core import Core
from pmem.dax.inode import ROOT
from pmem.dax.tree import LARGEST, ROOM, Tree

KEYS = st.one_of(st.integers(0, 300), st.integers(0, (1 << 64) - 1))
STEPS = st.lists(
    st.tuples(KEYS, st.one_of(st.none(), st.sampled_from([0, 8, 200, 900, LARGEST]))), max_size=120
)


@pytest.fixture(scope="module")
def core(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Core]:
    path: Path = tmp_path_factory.mktemp("tree") / "pool.img"
    with pmem.create(path, "64MiB") as device, dax.make(device) as volume:
        yield volume.core


@settings(max_examples=40, deadline=None, derandomize=True, database=None)
@given(steps=STEPS, ascending=st.integers(0, 400))
def test_a_tree_holds_what_a_dict_holds(
    core: Core, steps: list[tuple[int, int | None]], ascending: int
) -> None:
    inode = core.inodes.get(ROOT)
    tree, model = Tree(core.nodes, inode), {}
    free = core.store.space.total + len(core.store.space.delayed)
    steps = [*((1000 + key, 100) for key in range(ascending)), *steps]
    with core.store.begin() as transaction:
        transaction.join(inode)
        for key, size in steps:
            if size is None:
                if key in model:
                    tree.delete(transaction, key)
                    del model[key]
            else:
                model[key] = key.to_bytes(8, "little") * (size // 8) + bytes(size % 8)
                tree.set(transaction, key, model[key])
            assert tree.get(key) == model.get(key)
    core.nodes.clear()
    assert list(tree.items()) == sorted(model.items())
    middle = sorted(model)[len(model) // 2] if model else 0
    assert list(tree.items(middle)) == [item for item in sorted(model.items()) if item[0] >= middle]
    with core.store.begin() as transaction:
        transaction.join(inode)
        for key in model:
            tree.delete(transaction, key)
    assert inode.root == 0
    assert core.store.space.total + len(core.store.space.delayed) == free


def test_nodes_are_at_least_a_quarter_full_on_average(core: Core) -> None:
    inode = core.inodes.get(ROOT)
    tree = Tree(core.nodes, inode)
    before = core.store.space.total
    for first in range(0, 4000, 200):
        with core.store.begin() as transaction:
            transaction.join(inode)
            for key in range(first, first + 200):
                tree.set(transaction, key * 7919 % 4001, bytes(16))
    for first in range(0, 3000, 200):
        with core.store.begin() as transaction:
            transaction.join(inode)
            for key in range(first, first + 200):
                tree.delete(transaction, key * 7919 % 4001)
    core.store.journal.checkpoint()
    used = before - core.store.space.total
    assert used <= 4 * 1000 * 26 // ROOM + 3
    with core.store.begin() as transaction:
        transaction.join(inode)
        for key in range(3000, 4000):
            tree.delete(transaction, key * 7919 % 4001)
    assert inode.root == 0
