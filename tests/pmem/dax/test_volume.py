"""Names, directories, attributes, handles: what works, and what is refused with which error."""

from __future__ import annotations

import errno
import pickle
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

import pmem
from pmem import dax
from pmem.dax import Volume
from pmem.dax import errors as family
from pmem.dax.store import Store


@pytest.fixture
def volume(tmp_path: Path, sound: Callable[[Volume], None]) -> Iterator[Volume]:
    with pmem.create(tmp_path / "pool.img", "8MiB") as device:
        with dax.make(device, inodes=3000) as made:
            yield made
            if not made.closed:
                sound(made)
        with dax.mount(device) as again:
            sound(again)


def names(volume: Volume, path: str = "/") -> set[bytes]:
    return {entry.name for entry in volume.list(path)}


def test_names_of_any_bytes_up_to_255_are_kept(volume: Volume) -> None:
    for name in ("a", "ä", b"\xff/\0", "n" * 255, "\udcff"):
        directory = volume.stat("/").number
        volume.create_at(directory, name).close()
        assert volume.lookup(directory, name).name == (
            name if isinstance(name, bytes) else name.encode("utf-8", "surrogateescape")
        )
        if name == b"\xff/\0":
            volume.unlink_at(directory, name)
    assert names(volume) == {b"a", "ä".encode(), b"n" * 255, b"\xff"}


@pytest.mark.parametrize("name", ["", ".", "..", "a/b", "a\0b", b"..", "\ud800"])
def test_what_is_no_name_is_refused(volume: Volume, name: str) -> None:
    with pytest.raises(dax.NameInvalid) as caught:
        volume.create_at(dax.ROOT, name)
    assert caught.value.errno == errno.EINVAL
    assert isinstance(caught.value, ValueError)


def test_errors_have_their_errno_and_builtin(volume: Volume) -> None:
    volume.mkdir("/d")
    volume.create("/d/f").close()
    cases: list[tuple[Callable[[], object], type[Exception], int]] = [
        (lambda: volume.open("/x"), FileNotFoundError, errno.ENOENT),
        (lambda: volume.unlink("/d/x"), FileNotFoundError, errno.ENOENT),
        (lambda: volume.create("/d/f"), FileExistsError, errno.EEXIST),
        (lambda: volume.mkdir("/d"), FileExistsError, errno.EEXIST),
        (lambda: volume.reflink("/d/f", "/d"), FileExistsError, errno.EEXIST),
        (lambda: volume.create("/d/f/g"), NotADirectoryError, errno.ENOTDIR),
        (lambda: volume.rmdir("/d/f"), NotADirectoryError, errno.ENOTDIR),
        (lambda: volume.list("/d/f"), NotADirectoryError, errno.ENOTDIR),
        (lambda: volume.open("/d"), IsADirectoryError, errno.EISDIR),
        (lambda: volume.unlink("/d"), IsADirectoryError, errno.EISDIR),
        (lambda: volume.rename("/d/f", "/d"), OSError, errno.EISDIR),
        (lambda: volume.rmdir("/d"), OSError, errno.ENOTEMPTY),
        (lambda: volume.rename("/d", "/d/e"), OSError, errno.EINVAL),
        (lambda: volume.unlink("/"), OSError, errno.EINVAL),
        (lambda: volume.create("/" + "n" * 256), OSError, errno.ENAMETOOLONG),
        (lambda: volume.getxattr("/d", "x"), KeyError, errno.ENODATA),
        (lambda: volume.removexattr("/d", "x"), KeyError, errno.ENODATA),
        (lambda: volume.setxattr("/d", "x", bytes(4096)), OSError, errno.E2BIG),
        (lambda: volume.create("/g", xattrs={"x": bytes(5000)}), OSError, errno.E2BIG),
        (lambda: volume.open_handle(77, 1), OSError, errno.ESTALE),
        (lambda: volume.stat(0), OSError, errno.ESTALE),
    ]
    before = {path: volume.stat(entry.number) for path, entry in volume.walk()}
    for call, kind, code in cases:
        with pytest.raises(kind) as caught:
            call()
        assert isinstance(caught.value, pmem.PmemError)
        assert caught.value.errno == code  # type: ignore[attr-defined]
        copy = pickle.loads(pickle.dumps(caught.value))
        assert (str(copy), copy.errno) == (str(caught.value), code)
    assert {path: volume.stat(entry.number) for path, entry in volume.walk()} == before


def test_every_error_of_the_family_has_a_code_of_its_own_and_says_what_it_is() -> None:
    kinds = [
        kind for kind in vars(family).values() if isinstance(kind, type) and issubclass(kind, dax.VolumeError)
    ]
    assert len(kinds) > 15
    for kind in kinds:
        error = kind("the sentence")
        assert error.errno == kind.code
        assert str(error) == f"[Errno {kind.code}] the sentence"


def test_a_handle_is_stale_once_its_file_is_gone_also_if_the_inode_is_used_again(volume: Volume) -> None:
    with volume.create("/a") as file:
        number, generation = file.number, file.generation
    with volume.open_handle(number, generation) as again:
        assert again.number == number
    volume.unlink("/a")
    with pytest.raises(dax.StaleHandle):
        volume.open_handle(number, generation)
    with volume.create("/b") as other:
        assert other.number == number
        assert other.generation != generation
    with pytest.raises(dax.StaleHandle, match="look the file up"):
        volume.open_handle(number, generation)


def test_an_unlinked_file_lives_until_it_is_closed(volume: Volume) -> None:
    free = volume.free
    with volume.create("/a") as file, volume.open("/a") as second:
        file.write(0, b"x" * 100000)
        volume.unlink("/a")
        assert names(volume) == set()
        with pytest.raises(dax.StaleHandle):
            volume.open_handle(file.number, file.generation)
        file.close()
        second.write(100, b"y")
        assert second.read(99, 3) == b"xyx"
        assert volume.free < free - 100000
    assert volume.free == free


