"""Reflinks: a new file on the blocks of another one."""

from __future__ import annotations

from pmem.dax.core import EVER, Core
from pmem.dax.extents import first_batch
from pmem.dax.file import File
from pmem.dax.inode import SHARED, Inode
from pmem.dax.layout import OWNER
from pmem.dax.names import Names


def share(core: Core, names: Names, file: File, parent: Inode, name: bytes) -> None:
    """See `Volume.reflink_at`. The new file is an orphan until it has all blocks, then gets its name."""
    store = core.store
    with file.alone() as source, store.lock:
        core.check_free(source)
        directory = names.vacant(parent, name)
        again = bool(source.flags & SHARED)
        with store.begin() as transaction:
            inode = names.make_inode(transaction, source.mode, source.attributes)
            inode.links = 0
            core.inodes.orphan(transaction, inode)
            transaction.join(source)
            source.flags |= SHARED
            inode.flags |= SHARED
        try:
            done = 0
            while batch := first_batch(core.mapping(source).within(done, EVER), store.batch, by_block=again):
                with store.begin() as transaction:
                    for segment in batch:
                        transaction.share(segment.block, segment.blocks)
                        if core.log:  # the owner of a shared block isn't known
                            place = store.layout.owners + OWNER * segment.block
                            transaction.fill(place, OWNER // 2 * segment.blocks, 0)
                        core.mapping(inode).replace(transaction, segment.start, segment.blocks, segment)
                done = batch[-1].start + batch[-1].blocks
            with store.begin() as transaction:
                core.inodes.adopt(transaction, inode)
                inode.links, inode.size = 1, source.size
                names.link(transaction, directory, name, inode)
        except BaseException:
            core.finish(inode)
            raise
