"""Damage on the medium: mounting and using say which block, checking finds every broken invariant."""

from __future__ import annotations

import errno
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import pmem
from pmem import dax
from pmem.dax import Volume, VolumeCorrupt
from pmem.dax.inode import Inode, Segment
from pmem.dax.layout import BLOCK, INODE, OWNER

SIZE = 8 << 20


@pytest.fixture(params=[False, True], ids=["in place", "log"])
def device(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[pmem.Device]:
    with pmem.create(tmp_path / "pool.img", SIZE) as made:
        with dax.make(made, inodes=200, log_structured=request.param) as volume:
            volume.mkdir("/d")
            for i in range(100):
                volume.create(f"/d/{i:0100}", xattrs={"c": bytes(40)}).close()
            with volume.create("/large", xattrs={"x": bytes(2000)}) as file:
                for i in range(0, 40, 2):
                    file.write(i * BLOCK, b"x" * BLOCK)
            volume.reflink("/large", "/copy")
            volume.unlink(f"/d/{5:0100}")
        yield made


def flip(device: pmem.Device, address: int, length: int = 1) -> None:
    device.write(address, bytes(byte ^ 0x5A for byte in device.read(address, length)))


def test_a_damaged_superblock_is_replaced_by_its_copy(
    device: pmem.Device, sound: Callable[[Volume], None]
) -> None:
    for address in (0, 20, SIZE - BLOCK + 30):
        before = device.read(0, BLOCK)
        flip(device, address)
        with dax.mount(device) as volume:
            sound(volume)
        assert device.read(0, BLOCK) == device.read(SIZE - BLOCK, BLOCK) == before


def test_without_a_superblock_nothing_is_mounted_and_nothing_written(device: pmem.Device) -> None:
    flip(device, 24)
    flip(device, SIZE - BLOCK + 24)
    before = device.read(0, SIZE)
    with pytest.raises(VolumeCorrupt, match=r"block 0: the superblock's checksum is wrong") as caught:
        dax.mount(device)
    assert caught.value.errno == errno.EUCLEAN
    device.write(0, bytes(BLOCK))
    device.write(SIZE - BLOCK, bytes(BLOCK))
    with pytest.raises(dax.NotAVolume, match=r"pmem\.dax\.make"):
        dax.mount(device)
    assert device.read(BLOCK, SIZE - 2 * BLOCK) == before[BLOCK:-BLOCK]


def test_damaged_metadata_is_told_by_block_and_the_rest_is_still_there(device: pmem.Device) -> None:
    with dax.mount(device) as volume:
        layout = volume.core.store.layout
        number, node = volume.stat("/d").number, volume.core.inodes.get(volume.stat("/d").number).root
        large = volume.core.inodes.get(volume.stat("/large").number)
        tree, blob = large.root, large.attribute_block
    damages: list[tuple[int, Callable[[Volume], Any], str]] = [
        (node * BLOCK + 100, lambda volume: volume.list("/d"), f"block {node}: the checksum of a tree node"),
        (tree * BLOCK + 100, lambda volume: volume.open("/large").read(), f"block {tree}: the checksum"),
        (blob * BLOCK + 100, lambda volume: volume.stat("/large"), f"block {blob}: the attributes"),
        (
            layout.inode_table + number * INODE + 8,
            lambda volume: volume.stat("/d"),
            f"checksum of inode {number}",
        ),
    ]
    for address, use, message in damages:
        flip(device, address)
        with dax.mount(device) as volume:
            with pytest.raises(VolumeCorrupt, match=message):
                use(volume)
            assert any(message in problem for problem in dax.check(volume).problems)
            with volume.open("/copy") as file:
                assert file.read(0, 4) == b"xxxx"
        flip(device, address)
    for address, message in ((layout.state, "volume's state"), (layout.epoch, "journal's epoch")):
        flip(device, address + 1)
        before = device.read(0, SIZE)
        with pytest.raises(VolumeCorrupt, match=message):
            dax.mount(device)
        assert device.read(0, SIZE) == before
        flip(device, address + 1)
    with dax.mount(device) as volume:
        assert dax.check(volume).problems == []


def test_a_damaged_orphan_keeps_nobody_from_mounting(device: pmem.Device) -> None:
    volume = dax.mount(device)
    file = volume.open("/large")
    volume.unlink("/large")
    address = volume.core.store.layout.inode_table + file.number * INODE
    volume.core.store.journal.checkpoint()  # so that no replay mends it
    volume.core.close()  # as if the power had failed
    flip(device, address + 8)
    with dax.mount(device) as volume:
        assert any(f"inode {file.number}" in problem for problem in dax.check(volume).problems)
        with volume.open("/copy") as copy:
            assert copy.read(0, 4) == b"xxxx"
    flip(device, address + 8)
    with dax.mount(device) as volume:
        assert dax.check(volume).problems == []


def changed(volume: Volume, path: str, change: Callable[[Inode], None]) -> None:
    """Write an inode that is wrong, with a right checksum."""
    inode = Inode(volume.core.store, volume.stat(path).number)
    inode.reload()
    change(inode)
    volume.core.medium.store(inode.address, inode.encode())


def poke(volume: Volume, address: int, value: int, size: int = 8) -> None:
    volume.core.medium.store(address, value.to_bytes(size, "little"))


def wrong_references(volume: Volume, value: int) -> None:
    with volume.open("/one") as file:
        block = file.map()[0].address // BLOCK
    poke(volume, volume.core.store.layout.refs + 2 * block, value, 2)


def wrong_owner(volume: Volume) -> None:
    with volume.open("/one") as file:
        block = file.map()[0].address // BLOCK
    poke(volume, volume.core.store.layout.owners + OWNER * block, 77)


def wrong_keys(volume: Volume) -> None:
    inode = volume.core.inodes.get(volume.stat("/d").number)
    node = volume.core.nodes.get(inode.root, inode.number)
    node.keys[0], node.keys[1] = node.keys[1], node.keys[0]
    volume.core.medium.store(node.address, node.encode())


def other_extent(segment: Segment) -> Callable[[Inode], None]:
    def change(inode: Inode) -> None:
        inode.extents = [segment]

    return change


def first_inline(inode: Inode) -> Segment:
    assert inode.extents
    return inode.extents[0]


def overlapping(inode: Inode) -> None:
    inode.extents = [first_inline(inode), first_inline(inode)]


def set_field(name: str, value: int) -> Callable[[Inode], None]:
    return lambda inode: setattr(inode, name, value)


BREAKS: dict[str, tuple[Callable[[Volume], None], str]] = {
    "free and used": (lambda v: wrong_references(v, 0), "has 1 references, and a count of 0"),
    "leaked": (lambda v: wrong_references(v, 2), "has 1 references, and a count of 2"),
    "shared, no mark": (lambda v: wrong_references(v, 2), "shared blocks at .*, and no mark"),
    "free count": (lambda v: poke(v, v.core.store.layout.counts, 5), "group 0 has .* and a count of 5"),
    "untouched": (lambda v: poke(v, v.core.store.layout.counts, 1 << 63), "was never touched"),
    "links": (lambda v: changed(v, "/one", set_field("links", 2)), "has 1 names and 2 links"),
    "dead entry": (lambda v: changed(v, "/one", set_field("mode", 0)), "which isn't in use"),
    "kind": (lambda v: changed(v, "/one", set_field("mode", 0o40755)), "is of another kind"),
    "parent": (lambda v: changed(v, "/d", set_field("parent", 9)), "is a directory whose parent is 9"),
    "entries": (lambda v: changed(v, "/d", set_field("size", 1)), "99 entries, and a size of 1"),
    "size": (lambda v: changed(v, "/one", set_field("size", 1)), "but a size of 1 bytes"),
    "orphans": (lambda v: changed(v, "/one", set_field("flags", 2)), "the list of orphans has 0 of 1"),
    "free list": (lambda v: changed(v, "/one", set_field("mode", 0)), "the list of free inodes"),
    "inodes in use": (lambda v: changed(v, "/one", set_field("mode", 0)), "inodes are in use, the state"),
    "outside": (lambda v: changed(v, "/one", other_extent(Segment(0, 1, 1, True))), "an extent at blocks 1 "),
    "overlap": (lambda v: changed(v, "/one", overlapping), "extents overlap"),
    "order of keys": (wrong_keys, "keys of a tree node are out of order"),
    "owner": (wrong_owner, "have a wrong owner"),
}


@pytest.mark.parametrize("name", list(BREAKS))
def test_check_finds_every_broken_invariant(
    device: pmem.Device, sound: Callable[[Volume], None], name: str
) -> None:
    break_it, message = BREAKS[name]
    with dax.mount(device) as volume:
        if name == "owner" and not volume.log_structured:
            return  # only a log-structured volume has owners
        with volume.create("/one") as file:
            file.write(0, b"x" * 5000)
        sound(volume)
        volume.core.nodes.clear()
        break_it(volume)
        problems = "\n".join(dax.check(volume).problems)

        assert re.search(message, problems), problems


def test_a_failing_host_leaves_everything_as_it_was(
    device: pmem.Device, sound: Callable[[Volume], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The image's file system is full at any one of the reservations of a change."""

    def look(volume: Volume) -> list[Any]:
        return [(path, volume.stat(entry.number)[:5]) for path, entry in volume.walk()] + [volume.free]

    with dax.mount(device) as volume:
        medium, reserve, failed = volume.core.medium, volume.core.medium.reserve, 0
        changes: list[Callable[[], Any]] = [
            lambda: volume.create("/new", xattrs={"x": bytes(1000)}),
            lambda: volume.rename("/large", "/d/large"),
            lambda: volume.setxattr("/copy", "x", bytes(3000)),
            lambda: volume.reflink("/copy", "/other"),
            lambda: volume.unlink("/copy"),
            lambda: volume.open("/large").write(5 * BLOCK, bytes(9000)),
        ]
        for change in changes:
            for count in range(2):
                calls = 0

                def full(address: int, length: int, count: int = count) -> None:
                    nonlocal calls
                    calls += 1
                    if calls > count:
                        raise pmem.DeviceFull(errno.ENOSPC, "no file space")
                    reserve(address, length)

                before = look(volume)
                monkeypatch.setattr(medium, "reserve", full)
                with pytest.raises(pmem.DeviceFull):
                    change()
                monkeypatch.setattr(medium, "reserve", reserve)
                assert look(volume) == before
                sound(volume)
                failed += 1
        assert failed == 2 * len(changes)
    with dax.mount(device) as volume:
        assert look(volume)[:-1] == before[:-1]


def test_an_interrupted_change_stops_the_volume_until_it_is_mounted_again(
    device: pmem.Device, sound: Callable[[Volume], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    volume = dax.mount(device)
    store = volume.core.medium.store

    def interrupted(address: int, data: Any) -> None:
        if address >= volume.core.store.layout.counts:  # behind the journal: in place
            raise KeyboardInterrupt
        store(address, data)

    monkeypatch.setattr(volume.core.medium, "store", interrupted)
    with pytest.raises(KeyboardInterrupt):
        volume.create("/new")
    monkeypatch.undo()
    with pytest.raises(dax.VolumeError, match="mount it again, which completes"):
        volume.create("/newer")
    volume.close()
    with dax.mount(device) as volume:
        assert volume.stat("/new").size == 0
        sound(volume)
