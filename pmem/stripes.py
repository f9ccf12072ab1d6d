"""Stripes of several files in one range of this process's addresses, so that they look like one file."""

from __future__ import annotations

import ctypes
import mmap
import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from pmem.device import MAP_SHARED_VALIDATE, MAP_SYNC
from pmem.errors import DeviceFailed, SizeError
from pmem.geometry import format_size
from pmem.granularity import StoreGranularity
from pmem.interleaving import Interleaving

MAP_FIXED, MAP_NORESERVE = 0x10, 0x4000  # Linux uapi, mman-common.h
SPARE = 2048  # mappings that are left to the rest of the process

_mmap = ctypes.CDLL(None, use_errno=True).mmap
_mmap.restype = ctypes.c_void_p
_mmap.argtypes = [
    ctypes.c_void_p,
    ctypes.c_size_t,
    ctypes.c_int,
    ctypes.c_int,
    ctypes.c_int,
    ctypes.c_long,
]


def check(interleaving: Interleaving) -> None:
    """Refuse a set of more stripes than the system lets a process map. Raises SizeError."""
    try:
        limit = int(Path("/proc/sys/vm/max_map_count").read_text())
        used = Path("/proc/self/maps").read_bytes().count(b"\n")
    except (OSError, ValueError):
        return  # then mmap will say so itself
    total, free = interleaving.ways * interleaving.size, max(0, limit - used - SPARE)
    needed = total // interleaving.granularity
    if needed <= free:
        return
    fitting = interleaving.granularity
    while fitting < interleaving.size and total // fitting > free:
        fitting *= 2
    fits = total // fitting <= free and interleaving.size % fitting == 0
    larger = f"granularity={fitting}, or " if fits else ""
    raise SizeError(
        f"a set of {format_size(total)} has {needed} stripes of {interleaving.granularity} bytes, and this "
        f"process can map {free} more (vm.max_map_count is {limit}): take {larger}smaller DIMMs, or raise it "
        f"(sysctl vm.max_map_count={needed + used + SPARE})"
    )


def map_files(
    files: Sequence[tuple[int, StoreGranularity] | None],
    interleaving: Interleaving,
    mode: str,
    *,
    private: bool = False,
) -> mmap.mmap:
    """One range of addresses, onto which each stripe is mapped from its DIMM's file.

    The range is an anonymous mapping that nothing is stored in, and that takes all stripes with it
    when it is closed. `files` are descriptors and what their mappings are granted; stripes of one
    that is None stay anonymous, and read as zeros. What is written to a `private` mapping stays in this
    process. Raises DeviceFailed.
    """
    size, ways = interleaving.granularity, interleaving.ways
    prot = mmap.PROT_READ | (mmap.PROT_WRITE if mode == "r+" else 0)
    total = ways * interleaving.size
    try:
        whole = mmap.mmap(-1, total, flags=mmap.MAP_PRIVATE | MAP_NORESERVE, prot=prot)
    except OSError as error:
        raise DeviceFailed(error.errno, f"can't find {total} bytes of addresses ({error.strerror})") from None
    base = int(np.frombuffer(whole, np.uint8).ctypes.data)
    for dimm, file in enumerate(files):
        if file is None:
            continue
        fd, granted = file
        synchronous = granted is not StoreGranularity.PAGE
        flags = MAP_SHARED_VALIDATE | MAP_SYNC if synchronous else mmap.MAP_SHARED
        if private:
            flags = mmap.MAP_PRIVATE
        for row in range(interleaving.size // size):
            to = base + (row * ways + dimm) * size
            if _mmap(to, size, prot, flags | MAP_FIXED, fd, row * size) != to:
                code = ctypes.get_errno()
                whole.close()
                raise DeviceFailed(code, f"can't map stripe {row} of DIMM {dimm} ({os.strerror(code)})")
    return whole
