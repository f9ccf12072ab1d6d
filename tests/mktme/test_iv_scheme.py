"""IV schemes: each one to the byte, the registry, schemes of one's own."""

from __future__ import annotations

import dataclasses
import hashlib
import os
import struct
import subprocess
import sys
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes

import pmem
from mktme import Controller, IvReuseWarning, Key, SchemeError, iv
from mktme.iv.compiled import Binding

WORD = (1 << 64) - 1
WORDS = {"direct-key": 4}


@pytest.fixture(autouse=True)
def registry() -> Iterator[None]:
    """What a test registers is forgotten after it."""
    before = iv.schemes()
    yield
    for name in iv.schemes().keys() - before.keys():
        iv.unregister(name)


# Each scheme to the byte


def linear_tweak(system_address: int) -> bytes:
    made = 0
    for bit in range(4, 48):
        if system_address >> bit & 1:
            words = struct.unpack("<QQ", hashlib.sha256(b"address-linear tweak, bit %d" % bit).digest()[:16])
            made ^= words[0] >> 1 | words[1] >> 1 << 64
    return made.to_bytes(16, "little")


def little(*words: int) -> bytes:
    return b"".join((word & WORD).to_bytes(8, "little") for word in words)


FORMULAS: dict[str, Callable[..., bytes]] = {
    "pmem-line": lambda address: little(address // 64, 0),
    "pmem-page": lambda address: little(address // 4096, 0),
    "spa-line": lambda system_address: little(system_address // 64, 0),
    "dimm-line": lambda device_address, dimm_serial: little(device_address // 64, dimm_serial),
    "file-block": lambda block: little(block, 0),
    "per-file-key": lambda block: little(block, 0),
    "direct-key": lambda block, nonce_low, nonce_high: little(block, nonce_low, nonce_high, 0),
    "ino-lblk-64": lambda block, inode: struct.pack("<II8x", block % 2**32, inode % 2**32),
    "ino-lblk-32": lambda block, inode_hash: struct.pack("<I12x", (block + inode_hash) % 2**32),
    "plain": lambda sector: struct.pack("<I12x", sector % 2**32),
    "plain64": lambda sector: little(sector, 0),
    "plain64be": lambda sector: sector.to_bytes(16, "big"),
    "essiv": lambda sector: little(sector, 0),
    "eboiv": lambda sector: little(512 * sector, 0),
    "benbi": lambda sector: ((32 * sector + 1) & WORD).to_bytes(16, "big"),
    "null": lambda: bytes(16),
    "random": lambda: bytes(16),
    "xe": linear_tweak,
    "xex": linear_tweak,
    "ctr-global": lambda address, counter: little(counter, address // 64),
    "ctr-deuce": lambda address, counter: little(counter, address // 64),
    "ctr-split": lambda address, major, minor: little(major, address // 64 + (minor << 48)),
}
STEPS = {"address": 1.0, "system_address": 1.0, "device_address": 1.0, "sector": 1 / 512}
LIMITS = {"address": 1 << 50, "minor": 128}
EDGES = [0, 1, 127, (1 << 31) - 1, 1 << 31, (1 << 32) - 1, 1 << 32, (1 << 63) - 1, 1 << 63, WORD]


def coordinates_of(name: str, seed: int, unit: int) -> dict[str, int]:
    """Coordinates of a data unit: the edges of 32 and 64 bits first, then drawn ones of any length."""
    rng = np.random.default_rng([seed, len(name)])
    made = {}
    for coordinate in iv.schemes()[name].coordinates:
        drawn = int(rng.integers(0, WORD, dtype=np.uint64, endpoint=True)) >> int(rng.integers(0, 64))
        value = EDGES[seed] if seed < len(EDGES) else drawn
        value %= LIMITS.get(coordinate, 1 << 64)
        made[coordinate] = value // unit * unit if "address" in coordinate else value
    return made


def along(name: str, at_first: dict[str, int], unit: int, number: int) -> dict[str, int]:
    """The coordinates of a later data unit."""
    made = {}
    for coordinate, value in at_first.items():
        grows = int(STEPS.get(coordinate, 0) * unit) if coordinate != "block" else 1
        made[coordinate] = (value + grows * number) & WORD
    return made


@cache
def on_numpy(scheme: iv.Scheme) -> iv.Scheme:
    """The same scheme as somebody's own that Numba can't compile."""
    function = {"call": scheme.iv}

    def call(*coordinates: Any) -> Any:
        return function["call"](*coordinates)

    return dataclasses.replace(scheme, name=f"{scheme.name} on numpy", iv=call, own=True)


def test_the_formulas_are_those_of_every_registered_scheme() -> None:
    assert set(FORMULAS) == set(iv.schemes())


@pytest.mark.parametrize("name", FORMULAS)
def test_one_unit_has_the_iv_of_an_independent_formula(name: str) -> None:
    scheme = iv.schemes()[name]
    for seed in range(60):
        coordinates = coordinates_of(name, seed, scheme.unit)
        assert scheme.iv_bytes(**coordinates) == FORMULAS[name](**coordinates), coordinates


@pytest.mark.parametrize("name", FORMULAS)
def test_in_bulk_compiled_and_numpy_make_the_ivs_of_the_formula(name: str) -> None:
    scheme = iv.schemes()[name]
    assert scheme.runs == "compiled"
    assert on_numpy(scheme).runs.startswith("numpy: ")
    words = WORDS.get(name, 2)
    for unit in sorted({scheme.least_unit, scheme.unit, scheme.most_unit}):
        for seed in range(16):
            at_first = coordinates_of(name, seed, unit)
            expected = b"".join(FORMULAS[name](**along(name, at_first, unit, i)) for i in range(9))
            for one in (scheme, on_numpy(scheme)):
                binding = Binding(one, unit, at_first)
                made = binding.ivs(2, 7, words)
                assert made.shape == (7, words)
                assert made.tobytes() == expected[2 * 8 * words :], (one.name, at_first)
                scattered = binding.at(np.array([8, 0, 8, 5], np.uint64), words).tobytes()
                whole = [expected[8 * words * i : 8 * words * (i + 1)] for i in (8, 0, 8, 5)]
                assert scattered == b"".join(whole)


@pytest.mark.parametrize("name", [name for name in FORMULAS if name not in WORDS])
def test_an_iv_of_two_words_is_followed_by_zeros_for_a_cipher_that_takes_four(name: str) -> None:
    scheme = iv.schemes()[name]
    at_first = coordinates_of(name, 12, scheme.unit)
    for one in (scheme, on_numpy(scheme)):
        binding = Binding(one, scheme.unit, at_first)
        narrow = binding.ivs(0, 5, 2)
        wide = binding.ivs(0, 5, 4)
        assert (wide[:, :2] == narrow).all()
        assert not wide[:, 2:].any()


@pytest.mark.parametrize("name", ["ctr-global", "ctr-split", "ctr-deuce"])
def test_counters_that_are_passed_with_each_call_are_in_the_iv(name: str) -> None:
    scheme, rng = iv.schemes()[name], np.random.default_rng(7)
    numbers = rng.integers(0, 1 << 20, 50, np.uint64)
    state = {
        coordinate: rng.integers(0, min(WORD, LIMITS.get(coordinate, WORD)), 50, np.uint64)
        for coordinate in scheme.coordinates[1:]
    }
    for one in (scheme, on_numpy(scheme)):
        made = Binding(one, 64, {"address": 1 << 40}).at(numbers, 2, **state)
        for i, number in enumerate(numbers.tolist()):
            given = {coordinate: int(values[i]) for coordinate, values in state.items()}
            assert made[i].tobytes() == FORMULAS[name](address=(1 << 40) + 64 * number, **given)


def test_the_tweak_of_an_xor_of_addresses_is_the_xor_of_the_tweaks() -> None:
    scheme, rng = iv.schemes()["xex"], np.random.default_rng(3)
    for a, b in rng.integers(0, 1 << 48, (50, 2)).tolist():
        both = int.from_bytes(scheme.iv_bytes(system_address=a ^ b), "little")
        one, other = (int.from_bytes(scheme.iv_bytes(system_address=x), "little") for x in (a, b))
        assert both == one ^ other
    assert scheme.iv_bytes(system_address=15) == bytes(16)
    assert len({scheme.iv_bytes(system_address=1 << bit) for bit in range(4, 48)}) == 44


def test_plain_wraps_where_plain64_goes_on() -> None:
    schemes = iv.schemes()
    assert schemes["plain"].iv_bytes(sector=1 << 32) == schemes["plain"].iv_bytes(sector=0)
    assert schemes["plain64"].iv_bytes(sector=1 << 32) != schemes["plain64"].iv_bytes(sector=0)
    wrapped = Binding(schemes["plain"], 512, {"sector": (1 << 32) - 1}).ivs(0, 2, 2)
    assert wrapped.tolist() == [[(1 << 32) - 1, 0], [0, 0]]


@pytest.mark.parametrize("bits", [128, 256])
@pytest.mark.parametrize("name", ["essiv", "eboiv"])
def test_a_sealed_iv_is_encrypted_under_the_key_or_its_hash(
    controller: Controller, name: str, bits: int, engine: str
) -> None:
    material = bytes(range(bits // 8))
    keyid = controller.program_key(Key.from_bytes(f"aes-cbc-{bits}", material))
    region = controller.map(8192, 4096, keyid, iv=name, sector=77)
    region.write(0, bytes(4096))
    seal = hashlib.sha256(material).digest() if name == "essiv" else material
    for unit in range(8):
        plain = FORMULAS[name](sector=77 + unit)
        sealed = Cipher(algorithms.AES(seal), modes.ECB()).encryptor().update(plain)
        expected = Cipher(algorithms.AES(material), modes.CBC(sealed)).encryptor().update(bytes(512))
        assert controller.device.read(8192 + 512 * unit, 512) == expected


# The registry


def test_a_scheme_without_its_coordinate_is_refused_by_the_coordinates_name() -> None:
    with pytest.raises(SchemeError, match="pmem-line needs the address of a data unit: pass it by that name"):
        iv.schemes()["pmem-line"].iv_bytes()
    with pytest.raises(SchemeError, match="needs the dimm_serial"):
        iv.schemes()["dimm-line"].iv_bytes(device_address=0)


def made(name: str, *coordinates: str) -> iv.Scheme:
    return iv.register(
        iv.Scheme(name, 64, coordinates, lambda *given: (sum(given), 7), "of a test", "here", own=True)
    )


def test_a_name_is_registered_once() -> None:
    with pytest.raises(SchemeError, match="there is an IV scheme 'pmem-line' already: choose another name"):
        iv.register(iv.schemes()["pmem-line"])
    made("ours", "sector")
    with pytest.raises(SchemeError, match="'ours' already"):
        iv.define("ours")(lambda address: (address, 0))
    assert iv.schemes()["ours"].coordinates == ("sector",)


def test_a_scheme_of_ones_own_is_found_by_its_name() -> None:
    scheme = made("ours", "sector", "inode")
    assert iv.schemes()["ours"] is iv.find("ours") is scheme
    assert scheme.iv_bytes(inode=258, sector=1) == b"\x03\x01" + bytes(6) + b"\x07" + bytes(7)


def test_the_registry_is_handed_out_as_a_copy() -> None:
    iv.schemes().clear()
    assert "pmem-line" in iv.schemes()


def test_a_scheme_can_not_be_changed() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        iv.schemes()["pmem-line"].unit = 128  # type: ignore[misc]


def test_an_unknown_name_is_refused_with_the_known_ones(controller: Controller, key: Key) -> None:
    made("ours", "sector")
    known = ", ".join(sorted([*FORMULAS, "ours"]))
    with pytest.raises(SchemeError, match=f"no IV scheme 'other': there are {known}$"):
        iv.find("other")
    with pytest.raises(SchemeError, match=f"no IV scheme 'other': there are {known}$"):
        controller.map(0, 4096, controller.program_key(key), iv="other")
    assert controller.regions == ()


def test_what_is_unregistered_is_unknown_and_its_name_is_free() -> None:
    made("ours", "sector")
    iv.unregister("ours")
    with pytest.raises(SchemeError, match="no IV scheme 'ours'"):
        iv.find("ours")
    with pytest.raises(SchemeError, match="no IV scheme of your own with the name 'ours'"):
        iv.unregister("ours")
    assert made("ours", "inode").coordinates == ("inode",)


@pytest.mark.parametrize("name", ["pmem-line", "ctr-split"])
def test_a_scheme_of_the_project_is_not_unregistered(name: str) -> None:
    with pytest.raises(SchemeError, match=f"no IV scheme of your own with the name '{name}'"):
        iv.unregister(name)
    assert name in iv.schemes()


def named(second: str) -> Callable[..., Any]:
    """A function of an address and a coordinate of that name."""
    made: Callable[..., Any] = eval(f"lambda address, {second}: (address, {second})")
    return made


def with_default(address: int, tenant: int = 1) -> iv.scheme.Iv:
    return address, tenant


def with_rest(address: int, *rest: int) -> iv.scheme.Iv:
    return address, 0


def with_keyword(address: int, *, tenant: int) -> iv.scheme.Iv:
    return address, tenant


def positional(address: int, /) -> iv.scheme.Iv:
    return address, 0


@pytest.mark.parametrize("function", [with_default, with_rest, with_keyword, positional])
def test_parameters_that_are_not_plain_names_are_refused(function: Callable[..., Any]) -> None:
    with pytest.raises(SchemeError, match=r"ours: the parameter .* is to be a plain name"):
        iv.define("ours")(function)
    assert "ours" not in iv.schemes()


@pytest.mark.parametrize("taken", ["length", "keyid", "iv", "unit", "metadata", "integrity", "nonce"])
def test_a_coordinate_that_could_not_be_given_to_map_is_refused(taken: str) -> None:
    function = named(taken)
    with pytest.raises(SchemeError, match=f"ours: no coordinate can have the name {taken}, "):
        iv.define("ours")(function)
    assert "ours" not in iv.schemes()


# Schemes of one's own


TABLE = {"numbers": np.arange(1 << 16, dtype=np.uint64) * np.uint64(0x9E3779B97F4A7C15)}


def tenant_line(address: Any, tenant: Any) -> Any:
    """The line's number beside a tenant's.

    And more.
    """
    return address >> 6, tenant


def scattered_line(address: Any) -> Any:
    return TABLE["numbers"][(address >> 6 & 0xFFFF).astype(np.intp)], address >> 6


def test_ones_own_function_stays_a_function_and_tells_about_itself() -> None:
    assert iv.define("ours", unit=512, source="a book")(tenant_line) is tenant_line
    scheme = iv.schemes()["ours"]
    assert (scheme.unit, scheme.source, scheme.summary) == (
        512,
        "a book",
        "The line's number beside a tenant's.",
    )
    assert scheme.own
    assert scheme.coordinates == ("address", "tenant")
    assert scheme.runs == "compiled"


def test_a_compiled_scheme_of_ones_own_is_on_the_medium(controller: Controller, engine: str) -> None:
    material = bytes(range(32))
    iv.define("ours")(tenant_line)
    keyid = controller.program_key(Key.from_bytes("aes-xts-128", material))
    region = controller.map(8192, 8192, keyid, iv="ours", tenant=(1 << 64) - 7)
    region.write(0, bytes(8192))
    for line in (0, 1, 127):
        tweak = little(128 + line, (1 << 64) - 7)
        expected = Cipher(algorithms.AES(material), modes.XTS(tweak)).encryptor().update(bytes(64))
        assert controller.device.read(8192 + 64 * line, 64) == expected


def test_what_numba_can_not_compile_runs_on_numpy_and_says_why(controller: Controller, engine: str) -> None:
    material = bytes(range(32))
    iv.define("ours")(scattered_line)
    assert iv.schemes()["ours"].runs.startswith("numpy: ")
    assert len(iv.schemes()["ours"].runs) > len("numpy: ")
    region = controller.map(
        8192, 8192, controller.program_key(Key.from_bytes("aes-xts-128", material)), iv="ours"
    )
    data = np.random.default_rng(1).bytes(8192)
    region.write(0, data)
    assert region.read(100, 5000) == data[100:5100]
    assert controller.read_lines([8192 + 64 * 9, 8192])[0].tobytes() == data[576:640]
    for line in (0, 1, 127):
        tweak = little((128 + line) * 0x9E3779B97F4A7C15, 128 + line)
        expected = Cipher(algorithms.AES(material), modes.XTS(tweak)).encryptor()
        assert controller.device.read(8192 + 64 * line, 64) == expected.update(data[64 * line :][:64])


def on_arrays(function: Callable[..., Any]) -> Callable[..., Any]:
    """A function of an address that Numba can't compile."""
    held = {"function": function}

    def call(address: Any) -> Any:
        return held["function"](address)

    return call


def test_words_that_numba_takes_for_none_perhaps_are_made_on_arrays(controller: Controller, key: Key) -> None:
    @iv.define("ours", source="a test")
    def call(address: int) -> Any:
        return {0: 7, 1: 8}.get(address % 2, 9), address >> 6

    try:
        assert iv.schemes()["ours"].runs != "compiled"
    finally:
        iv.unregister("ours")


WRONG: list[tuple[str, Callable[..., Any]]] = [
    ("returns 3 words: an IV has two of 64 bits, or four", lambda address: (address, 1, 2)),
    ("returns 1 words: an IV has two of 64 bits, or four", lambda address: address),
    (
        "returns float64: the words of an IV are integers, made with //",
        lambda address: (address / 64, 1),
    ),
    ("returns float64: the words of an IV are integers, made with //", lambda address: (address, 1.0)),
]


@pytest.mark.parametrize("compiled", [True, False])
@pytest.mark.parametrize(("message", "function"), WRONG)
def test_words_that_are_no_iv_are_refused_at_mapping_time(
    controller: Controller, key: Key, message: str, function: Callable[..., Any], compiled: bool
) -> None:
    keyid = controller.program_key(key)
    iv.define("ours")(function if compiled else on_arrays(function))
    with pytest.raises(SchemeError, match=f"ours {message}"):
        controller.map(0, 8192, keyid, iv="ours")
    assert controller.regions == ()


@pytest.mark.parametrize(
    "function", [lambda address: (address[:3], address), lambda address: (address, address[:, None])]
)
def test_arrays_of_another_shape_are_refused_at_mapping_time(
    controller: Controller, key: Key, function: Callable[..., Any]
) -> None:
    iv.define("ours")(on_arrays(function))
    keyid = controller.program_key(key)
    with pytest.raises(SchemeError, match=r"ours returns an array of shape .* for 128 units: one word"):
        controller.map(0, 8192, keyid, iv="ours")
    assert controller.regions == ()


REPEATING: list[Callable[..., Any]] = [
    lambda address: (address >> 7, 0),
    lambda address: (address & 0xFFF, 0),
    on_arrays(lambda address: (address >> 7, 0)),
    on_arrays(lambda address: (5, 0)),
]


@pytest.mark.parametrize("function", REPEATING)
def test_ivs_that_repeat_are_warned_of_in_the_callers_file(
    controller: Controller, key: Key, function: Callable[..., Any]
) -> None:
    iv.define("ours")(function)
    keyid = controller.program_key(key)
    with pytest.warns(
        IvReuseWarning, match=r"ours gives \d+ of the data units .* an IV that another"
    ) as seen:
        region = controller.map(0, 8192, keyid, iv="ours")
    assert [warning.filename for warning in seen] == [__file__]
    region.write(0, bytes(range(256)) * 32)
    assert region.read(0, 8192) == bytes(range(256)) * 32


def test_how_many_ivs_repeat_is_exact_in_a_short_range(controller: Controller, key: Key) -> None:
    iv.define("ours")(lambda address: (address % 6400, 0))
    keyid = controller.program_key(key)
    with pytest.warns(IvReuseWarning, match="ours gives 28 of the data units"):
        controller.map(0, 8192, keyid, iv="ours")


def test_a_warning_that_is_an_error_leaves_nothing_mapped(controller: Controller, key: Key) -> None:
    iv.define("ours")(lambda address: (address >> 7, 0))
    with pytest.raises(IvReuseWarning):
        controller.map(0, 8192, controller.program_key(key), iv="ours")
    assert controller.regions == ()


def test_a_scheme_without_coordinates_gives_every_unit_its_iv(controller: Controller, engine: str) -> None:
    iv.define("ours")(lambda: (5, 1 << 62))
    assert iv.schemes()["ours"].runs == "compiled"
    assert iv.schemes()["ours"].iv_bytes() == little(5, 1 << 62)
    material = bytes(range(32))
    keyid = controller.program_key(Key.from_bytes("aes-xts-128", material))
    with pytest.warns(IvReuseWarning, match="ours gives 63 of"):
        region = controller.map(4096, 4096, keyid, iv="ours")
    region.write(0, bytes(4096))
    tweak = little(5, 1 << 62)
    expected = Cipher(algorithms.AES(material), modes.XTS(tweak)).encryptor().update(bytes(64))
    assert controller.device.read(4096, 4096) == 64 * expected


def four_words(address: Any) -> Any:
    return address, 2, address + 3, 4


@pytest.mark.parametrize("function", [four_words, on_arrays(four_words)])
def test_four_words_are_for_ciphers_that_take_them(
    controller: Controller, function: Callable[..., Any]
) -> None:
    iv.define("ours", unit=4096)(function)
    for algorithm in ("aes-xts-128", "aes-cbc-256", "aes-ctr-128"):
        with pytest.raises(SchemeError, match=f"ours makes IVs of 32 bytes and {algorithm} takes 16"):
            controller.map(0, 8192, controller.program_key(Key.generate(algorithm)), iv="ours")
    assert controller.regions == ()
    keyid = controller.program_key(Key.generate("aes-hctr2-256"))
    region = controller.map(0, 8192, keyid, iv="ours")
    region.write(0, bytes(8192))
    cipher = controller.slot(keyid).cipher
    expected = np.empty(8192, np.uint8)
    ivs = np.array([[0, 2, 3, 4], [4096, 2, 4099, 4]], np.uint64)
    cipher.units(False, 4096, ivs, np.zeros(8192, np.uint8), expected)
    assert controller.device.read(0, 8192) == expected.tobytes()
    assert region.read(0, 8192) == bytes(8192)
    with pytest.raises(SchemeError, match="ours makes IVs of 32 bytes and aes-xts-256 takes 16"):
        controller.program_key(Key.generate("aes-xts-256"), keyid=keyid)
    assert region.read(0, 8192) == bytes(8192)


@pytest.mark.parametrize("name", ["counter", "major", "minor"])
def test_a_counter_that_nobody_keeps_is_a_coordinate_like_any_other(
    controller: Controller, key: Key, name: str
) -> None:
    iv.define("ours")(named(name))
    keyid = controller.program_key(key)
    with pytest.raises(SchemeError, match=f"ours needs the {name} of a data unit"):
        controller.map(0, 8192, keyid, iv="ours")
    assert controller.regions == ()


def test_an_error_of_ones_own_function_leaves_nothing_mapped(controller: Controller, key: Key) -> None:
    def failing(address: Any) -> Any:
        raise RuntimeError("not today")

    iv.define("ours")(on_arrays(failing))
    with pytest.raises(SchemeError, match=r"ours raised RuntimeError .*: not today") as caught:
        controller.map(0, 8192, controller.program_key(key), iv="ours")
    assert isinstance(caught.value.__cause__, RuntimeError)
    assert controller.regions == ()


def beyond_a_number(block: Any) -> Any:
    if block > 77:
        raise ValueError("too far")
    return block, 0


SHORT = np.arange(256, dtype=np.uint64)
RAISING: list[tuple[Callable[..., Any], dict[str, int], str]] = [
    (
        lambda block, inode: (block // inode, block),
        {"inode": 0},
        "FloatingPointError .*divide by",
    ),
    (lambda block, inode: (block % inode, block), {"inode": 0}, "FloatingPointError .*divide by"),
    (lambda block: (SHORT[block], block), {"block": 255}, "IndexError .*index 256 is out of"),
    (beyond_a_number, {}, "ValueError .*truth value"),
]


@pytest.mark.parametrize(("function", "options", "message"), RAISING)
def test_a_function_that_can_raise_is_left_to_numpy_and_refused_where_it_does(
    controller: Controller, key: Key, function: Callable[..., Any], options: dict[str, int], message: str
) -> None:
    iv.define("ours")(function)
    assert iv.schemes()["ours"].runs.startswith("numpy: it can raise an exception")
    keyid = controller.program_key(key)
    with pytest.raises(SchemeError, match=f"ours raised {message}"):
        controller.map(0, 8192, keyid, iv="ours", **{"block": 0, **options})
    assert controller.regions == ()


@pytest.mark.parametrize(
    "function",
    [
        lambda block, inode: (block // 7 + block % 5, inode),
        lambda block, inode: (SHORT[block & 255] ^ block, inode),
        lambda block, inode: (block << inode, min(block, inode)),
    ],
)
def test_a_function_that_can_not_raise_is_compiled(function: Callable[..., Any]) -> None:
    iv.define("ours")(function)
    scheme = iv.schemes()["ours"]
    assert scheme.runs == "compiled"
    made = Binding(scheme, 64, {"block": 250, "inode": 3}).ivs(0, 20, 2)
    assert made.tobytes() == b"".join(scheme.iv_bytes(block=block, inode=3) for block in range(250, 270))


def test_a_function_that_divides_runs_on_numpy_where_it_can(controller: Controller, key: Key) -> None:
    iv.define("ours")(lambda block, inode: (block // inode, block))
    region = controller.map(0, 8192, controller.program_key(key), iv="ours", block=90, inode=7)
    region.write(0, bytes(range(256)) * 32)
    other = controller.map(8192, 4096, region.keyid, iv="ours", block=90 + 64, inode=7)
    controller.device.write(8192, controller.device.read(4096, 4096))
    assert other.read(0, 4096) == bytes(range(256)) * 16


def test_a_function_that_fails_within_a_range_leaves_a_write_undone(controller: Controller, key: Key) -> None:
    def failing(block: Any) -> Any:
        if 5000 in block:
            raise LookupError("block 5000")
        return block, 0

    iv.define("ours")(failing)
    region = controller.map(0, 1 << 20, controller.program_key(key), iv="ours", block=0)
    region.write(0, bytes(64 * 5000))
    before = controller.device.read(0, 1 << 20)
    with pytest.raises(SchemeError, match=r"ours raised LookupError .*block 5000") as caught:
        region.write(0, b"x" * (1 << 20))
    assert "are written" not in str(caught.value)
    assert controller.device.read(0, 1 << 20) == before


def on_blocks(block: Any) -> Any:
    """Numbers of blocks, but for the block 20000, with which they aren't integers any more."""
    return (block / 2 if 20000 in block else block), 0


def test_a_write_that_is_refused_halfway_says_how_far_it_came(tmp_path: Path) -> None:
    iv.define("ours")(on_blocks)
    with pmem.create(tmp_path / "long.img", 1 << 22) as device:
        controller = Controller(device)
        keyid = controller.program_key(Key.from_bytes("aes-xts-128", bytes(range(32))))
        region = controller.map(4096, 2 << 20, keyid, iv="ours", block=0)
        with pytest.raises(
            SchemeError, match=r"returns float64: .*; the request's first 1048576 bytes are written"
        ):
            region.write(0, b"x" * (2 << 20))
        assert region.read(0, 1 << 20) == b"x" * (1 << 20)
        assert device.read(4096 + (1 << 20), 1 << 20) == bytes(1 << 20)


def test_only_floats_are_told_of_the_division_that_made_them(controller: Controller, key: Key) -> None:
    keyid = controller.program_key(key)
    iv.define("ours")(lambda address: (address > 5, address))
    with pytest.raises(SchemeError, match=r"ours returns bool: the words of an IV are integers$"):
        controller.map(0, 8192, keyid, iv="ours")
    iv.define("ours arrays")(lambda address: (SHORT, address))
    with pytest.raises(SchemeError, match=r"ours arrays returns .*array.*: the words of an IV are integers$"):
        controller.map(0, 8192, keyid, iv="ours arrays")


def test_a_coordinate_is_an_address_by_what_it_is_and_not_by_its_name(
    controller: Controller, key: Key
) -> None:
    iv.define("ours")(named("addressee"))
    region = controller.map(0, 8192, controller.program_key(key), iv="ours", addressee=77)
    region.write(0, bytes(8192))
    assert region.read(64, 64) == bytes(64)
    with pytest.raises(SchemeError, match="system_address = 77 is not a multiple of the data unit, 64 bytes"):
        controller.map(8192, 8192, region.keyid, iv="spa-line", system_address=77)


REGISTERED = """
from mktme import iv
from mktme.iv.compiled import Binding

def theirs(address):
    return address + 1000, {word}

theirs.__module__, theirs.__name__, theirs.__qualname__ = "mktme.iv.address", "pmem_line", "pmem_line"
iv.register(iv.Scheme("theirs", 64, ("address",), theirs, "of a program", "there"))
print(iv.schemes()["theirs"].own, Binding(iv.find("theirs"), 64, {{"address": 64}}).ivs(0, 2, 2).tolist())
"""


def test_schemes_of_two_programs_with_one_name_share_no_machine_code(tmp_path: Path) -> None:
    environment = os.environ | {
        "NUMBA_CACHE_DIR": str(tmp_path / "cache"),
        "PYTHONPATH": str(Path(__file__).parents[2]),
    }

    def run(word: int) -> str:
        command = [sys.executable, "-c", REGISTERED.format(word=word)]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        return done.stdout.strip()

    assert run(5) == "True [[1064, 5], [1128, 5]]"
    assert run(6) == "True [[1064, 6], [1128, 6]]"


def test_only_functions_of_the_project_are_its_own() -> None:
    assert not any(scheme.own for name, scheme in iv.schemes().items() if name in FORMULAS)
    ours = iv.register(iv.Scheme("ours", 64, ("address",), tenant_line, "of a test", "here"))
    assert ours.own
    iv.unregister("ours")


def test_a_region_goes_on_after_its_scheme_was_unregistered(controller: Controller, key: Key) -> None:
    iv.define("ours")(tenant_line)
    keyid = controller.program_key(key)
    region = controller.map(0, 8192, keyid, iv="ours", tenant=1)
    region.write(5, b"still here")
    iv.unregister("ours")
    iv.define("ours")(lambda address: (address, 77))
    controller.program_key(key, keyid=keyid)
    assert region.read(5, 10) == b"still here"
    other = controller.map(8192, 8192, keyid, iv="ours")
    assert other.scheme is not region.scheme
