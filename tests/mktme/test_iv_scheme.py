"""IV schemes: the registry, and pmem-line to the bit."""

from __future__ import annotations

import pytest

from mktme import SchemeError, iv


def test_pmem_line_is_the_line_number_in_little_endian_order() -> None:
    scheme = iv.schemes()["pmem-line"]
    assert scheme.unit == 64
    assert scheme.coordinates == ("address",)
    for address, expected in (
        (0, bytes(16)),
        (64, b"\x01" + bytes(15)),
        (64 * 0x0102030405 + 63, bytes([5, 4, 3, 2, 1]) + bytes(11)),
    ):
        assert scheme.iv_bytes(address=address) == expected


def test_a_scheme_without_its_coordinate_is_refused_by_the_coordinates_name() -> None:
    with pytest.raises(SchemeError, match="needs the address"):
        iv.schemes()["pmem-line"].iv_bytes()
    with pytest.raises(SchemeError, match=r"needs the address .* the block layer doesn't know it"):
        iv.find("pmem-line", frozenset({"sector"}), "the block layer")


def test_a_name_is_registered_once() -> None:
    with pytest.raises(SchemeError, match="already"):
        iv.register(iv.schemes()["pmem-line"])
