"""What every cipher offers: the same calls, whichever backend computes them."""

from __future__ import annotations

from typing import Protocol

import numpy as np
import numpy.typing as npt

Bytes = npt.NDArray[np.uint8]
Words = npt.NDArray[np.uint64]

LINE = 64


class Cipher(Protocol):
    """A cipher under one key, thread-safe but for `wipe`.

    `media` is a flat uint8 array and `base` the address of its first byte; offsets into it are
    also the coordinates that the IVs of lines are made from. Arrays are C-contiguous, in range
    and don't overlap: callers check that.
    """

    def units(self, back: bool, unit: int, ivs: Words, source: Bytes, to: Bytes) -> None:
        """Encrypt (or, back, decrypt) units of `unit` bytes; `ivs` is (n, 2), little-endian."""

    def read(self, media: Bytes, base: int, start: int, out: Bytes) -> None:
        """Decrypt the bytes from `start` on into `out`."""

    def write(self, media: Bytes, base: int, start: int, data: Bytes) -> None:
        """Encrypt `data` over the bytes from `start` on."""

    def read_runs(self, media: Bytes, base: int, starts: Words, length: int, out: Bytes) -> None:
        """Decrypt runs of `length` bytes, one after another."""

    def write_runs(self, media: Bytes, base: int, starts: Words, length: int, data: Bytes) -> None:
        """Encrypt runs of `length` bytes, one after another; where they overlap the last wins."""

    def read_lines(self, media: Bytes, base: int, addresses: Words, order: Words | None, out: Bytes) -> None:
        """Decrypt the lines at `addresses` into the rows of `out`, all or those in `order`."""

    def write_lines(
        self, media: Bytes, base: int, addresses: Words, order: Words | None, lines: Bytes
    ) -> None:
        """Encrypt the rows of `lines` to `addresses`, all or those in `order`."""

    def wipe(self) -> None:
        """Overwrite the key schedule."""
