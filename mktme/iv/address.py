"""IV schemes from addresses: what a memory controller knows by itself, or can be wired to know."""

from __future__ import annotations

from mktme.iv.scheme import Iv, Scheme, register

LINES = (1 << 58) - 1  # compiled words are signed, so what is shifted out comes back as its sign


def pmem_line(address: int) -> Iv:
    """The line number of the persistent-memory address: bytes 0-7 are address / 64 in
    little-endian order, bytes 8-15 are zero. The address counts from the device's first byte.
    """
    return address >> 6, 0


def pmem_page(address: int) -> Iv:
    """The page number: address / 4096. Under XTS the k-th line's tweak is the unit's tweak times
    alpha^(4k), so that a line is still reached alone.
    """
    return address >> 12, 0


def spa_line(system_address: int) -> Iv:
    """The line number of the system physical address, which changes when a DIMM moves to another
    slot or an interleave set is rebuilt.
    """
    return system_address >> 6 & LINES, 0


def dimm_line(device_address: int, dimm_serial: int) -> Iv:
    """The line number on the DIMM, beside the DIMM's serial number."""
    return device_address >> 6 & LINES, dimm_serial


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
PMEM_PAGE = register(
    Scheme(
        name="pmem-page",
        unit=4096,
        coordinates=("address",),
        iv=pmem_page,
        summary="the number of the 4 KiB page that the persistent-memory address lies in",
        source="the proposal to use MKTME for fscrypt, linux-fsdevel, February 2019",
        least_unit=4096,
    )
)
SPA_LINE = register(
    Scheme(
        name="spa-line",
        unit=64,
        coordinates=("system_address",),
        iv=spa_line,
        summary="the number of the 64-byte line that the system physical address lies in",
        source="what MKTME's tweak is made from (Intel 336907); the encoding is ours",
    )
)
DIMM_LINE = register(
    Scheme(
        name="dimm-line",
        unit=64,
        coordinates=("device_address", "dimm_serial"),
        iv=dimm_line,
        summary="the number of the 64-byte line on its DIMM, and the DIMM's serial number",
        source="ours: an address that travels with the module",
    )
)
