"""Sizes, as numbers and as text."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pmem import RangeError, SizeError, parse_size
from pmem.geometry import check_range, format_size


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("4096", 4096),
        ("0", 0),
        ("64MiB", 64 << 20),
        ("64M", 64 << 20),
        (" 1 GiB ", 1 << 30),
        ("1tib", 1 << 40),
        ("100B", 100),
        ("2K", 2048),
    ],
)
def test_text_with_a_binary_unit_is_a_size(text: str, size: int) -> None:
    assert parse_size(text) == size


@pytest.mark.parametrize("value", [4096, np.uint32(4096), np.int64(4096)])
def test_any_integer_is_a_size(value: int) -> None:
    assert parse_size(value) == 4096


@pytest.mark.parametrize(
    "value", ["5MB", "", "MiB", "-1", "1.5GiB", "64 furlongs", 1.5, None, True, -1, b"4096"]
)
def test_anything_else_is_refused_by_its_value(value: object) -> None:
    with pytest.raises(SizeError, match=r"is not a size|negative"):
        parse_size(value)  # type: ignore[arg-type]


@given(st.integers(0, 1 << 60))
@settings(derandomize=True)
def test_a_formatted_size_is_read_back_exactly(size: int) -> None:
    assert parse_size(format_size(size)) == size


@pytest.mark.parametrize(("offset", "length"), [(-1, 1), (0, 101), (100, 1), (0, -1), (1 << 70, 1)])
def test_a_range_outside_is_refused_with_its_limit(offset: int, length: int) -> None:
    with pytest.raises(RangeError, match="which has 100 bytes"):
        check_range(offset, length, 100, "thing")


def test_a_range_inside_passes_also_when_it_is_empty() -> None:
    check_range(0, 100, 100, "thing")
    check_range(100, 0, 100, "thing")
