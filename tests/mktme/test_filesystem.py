"""Encrypted files: every path reads what every other wrote; exact costs; keys that come and go."""

from __future__ import annotations

import errno
import gc
import itertools
import json
import subprocess
import sys
import threading
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes

import pmem
from mktme import (
    Controller,
    FileSystem,
    KeyTableFull,
    KeyUnavailable,
    MappingError,
    PolicyError,
    RegionUnmapped,
    SchemeError,
    filesystem,
)
from mktme.fscrypt import Keyring, Policy, kdf
from mktme.fscrypt.policy import Context
from mktme.stack import BlockDevice, Bounce, CryptoProfile, Inline, Line, Plain
from pmem import dax

MASTER = bytes(range(64))
BLOCK = 4096
LBLK_64, LBLK_32 = 3 | 0x08, 3 | 0x10
PLACES: dict[str, Callable[[pmem.Device], Any]] = {
    "bounce": Bounce,
    "inline": lambda device: Inline(BlockDevice(device, CryptoProfile(3))),
    "fallback": lambda device: Inline(BlockDevice(device)),
    "line": lambda device: Line(Controller(device), 3),
}


class Stage:
    """A volume, and file systems on all paths with one keyring."""

    def __init__(self, device: pmem.Device, *, log: bool = False, iv: str = "") -> None:
        self.device, self.volume = device, dax.make(device, log_structured=log)
        self.ring = Keyring(self.volume.uuid)
        self.key = self.ring.add(MASTER)
        self.systems = {name: self.system(name, iv) for name in PLACES}

    def system(self, name: str, iv: str = "") -> FileSystem:
        return FileSystem(self.volume, PLACES[name](self.device), keyring=self.ring, iv=iv)

    def folder(self, name: str = "/d", **policy: Any) -> str:
        self.systems["bounce"].mkdir(name)
        self.systems["bounce"].set_policy(name, Policy(self.key, **policy))
        return name


@pytest.fixture
def device(tmp_path: Path) -> Iterator[pmem.Device]:
    made = pmem.create(tmp_path / "volume.img", 24 << 20)
    yield made
    gc.collect()


@pytest.fixture
def stage(device: pmem.Device) -> Iterator[Stage]:
    made = Stage(device)
    yield made
    if not made.volume.closed:
        assert dax.check(made.volume).problems == []


def scribble(file: Any, data: bytearray, rng: np.random.Generator, steps: int = 25) -> None:
    """Random changes to a file and to its model."""
    for _ in range(steps):
        kind, at, size = rng.integers(0, 8), int(rng.integers(0, 40_000)), int(rng.integers(1, 9000))
        if kind < 5:
            new = rng.bytes(size)
            file.write(at, new)
            data.extend(bytes(max(0, at + size - len(data))))
            data[at : at + size] = new
        elif kind == 5:
            file.truncate(at)
            del data[at:]
            data.extend(bytes(at - len(data)))
        elif kind == 6:
            file.punch(at, size)
            end = min(at + size, len(data))
            data[at:end] = bytes(max(0, end - at))
        else:
            file.fallocate(at, size)
            data.extend(bytes(max(0, at + size - len(data))))
        first = int(rng.integers(0, max(1, len(data))))
        assert file.read(first, 5000) == data[first : first + 5000]
    assert file.size == len(data)
    assert file.read() == data


def ciphertext(stage: Stage, path: str, data: bytes) -> dict[int, bytes]:
    """What a file's blocks are to be on the medium, by offset: AES-256-XTS with fscrypt's keys and IVs."""
    volume, system = stage.volume, stage.systems["bounce"]
    number = system.stat(path).number
    context = Context.from_bytes(volume.getxattr(number, b"c"))
    policy, extracted = context.policy, kdf.extract(MASTER)
    if policy.scheme == "per-file-key":
        key = kdf.per_file_key(extracted, context.nonce, 64)
    elif policy.scheme == "ino-lblk-64":
        key = kdf.iv_ino_lblk_64_key(extracted, 1, volume.uuid, 64)
    else:
        key = kdf.iv_ino_lblk_32_key(extracted, 1, volume.uuid, 64)
    hashed = kdf.inode_hash(kdf.inode_hash_key(extracted), number)
    made, unit = {}, policy.unit
    padded = data + bytes(-len(data) % BLOCK)
    for at in range(0, len(padded), BLOCK):
        block = b""
        for first in range(at, at + BLOCK, unit):
            index = first // unit
            iv = {
                "per-file-key": index,
                "ino-lblk-64": index | number << 32,
                "ino-lblk-32": (index + hashed) % (1 << 32),
            }[policy.scheme]
            cipher = Cipher(algorithms.AES(key), modes.XTS(iv.to_bytes(16, "little")))
            block += cipher.encryptor().update(padded[first : first + unit])
        made[at] = block
    return made


