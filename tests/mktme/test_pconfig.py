"""PCONFIG: the structure to the byte, every status, the order of the checks."""

from __future__ import annotations

import builtins
import threading
from typing import Any

import numpy as np
import pytest
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes

import pmem
from mktme import Controller, GeneralProtection, Key, KeyMaterialError, pconfig
from mktme.pconfig import Command, Status

DATA, TWEAK = bytes(range(32)), bytes(range(100, 132))


def struct(keyid: int = 1, command: int = 0, alg: int = 1, reserved: int = 0, junk: int = 0) -> bytearray:
    """A structure made by hand, from the specification's offsets."""
    made = bytearray([junk]) * 256
    made[0:2] = keyid.to_bytes(2, "little")
    made[2:6] = (command | alg << 8 | reserved << 24).to_bytes(4, "little")
    made[64:128] = DATA + bytes(32)
    made[128:192] = TWEAK + bytes(32)
    return made


def media_line(controller: Controller, keyid: int, plain: bytes) -> bytes:
    """What a line at address 4096 looks like on the medium, written under a KeyID."""
    region = controller.map(4096, 4096, keyid)
    region[0:64] = plain
    controller.unmap(region)
    return controller.device.read(4096, 64)


@pytest.mark.parametrize(("alg", "size"), [(1, 16), (4, 32)])
@pytest.mark.parametrize("junk", [0, 0xFF])
def test_a_direct_key_encrypts_with_the_leading_bytes_of_its_fields(
    controller: Controller, alg: int, size: int, junk: int
) -> None:
    made = struct(keyid=5, alg=alg, junk=junk)
    made[64 + size : 128] = bytes([junk]) * (64 - size)
    made[128 + size : 192] = bytes([junk]) * (64 - size)
    assert controller.pconfig(made) is Status.PROG_SUCCESS
    assert controller.keyids == (5,)
    plain = bytes(range(64))
    cipher = Cipher(
        algorithms.AES(DATA[:size] + TWEAK[:size]), modes.XTS((4096 // 64).to_bytes(16, "little"))
    )
    assert media_line(controller, 5, plain) == cipher.encryptor().update(plain)


def test_equal_keys_are_taken_as_by_the_hardware(controller: Controller) -> None:
    made = struct()
    made[128:192] = made[64:128]
    assert controller.pconfig(bytes(made)) is Status.PROG_SUCCESS


def test_random_keys_differ_each_time_and_are_in_no_field(controller: Controller) -> None:
    made = struct(keyid=1, command=Command.SET_KEY_RANDOM)
    before = bytes(made)
    lines = set()
    for _ in range(4):
        assert controller.pconfig(made) is Status.PROG_SUCCESS
        lines.add(media_line(controller, 1, bytes(64)))
    controller.pconfig(struct(keyid=1))
    lines.add(media_line(controller, 1, bytes(64)))
    assert len(lines) == 5
    assert bytes(made) == before


def test_entropy_is_mixed_into_random_keys(controller: Controller, monkeypatch: pytest.MonkeyPatch) -> None:
    from mktme import Key

    drawn = bytes(range(50, 82))
    monkeypatch.setattr(Key, "generate", lambda algorithm: Key.from_bytes(algorithm, drawn))
    assert controller.pconfig(struct(command=Command.SET_KEY_RANDOM)) is Status.PROG_SUCCESS
    mixed = bytes(a ^ b for a, b in zip(drawn, DATA[:16] + TWEAK[:16], strict=True))
    cipher = Cipher(algorithms.AES(mixed), modes.XTS((64).to_bytes(16, "little")))
    assert media_line(controller, 1, bytes(64)) == cipher.encryptor().update(bytes(64))


def test_a_cleared_keyid_behaves_as_keyid_0(controller: Controller) -> None:
    controller.pconfig(struct(keyid=1))
    region = controller.map(0, 4096, 1)
    region[0:64] = bytes(64)
    stored = controller.device.read(0, 64)
    assert controller.pconfig(struct(keyid=1, command=Command.CLEAR_KEY)) is Status.PROG_SUCCESS
    assert region[0:64] == stored != bytes(64)
    assert controller.keyids == ()


def test_no_encrypt_stores_plaintext_even_with_tme(device: pmem.Device) -> None:
    controller = Controller(device, tme=True)
    assert controller.pconfig(struct(keyid=1, command=Command.NO_ENCRYPT)) is Status.PROG_SUCCESS
    assert media_line(controller, 1, b"plain" * 12 + b"text") == b"plain" * 12 + b"text"


@pytest.mark.parametrize("keyid", [0, 64, 0x7FFF, 0xFFFF])
def test_keyids_outside_of_the_table_are_invalid(controller: Controller, keyid: int) -> None:
    assert controller.pconfig(struct(keyid=keyid)) is Status.INVALID_KEYID


@pytest.mark.parametrize("alg", [0, 2, 3, 5, 8, 0x8000, 0xFFFF])
@pytest.mark.parametrize("command", list(Command))
def test_every_command_wants_one_activated_algorithm(
    controller: Controller, alg: int, command: Command
) -> None:
    assert controller.pconfig(struct(alg=alg, command=command)) is Status.INVALID_ENC_ALG
    assert controller.keyids == ()


@pytest.mark.parametrize("command", [4, 5, 0x80, 0xFF])
def test_an_unknown_command_is_invalid(controller: Controller, command: int) -> None:
    assert controller.pconfig(struct(command=command)) is Status.INVALID_PROG_CMD
    assert controller.keyids == ()


@pytest.mark.parametrize("bit", range(8))
def test_each_reserved_bit_is_a_general_protection_fault(controller: Controller, bit: int) -> None:
    with pytest.raises(GeneralProtection, match="31:24"):
        controller.pconfig(struct(reserved=1 << bit, keyid=0, alg=0, command=9))
    assert controller.keyids == ()


def test_the_checks_come_in_the_instructions_order(controller: Controller) -> None:
    assert controller.pconfig(struct(keyid=0, alg=0, command=9)) is Status.INVALID_KEYID
    assert controller.pconfig(struct(alg=0, command=9)) is Status.INVALID_ENC_ALG
    assert controller.pconfig(struct(command=9)) is Status.INVALID_PROG_CMD


def test_a_key_table_in_use_is_busy(controller: Controller) -> None:
    taken, done = threading.Event(), threading.Event()

    def hold() -> None:
        with controller._lock:
            taken.set()
            done.wait(10)

    other = threading.Thread(target=hold)
    other.start()
    taken.wait(10)
    try:
        assert controller.pconfig(struct()) is Status.DEVICE_BUSY
        assert controller.pconfig(struct(alg=0)) is Status.INVALID_ENC_ALG
    finally:
        done.set()
        other.join()
    assert controller.keyids == ()
    assert controller.pconfig(struct()) is Status.PROG_SUCCESS


@pytest.mark.parametrize("size", [0, 192, 255, 257])
def test_a_structure_has_256_bytes(controller: Controller, size: int) -> None:
    with pytest.raises(KeyMaterialError, match=f"256 bytes, not {size}"):
        controller.pconfig(bytes(size))


def test_a_packed_structure_is_the_one_made_by_hand() -> None:
    made = pconfig.pack(1, Command.SET_KEY_DIRECT, "aes-xts-128", DATA, TWEAK)
    assert made == struct()
    assert pconfig.parse(np.frombuffer(made, np.uint8)).algorithm == "aes-xts-128"
    with pytest.raises(KeyMaterialError, match="64 bytes at most"):
        pconfig.pack(1, Command.SET_KEY_DIRECT, "aes-xts-128", bytes(65))


def xts_line(data_key: bytes, tweak_key: bytes, number: int, plain: bytes) -> bytes:
    """AES-XTS of one line from its definition (IEEE 1619-2018, 5.3), since OpenSSL refuses equal keys."""

    def aes(key: bytes, block: int) -> int:
        cipher = Cipher(algorithms.AES(key), modes.ECB()).encryptor()
        return int.from_bytes(cipher.update(block.to_bytes(16, "little")), "little")

    tweak, made = aes(tweak_key, number), b""
    for at in range(0, 64, 16):
        block = int.from_bytes(plain[at : at + 16], "little")
        made += (aes(data_key, block ^ tweak) ^ tweak).to_bytes(16, "little")
        tweak = tweak << 1 ^ (0x87 | 1 << 128 if tweak >> 127 else 0)
    return made


@pytest.mark.parametrize(("alg", "size"), [(1, 16), (4, 32)])
def test_equal_keys_encrypt_as_xts_defines(controller: Controller, engine: str, alg: int, size: int) -> None:
    made = struct(alg=alg)
    made[128:192] = made[64:128]
    assert controller.pconfig(made) is Status.PROG_SUCCESS
    plain = bytes(range(64))
    assert media_line(controller, 1, plain) == xts_line(DATA[:size], DATA[:size], 64, plain)


def test_every_keyid_of_the_field_is_valid_just_if_it_is_in_the_table(controller: Controller) -> None:
    for keyid in range(1 << 16):
        status = controller.pconfig(struct(keyid=keyid, command=Command.CLEAR_KEY))
        assert status is (Status.PROG_SUCCESS if 1 <= keyid <= 63 else Status.INVALID_KEYID)


def test_the_last_of_15_bits_of_keyids_can_be_programmed(device: pmem.Device) -> None:
    controller = Controller(device, 15)
    assert controller.pconfig(struct(keyid=0x7FFF)) is Status.PROG_SUCCESS
    assert controller.pconfig(struct(keyid=0x8000)) is Status.INVALID_KEYID
    assert controller.keyids == (0x7FFF,)


def test_every_algorithm_field_is_valid_just_if_it_is_one_activated_bit(controller: Controller) -> None:
    for alg in range(1 << 16):
        status = controller.pconfig(struct(alg=alg, command=Command.CLEAR_KEY))
        assert status is (Status.PROG_SUCCESS if alg in (1, 4) else Status.INVALID_ENC_ALG)


def test_every_command_beyond_the_four_is_invalid(controller: Controller) -> None:
    for command in range(256):
        status = controller.pconfig(struct(command=command))
        assert status is (Status.PROG_SUCCESS if command < 4 else Status.INVALID_PROG_CMD)


@pytest.mark.parametrize(("alg", "size"), [(1, 16), (4, 32)])
def test_each_byte_outside_of_the_fields_is_ignored_and_each_key_byte_matters(
    controller: Controller, alg: int, size: int
) -> None:
    controller.pconfig(struct(alg=alg))
    region = controller.map(0, 4096, 1)
    region[0:64] = bytes(64)
    stored = controller.device.read(0, 64)
    used = {*range(64, 64 + size), *range(128, 128 + size)}
    for at in range(6, 256):
        made = struct(alg=alg)
        made[at] ^= 0x5A
        assert controller.pconfig(made) is Status.PROG_SUCCESS
        region[0:64] = bytes(64)
        assert (controller.device.read(0, 64) == stored) == (at not in used)


@pytest.mark.parametrize(("alg", "size"), [(1, 16), (4, 32)])
def test_a_random_key_is_the_drawn_one_xor_the_key_fields(
    controller: Controller, monkeypatch: pytest.MonkeyPatch, alg: int, size: int
) -> None:
    drawn = bytes(range(50, 50 + 2 * size))
    monkeypatch.setattr(Key, "generate", lambda algorithm: Key.from_bytes(algorithm, drawn))
    assert controller.pconfig(struct(command=Command.SET_KEY_RANDOM, alg=alg)) is Status.PROG_SUCCESS
    mixed = bytes(a ^ b for a, b in zip(drawn, DATA[:size] + TWEAK[:size], strict=True))
    plain = bytes(range(64))
    assert media_line(controller, 1, plain) == xts_line(mixed[:size], mixed[size:], 64, plain)


def test_a_generator_that_fails_is_an_entropy_error_and_changes_nothing(
    controller: Controller, monkeypatch: pytest.MonkeyPatch
) -> None:
    controller.pconfig(struct())
    region = controller.map(0, 4096, 1)
    region[0:5] = b"hello"
    real = builtins.open

    def broken(path: Any, *arguments: Any, **options: Any) -> Any:
        if path == "/dev/urandom":
            raise OSError("no entropy")
        return real(path, *arguments, **options)

    with monkeypatch.context() as patched:
        patched.setattr(builtins, "open", broken)
        assert controller.pconfig(struct(command=Command.SET_KEY_RANDOM)) is Status.ENTROPY_ERROR
        assert controller.pconfig(struct(keyid=2)) is Status.PROG_SUCCESS
    assert region[0:5] == b"hello"
    assert controller.pconfig(struct(command=Command.SET_KEY_RANDOM)) is Status.PROG_SUCCESS
    assert region[0:5] != b"hello"


def test_a_refused_structure_leaves_the_key_that_was_there(controller: Controller) -> None:
    controller.pconfig(struct())
    region = controller.map(0, 4096, 1)
    region[0:5] = b"hello"
    assert controller.pconfig(struct(keyid=64)) is Status.INVALID_KEYID
    assert controller.pconfig(struct(alg=5)) is Status.INVALID_ENC_ALG
    assert controller.pconfig(struct(command=7)) is Status.INVALID_PROG_CMD
    with pytest.raises(GeneralProtection):
        controller.pconfig(struct(reserved=1))
    with pytest.raises(KeyMaterialError):
        controller.pconfig(struct() + b"x")
    assert region[0:5] == b"hello"


def test_busy_comes_after_the_fields_and_before_the_command(
    controller: Controller, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The table is held by another thread that is in the middle of a PCONFIG."""
    from mktme import controller as module

    real, inside, go = module.Slot.from_parts, threading.Event(), threading.Event()

    def slow(*given: Any) -> Any:
        inside.set()
        go.wait(30)
        return real(*given)

    monkeypatch.setattr(module.Slot, "from_parts", slow)
    first: list[Status] = []
    thread = threading.Thread(target=lambda: first.append(controller.pconfig(struct(keyid=3))))
    thread.start()
    try:
        assert inside.wait(30)
        assert controller.pconfig(struct(keyid=1, command=Command.CLEAR_KEY)) is Status.DEVICE_BUSY
        assert controller.pconfig(struct(command=9)) is Status.DEVICE_BUSY
        assert controller.pconfig(struct(alg=0)) is Status.INVALID_ENC_ALG
        assert controller.pconfig(struct(keyid=0)) is Status.INVALID_KEYID
        with pytest.raises(GeneralProtection):
            controller.pconfig(struct(reserved=1))
    finally:
        go.set()
        thread.join()
    assert first == [Status.PROG_SUCCESS]
    assert controller.keyids == (3,)


def test_a_keyid_without_encryption_can_be_mapped_and_counts_as_programmed(controller: Controller) -> None:
    assert controller.pconfig(struct(keyid=7, command=Command.NO_ENCRYPT)) is Status.PROG_SUCCESS
    assert controller.keyids == (7,)
    assert controller.program_key(Key.generate("aes-xts-128")) == 1
    assert controller.map(0, 4096, 7).keyid == 7


def test_an_algorithm_that_is_none_is_not_packed() -> None:
    with pytest.raises(KeyMaterialError, match="aes-xts-128, aes-xts-256"):
        pconfig.pack(1, Command.SET_KEY_DIRECT, "aes-cbc-128")
    made = pconfig.pack(9, Command.CLEAR_KEY, "aes-xts-256")
    assert made == b"\x09\x00\x02\x04" + bytes(252)