def test_an_unlinked_file_changes_in_many_steps_and_lives_on(
    volume: Volume, sound: Callable[[Volume], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Store, "batch", 3)
    free = volume.free
    with volume.create("/a") as file:
        for i in range(0, 40, 2):
            file.write(i * dax.BLOCK, b"x")
        volume.unlink("/a")
        file.fallocate(0, 60 * dax.BLOCK)
        sound(volume)
        assert volume.core.store.state.orphan == file.number
        file.truncate(11 * dax.BLOCK)
        sound(volume)
        assert volume.core.store.state.orphan == file.number
        assert file.read(10 * dax.BLOCK, 2) == b"x\0"
    assert volume.core.store.state.orphan == 0
    assert volume.free == free


def test_a_replaced_open_file_lives_on_too(volume: Volume) -> None:
    volume.create("/a").close()
    with volume.create("/b") as old:
        old.write(0, b"old")
        volume.rename("/a", "/b")
        assert old.read() == b"old"
        assert volume.stat("/b").size == 0
        assert names(volume) == {b"b"}


def test_attributes_move_between_inode_and_block_and_extents_give_way(volume: Volume) -> None:
    with volume.create("/a", xattrs={"c": b"k" * 40}) as file:
        for at in range(0, 20, 2):
            file.write(at * 4096, b"x")
        for size in (60, 2000, 50, 3000, 90):
            volume.setxattr("/a", "v", b"v" * size)
            assert volume.getxattr("/a", "v") == b"v" * size
            assert volume.getxattr(file.number, b"c") == b"k" * 40
            assert len(file.map()) == 10
    volume.removexattr("/a", "v")
    assert volume.listxattr("/a") == [b"c"]


def test_a_directory_of_many_names_grows_and_shrinks(volume: Volume, sound: Callable[[Volume], None]) -> None:
    volume.mkdir("/d")
    free = volume.free
    for i in range(2000):
        volume.create(f"/d/{i}").close()
    assert names(volume, "/d") == {str(i).encode() for i in range(2000)}
    assert volume.stat("/d").size == 2000
    sound(volume)
    for i in range(2000):
        volume.rename(f"/d/{i}", f"/d/x{i}")
    for i in range(2000):
        volume.unlink(f"/d/x{i}")
    assert names(volume, "/d") == set()
    assert volume.free == free


def test_full_of_inodes_or_of_blocks_nothing_is_lost(volume: Volume, sound: Callable[[Volume], None]) -> None:
    for i in range(2999):
        volume.create(f"/{i}").close()
    with pytest.raises(dax.VolumeFull, match="inodes are in use"):
        volume.create("/more")
    assert len(names(volume)) == 2999
    with volume.open("/0") as file:
        with pytest.raises(dax.VolumeFull, match="blocks of 4096 bytes are needed") as caught:
            file.write(0, bytes(16 << 20))
        assert caught.value.errno == errno.ENOSPC
        assert (file.size, file.map()) == (0, [])
        with pytest.raises(dax.VolumeFull):
            file.fallocate(0, 16 << 20)
        file.write(0, bytes(volume.free))
        assert volume.free == 0
        with pytest.raises(dax.VolumeFull):
            file.write(file.size, b"x")
        file.punch(4096, 4096)  # what frees space works on a full volume
        file.write(4096, b"y" * 4096)
        sound(volume)
    volume.unlink("/0")
    assert volume.free > 0


def test_calls_after_closing_are_refused(tmp_path: Path) -> None:
    with pmem.create(tmp_path / "pool.img", "2MiB") as device:
        volume = dax.make(device)
        file = volume.create("/a")
        file.write(0, b"data")
        with volume.open("/a") as second:
            pass
        for call in (second.read, lambda: second.write(0, b"x"), second.map, second.stat):
            with pytest.raises(dax.FileClosed):
                call()
        volume.close()
        volume.close()
        file.close()
        for call in (file.read, lambda: volume.list("/"), lambda: volume.create("/b"), volume.sync):
            with pytest.raises(dax.FileClosed):
                call()
        with dax.mount(device) as again:
            assert again.open("/a").read() == b"data"


@pytest.mark.parametrize("call", ["sync", "close"])
def test_the_time_of_a_write_in_place_is_kept_by_sync_and_by_close(volume: Volume, call: str) -> None:
    with volume.create("/a") as file:
        file.write(0, b"x")
        first = file.stat().modified
        file.write(0, b"y")
        assert file.stat().modified > first
        volume.sync() if call == "sync" else file.close()
        again = dax.inode.Inode(volume.core.store, file.number)
        again.reload()
        assert again.modified == volume.stat("/a").modified > first


def test_permissions_and_times_are_kept(tmp_path: Path) -> None:
    with pmem.create(tmp_path / "stat.img", "8MiB") as device:
        with dax.make(device) as volume:
            volume.create("/file").close()
            volume.mkdir("/folder")
            volume.set_stat("/file", permissions=0o4750, modified=123_456_789)
            volume.set_stat("/folder", permissions=0o700)
            for refused in ({"permissions": 0o10000}, {"permissions": -1}, {"modified": 1 << 63}):
                with pytest.raises(pmem.RangeError, match="permissions have 12"):
                    volume.set_stat("/file", **refused)
            with pytest.raises(FileNotFoundError):
                volume.set_stat("/none", modified=1)
        with dax.mount(device) as volume:
            found = volume.stat("/file")
            assert (found.mode, found.modified) == (0o104750, 123_456_789)
            assert volume.stat("/folder").mode == 0o040700
            assert dax.check(volume).problems == []
