"""Making and mounting a volume on a device."""

from __future__ import annotations

import os

from pmem.dax.core import Core
from pmem.dax.errors import VolumeCorrupt
from pmem.dax.inode import DIRECTORY
from pmem.dax.journal import Journal
from pmem.dax.layout import BLOCK, Layout, decode
from pmem.dax.medium import Medium, medium_of
from pmem.dax.space import Space
from pmem.dax.store import State, Store
from pmem.dax.volume import Volume
from pmem.device import Device
from pmem.errors import RangeError

BYTES_PER_INODE = 16384


def make(
    device: Device | Medium,
    *,
    inodes: int | None = None,
    log_structured: bool = False,
    uuid: bytes | None = None,
) -> Volume:
    """Make a volume on a whole device, and mount it; what the device held is lost.

    `inodes` is how many files and directories there can be, by default one for each 16 KiB. In a
    log-structured volume data is never overwritten in place. `uuid` (16 bytes) is drawn by default.

    Raises SizeError, RangeError (of `uuid`), DeviceFull, ReadOnlyDevice, with nothing written.
    """
    medium = device if isinstance(device, Medium) else medium_of(device)
    uuid = os.urandom(16) if uuid is None else uuid
    if len(uuid) != 16:
        raise RangeError(f"a UUID of {len(uuid)} bytes: it has 16")
    blocks = medium.size // BLOCK
    number = 1 + (inodes if inodes is not None else max(blocks * BLOCK // BYTES_PER_INODE, 16))
    layout = Layout(uuid, blocks, number, log_structured)
    layout.check()
    last = blocks - 1
    medium.reserve(0, 3 * BLOCK)
    medium.reserve(last * BLOCK, BLOCK)
    for block in (0, last):  # until all is there, it is no volume
        medium.zero(block * BLOCK, BLOCK)
        medium.flush(block * BLOCK, BLOCK)
    medium.fence()
    Journal(medium, layout).make()
    Space.make(medium, layout)
    state = State(medium, layout.state)
    state.high = 1
    medium.store(state.address, state.encode())
    medium.flush(state.address, BLOCK)
    medium.fence()
    core = Core(Store(medium, layout))
    with core.store.begin() as transaction:
        core.inodes.new(transaction, DIRECTORY | 0o755)
    for block in (last, 0):
        medium.store(block * BLOCK, layout.encode())
        medium.flush(block * BLOCK, BLOCK)
        medium.fence()
    return Volume(core)


def mount(device: Device | Medium) -> Volume:
    """Mount the volume on a device: replays its journal, and finishes what was interrupted.

    Costs by that, not by the size of the device. If the superblock is damaged, its copy in the last
    block is used, and put in its place.

    Raises NotAVolume, VolumeCorrupt (naming the block), DeviceFull, ReadOnlyDevice.
    """
    medium = device if isinstance(device, Medium) else medium_of(device)
    try:
        core = Core(Store(medium, _superblock(medium)))
    except BaseException:
        medium.close()  # an error keeps the locals of its frames, and the device open with them
        raise
    try:
        return Volume(core)
    except BaseException:
        core.close()
        raise


def _superblock(medium: Medium) -> Layout:
    blocks = medium.size // BLOCK
    places = (0, blocks - 1)
    found = [medium.load(block * BLOCK, BLOCK) for block in places]
    try:
        layout = decode(found[0], 0, blocks)
    except VolumeCorrupt as error:
        try:
            layout = decode(found[1], blocks - 1, blocks)
        except VolumeCorrupt:
            raise error from None
    for block, data in zip(places, found, strict=True):
        if data != layout.encode():
            medium.reserve(block * BLOCK, BLOCK)
            medium.store(block * BLOCK, layout.encode())
            medium.flush(block * BLOCK, BLOCK)
            medium.fence()
    return layout
