"""The page map: which ranges of a device are mapped, and where regions keep their metadata."""

from __future__ import annotations

from bisect import bisect_left, bisect_right, insort
from operator import itemgetter

from mktme.errors import MappingError
from mktme.region import Region
from pmem.geometry import PAGE


class PageMap:
    """Regions by their addresses, which don't overlap. Not thread-safe: its controller takes turns."""

    def __init__(self, size: int) -> None:
        self._size = size
        self._starts: list[int] = []  # in two parallel lists
        self._regions: list[Region] = []
        self._beside: list[tuple[int, int, Region]] = []  # where metadata begins and ends, in order

    @property
    def regions(self) -> tuple[Region, ...]:
        """The regions in the order of their addresses."""
        return tuple(self._regions)

    def __len__(self) -> int:
        return len(self._regions)

    def check_pages(self, start: int, count: int, of: str = "") -> None:
        """Refuse a range that isn't whole pages of the device. Raises MappingError."""
        for what, value in (("address", start), ("length", count)):
            if value % PAGE:
                raise MappingError(f"the {of}{what} {value} is not a multiple of the page, {PAGE}")
        if not count:
            raise MappingError("a region has at least one page: the length is 0")
        if start + count > self._size:
            raise MappingError(
                f"{of and f'the {of}'}bytes {start} to {start + count - 1} are not all on the device, which "
                f"has {self._size} bytes"
            )

    def check_free(self, first: int, last: int) -> None:
        """Refuse a range that overlaps a region, or a region's metadata. Raises MappingError."""
        at = bisect_right(self._starts, first)
        for region in self._regions[max(0, at - 1) : at + 1]:
            if first < region.end and region.address < last:
                raise MappingError(
                    f"bytes {first} to {last - 1} overlap a region at {region.address} to {region.end - 1} "
                    f"(KeyID {region.keyid}): unmap it first"
                )
        self.check_beside(first, last)

    def check_beside(self, first: int, last: int) -> None:
        """Refuse a range that overlaps a region's metadata. Raises MappingError."""
        for begin, end, region in self.beside(first, last):
            raise MappingError(
                f"bytes {first} to {last - 1} overlap the metadata, bytes {begin} to {end - 1}, of the "
                f"region at {region.address} (KeyID {region.keyid}): unmap it first"
            )

    def beside(self, first: int, last: int) -> list[tuple[int, int, Region]]:
        """Where metadata lies that overlaps a range: its begin, its end, its region."""
        if not self._beside:  # as in most maps, and every write asks
            return []
        low = bisect_right(self._beside, first, key=itemgetter(0))
        high = bisect_left(self._beside, last, key=itemgetter(0))
        return [entry for entry in self._beside[max(0, low - 1) : high] if first < entry[1]]

    def insert(self, region: Region) -> None:
        """Add a region whose ranges are free."""
        at = bisect_right(self._starts, region.address)
        self._starts.insert(at, region.address)
        self._regions.insert(at, region)
        if region.metadata:
            insort(self._beside, (*region.metadata, region), key=itemgetter(0))

    def remove(self, region: Region) -> None:
        """Remove a region. Raises MappingError if it isn't in this map."""
        at = bisect_right(self._starts, region.address) - 1
        if at < 0 or self._regions[at] is not region:
            raise MappingError("the region belongs to another controller: unmap it there")
        del self._starts[at], self._regions[at]
        self._beside = [entry for entry in self._beside if entry[2] is not region]

    def near(self, address: int, length: int) -> list[Region]:
        """The regions that may lie in a range, in the order of their addresses."""
        at = max(0, bisect_right(self._starts, address) - 1)
        return self._regions[at : bisect_right(self._starts, address + max(0, length - 1))]
