"""Coordinates: what may be known about a data unit, and how each one runs along a mapped range.

A memory controller knows addresses of the device; whoever maps a range tells it the others, each
by its value at the first data unit of the range.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from mktme.errors import SchemeError

# What each is, and how far apart its values at neighbouring bytes are: it grows by the unit's
# bytes, by one for so many bytes, or (0) stays.
BYTES, UNITS = -1, -2
COORDINATES: dict[str, tuple[str, int]] = {
    "address": ("persistent-memory address, in bytes from the device's first", BYTES),
    "system_address": ("system physical address, in bytes", BYTES),
    "device_address": ("address on the DIMM, in bytes", BYTES),
    "dimm_serial": ("serial number of the DIMM", 0),
    "block": ("index of the data unit in its file", UNITS),
    "sector": ("number of the 512-byte sector", 512),
    "inode": ("inode number of the file", 0),
    "inode_hash": ("low 32 bits of SipHash-2-4 of the inode number", 0),
    "nonce_low": ("bytes 0 to 7 of the file's nonce", 0),
    "nonce_high": ("bytes 8 to 15 of the file's nonce", 0),
    "counter": ("write counter of the line", 0),
    "major": ("major write counter of the page", 0),
    "minor": ("minor write counter of the line", 0),
}
HALVES = frozenset({"nonce_low", "nonce_high"})  # given together, as the 16 bytes of nonce
STATE = frozenset({"counter", "major", "minor"})  # kept beside the data, by the scheme itself


def step(name: str, unit: int) -> int:
    """By how much a coordinate grows from a data unit of `unit` bytes to the next; 0 if it stays.

    Raises SchemeError if units of that size don't have such a coordinate.
    """
    _, every = COORDINATES.get(name, ("", 0))
    if every == BYTES:
        return unit
    if every == UNITS:
        return 1
    if every and unit % every:
        raise SchemeError(
            f"a data unit of {unit} bytes has no {name} of its own: take units of {every} or more"
        )
    return unit // every if every else 0


def is_address(name: str) -> bool:
    """Whether a coordinate counts bytes, so that those of data units are multiples of their size."""
    return COORDINATES.get(name, ("", 0))[1] == BYTES


def given(values: Mapping[str, Any]) -> dict[str, int]:
    """Coordinates as a caller gave them, as integers; `nonce`, 16 bytes, becomes its two halves.

    Raises SchemeError for a value that is not an integer of 64 bits, or a nonce of another length.
    """
    made: dict[str, int] = {}
    for name, value in values.items():
        if name == "nonce":
            try:
                nonce = memoryview(value).cast("B")
            except TypeError:
                raise SchemeError(
                    f"nonce is to be a buffer of 16 bytes, not {type(value).__name__}"
                ) from None
            if nonce.nbytes != 16:
                raise SchemeError(f"nonce is to be 16 bytes, not {nonce.nbytes}")
            made["nonce_low"] = int.from_bytes(nonce[:8], "little")
            made["nonce_high"] = int.from_bytes(nonce[8:], "little")
            continue
        try:
            number = value.__index__()
        except (AttributeError, TypeError):
            raise SchemeError(f"{name} is to be an integer, not {type(value).__name__}") from None
        if not 0 <= number < 1 << 64:
            raise SchemeError(f"{name} = {number} is outside of 0 to 2^64 - 1")
        made[name] = number
    return made


def how_to_give(name: str) -> str:
    """How a caller gives a coordinate that a path can't know."""
    if name in HALVES:
        return "pass nonce=..., the file's 16 bytes"
    meaning, every = COORDINATES.get(name, ("", 0))
    where = ", at the first data unit" if every else ""
    return f"pass {name}=..." + (f", the {meaning}{where}" if meaning else "")
