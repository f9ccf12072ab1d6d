"""Keys: what they take, and that they stay out of sight."""

from __future__ import annotations

import array
import builtins
import copy
import io
import logging
import pickle
import traceback
from typing import Any

import numpy as np
import pytest

import pmem
from mktme import Controller, Key, KeyMaterialError, pconfig

SECRET = bytes(range(100, 164))


@pytest.mark.parametrize(("algorithm", "size"), [("aes-xts-128", 16), ("aes-xts-256", 32)])
def test_a_key_is_its_data_key_then_its_tweak_key(algorithm: str, size: int) -> None:
    material = SECRET[: 2 * size]
    one = Key.from_bytes(algorithm, material)
    other = Key(algorithm, data_key=bytearray(material[:size]), tweak_key=memoryview(material)[size:])
    assert [bytes(h) for h in one.parts()] == [bytes(h) for h in other.parts()]
    assert [bytes(h) for h in one.parts()] == [material[:size], material[size:]]


@pytest.mark.parametrize("algorithm", ["aes-xts-128", "aes-xts-256"])
def test_generated_keys_differ(algorithm: str) -> None:
    keys = {b"".join(bytes(h) for h in Key.generate(algorithm).parts()) for _ in range(20)}
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
        key.parts()
    key.clear()


@pytest.mark.parametrize(("algorithm", "size"), [("aes-xts-128", 16), ("aes-xts-256", 32)])
def test_a_generated_key_fills_both_halves(algorithm: str, size: int) -> None:
    key = Key.generate(algorithm)
    assert key.algorithm == algorithm
    assert not key.cleared
    for half in key.parts():
        assert len(half) == size
        assert len(set(bytes(half))) > size // 4


BUFFERS = [
    bytearray(SECRET[:32]),
    memoryview(SECRET)[:32],
    array.array("H", SECRET[:32]),
    np.frombuffer(SECRET[:32], "<u8"),
    np.frombuffer(SECRET[:32], ">f4"),
    np.frombuffer(SECRET[:32], np.uint8).reshape(4, 8),
]


@pytest.mark.parametrize("material", BUFFERS, ids=lambda b: f"{type(b).__name__}-{memoryview(b).format}")
def test_any_contiguous_buffer_of_the_bytes_makes_the_same_key(material: Any) -> None:
    made = Key.from_bytes("aes-xts-128", material)
    assert [bytes(h) for h in made.parts()] == [SECRET[:16], SECRET[16:32]]
    half = np.frombuffer(SECRET[:16], "<u4")
    made = Key("aes-xts-128", data_key=half, tweak_key=SECRET[16:32])
    assert [bytes(h) for h in made.parts()] == [SECRET[:16], SECRET[16:32]]


@pytest.mark.parametrize(
    "material",
    [None, list(SECRET[:32]), 1.5, memoryview(SECRET)[::2], np.zeros(4, "M8[s]"), object()],
    ids=lambda m: type(m).__name__,
)
def test_what_is_no_contiguous_buffer_is_no_key(material: Any) -> None:
    with pytest.raises(KeyMaterialError, match="32 bytes"):
        Key.from_bytes("aes-xts-128", material)
    with pytest.raises(KeyMaterialError, match="data key of aes-xts-128 is a buffer of 16 bytes"):
        Key("aes-xts-128", data_key=material, tweak_key=SECRET[:16])


def test_a_key_keeps_its_bytes_when_the_callers_buffer_is_wiped() -> None:
    buffer = bytearray(SECRET[:32])
    key = Key.from_bytes("aes-xts-128", buffer)
    buffer[:] = bytes(32)
    assert [bytes(h) for h in key.parts()] == [SECRET[:16], SECRET[16:32]]


