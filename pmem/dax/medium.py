"""The medium: the one place through which a volume stores, flushes and fences.

A store reaches the medium for certain once its lines have been flushed and a fence has followed;
until then each of its aligned 8-byte words may or may not be there after a power failure.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from pmem.buffers import Bytes
from pmem.dax.errors import FileClosed
from pmem.device import Device

LONG = 1 << 14  # bytes from which a copy is left to numpy, which releases the GIL


class Medium:
    """Stores straight into a device's mapping, whose flushes and fences cost nothing.

    With an image in the page cache the power failure that counts is a simulated one; subclasses
    model it. `Device.flush` makes the image durable on the host.
    """

    def __init__(self, device: Device) -> None:
        self.device = device
        self.size = device.size
        self._memory = memoryview(device.mapping())  # type: ignore[arg-type]
        self.closed = False

    @property
    def array(self) -> Bytes:
        """The bytes of the medium as they are now, uint8 of `size`.

        Raises FileClosed, DeviceChanged.
        """
        if self.closed:
            raise FileClosed("the volume has been closed: mount it again with pmem.dax.mount")
        return self.device.mapping()

    def close(self) -> None:
        """Let go of the mapping."""
        self.closed = True
        self._memory.release()

    def reserve(self, address: int, length: int) -> None:
        """Make sure that a range can be stored to; stores outside of reserved ranges are a mistake.

        Raises DeviceFull, ReadOnlyDevice, DeviceClosed, with nothing written.
        """
        self.device.reserve(address, length)

    def load(self, address: int, length: int) -> bytes:
        """A copy of a few bytes."""
        return bytes(self._memory[address : address + length])

    def words(self, address: int, count: int, dtype: npt.DTypeLike) -> npt.NDArray[np.unsignedinteger]:
        """A live, read-only view of little-endian integers."""
        size = np.dtype(dtype).itemsize
        view = self.array[address : address + count * size].view(dtype)
        view.flags.writeable = False
        return view

    def store(self, address: int, data: bytes | bytearray | Bytes) -> None:
        """Put bytes at an address."""
        end = address + len(data)
        if end - address < LONG:
            self._memory[address:end] = data  # type: ignore[assignment]
        else:
            self.array[address:end] = np.frombuffer(data, np.uint8)

    def fill(self, address: int, count: int, value: int) -> None:
        """Put a little-endian u16 `count` times at an even address."""
        self.array[address : address + 2 * count].view("<u2")[:] = value

    def zero(self, address: int, length: int) -> None:
        """Put zeros."""
        if length < LONG:
            self._memory[address : address + length] = bytes(length)
        else:
            self.array[address : address + length] = 0

    def flush(self, address: int, length: int) -> None:
        """Send the lines of a range on their way to the medium (CLWB)."""

    def fence(self) -> None:
        """Wait until all that was flushed is on the medium (SFENCE)."""


class TrackedMedium(Medium):
    """The medium on a device that follows stores: it learns of every one, of flushes and of fences."""

    def store(self, address: int, data: bytes | bytearray | Bytes) -> None:
        self.device.storing(address, len(data))
        super().store(address, data)

    def fill(self, address: int, count: int, value: int) -> None:
        self.device.storing(address, 2 * count)
        super().fill(address, count, value)

    def zero(self, address: int, length: int) -> None:
        self.device.storing(address, length)
        super().zero(address, length)

    def flush(self, address: int, length: int) -> None:
        self.device.flush(address, length)

    def fence(self) -> None:
        self.device.drain()


def medium_of(device: Device) -> Medium:
    """The medium that a volume on a device has."""
    return TrackedMedium(device) if device.follows_stores else Medium(device)
