"""PCONFIG: the structure to the byte, every status, the order of the checks."""

from __future__ import annotations

import threading

import numpy as np
import pytest
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes

import pmem
from mktme import Controller, GeneralProtection, KeyMaterialError, pconfig
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
