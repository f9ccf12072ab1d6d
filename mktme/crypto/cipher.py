"""What every cipher offers: the same calls, whichever backend computes them."""

from __future__ import annotations

from typing import Protocol, runtime_checkable

import numpy as np
import numpy.typing as npt

Bytes = npt.NDArray[np.uint8]
Words = npt.NDArray[np.uint64]

LINE = 64


class Cipher(Protocol):
    """A cipher of data units under one key, thread-safe but for `wipe`.

    Arrays are C-contiguous, in range, and the same or apart: callers check that.
    """

    def units(
        self, back: bool, unit: int, ivs: Words, source: Bytes, to: Bytes, skip: int = 0, of: int = 0
    ) -> None:
        """Encrypt (or, back, decrypt) consecutive units of `unit` bytes.

        `ivs` has a row of little-endian words for each unit, two for an IV of 16 bytes, four for 32.
        Where lines can be reached alone (`mktme.crypto.algorithms`), the first byte may lie `skip`
        bytes into its unit and the last unit may end early, both by multiples of 64. `of` is the
        size of a long request that this is a part of, in bytes.
        """

    def wipe(self) -> None:
        """Overwrite what was made from the key; requests that come later are garbage."""


@runtime_checkable
class PartCipher(Cipher, Protocol):
    """A cipher that reaches each line of a larger unit alone."""

    def lines(self, back: bool, ivs: Words, skips: Words, source: Bytes, to: Bytes) -> None:
        """Encrypt (or, back, decrypt) n lines, each of them `skips` bytes into a unit of its own IV."""


@runtime_checkable
class PlannedCipher(Cipher, Protocol):
    """A cipher whose kernel calls a compiled IV scheme by itself."""

    def planned(
        self, back: bool, unit: int, fill: int, table: int, first: int, source: Bytes, to: Bytes, skip: int
    ) -> None:
        """As `units`, with the IVs of the units from number `first` on (`mktme.crypto.ivs`)."""


class Lines(Protocol):
    """A memory's bytes behind a cipher: ranges, runs and scattered lines, at any place.

    `media` is a flat uint8 array and `base` the address of its first byte. Arrays are
    C-contiguous, in range and don't overlap: callers check that.
    """

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


class LineCipher(Cipher, Lines, Protocol):
    """A cipher that serves a memory by itself, the IV of a line being its number (address / 64)."""
