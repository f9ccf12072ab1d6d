"""IV schemes: the registry, and pmem-line to the bit."""

from __future__ import annotations

import dataclasses

import pytest

from mktme import Controller, Key, SchemeError, iv


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


@pytest.fixture
def registry(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a test registers is forgotten after it."""
    monkeypatch.setattr(iv.scheme, "_registry", iv.schemes())


def made(name: str, *coordinates: str) -> iv.Scheme:
    return iv.register(iv.Scheme(name, 64, coordinates, lambda *given: (sum(given), 7), "of a test", "here"))


def test_a_scheme_of_ones_own_is_found_by_its_name(registry: None) -> None:
    scheme = made("ours", "sector", "inode")
    assert iv.schemes()["ours"] is scheme
    assert iv.find("ours", frozenset({"inode", "sector", "address"}), "a path") is scheme
    assert scheme.iv_bytes(inode=258, sector=1) == b"\x03\x01" + bytes(6) + b"\x07" + bytes(7)


def test_the_registry_is_handed_out_as_a_copy(registry: None) -> None:
    iv.schemes().clear()
    assert "pmem-line" in iv.schemes()


def test_a_scheme_can_not_be_changed() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        iv.schemes()["pmem-line"].unit = 128  # type: ignore[misc]


def test_an_unknown_name_is_refused_with_the_known_ones(registry: None) -> None:
    made("ours", "sector")
    with pytest.raises(SchemeError, match="no IV scheme 'other': there are ours, pmem-line"):
        iv.find("other", frozenset(), "a path")


def test_a_mapping_is_refused_if_the_controller_does_not_know_a_coordinate(
    registry: None, controller: Controller, key: Key
) -> None:
    made("file-block", "address", "block")
    keyid = controller.program_key(key)
    with pytest.raises(SchemeError, match=r"needs the block .* the memory controller doesn't know it"):
        controller.map(0, 4096, keyid, iv="file-block")
    assert controller.regions == ()


def test_a_mapping_is_refused_if_the_line_path_computes_another_scheme(
    registry: None, controller: Controller, key: Key
) -> None:
    made("shifted", "address")
    keyid = controller.program_key(key)
    with pytest.raises(SchemeError, match="the line path computes pmem-line"):
        controller.map(0, 4096, keyid, iv="shifted")
    assert controller.regions == ()
    assert controller.map(0, 4096, keyid, iv="pmem-line").scheme is iv.schemes()["pmem-line"]
