"""Keys: what they take, and that they stay out of sight."""

from __future__ import annotations

import copy
import logging
import pickle
import traceback
from typing import Any

import pytest

from mktme import Key, KeyMaterialError

SECRET = bytes(range(100, 164))


@pytest.mark.parametrize(("algorithm", "size"), [("aes-xts-128", 16), ("aes-xts-256", 32)])
def test_a_key_is_its_data_key_then_its_tweak_key(algorithm: str, size: int) -> None:
    material = SECRET[: 2 * size]
    one = Key.from_bytes(algorithm, material)
    other = Key(algorithm, data_key=bytearray(material[:size]), tweak_key=memoryview(material)[size:])
    assert [bytes(h) for h in one.halves()] == [bytes(h) for h in other.halves()]
    assert [bytes(h) for h in one.halves()] == [material[:size], material[size:]]


@pytest.mark.parametrize("algorithm", ["aes-xts-128", "aes-xts-256"])
def test_generated_keys_differ(algorithm: str) -> None:
    keys = {b"".join(bytes(h) for h in Key.generate(algorithm).halves()) for _ in range(20)}
    assert len(keys) == 20


@pytest.mark.parametrize("algorithm", ["aes-xts-512", "AES-XTS-128", "", "none"])
def test_an_unknown_algorithm_is_refused_with_the_known_ones(algorithm: str) -> None:
    for make in (Key.generate, lambda a: Key.from_bytes(a, SECRET)):
        with pytest.raises(KeyMaterialError, match="aes-xts-128, aes-xts-256"):
            make(algorithm)


@pytest.mark.parametrize("size", [0, 15, 31, 33, 64])
def test_a_wrong_length_is_refused_by_the_right_one(size: int) -> None:
    with pytest.raises(KeyMaterialError, match="32 bytes"):
        Key.from_bytes("aes-xts-128", SECRET[:size])
    with pytest.raises(KeyMaterialError, match=r"tweak key .* 16 bytes"):
        Key("aes-xts-128", data_key=SECRET[:16], tweak_key=SECRET[:size])


def test_equal_halves_are_refused() -> None:
    for make in (
        lambda: Key("aes-xts-128", data_key=SECRET[:16], tweak_key=SECRET[:16]),
        lambda: Key.from_bytes("aes-xts-256", SECRET[:32] * 2),
    ):
        with pytest.raises(KeyMaterialError, match="equal"):
            make()


@pytest.mark.parametrize("material", ["text", 32])
def test_text_and_numbers_are_no_key(material: Any) -> None:
    with pytest.raises(KeyMaterialError, match="buffer"):
        Key.from_bytes("aes-xts-128", material)


def spelled(secret: bytes) -> list[str]:
    """How a key's bytes could be written."""
    return [secret.hex(), secret.hex().upper(), repr(secret)[2:-1], str(list(secret))[1:-1]]


def test_no_text_about_a_key_has_its_bytes(caplog: pytest.LogCaptureFixture) -> None:
    key = Key.from_bytes("aes-xts-256", SECRET)
    texts = [repr(key), str(key), f"{key}", f"{[key]}"]
    with caplog.at_level(logging.DEBUG):
        logging.getLogger("x").warning("key %r %s", key, key)
    texts.append(caplog.text)
    for bad in (
        lambda: pickle.dumps(key),
        lambda: copy.deepcopy(key),
        lambda: Key.from_bytes("aes-xts-128", SECRET),
    ):
        try:
            bad()
        except (TypeError, KeyMaterialError) as error:
            texts.append("".join(traceback.format_exception(error)))
        else:
            pytest.fail("it should have been refused")
    for text in texts:
        for part in (SECRET[:8], SECRET[32:40]):
            assert not any(way in text for way in spelled(part))


def test_a_cleared_key_has_been_overwritten_and_is_refused() -> None:
    key = Key.from_bytes("aes-xts-128", SECRET[:32])
    held = key._material
    key.clear()
    assert held == bytes(32)
    assert key.cleared
    assert repr(key) == "<mktme.Key aes-xts-128 cleared>"
    with pytest.raises(KeyMaterialError, match="cleared"):
        key.halves()
    key.clear()
