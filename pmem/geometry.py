"""The units that persistent memory is counted in: lines, pages, sizes, ranges."""

from __future__ import annotations

import operator
import re
from typing import SupportsIndex

from pmem.errors import RangeError, SizeError

LINE = 64  # bytes of a cache line: what the memory controller encrypts at once
PAGE = 4096  # bytes of a page: what a mapping is made of
XPLINE = 256  # bytes that Optane media read and write at once (Yang et al., FAST 2020)

Size = SupportsIndex | str  # a number of bytes, or text such as "64MiB"

_UNITS = {"": 1, "B": 1, "KIB": 2**10, "MIB": 2**20, "GIB": 2**30, "TIB": 2**40, "PIB": 2**50}
_UNITS |= {name[0]: factor for name, factor in _UNITS.items() if name.endswith("IB")}


def parse_size(size: Size) -> int:
    """A size in bytes, from an integer or from text such as ``"4096"``, ``"64MiB"``, ``"1 G"``.

    Units are binary: K, M, G, T, P with or without ``iB``. Decimal ``KB``, ``MB`` ... are refused,
    since people mean either by them.

    Raises SizeError if it is neither, or negative.
    """
    if isinstance(size, str):
        match = re.fullmatch(r"\s*(\d{1,100})\s*([A-Za-z]*)\s*", size)
        unit = _UNITS.get(match[2].upper()) if match else None
        if match is None or unit is None:
            raise SizeError(
                f'{size!r} is not a size: give bytes as an integer, or text such as "4096", "64MiB" or "1GiB"'
            )
        return int(match[1]) * unit
    try:
        if isinstance(size, bool):
            raise TypeError
        number = operator.index(size)
    except TypeError:
        raise SizeError(
            f'{size!r} is not a size: give bytes as an integer, or text such as "64MiB"'
        ) from None
    if number < 0:
        raise SizeError(f"a size of {number} bytes is negative")
    return number


def format_size(size: int) -> str:
    """The shortest exact text of a size: 67108864 is "64MiB", 100 is "100B"."""
    for name in ("PiB", "TiB", "GiB", "MiB", "KiB"):
        factor = _UNITS[name.upper()]
        if size and size % factor == 0:
            return f"{size // factor}{name}"
    return f"{size}B"


def check_range(offset: SupportsIndex, length: SupportsIndex, limit: int, what: str) -> tuple[int, int]:
    """A byte range as Python integers (numpy's wrap around); refused unless it lies in [0, limit).

    Raises RangeError.
    """
    try:
        offset, length = operator.index(offset), operator.index(length)
    except TypeError:
        raise RangeError(f"offset {offset!r} and length {length!r} are to be integers, in bytes") from None
    if offset < 0 or length < 0 or offset + length > limit:
        raise RangeError(
            f"{length} bytes at offset {offset} are outside of the {what}, "
            f"which has {limit} bytes (0 to {limit - 1})"
        )
    return offset, length
