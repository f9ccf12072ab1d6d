"""Sizes, as numbers and as text; ranges."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pmem import LINE, PAGE, XPLINE, PmemError, RangeError, SizeError, parse_size
from pmem.geometry import check_range, format_size

UNITS = {"": 1, "B": 1, "K": 1 << 10, "M": 1 << 20, "G": 1 << 30, "T": 1 << 40, "P": 1 << 50}


def test_the_units_are_those_of_the_machine() -> None:
    assert (LINE, XPLINE, PAGE) == (64, 256, 4096)


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("4096", 4096),
        ("0", 0),
        ("64MiB", 64 << 20),
        ("64M", 64 << 20),
        (" 1 GiB ", 1 << 30),
        ("1tib", 1 << 40),
        ("3PiB", 3 << 50),
        ("100B", 100),
        ("2K", 2048),
    ],
)
def test_text_with_a_binary_unit_is_a_size(text: str, size: int) -> None:
    assert parse_size(text) == size


@given(st.integers(0, 1 << 40), st.sampled_from(sorted(UNITS)), st.booleans(), st.sampled_from(["", " "]))
@settings(derandomize=True, deadline=None)
def test_a_unit_multiplies_with_or_without_ib_in_any_case(
    count: int, unit: str, lower: bool, space: str
) -> None:
    for name in (unit, f"{unit}iB" if unit not in ("", "B") else unit):
        text = f"{count}{space}{name}"
        assert parse_size(text.lower() if lower else text) == count * UNITS[unit]


@pytest.mark.parametrize("value", [4096, np.uint32(4096), np.int64(4096), np.array(4096)])
def test_any_integer_is_a_size(value: Any) -> None:
    size = parse_size(value)
    assert size == 4096
    assert type(size) is int


@pytest.mark.parametrize(
    "value",
    [
        *("5MB", "5kb", "", "MiB", "-1", "1.5GiB", "1e3", "0x10", "64 furlongs", "9" * 5000),
        *(1.5, 4096.0, None, True, -1, np.int64(-4096), b"4096", [4096]),
    ],
)
def test_anything_else_is_refused_by_its_value(value: Any) -> None:
    with pytest.raises(SizeError, match=r"is not a size|negative") as caught:
        parse_size(value)
    assert str(value) in str(caught.value)
    assert isinstance(caught.value, PmemError)
    assert isinstance(caught.value, ValueError)


@given(st.integers(0, 1 << 60))
@settings(derandomize=True, deadline=None)
def test_a_formatted_size_is_read_back_exactly(size: int) -> None:
    assert parse_size(format_size(size)) == size


@pytest.mark.parametrize(
    ("size", "text"),
    [(0, "0B"), (100, "100B"), (4096, "4KiB"), (4097, "4097B"), (64 << 20, "64MiB"), (1 << 40, "1TiB")],
)
def test_a_formatted_size_has_the_largest_exact_unit(size: int, text: str) -> None:
    assert format_size(size) == text


@pytest.mark.parametrize(("offset", "length"), [(-1, 1), (0, 101), (100, 1), (0, -1), (1 << 70, 1), (101, 0)])
def test_a_range_outside_is_refused_with_its_values_and_its_limit(offset: int, length: int) -> None:
    with pytest.raises(RangeError, match=f"{length} bytes at offset {offset} .* thing, which has 100 bytes"):
        check_range(offset, length, 100, "thing")


@pytest.mark.parametrize(
    ("offset", "length"), [(0.0, 1), (0, 1.5), ("0", 1), (None, 1), (0, None), (np.float64(1), 1)]
)
def test_a_range_of_anything_but_integers_is_refused(offset: Any, length: Any) -> None:
    with pytest.raises(RangeError, match="integers"):
        check_range(offset, length, 100, "thing")


@given(st.integers(-300, 300), st.integers(-300, 300), st.integers(1, 300))
@settings(derandomize=True, deadline=None)
def test_a_range_passes_just_when_each_of_its_bytes_is_inside(offset: int, length: int, limit: int) -> None:
    inside = 0 <= offset <= limit and 0 <= length <= limit - offset
    try:
        assert check_range(offset, length, limit, "thing") == (offset, length)
    except RangeError:
        assert not inside
    else:
        assert inside


@pytest.mark.parametrize(
    ("offset", "length"), [(np.uint8(200), np.uint8(100)), (np.int32(2**31 - 1), np.int32(5))]
)
def test_the_end_of_a_range_of_narrow_integers_does_not_wrap_around(offset: Any, length: Any) -> None:
    end = int(offset) + int(length)
    with pytest.raises(RangeError, match="outside"):
        check_range(offset, length, end - 1, "thing")
    assert [type(value) for value in check_range(offset, length, end, "thing")] == [int, int]
