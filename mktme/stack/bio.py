"""Block requests with a crypto context: contiguous sectors, scattered memory (block/blk-crypto.c)."""

from __future__ import annotations

from dataclasses import dataclass

from mktme.crypto.cipher import Bytes
from mktme.errors import BioError
from mktme.stack.keyslots import MOST_DUN, BlockKey

SECTOR = 512  # bytes
DUNS = 1 << 8 * MOST_DUN  # data unit numbers count modulo this


@dataclass(frozen=True, eq=False)
class Bio:
    """A request: `write` or read sectors from `sector` on, from or into `segments` (uint8 arrays).

    With a `key` the data is encrypted on its way, data unit number `dun` first; a DUN is an integer
    of up to 32 bytes, least significant first. Without one it goes as it is.
    """

    write: bool
    sector: int
    segments: tuple[Bytes, ...]
    key: BlockKey | None = None
    dun: int = 0

    @property
    def size(self) -> int:
        """Bytes."""
        return sum(segment.size for segment in self.segments)

    @property
    def next_dun(self) -> int:
        """The data unit number behind the last one (bio_crypt_dun_increment)."""
        return 0 if self.key is None else (self.dun + self.size // self.key.unit) % DUNS

    def check(self, size: int) -> None:
        """Refuse a request that a device of `size` bytes, or its key, can't have. Raises BioError."""
        if self.sector < 0 or self.sector * SECTOR + self.size > size:
            raise BioError(
                f"{self.size} bytes at sector {self.sector} are outside of the device, which has "
                f"{size // SECTOR} sectors"
            )
        unit = SECTOR if self.key is None else self.key.unit
        for segment in self.segments:
            if segment.size % unit:
                raise BioError(
                    f"a segment of {segment.size} bytes is not whole data units of {unit}, as a "
                    "bio's segments are"
                )
        if self.key is not None and self.segments:
            last = self.dun + self.size // unit - 1
            if self.dun < 0 or last >> 8 * self.key.dun_bytes:
                raise BioError(
                    f"data unit number {max(last, self.dun)} doesn't fit the {self.key.dun_bytes} bytes "
                    "that the key's numbers have: split the bio, or make the key with more"
                )

    def mergeable(self, other: Bio) -> bool:
        """Whether another bio can be appended (bio_crypt_ctx_mergeable): sectors and DUNs go on."""
        return (
            self.write == other.write
            and self.key is other.key
            and self.sector * SECTOR + self.size == other.sector * SECTOR
            and (self.key is None or self.next_dun == other.dun)
        )

    def merged(self, other: Bio) -> Bio:
        """Both in one; they are `mergeable`."""
        return Bio(self.write, self.sector, self.segments + other.segments, self.key, self.dun)

    def split(self, size: int) -> tuple[Bio, Bio]:
        """Two bios, the first of `size` bytes, whole data units. Raises BioError."""
        unit = SECTOR if self.key is None else self.key.unit
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