POLICIES = [
    pytest.param({}, id="per-file"),
    pytest.param({"log2_data_unit_size": 9}, id="per-file-512"),
    pytest.param({"flags": LBLK_64, "log2_data_unit_size": 10}, id="lblk-64-1024"),
    pytest.param({"flags": LBLK_32}, id="lblk-32"),
]


@pytest.mark.parametrize("policy", POLICIES)
def test_what_one_path_writes_every_other_reads_from_the_same_media(
    stage: Stage, policy: dict[str, Any]
) -> None:
    folder, rng = stage.folder(**policy), np.random.default_rng(1)
    for first, second in itertools.permutations(PLACES, 2):
        path, data = f"{folder}/{first}-{second}", bytearray()
        with stage.systems[first].create(path) as file:
            scribble(file, data, rng)
        with stage.systems[second].open(path) as file:
            assert file.read() == data
            scribble(file, data, rng, 10)
            expected = ciphertext(stage, path, bytes(data))
            for extent in file.file.map():
                for at in range(0, extent.length, BLOCK):
                    # Behind the file's end anything may lie; XTS's 16-byte blocks before it are as they are.
                    known = min(BLOCK, (len(data) - extent.offset - at) // 16 * 16)
                    if extent.written and known > 0:
                        there = stage.device.read(extent.address + at, known)
                        assert there == expected[extent.offset + at][:known]
        for system in stage.systems.values():
            with system.open(path) as file:
                assert file.read() == data


VECTORS = [
    v
    for v in json.loads((Path(__file__).parents[1] / "vectors/fscrypt.json").read_text())["vectors"]
    if v["op"] == "encrypt"
    and v["cipher"] in ("AES-256-XTS", "AES-128-CBC-ESSIV", "Adiantum")
    and v["kdf"] == "HKDF-SHA512"
    and v["data_unit_size"] >= 512
    and v["data_unit_index"] < 1 << 40
    and (v["inode_number"] or 28) == 28
    and len(v["plaintext"]) // 2 % v["data_unit_size"] == 0
]
CONTENTS = {"AES-256-XTS": (1, 4), "AES-128-CBC-ESSIV": (5, 6), "Adiantum": (9, 9)}
FLAGS = {"default": 3, "direct_key": 3 | 0x04, "iv_ino_lblk_64": LBLK_64}


@pytest.mark.parametrize("name", PLACES)
@pytest.mark.parametrize("vector", VECTORS, ids=[v["id"] for v in VECTORS])
def test_a_file_on_each_path_has_the_reference_ciphertext_on_the_medium(
    device: pmem.Device, vector: dict[str, Any], name: str
) -> None:
    """The file has the vector's nonce and inode number, and its data at the vector's place."""
    volume, uuid = dax.make(device), bytes.fromhex(vector["fs_uuid"] or "00" * 16)
    ring, unit = Keyring(uuid), vector["data_unit_size"]
    system = FileSystem(volume, PLACES[name](device), keyring=ring)
    key = ring.add(bytes.fromhex(vector["master_key"]))
    bits = 0 if unit == BLOCK else unit.bit_length() - 1
    policy = Policy(key, *CONTENTS[vector["cipher"]], FLAGS[vector["iv_method"]], bits)
    system.mkdir("/d")
    system.set_policy("/d", policy)
    folder = system.stat("/d").number
    nonce = bytes.fromhex(vector["file_nonce"]) if vector["file_nonce"] else bytes(16)
    if vector["inode_number"]:
        while volume.create_at(dax.ROOT, f"{volume.free}-{len(volume.list('/'))}").number < 27:
            pass
    with ring.using(Context.from_bytes(volume.getxattr("/d", b"c")), folder, "names") as info:
        stored = info.names.encrypt(b"file")
    number = volume.create_at(folder, stored, xattrs={b"c": Context(policy, nonce).to_bytes()}).number
    assert vector["inode_number"] in (None, number)
    at, plain = vector["data_unit_index"] * unit, bytes.fromhex(vector["plaintext"])
    if name == "line" and vector["cipher"] != "AES-256-XTS":
        with pytest.raises(SchemeError):
            system.open("/d/file")
        return
    with system.open("/d/file") as file:
        file.write(at, plain)
        (extent,) = file.file.map(at, len(plain))
        assert device.read(extent.address + at - extent.offset, len(plain)).hex() == vector["ciphertext"]
        assert file.read(at, len(plain)) == plain


def test_the_vectors_reach_every_cipher_and_kind_of_iv() -> None:
    assert {v["cipher"] for v in VECTORS} == set(CONTENTS)
    assert {v["iv_method"] for v in VECTORS} == set(FLAGS)


@pytest.mark.parametrize(
    ("contents", "names", "flags"), [(5, 6, 3), (9, 9, 3), (9, 9, 3 | 0x04)],
    ids=["cbc-essiv", "adiantum", "adiantum-direct-key"],
)  # fmt: skip
def test_ciphers_that_need_whole_units_are_refused_by_the_line_path_alone(
    stage: Stage, contents: int, names: int, flags: int
) -> None:
    folder, rng, data = (
        stage.folder(contents=contents, names=names, flags=flags),
        np.random.default_rng(2),
        bytearray(),
    )
    with stage.systems["inline"].create(f"{folder}/file") as file:
        scribble(file, data, rng)
    with stage.systems["bounce"].open(f"{folder}/file") as file:
        assert file.read() == data
        scribble(file, data, rng)
    with stage.systems["fallback"].open(f"{folder}/file") as file:
        assert file.read() == data
    for refused in (stage.systems["line"].open, stage.systems["line"].create):
        name = "file" if refused == stage.systems["line"].open else "other"
        with pytest.raises(SchemeError, match="as a whole, and the memory controller sees lines of 64"):
            refused(f"{folder}/{name}")
    assert [entry.name for entry in stage.systems["line"].list(folder)] == ["file"]
    assert stage.ring.remove(stage.key).busy == ()


def test_sm4_files_are_read_and_written_on_every_path(stage: Stage) -> None:
    folder, rng = stage.folder(contents=7, names=8), np.random.default_rng(9)
    for first, second in itertools.permutations(PLACES, 2):
        path, data = f"{folder}/{first}-{second}", bytearray()
        with stage.systems[first].create(path) as file:
            scribble(file, data, rng, 12)
        with stage.systems[second].open(path) as file:
            assert file.read() == data
            scribble(file, data, rng, 12)


def cost(system: FileSystem, call: Callable[[], Any]) -> tuple[int, int, int, int]:
    before = system.path.traffic.counts()
    call()
    after = system.path.traffic.counts()
    asked, copied, encrypted, decrypted = (after[name] - before[name] for name in before)
    return asked, copied, encrypted, decrypted


UNIT = 512
COSTS = {  # (asked, copied, encrypted, decrypted) by path
    "bounce": {
        "update 64": (64, 4096 + 64 + 4096, 4096, 4096),
        "update 8": (8, 4096 + 8 + 4096, 4096, 4096),
        "write block": (4096, 2 * 4096, 4096, 0),
        "read 64": (64, 4096 + 64, 0, 4096),
        "read block": (4096, 2 * 4096, 0, 4096),
        "straddle": (128, 2 * 4096 + 128 + 2 * 4096, 2 * 4096, 2 * 4096),
        "append 64": (64, 64 + 4096, 4096, 0),
    },
    "inline": {
        "update 64": (64, 64, UNIT, UNIT),
        "update 8": (8, 8, UNIT, UNIT),
        "write block": (4096, 0, 4096, 0),
        "read 64": (64, 64, 0, UNIT),
        "read block": (4096, 0, 0, 4096),
        "straddle": (128, 128, 2 * UNIT, 2 * UNIT),
        "append 64": (64, 64, 4096, 0),
    },
    "fallback": {
        "update 64": (64, UNIT + 64 + UNIT, UNIT, UNIT),
        "update 8": (8, UNIT + 8 + UNIT, UNIT, UNIT),
        "write block": (4096, 4096, 4096, 0),
        "read 64": (64, UNIT + 64, 0, UNIT),
        "read block": (4096, 4096, 0, 4096),
        "straddle": (128, 2 * UNIT + 128 + 2 * UNIT, 2 * UNIT, 2 * UNIT),
        "append 64": (64, 64 + 4096, 4096, 0),
    },
    "line": {
        "update 64": (64, 0, 64, 0),
        "update 8": (8, 8, 64, 64),
        "write block": (4096, 0, 4096, 0),
        "read 64": (64, 0, 0, 64),
        "read block": (4096, 0, 0, 4096),
        "straddle": (128, 0, 128, 0),
        "append 64": (64, 0, 4096, 0),
    },
}


@pytest.mark.parametrize("name", PLACES)
def test_what_each_request_costs_is_exact(stage: Stage, name: str) -> None:
    folder, system, found = stage.folder(log2_data_unit_size=9), stage.systems[name], {}
    with system.create(f"{folder}/file") as file:
        file.write(0, bytes(8 * BLOCK))
        calls: dict[str, Callable[[], Any]] = {
            "update 64": lambda: file.write(BLOCK + 640, bytes(64)),
            "update 8": lambda: file.write(BLOCK + 648, bytes(8)),
            "write block": lambda: file.write(2 * BLOCK, bytes(BLOCK)),
            "read 64": lambda: file.read(BLOCK + 64, 64),
            "read block": lambda: file.read(BLOCK, BLOCK),
            "straddle": lambda: file.write(3 * BLOCK - 64, bytes(128)),
            "append 64": lambda: file.write(8 * BLOCK, bytes(64)),
        }
        for what, call in calls.items():
            found[what] = cost(system, call)
    assert found == COSTS[name]


def test_the_none_path_copies_and_that_is_all(device: pmem.Device) -> None:
    volume = dax.make(device)
    system = FileSystem(volume, Plain(Controller(device)))
    rng, data = np.random.default_rng(3), bytearray()
    with system.create("/file") as file:
        scribble(file, data, rng)
        file.write(0, bytes(8 * BLOCK))
        assert cost(system, lambda: file.write(100, bytes(64))) == (64, 64, 0, 0)
        assert cost(system, lambda: file.read(100, 9000)) == (9000, 9000, 0, 0)
        with file.map() as mapped:
            assert cost(system, lambda: mapped.write(100, b"x" * 64)) == (64, 64, 0, 0)
        assert file.read(100, 64) == b"x" * 64


# Where blocks go


@pytest.mark.parametrize("name", ["bounce", "line"])
@pytest.mark.parametrize("iv", ["pmem-line", "pmem-page", ""])
def test_blocks_whose_iv_is_physical_move_by_being_encrypted_anew(
    device: pmem.Device, name: str, iv: str
) -> None:
    stage = Stage(device)
    folder, rng = stage.folder(), np.random.default_rng(4)
    system, data = stage.system(name, iv), rng.bytes(10 * BLOCK)
    with system.create(f"{folder}/file") as file:
        file.write(0, data)
    moved = cost(system, lambda: system.relocate(f"{folder}/file", 0, 6 * BLOCK))
    if iv:
        copied = 2 * 6 * BLOCK if name == "bounce" else 0
        assert moved == (0, copied, 6 * BLOCK, 6 * BLOCK)
    else:
        assert moved == (0, 6 * BLOCK, 0, 0)
    with system.open(f"{folder}/file") as file:
        assert len(file.file.map()) == 2
        assert file.read() == data
    assert system.defragment().after == 1
    with system.open(f"{folder}/file") as file:
        assert file.read() == data
        number = file.file.number
    stage.ring.remove(stage.key)
    before = [e.address for e in stage.volume.open(number).map()]
    (shown,) = system.list(folder)
    if iv:
        with pytest.raises(KeyUnavailable):
            system.relocate(f"{folder}/{shown.name}")
        assert [e.address for e in stage.volume.open(number).map()] == before
    else:
        assert system.relocate(f"{folder}/{shown.name}").bytes == 10 * BLOCK
    stage.ring.add(MASTER)
    with system.open(f"{folder}/file") as file:
        assert file.read() == data


def test_a_sector_is_an_iv_on_the_block_path(device: pmem.Device) -> None:
    stage = Stage(device)
    folder, system, data = stage.folder(), stage.system("inline", "plain64"), bytes(range(256)) * 64
    with system.create(f"{folder}/file") as file:
        file.write(0, data)
    assert cost(system, lambda: system.relocate(f"{folder}/file")) == (0, 0, len(data), len(data))
    for name in PLACES:
        with stage.systems[name].open(f"{folder}/file") as file:
            assert file.read() == data
    with pytest.raises(SchemeError, match="take the path line"):
        stage.system("inline", "pmem-line").create(f"{folder}/other")


@pytest.mark.parametrize("iv", ["", "pmem-line"])
def test_the_cleaner_of_a_log_moves_encrypted_files(device: pmem.Device, iv: str) -> None:
    stage = Stage(device, log=True)
    folder, rng, system = stage.folder(), np.random.default_rng(5), stage.system("line", iv)
    model = {}
    for n in range(12):
        with system.create(f"{folder}/{n}") as file:
            model[n] = bytearray(rng.bytes(200_000))
            file.write(0, model[n])
    for n in range(0, 12, 2):
        system.unlink(f"{folder}/{n}")
        del model[n]
    traffic = system.path.traffic.counts()
    cleaned = system.clean(1)
    after = system.path.traffic.counts()
    assert cleaned.segments == 1
    assert cleaned.bytes > 0
    key = "encrypted" if iv else "copied"
    assert after[key] - traffic[key] == cleaned.bytes
    for n, data in model.items():
        with system.open(f"{folder}/{n}") as file:
            assert file.read() == data
            with pytest.raises(dax.FileBusy, match="log-structured"):
                file.map()


@pytest.mark.parametrize(
    ("policy", "iv", "works"),
    [
        ({}, "", True),
        ({}, "pmem-line", True),
        ({"flags": LBLK_64}, "", False),
        ({"flags": LBLK_32}, "", False),
    ],
)
def test_reflinks_where_the_iv_does_not_hang_on_the_inode(
    device: pmem.Device, policy: dict[str, Any], iv: str, works: bool
) -> None:
    stage = Stage(device)
    folder, system, data = (
        stage.folder(**policy),
        stage.system("line", iv),
        bytearray(bytes(range(256)) * 200),
    )
    with system.create(f"{folder}/a") as file:
        file.write(0, data)
    if not works:
        with pytest.raises(PolicyError, match="come from the inode number"):
            system.reflink(f"{folder}/a", f"{folder}/b")
        assert [entry.name for entry in system.list(folder)] == ["a"]
        return
    free = stage.volume.free
    system.reflink(f"{folder}/a", f"{folder}/b")
    assert free - stage.volume.free < 4 * BLOCK
    with system.open(f"{folder}/b") as file:
        assert file.read() == data
        file.write(5000, b"b's own")
    with system.open(f"{folder}/a") as file:
        assert file.read() == data
    data[5000:5007] = b"b's own"
    with system.open(f"{folder}/b") as file:
        assert file.read() == data


# Maps and KeyIDs


def test_a_file_is_mapped_and_what_is_written_there_is_in_the_file(stage: Stage) -> None:
    folder, system = stage.folder(), stage.systems["line"]
    with system.create(f"{folder}/file") as file:
        with pytest.raises(MappingError, match="empty file"):
            file.map()
        file.write(20_000, b"end")
        mapped = file.map()
        assert file.map().regions == mapped.regions
        assert mapped.read(0, 20_003) == bytes(20_000) + b"end"
        mapped.write(4090, b"across two blocks")
        mapped.array(np.uint32, (4,))[:] = [1, 2, 3, 4]
        assert file.read(0, 16) == np.array([1, 2, 3, 4], np.uint32).tobytes()
        assert file.read(4090, 17) == b"across two blocks"
        for refused in (
            lambda: file.truncate(5),
            lambda: file.punch(0, BLOCK),
            lambda: system.relocate(f"{folder}/file"),
        ):
            with pytest.raises(dax.FileBusy, match="is mapped"):
                refused()
        with stage.systems["bounce"].open(f"{folder}/file") as other:
            assert other.read(4090, 17) == b"across two blocks"
            with pytest.raises(MappingError, match="path line"):
                other.map()
        assert len(system.path.controller.regions) == len(mapped.regions)
    assert system.path.controller.regions == ()
    with pytest.raises(RegionUnmapped):
        mapped.read(0, 1)
    system.relocate(f"{folder}/file")


def test_keyids_change_hands_and_maps_hold_theirs(stage: Stage) -> None:
    folder, system, maps = stage.folder(), stage.systems["line"], []
    for n in range(5):
        with system.create(f"{folder}/{n}") as file:
            file.write(0, bytes([n]) * 5000)
    pool = system.path.keyids
    assert (pool.churn.programmed, pool.churn.evicted) == (5, 2)
    assert pool.churn.lines_flushed == 2 * 2 * 64  # two files of two blocks that gave way
    files = [system.open(f"{folder}/{n}") for n in range(5)]
    for n in (0, 1, 2):
        maps.append(files[n].map())
    with pytest.raises(KeyTableFull, match="all 3 KeyIDs are pinned"):
        files[3].read()
    with pytest.raises(KeyTableFull):
        files[4].map()
    files[1].close()
    assert files[3].read() == bytes([3]) * 5000
    assert maps[0].read(0, 5000) == bytes(5000)
    for file in files:
        file.close()


def test_files_that_share_a_key_share_a_keyid(stage: Stage) -> None:
    folder, system = stage.folder(flags=LBLK_64), stage.systems["line"]
    for n in range(5):
        with system.create(f"{folder}/{n}") as file:
            file.write(0, bytes([n]) * 5000)
    assert system.path.keyids.churn.programmed == 1
    assert len(system.path.controller.keyids) == 1


def test_a_deleted_files_keyid_is_free_at_once(stage: Stage) -> None:
    folder, system = stage.folder(), stage.systems["line"]
    with system.create(f"{folder}/a") as file:
        file.write(0, b"x")
        assert len(system.path.controller.keyids) == 1
        system.unlink(f"{folder}/a")
        assert file.read() == b"x"
    assert system.path.controller.keyids == ()


def test_mapped_blocks_stay_whoever_wants_to_move_share_or_free_them(stage: Stage) -> None:
    folder, line, other = stage.folder(), stage.systems["line"], stage.systems["bounce"]
    with line.create(f"{folder}/a") as file:
        file.write(0, bytes(5 * BLOCK))
        mapped, again = file.map(), other.open(f"{folder}/a")
        for refused in (
            lambda: other.relocate(f"{folder}/a"),
            lambda: other.defragment(f"{folder}/a"),
            lambda: other.reflink(f"{folder}/a", f"{folder}/b"),
            lambda: again.truncate(BLOCK),
        ):
            with pytest.raises(dax.FileBusy, match="is mapped") as caught:
                refused()
            assert caught.value.errno == errno.EBUSY
        again.truncate(9 * BLOCK)
        mapped.write(3 * BLOCK, b"still there")
        assert again.read(3 * BLOCK, 11) == b"still there"
        again.close()
    other.reflink(f"{folder}/a", f"{folder}/b")
    with line.open(f"{folder}/b") as file, pytest.raises(dax.FileBusy, match="shares blocks"):
        file.map()
    assert line.path.controller.regions == ()
    other.unlink(f"{folder}/a")
    with line.open(f"{folder}/b") as file:
        file.map()


def test_inode_numbers_are_used_again_by_other_file_systems(stage: Stage) -> None:
    """What one file system keeps of an inode isn't used for another one of that number."""
    folder, first, second = stage.folder(), stage.systems["line"], stage.systems["bounce"]
    for round_ in range(3):
        with first.create(f"{folder}/x") as file:
            file.write(0, b"%d" % round_ * 100)
        assert second.open(f"{folder}/x").read() == b"%d" % round_ * 100
        second.unlink(f"{folder}/x")
    first.mkdir("/late")
    assert second.list("/late") == []
    first.set_policy("/late", Policy(stage.key))
    second.create("/late/secret").close()
    assert second.policy("/late/secret") == Policy(stage.key)


# Keys and names


def test_without_the_key_names_are_shown_and_deleted_and_nothing_else(stage: Stage) -> None:
    folder, alice = stage.folder(), stage.systems["line"]
    names = ["short", "n" * 255, "ü" * 60, "with space"]
    for name in names:
        with alice.create(f"{folder}/{name}") as file:
            file.write(0, name.encode())
    alice.mkdir(f"{folder}/sub")
    with alice.create(f"{folder}/sub/deep") as file:
        file.write(0, b"deep")
    bob = FileSystem(stage.volume, Bounce(stage.device))
    shown = bob.list(folder)
    assert len(shown) == 5
    assert not {entry.name for entry in shown} & {*names, "sub"}
    assert all(entry.name.isascii() and "/" not in entry.name for entry in shown)
    for entry in shown:
        if not entry.is_directory:
            with pytest.raises(PermissionError):
                bob.open(f"{folder}/{entry.name}")
            assert bob.stat(f"{folder}/{entry.name}").number == entry.number
    for refused in (
        lambda: bob.create(f"{folder}/new"),
        lambda: bob.mkdir(f"{folder}/new"),
        lambda: bob.rename(f"{folder}/{shown[0].name}", f"{folder}/new"),
    ):
        with pytest.raises(KeyUnavailable):
            refused()
    with pytest.raises(FileNotFoundError):
        bob.open(f"{folder}/short")
    bob.create("/plain").close()
    with pytest.raises(PolicyError):
        bob.rename("/plain", f"{folder}/plain")
    (sub,) = [entry for entry in shown if entry.is_directory]
    (deep,) = bob.list(f"{folder}/{sub.name}")
    bob.unlink(f"{folder}/{sub.name}/{deep.name}")
    bob.rmdir(f"{folder}/{sub.name}")
    for entry in shown:
        if not entry.is_directory:
            bob.unlink(f"{folder}/{entry.name}")
    assert alice.list(folder) == []


def test_names_and_policies_are_inherited_and_kept(stage: Stage) -> None:
    folder, system = stage.folder(), stage.systems["inline"]
    system.mkdir(f"{folder}/sub")
    assert system.policy(f"{folder}/sub") == system.policy(folder) == Policy(stage.key)
    with system.create(f"{folder}/sub/ä") as file:
        file.write(0, b"1")
    system.rename(f"{folder}/sub/ä", f"{folder}/b")
    assert [entry.name for entry in system.list(folder)] == ["b", "sub"]
    system.set_policy(folder, Policy(stage.key))  # the same once more
    with pytest.raises(PolicyError, match="another policy"):
        system.set_policy(folder, Policy(stage.key, flags=LBLK_64))
    system.mkdir("/full")
    system.create("/full/plain").close()
    with pytest.raises(PolicyError, match="not empty"):
        system.set_policy("/full", Policy(stage.key))
    with pytest.raises(PolicyError, match="another encryption policy"):
        system.rename("/full/plain", f"{folder}/plain")
    with pytest.raises(KeyUnavailable):
        system.set_policy("/full", Policy(bytes(16)))


def test_a_removed_key_is_nowhere_once_its_files_are_closed(stage: Stage) -> None:
    folder = stage.folder()
    for name, system in stage.systems.items():
        with system.create(f"{folder}/{name}") as file:
            file.write(0, b"secret" * 1000)
    busy = stage.systems["line"].open(f"{folder}/bounce")
    keys = {}
    for name in PLACES:
        number = stage.systems["bounce"].stat(f"{folder}/{name}").number
        nonce = Context.from_bytes(stage.volume.getxattr(number, b"c")).nonce
        keys[name] = kdf.per_file_key(kdf.extract(MASTER), nonce, 64)
    removal = stage.ring.remove(stage.key)
    assert [path for _, path in removal.busy] == [f"{folder}/bounce"]
    assert busy.read(0, 6) == b"secret"
    assert where(stage, keys) == {"bounce"}
    closed = [e for e in stage.systems["line"].list(folder) if e.number != busy.file.number]
    assert len(closed) == 3
    for entry in closed:
        with pytest.raises(KeyUnavailable):
            stage.systems["line"].open(f"{folder}/{entry.name}")
    busy.close()
    assert stage.ring.status(stage.key).state == "absent"
    assert where(stage, keys) == set()
    for system in stage.systems.values():
        if isinstance(system.path, Line):
            assert system.path.controller.keyids == ()
    stage.ring.add(MASTER)
    with stage.systems["line"].open(f"{folder}/line") as file:
        assert file.read(0, 6) == b"secret"


def where(stage: Stage, keys: dict[str, bytes]) -> set[str]:
    """Whose keys, or half of them, are still in buffers that hang on the stage."""
    found, seen, waiting = set(), {id(stage)}, deque([stage])  # nearest first: behind it lies a compiler
    while waiting and len(seen) < 200_000:
        each = waiting.popleft()
        if isinstance(each, bytes | bytearray) or (type(each) is np.ndarray and each.nbytes < 1 << 16):
            held = each.tobytes() if isinstance(each, np.ndarray) else bytes(each)
            found |= {name for name, key in keys.items() if key[:32] in held or key[32:] in held}
        for other in gc.get_referents(each):
            if (
                id(other) not in seen
                and not isinstance(other, type)
                and "numba" not in type(other).__module__
            ):
                seen.add(id(other))
                waiting.append(other)
    return found


def test_a_file_that_is_closed_after_its_volume_gives_its_key_back(device: pmem.Device) -> None:
    stage = Stage(device)
    file = stage.systems["line"].create(f"{stage.folder()}/a")
    file.write(0, b"x")
    stage.volume.close()
    file.close()
    assert stage.ring.remove(stage.key).busy == ()
    with pytest.raises(dax.FileClosed):
        file.read()


def test_threads_read_and_write_files_of_their_own_and_of_others(stage: Stage) -> None:
    folder, places = stage.folder(), [*PLACES]

    def work(n: int) -> None:
        rng, data, path = np.random.default_rng(n), bytearray(), f"{folder}/{n}"
        with stage.systems[places[n % 4]].create(path) as file:
            scribble(file, data, rng, 15)
        with stage.systems[places[(n + 1) % 4]].open(path) as file:
            assert file.read() == data
            scribble(file, data, rng, 15)

    with ThreadPoolExecutor(8) as pool:
        for future in [pool.submit(work, n) for n in range(12)]:
            future.result()


@pytest.mark.parametrize("log", [False, True], ids=["in place", "log"])
def test_threads_take_turns_at_one_keyid_while_blocks_are_moved(device: pmem.Device, log: bool) -> None:
    stage = Stage(device, log=log)
    folder = stage.folder()
    system = FileSystem(stage.volume, Line(Controller(device), 1), keyring=stage.ring, iv="pmem-line")
    done = threading.Event()

    def work(n: int) -> None:
        rng, data = np.random.default_rng(n), bytearray()
        with system.create(f"{folder}/{n}") as file:
            scribble(file, data, rng, 40)

    def move() -> None:
        while not done.is_set():
            if log:
                system.clean()
            else:
                system.defragment()

    with ThreadPoolExecutor(6) as pool:
        mover = pool.submit(move)
        try:
            for future in [pool.submit(work, n) for n in range(5)]:
                future.result()
        finally:
            done.set()
        mover.result()
    assert system.path.keyids.churn.evicted > 5
    assert dax.check(stage.volume).problems == []


def test_a_full_volume_changes_nothing(stage: Stage) -> None:
    folder = stage.folder()
    for name, system in stage.systems.items():
        with system.create(f"{folder}/{name}") as file:
            file.write(0, b"kept" * 3000)
            free, mapping = stage.volume.free, file.file.map()
            with pytest.raises(dax.VolumeFull):
                file.write(1000, bytes(32 << 20))
            assert (stage.volume.free, file.file.map(), file.size) == (free, mapping, 12_000)
            assert file.read() == b"kept" * 3000


def test_the_example_of_two_users_says_what_it_should() -> None:
    example = Path(__file__).parents[2] / "examples" / "two_users.py"
    run = subprocess.run([sys.executable, example], capture_output=True, text=True, check=True)
    said = run.stdout.splitlines()
    assert said[0] == "Alice sees ['diary.txt']"
    assert said[2] == "Bob can't open it: KeyUnavailable"
    assert "With the key Bob reads b'Nobody can read this.'" in said
    assert "Alice removes her key; still open: ['/alice/diary.txt']" in said
    assert said[-1] == "Left in the directory: []"


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("at", [BLOCK, 100, 70 * BLOCK])
def test_a_file_takes_its_own_ciphertext_as_it_was(stage: Stage, place: str, at: int) -> None:
    size = 80 * BLOCK
    with stage.systems[place].create(f"{stage.folder()}/f") as file:
        file.write(0, np.random.default_rng(8).bytes(size + at))
        with file.file.reading(0, size) as extents:
            address = extents[0].address
            assert extents[0].length >= size
        before = stage.device.read(address, size)
        file.write(at, stage.device.media[address:][:size])
        assert file.read(at, size) == before


@pytest.mark.parametrize("place", PLACES)
def test_a_file_of_a_closed_volume_says_so_when_the_device_is_closed_too(
    stage: Stage, device: pmem.Device, place: str
) -> None:
    file = stage.systems[place].create(f"{stage.folder()}/f")
    file.write(0, bytes(BLOCK))
    stage.volume.close()
    device.close()
    for at in (0, BLOCK):
        with pytest.raises(dax.FileClosed, match="the file has been closed"):
            file.write(at, b"late")


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize(("flags", "bits"), [(LBLK_64, 9), (LBLK_64, 0), (LBLK_32, 0)])
def test_a_file_has_no_more_data_units_than_its_ivs_have_numbers(
    stage: Stage, place: str, flags: int, bits: int
) -> None:
    """Beyond them IVs begin anew, or are those of the next inode. Linux refuses such policies there."""
    folder = stage.folder(flags=flags, log2_data_unit_size=bits)
    most = (1 << 32) << (bits or 12)
    with stage.systems[place].create(f"{folder}/x") as file:
        free = stage.volume.free
        for refused in (
            lambda: file.write(most - 1, b"no"),
            lambda: file.truncate(most + 1),
            lambda: file.fallocate(most, 1),
        ):
            with pytest.raises(PolicyError, match=f"which are {most}: .* take a policy"):
                refused()
        assert (file.size, stage.volume.free) == (0, free)
        file.write(most - 4, b"last")
        file.file.truncate(most + 1)  # by way of the volume's own file
        if stage.systems[place].path.mappable:
            with pytest.raises(PolicyError, match="take a policy"):
                file.map()
        file.truncate(most)
    with stage.systems["bounce"].open(f"{folder}/x") as file:
        assert file.read(most - 4, 4) == b"last"


def test_a_file_with_a_key_of_its_own_may_be_longer(stage: Stage) -> None:
    with stage.systems["inline"].create(f"{stage.folder()}/x") as file:
        file.write(1 << 44, b"far")
    with stage.systems["line"].open("/d/x") as file:
        assert file.read(1 << 44, 3) == b"far"


def test_of_many_files_no_more_is_remembered(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(filesystem, "KEPT", 6)
    with pmem.create(tmp_path / "many.img", "16MiB") as device, dax.make(device) as volume:
        system = FileSystem(volume, Bounce(device))
        key = system.keyring.add(bytes(range(64)))
        system.mkdir("/many")
        system.set_policy("/many", Policy(key))
        for number in range(40):
            with system.create(f"/many/{number}") as file:
                file.write(0, b"%d" % number)
            assert len(system._inodes) <= 6
        for number in range(40):
            with system.open(f"/many/{number}") as file:
                assert file.read() == b"%d" % number
            assert len(system._inodes) <= 6
