"""How the contents of a file are encrypted: a key, an IV scheme, the file's coordinates."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property
from typing import Any

from mktme.crypto.algorithms import ALGORITHMS
from mktme.errors import SchemeError
from mktme.iv import coordinates as known
from mktme.iv.compiled import Binding
from mktme.iv.scheme import Scheme
from mktme.stack.slot import Slot, check
from mktme.stack.units import UnitCipher, UnitPath


def physical(scheme: Scheme) -> bool:
    """Whether a scheme's IVs come from where the bytes lie: blocks can't move as they are."""
    return any(known.COORDINATES.get(n, ("", 0))[1] not in (0, known.UNITS) for n in scheme.coordinates)


def values_of(scheme: Scheme, unit: int, given: Mapping[str, Any]) -> dict[str, int]:
    """The coordinates of data unit 0: what isn't given and runs on with the units is 0 there.

    Raises SchemeError for a coordinate of the file that is missing.
    """
    values = known.given(given)
    for name in scheme.coordinates:
        if known.step(name, unit):
            values.setdefault(name, 0)
        elif name not in values:
            raise SchemeError(f"{scheme.name} needs the {name} of the file: {known.how_to_give(name)}")
    return values


class Contents:
    """A file's data units; under a key they are what every path encrypts the file with.

    A logical scheme numbers the units from the file's first byte, so its ciphertext may lie
    anywhere. A physical one, which takes an address or a sector, numbers them from the device's
    first byte (`physical`). `given` are the scheme's other coordinates, as of `Controller.map`.

    Raises SchemeError for what doesn't fit together, a scheme that keeps counters, or a coordinate
    that is missing.
    """

    def __init__(self, algorithm: str, scheme: Scheme, unit: int, given: Mapping[str, Any]) -> None:
        if scheme.state:
            raise SchemeError(
                f"{scheme.name} keeps counters or IVs beside the data, and files have no place for them: "
                "take a scheme without"
            )
        check(ALGORITHMS[algorithm], scheme, unit, scheme.words)
        self.scheme, self.unit = scheme, unit
        self.physical = physical(scheme)
        self._values = values_of(scheme, unit, given)
        self._width = ALGORITHMS[algorithm].iv_bytes // 8

    @cached_property
    def _binding(self) -> Binding:
        return Binding(self.scheme, self.unit, self._values)

    def units(self, slot: Slot) -> UnitCipher:
        """The cipher of the units by their numbers, under a slot's key."""
        return UnitCipher(self._binding, slot.for_scheme(self.scheme), self._width)

    def number(self, offset: int, address: int) -> int:
        """The number of the data unit at an offset of the file that lies at an address."""
        return (address if self.physical else offset) // self.unit

    def origin(self, offset: int, address: int) -> int:
        """The address where data unit 0 would lie, were the file one piece."""
        return 0 if self.physical else address - offset

    def lines(self, slot: Slot, origin: int, size: int) -> UnitPath:
        """The lines of a device of `size` bytes, unit 0 at `origin`, of a cipher that reaches them alone."""
        cipher = slot.for_scheme(self.scheme)
        return UnitPath(self._binding, cipher, origin, size, alone=True, width=self._width, turns=None)