@pytest.mark.parametrize(
    "misplaced",
    [SECRET[:32], bytearray(SECRET[:32]), SECRET[:32].hex(), list(SECRET[:32]), memoryview(SECRET)],
    ids=lambda m: type(m).__name__,
)
def test_a_key_in_the_place_of_the_algorithm_is_refused_and_not_repeated(misplaced: Any) -> None:
    for make in (
        lambda: Key.from_bytes(misplaced, "aes-xts-128"),
        lambda: Key.generate(misplaced),
        lambda: Key(misplaced, data_key=SECRET[:16], tweak_key=SECRET[16:32]),
    ):
        with pytest.raises(KeyMaterialError, match="aes-xts-128, aes-xts-256") as caught:
            make()
        text = "".join(traceback.format_exception(caught.value))
        assert not any(way in text for way in spelled(SECRET[:8]))


def test_no_refusal_that_sees_a_key_repeats_its_bytes(device: pmem.Device) -> None:
    controller = Controller(device, keyid_bits=1)
    key = Key.from_bytes("aes-xts-256", SECRET)
    controller.program_key(key)
    packed = pconfig.pack(1, pconfig.Command.SET_KEY_DIRECT, "aes-xts-256", SECRET[:32], SECRET[32:])
    for refused in (
        lambda: controller.program_key(key),
        lambda: controller.program_key(key, keyid=9),
        lambda: controller.pconfig(packed[:-1]),
        lambda: controller.pconfig(packed[:5] + b"\xff" + packed[6:]),
        lambda: pconfig.pack(1, pconfig.Command.SET_KEY_DIRECT, "aes-xts-128", SECRET * 2),
        lambda: Key("aes-xts-256", data_key=SECRET[:32], tweak_key=SECRET[:32]),
        lambda: pickle.dumps(controller),
        lambda: copy.copy(key),
    ):
        with pytest.raises((ValueError, LookupError, RuntimeError, TypeError)) as caught:
            refused()
        text = "".join(traceback.format_exception(caught.value)) + repr(caught.value.args)
        for part in (SECRET[:8], SECRET[32:40]):
            assert not any(way in text for way in spelled(part))
    texts = [repr(controller), str(controller), repr(controller.map(0, 4096, 1))]
    assert not any(way in text for text in texts for way in spelled(SECRET[:8]))


def test_views_of_a_key_read_as_zeros_once_it_is_cleared() -> None:
    key = Key.generate("aes-xts-256")
    data, tweak = key.parts()
    assert any(data)
    assert any(tweak)
    key.clear()
    assert (bytes(data), bytes(tweak)) == (bytes(32), bytes(32))


def test_a_generated_key_leaves_nothing_in_the_buffer_it_was_drawn_into(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    drawn: list[Any] = []

    class Source(io.BytesIO):
        def readinto(self, buffer: Any) -> int:
            drawn.append(buffer)
            buffer[:] = SECRET[:32]
            return 32

    with monkeypatch.context() as patched:
        patched.setattr(builtins, "open", lambda *_, **__: Source())
        key = Key.generate("aes-xts-128")
    assert bytes(key.parts()[0]) == SECRET[:16]
    assert [bytes(buffer) for buffer in drawn] == [bytes(32)]


def test_keys_that_a_controller_draws_for_itself_are_cleared(
    device: pmem.Device, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, drawn = Key.generate, []

    def noted(algorithm: str) -> Key:
        drawn.append(real(algorithm))
        return drawn[-1]

    monkeypatch.setattr(Key, "generate", noted)
    controller = Controller(device, tme=True)
    random = pconfig.pack(1, pconfig.Command.SET_KEY_RANDOM, "aes-xts-128")
    assert controller.pconfig(random) is pconfig.Status.PROG_SUCCESS
    controller.power_cycle()
    assert len(drawn) == 3
    assert all(key.cleared for key in drawn)


def test_a_programmed_key_outlives_the_callers_copy(controller: Controller) -> None:
    key = Key.from_bytes("aes-xts-128", SECRET[:32])
    region = controller.map(0, 4096, controller.program_key(key))
    region[0:5] = b"hello"
    key.clear()
    assert region[0:5] == b"hello"
