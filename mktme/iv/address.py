"""IV schemes from addresses: what a memory controller knows by itself."""

from __future__ import annotations

from mktme.iv.scheme import Iv, Scheme, register


def pmem_line(address: int) -> Iv:
    """The line number of the persistent-memory address: bytes 0-7 are address / 64 in
    little-endian order, bytes 8-15 are zero. The address counts from the device's first byte.
    """
    return address >> 6, 0


PMEM_LINE = register(
    Scheme(
        name="pmem-line",
        unit=64,
        coordinates=("address",),
        iv=pmem_line,
        summary="the number of the 64-byte line that the persistent-memory address lies in",
        source="ours: MKTME tweaks by physical address, but Intel doesn't publish the encoding",
    )
)
