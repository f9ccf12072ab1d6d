"""PCONFIG leaf 0, MKTME_KEY_PROGRAM: the structure, commands and status codes, to the byte.

Source: Intel 336907 "Memory Encryption Technologies Specification" and the SDM's PCONFIG page.

    offset    0   KEYID, 16 bits
              2   KEYID_CTRL, 32 bits: COMMAND in 7:0, ENC_ALG in 23:8 (one bit), 31:24 reserved
              6   ignored
             64   KEY_FIELD_1: data key, or entropy for it
            128   KEY_FIELD_2: tweak key, or entropy for it
            192   ignored, to 255

A valid ENC_ALG is asked for with every command, also with those that use none. The order of the
checks is the SDM's: reserved bits (#GP), then KEYID, ENC_ALG, the key table's lock, COMMAND.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum
from typing import Any

from mktme.errors import GeneralProtection, KeyMaterialError

STRUCT_BYTES = 256
KEY_FIELD_1, KEY_FIELD_2, KEY_FIELD_BYTES = 64, 128, 64


class Command(IntEnum):
    """KEYID_CTRL.COMMAND."""

    SET_KEY_DIRECT = 0  # the key fields are the keys
    SET_KEY_RANDOM = 1  # the processor draws the keys and mixes the key fields in
    CLEAR_KEY = 2  # the KeyID behaves as KeyID 0 again
    NO_ENCRYPT = 3  # the KeyID's pages are not encrypted


class Status(IntEnum):
    """What the instruction returns in EAX."""

    PROG_SUCCESS = 0
    INVALID_PROG_CMD = 1
    ENTROPY_ERROR = 2
    INVALID_KEYID = 3
    INVALID_ENC_ALG = 4
    DEVICE_BUSY = 5


# The algorithms that this controller has activated: IA32_TME_CAPABILITY's bits 0 and 2. Bit 1,
# AES-XTS-128 with integrity, is a capability of its own.
ALGORITHMS = {1 << 0: "aes-xts-128", 1 << 2: "aes-xts-256"}
ENC_ALG = {name: bit for bit, name in ALGORITHMS.items()}


@dataclass(frozen=True)
class KeyProgram:
    """The fields of a MKTME_KEY_PROGRAM structure; its key fields are left where they are."""

    keyid: int
    command: int
    enc_alg: int

    @property
    def algorithm(self) -> str | None:
        """The one algorithm that ENC_ALG names, or None."""
        return ALGORITHMS.get(self.enc_alg)


def parse(struct: Any) -> KeyProgram:
    """The fields of a structure of 256 bytes.

    Raises KeyMaterialError for another length (an instruction has no length to check);
    GeneralProtection if reserved bits of KEYID_CTRL are set.
    """
    view = memoryview(struct)
    if view.nbytes != STRUCT_BYTES:
        raise KeyMaterialError(f"MKTME_KEY_PROGRAM is a structure of {STRUCT_BYTES} bytes, not {view.nbytes}")
    head = bytes(view.cast("B")[:6])
    control = int.from_bytes(head[2:6], "little")
    if control >> 24:
        raise GeneralProtection(
            f"#GP: bits 31:24 of KEYID_CTRL are reserved and must be 0, not {control >> 24:#04x}"
        )
    return KeyProgram(int.from_bytes(head[:2], "little"), control & 0xFF, control >> 8 & 0xFFFF)


def pack(
    keyid: int, command: Command, algorithm: str, data_key: Any = b"", tweak_key: Any = b""
) -> bytearray:
    """A structure for `Controller.pconfig`; wipe it after use, it holds the key."""
    if algorithm not in ENC_ALG:
        raise KeyMaterialError(f"ENC_ALG is one of {', '.join(ENC_ALG)}")
    struct = bytearray(STRUCT_BYTES)
    struct[0:2] = keyid.to_bytes(2, "little")
    struct[2:6] = (command | ENC_ALG[algorithm] << 8).to_bytes(4, "little")
    for field, key in ((KEY_FIELD_1, data_key), (KEY_FIELD_2, tweak_key)):
        if memoryview(key).nbytes > KEY_FIELD_BYTES:
            raise KeyMaterialError(f"a key field holds {KEY_FIELD_BYTES} bytes at most")
        struct[field : field + memoryview(key).nbytes] = key
    return struct
