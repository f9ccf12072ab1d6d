"""What is compared: the cipher of a scheme, also of a user's."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest

from mktme import SchemeError, iv
from mktme.lab.iv import run
from mktme.lab.iv.subjects import subjects

NAME = "test-own"


@pytest.fixture(autouse=True)
def registry() -> Iterator[None]:
    yield
    if NAME in iv.schemes():
        iv.unregister(NAME)


def file_block(block: Any, inode: Any) -> Any:
    return block, inode, 7, 9


def on_arrays(block: Any, inode: Any) -> Any:
    return {"words": file_block}["words"](block, inode)


@pytest.mark.parametrize("function", [file_block, on_arrays])
def test_a_users_four_words_are_compared_under_a_cipher_that_takes_them(function: Callable[..., Any]) -> None:
    iv.define(NAME, unit=4096)(function)
    runs = iv.schemes()[NAME].runs
    assert runs.startswith("numpy") == (function is on_arrays), runs
    made = run([NAME], size="256KiB", rounds=1)
    (row,) = made["schemes"]
    assert row["name"] == f"{NAME}/adiantum"
    assert row["cells"]["reuse"]["evidence"]["repeated"] == 0
    assert row["cells"]["watermark"]["evidence"]["marked"] == 64


def test_all_four_words_count_where_ivs_are_looked_for_twice() -> None:
    @iv.define(NAME, unit=4096)
    def late(block: Any, inode: Any) -> Any:
        """What tells units apart is in the last two words."""
        return 1, 2, block, inode

    made = run([NAME], ["limits"], size="256KiB", rounds=1)
    (row,) = made["schemes"]
    assert row["cells"]["reuse"]["evidence"]["repeated"] == 0


def test_two_words_are_compared_under_xts_and_three_under_nothing() -> None:
    iv.define(NAME)(lambda block: (block, 0))
    assert [subject.name for subject in subjects([NAME])] == [f"{NAME}/aes-xts-128"]
    iv.unregister(NAME)
    iv.define(NAME)(lambda block: (block, 0, 1))
    with pytest.raises(SchemeError, match=f"{NAME} returns 3 words"):
        subjects([NAME])
