"""What an attacker who holds the DIMM has: its bytes, to read and to write, and never a key."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from pmem import Device

Bytes = npt.NDArray[np.uint8]


@dataclass(frozen=True)
class Image:
    """What a slot's bytes are on the medium: the data and what is kept beside it."""

    data: Bytes
    beside: Bytes


class Dimm:
    """The slots of a device. `address` and `beside` say where a slot's data and metadata begin."""

    def __init__(
        self, device: Device, address: Callable[[int], int], beside: Callable[[int, int], int]
    ) -> None:
        self._device, self._address, self._beside = device, address, beside

    def save(self, slot: int, size: int, at: int = 0) -> Image:
        """Copy `size` bytes of data at `at` in a slot, 64 KiB or more, and the metadata beside it."""
        return Image(
            np.frombuffer(self._device.read(self._address(slot) + at, size), np.uint8),
            np.frombuffer(self._device.read(self._beside(slot, at), size // 4), np.uint8),
        )

    def put(self, slot: int, image: Image, *, at: int = 0, beside: bool = True) -> None:
        """Write data, and the metadata beside it unless told not to."""
        self._device.write(self._address(slot) + at, image.data)
        if beside:
            self._device.write(self._beside(slot, at), image.beside)

    def flip(self, slot: int, bit: int) -> None:
        """Flip a bit of a slot's data."""
        self._flip(self._address(slot), bit)

    def flip_beside(self, slot: int, bit: int) -> None:
        """Flip a bit of a slot's metadata."""
        self._flip(self._beside(slot, 0), bit)

    def _flip(self, start: int, bit: int) -> None:
        at = start + bit // 8
        self._device.write(at, bytes([self._device.read(at, 1)[0] ^ 1 << bit % 8]))
