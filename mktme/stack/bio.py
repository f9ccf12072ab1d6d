"""Block requests with a crypto context: contiguous sectors, scattered memory (block/blk-crypto.c)."""

from __future__ import annotations

import operator
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from mktme.crypto.cipher import Bytes
from mktme.errors import BioError
from mktme.stack.keyslots import BlockKey

SECTOR = 512  # bytes
BYTE = np.dtype(np.uint8)


@dataclass(frozen=True, eq=False)
class Bio:
    """A request: `write` or read sectors from `sector` on, from or into `segments` (uint8 arrays).

    With a `key` the data is encrypted on its way, data unit number `dun` first; a DUN is an integer
    of up to 32 bytes, least significant first. Without one it goes as it is.

    Raises BioError for a sector or a DUN that is no integer.
    """

    write: bool
    sector: int
    segments: Sequence[Bytes]
    key: BlockKey | None = None
    dun: int = 0

    def __post_init__(self) -> None:
        if type(self.sector) is not int or type(self.dun) is not int:  # numpy's wrap around
            try:
                object.__setattr__(self, "sector", operator.index(self.sector))
                object.__setattr__(self, "dun", operator.index(self.dun))
            except TypeError:
                raise BioError(
                    f"sector {self.sector!r} and data unit number {self.dun!r} are to be integers"
                ) from None

    @property
    def size(self) -> int:
        """Bytes."""
        return sum([segment.size for segment in self.segments])

    @property
    def _unit(self) -> int:
        return SECTOR if self.key is None else self.key.unit

    @property
    def next_dun(self) -> int:
        """The data unit number behind the last one; it doesn't begin anew behind 32 bytes."""
        return 0 if self.key is None else self.dun + self.size // self.key.unit

    def check(self, size: int) -> None:
        """Refuse a request that a device of `size` bytes, or its key, can't have. Raises BioError."""
        unit, total = self._unit, 0
        for segment in self.segments:
            if not isinstance(segment, np.ndarray):
                raise BioError(
                    f"a segment of type {type(segment).__name__} is not an array: segments are a sequence "
                    "of uint8 arrays, and np.frombuffer makes them of other buffers"
                )
            total += segment.size
            if segment.dtype != BYTE or segment.ndim != 1 or not segment.flags.c_contiguous:
                raise BioError(
                    f"a segment of shape {segment.shape} and dtype {segment.dtype} is not bytes in a row: "
                    "give contiguous uint8 arrays of one dimension"
                )
            if not (self.write or segment.flags.writeable):
                raise BioError("a segment to read into is read-only: give a writable array")
            if segment.size % unit:
                raise BioError(
                    f"a segment of {segment.size} bytes is not whole data units of {unit}, as a "
                    "bio's segments are"
                )
        if self.sector < 0 or self.sector * SECTOR + total > size:
            raise BioError(
                f"{total} bytes at sector {self.sector} are outside of the device, which has "
                f"{size // SECTOR} sectors"
            )
        if self.key is not None:
            last = self.dun + max(total // unit - 1, 0) if self.dun >= 0 else self.dun
            if last >> 8 * self.key.dun_bytes:
                raise BioError(
                    f"data unit number {last} doesn't fit the {self.key.dun_bytes} bytes that the "
                    "key's numbers have: split the bio, or make the key with more"
                )

    def mergeable(self, other: Bio) -> bool:
        """Whether another bio can be appended (bio_crypt_ctx_mergeable): sectors and DUNs go on."""
        return (
            self.write == other.write
            and self.key is other.key
            and self.sector * SECTOR + self.size == other.sector * SECTOR
            and (self.key is None or self.next_dun == other.dun)
        )

    def merged(self, *others: Bio) -> Bio:
        """This and others in one, each `mergeable` to the one before."""
        segments = [segment for bio in (self, *others) for segment in bio.segments]
        return Bio(self.write, self.sector, tuple(segments), self.key, self.dun)

    def split(self, size: int) -> tuple[Bio, Bio]:
        """Two bios, the first of `size` bytes, whole data units. Raises BioError."""
        unit = self._unit
        if not 0 < size < self.size or size % unit:
            raise BioError(
                f"a bio of {self.size} bytes can't be split at {size}: at multiples of {unit} within"
            )
        first: list[Bytes] = []
        rest: list[Bytes] = []
        left = size
        for segment in self.segments:
            taken = min(left, segment.size)
            left -= taken
            first += [segment[:taken]] if taken else []
            rest += [segment[taken:]] if taken < segment.size else []
        head = Bio(self.write, self.sector, tuple(first), self.key, self.dun)
        return head, Bio(self.write, self.sector + size // SECTOR, tuple(rest), self.key, head.next_dun)
