"""What callers hand in, as checked arrays: buffers of bytes, addresses of lines, lines."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from pmem.errors import RangeError
from pmem.geometry import LINE

Bytes = npt.NDArray[np.uint8]


def buffer_bytes(buffer: Any, *, writable: bool = False) -> Bytes:
    """Any contiguous buffer as a flat uint8 array, no copy. Raises RangeError."""
    try:
        if isinstance(buffer, np.ndarray | memoryview) and _holds_objects(buffer):
            raise TypeError("it holds Python objects")
        array = np.frombuffer(buffer, np.uint8)
    except (TypeError, ValueError, BufferError, AttributeError) as error:
        try:
            # An empty or an exotic buffer (no elements, or elements without a buffer format).
            array = np.asarray(buffer) if isinstance(buffer, np.ndarray) else np.asarray(memoryview(buffer))
            if not array.flags.c_contiguous:
                raise TypeError
            array = array.reshape(-1).view(np.uint8)
        except (TypeError, ValueError):
            raise RangeError(
                f"{type(buffer).__name__} is not a contiguous buffer of bytes: {error}"
            ) from None
    if writable and not array.flags.writeable:
        raise RangeError(
            f"the {type(buffer).__name__} to read into is read-only: give a bytearray or a writable array"
        )
    return array


def _holds_objects(buffer: npt.NDArray[Any] | memoryview) -> bool:
    if isinstance(buffer, memoryview) and "O" not in buffer.format:
        return False
    return np.asarray(buffer).dtype.hasobject


def line_addresses(addresses: npt.ArrayLike, limit: int) -> npt.NDArray[np.uint64]:
    """Addresses of lines, checked: a flat uint64 array of multiples of 64 below `limit`.

    Raises RangeError naming the first that isn't.
    """
    array = _array(addresses, "line addresses")
    if array.size and array.dtype.kind not in "iu":
        raise RangeError(f"line addresses are integers (uint64), not {array.dtype}")
    if array.ndim != 1:
        raise RangeError(f"line addresses are one row of integers, not an array of shape {array.shape}")
    flat = np.ascontiguousarray(array).astype(np.uint64, copy=False)
    if flat.size and int(np.bitwise_or.reduce(flat)) % LINE:
        bad = array[flat % np.uint64(LINE) != 0][0]
        raise RangeError(f"address {bad} is not the address of a line: a multiple of {LINE}")
    if flat.size and int(flat.max()) >= limit:
        bad = array[flat >= limit][0]
        raise RangeError(f"address {bad} is outside of the device, which has {limit} bytes")
    return flat


def line_array(lines: npt.ArrayLike, count: int) -> Bytes:
    """Lines to write, checked: an (n, 64) uint8 array. Raises RangeError."""
    array = _array(lines, "lines")
    if array.dtype != np.uint8 or array.shape != (count, LINE):
        raise RangeError(
            f"lines are a uint8 array of shape ({count}, {LINE}), not {array.dtype} of {array.shape}"
        )
    return np.ascontiguousarray(array)


def _array(values: npt.ArrayLike, what: str) -> npt.NDArray[Any]:
    try:
        return np.asarray(values)
    except ValueError as error:
        raise RangeError(f"{what} are no array: {error}") from None
