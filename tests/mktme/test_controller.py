"""The controller: KeyID table, page map, scattered lines, the hardware's behaviour."""

from __future__ import annotations

import os
import pickle
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes

import mktme
import pmem
from mktme import Controller, Key, Region, parallel

PAGE = 4096


def garbage(stored: bytes, plain: bytes) -> bool:
    """Whether bytes look like neither the plaintext nor anything regular."""
    different = np.frombuffer(stored, np.uint8) != np.frombuffer(plain, np.uint8)
    return bool(different.mean() > 0.9)


def test_each_line_is_a_unit_of_xts_with_its_line_number_as_iv(
    controller: Controller, region: Region
) -> None:
    plain = np.random.default_rng(1).bytes(PAGE)
    region.write(8192, plain)
    address = region.address + 8192
    stored = controller.device.read(address, PAGE)
    for at in range(0, PAGE, 64):
        iv = ((address + at) // 64).to_bytes(16, "little")
        cipher = Cipher(algorithms.AES(bytes(range(32))), modes.XTS(iv)).encryptor()
        assert stored[at : at + 64] == cipher.update(plain[at : at + 64])


@pytest.mark.parametrize("bits", [0, 16, -1])
def test_keyid_bits_are_1_to_15(device: pmem.Device, bits: int) -> None:
    with pytest.raises(mktme.KeyIDError, match="1 to 15"):
        Controller(device, bits)


@pytest.mark.parametrize("bits", [1, 6, 15])
def test_a_table_holds_one_key_less_than_its_bits_count(device: pmem.Device, bits: int) -> None:
    controller = Controller(device, bits)
    assert len(controller.slots) == 1 << bits
    if bits == 1:
        assert controller.program_key(Key.generate("aes-xts-128")) == 1
        with pytest.raises(mktme.KeyTableFull, match="all 1 KeyIDs"):
            controller.program_key(Key.generate("aes-xts-128"))


def test_keys_take_the_lowest_free_keyid_or_the_one_asked_for(controller: Controller, key: Key) -> None:
    assert [controller.program_key(key) for _ in range(3)] == [1, 2, 3]
    assert controller.program_key(key, keyid=63) == 63
    controller.clear_key(2)
    assert controller.program_key(key) == 2
    assert controller.keyids == (1, 2, 3, 63)
    for bad in (0, 64, -1):
        with pytest.raises(mktme.KeyIDError, match="1 to 63"):
            controller.program_key(key, keyid=bad)
        with pytest.raises(mktme.KeyIDError, match="1 to 63"):
            controller.clear_key(bad)
    with pytest.raises(mktme.KeyIDError, match="holds no key"):
        controller.clear_key(40)
    key.clear()
    with pytest.raises(mktme.KeyMaterialError):
        controller.program_key(key)


def test_a_cleared_or_replaced_key_leaves_the_tables_memory(controller: Controller, key: Key) -> None:
    keyid = controller.program_key(key)
    old = controller.slots[keyid]
    assert old is not None
    held = [value for value in vars(old).values() if isinstance(value, bytearray | np.ndarray)]
    assert any(bytes(range(16)) in bytes(value) for value in held)
    controller.program_key(Key.generate("aes-xts-128"), keyid=keyid)
    assert not any(bytes(range(16)) in bytes(value) for value in held)


def test_data_under_a_changed_or_cleared_key_reads_as_garbage_and_comes_back(
    controller: Controller, region: Region, key: Key
) -> None:
    plain = bytes(1000)
    region.write(5, plain)
    controller.program_key(Key.generate("aes-xts-256"), keyid=region.keyid)
    assert garbage(region.read(5, 1000), plain)
    controller.clear_key(region.keyid)
    assert garbage(region.read(5, 1000), plain)
    assert region.read(5, 1000) == controller.device.read(region.address + 5, 1000)
    controller.program_key(key, keyid=region.keyid)
    assert region.read(5, 1000) == plain
    controller.unmap(region)
    other = controller.map(region.address, region.size, controller.program_key(key, keyid=9))
    assert other.read(5, 1000) == plain
    controller.unmap(other)
    shifted = controller.map(
        region.address, PAGE, controller.program_key(Key.generate("aes-xts-128"), keyid=10)
    )
    assert garbage(shifted.read(5, 1000), plain)


def test_a_power_cycle_forgets_keys_and_mappings_and_keeps_the_media(
    controller: Controller, region: Region, key: Key
) -> None:
    region[0:5] = b"hello"
    stored = controller.device.media.tobytes()
    controller.power_cycle()
    assert (controller.keyids, controller.regions) == ((), ())
    with pytest.raises(mktme.RegionUnmapped, match="map it again"):
        region.read(0, 1)
    assert controller.device.media.tobytes() == stored
    again = controller.map(region.address, PAGE, controller.program_key(key))
    assert again[0:5] == b"hello"


def test_unmapped_pages_are_plaintext_without_tme(controller: Controller, region: Region) -> None:
    controller.write(region.address - 3, b"abcdef")
    assert controller.read(region.address - 3, 6) == b"abcdef"
    assert controller.device.read(region.address - 3, 3) == b"abc"
    assert region[0:3] == b"def"
    assert controller.device.read(region.address, 3) != b"def"


def test_unmapped_pages_are_encrypted_with_tme_until_the_power_goes(device: pmem.Device) -> None:
    controller = Controller(device, tme=True)
    controller.write(100, b"x" * 200)
    assert controller.read(100, 200) == b"x" * 200
    assert garbage(device.read(100, 200), b"x" * 200)
    controller.program_key(Key.generate("aes-xts-128"))
    region = controller.map(0, PAGE, 0)
    assert region[100:300] == b"x" * 200
    controller.power_cycle()
    assert garbage(controller.read(100, 200), b"x" * 200)


def test_ranges_over_regions_and_gaps_are_read_and_written_whole(controller: Controller) -> None:
    keyids = [controller.program_key(Key.generate("aes-xts-128")) for _ in range(3)]
    places = ((PAGE, PAGE), (2 * PAGE, 3 * PAGE), (8 * PAGE, PAGE))
    regions = [controller.map(at, size, keyid) for (at, size), keyid in zip(places, keyids, strict=True)]
    data = np.random.default_rng(2).bytes(11 * PAGE - 7)
    controller.write(7, data)
    assert controller.read(7, len(data)) == data
    for region in regions:
        assert region[:] == data[region.address - 7 : region.address - 7 + region.size]
    gap = slice(5 * PAGE, 8 * PAGE)
    assert controller.device.media[gap].tobytes() == data[gap.start - 7 : gap.stop - 7]


@pytest.mark.parametrize(
    ("address", "length", "says"),
    [
        (100, PAGE, "address 100 is not a multiple"),
        (0, 100, "length 100 is not a multiple"),
        (0, 0, "at least one page"),
        ("1MiB", PAGE, "not all on the device"),
        (0, "2MiB", "not all on the device"),
        (1 << 16, PAGE, "overlap"),
        (0, 1 << 20, "overlap"),
        ((1 << 16) - PAGE, 2 * PAGE, "overlap"),
        ((1 << 16) + (1 << 19) - PAGE, 2 * PAGE, "overlap"),
    ],
)
def test_a_range_that_can_not_be_mapped_is_refused(
    controller: Controller, region: Region, address: Any, length: Any, says: str
) -> None:
    with pytest.raises(mktme.MappingError, match=says):
        controller.map(address, length, region.keyid)
    assert controller.regions == (region,)


def test_a_keyid_without_a_key_is_not_mapped(controller: Controller) -> None:
    for keyid in (1, 64, -1):
        with pytest.raises(mktme.KeyIDError, match="program one first"):
            controller.map(0, PAGE, keyid)


def test_an_unknown_scheme_is_refused_with_the_known_ones(controller: Controller, key: Key) -> None:
    with pytest.raises(mktme.SchemeError, match="pmem-line"):
        controller.map(0, PAGE, controller.program_key(key), iv="nothing")


def test_regions_come_in_the_order_of_their_addresses(controller: Controller, key: Key) -> None:
    keyid = controller.program_key(key)
    made = [controller.map(at * PAGE, PAGE, keyid) for at in (5, 1, 9, 0)]
    assert [r.address for r in controller.regions] == [0, PAGE, 5 * PAGE, 9 * PAGE]
    controller.unmap(made[1])
    assert [r.address for r in controller.regions] == [0, 5 * PAGE, 9 * PAGE]
    assert not made[1].mapped
    with pytest.raises(mktme.RegionUnmapped):
        controller.unmap(made[1])
    other = Controller(controller.device)
    with pytest.raises(mktme.MappingError, match="another controller"):
        other.unmap(made[0])


def test_scattered_lines_go_over_regions_keyids_and_gaps(controller: Controller) -> None:
    rng = np.random.default_rng(4)
    for number in range(6):
        algorithm = ("aes-xts-128", "aes-xts-256")[number % 2]
        controller.map(number * 5 * PAGE, 3 * PAGE, controller.program_key(Key.generate(algorithm)))
    model = np.frombuffer(rng.bytes(1 << 20), np.uint8).copy()
    controller.write(0, model)
    for n in (0, 1, 63, 1000, 6000):
        addresses = rng.integers(0, (1 << 20) // 64, n) * 64
        assert (controller.read_lines(addresses) == model.reshape(-1, 64)[addresses // 64]).all()
        lines = rng.integers(0, 256, (n, 64), dtype=np.uint8)
        controller.write_lines(addresses.astype(np.uint64), lines)
        for address, line in zip(addresses.tolist(), lines, strict=True):
            model[address : address + 64] = line  # the last of several stays
        assert controller.read(0, 1 << 20) == model.tobytes()


def test_bad_lines_are_refused_whole(controller: Controller, region: Region) -> None:
    region.write(0, b"kept")
    before = controller.device.media.tobytes()
    ones = np.ones((2, 64), np.uint8)
    for addresses, lines in (
        ([0, 1 << 20], ones),
        ([0, 63], ones),
        ([0, -64], ones),
        ([0.0, 64.0], ones),
        ([[0], [64]], ones),
        ([0, 64], ones[:1]),
        ([0, 64], ones.astype(np.int16)),
        ([0, 64], ones.reshape(-1)),
    ):
        with pytest.raises(pmem.RangeError):
            controller.write_lines(addresses, lines)
    assert controller.device.media.tobytes() == before


def test_a_read_only_device_is_read_and_not_written(tmp_path: Path, key: Key) -> None:
    path = tmp_path / "other.img"
    with pmem.create(path, 1 << 16) as device:
        controller = Controller(device)
        controller.map(0, 1 << 16, controller.program_key(key))[0:5] = b"hello"
    stored = path.read_bytes()
    with pmem.open(path, "r") as device:
        controller = Controller(device)
        region = controller.map(0, 1 << 16, controller.program_key(key))
        assert region[0:5] == b"hello"
        assert region.array(np.uint8)[0] == ord("h")
        for use in (
            lambda: region.write(0, b"x"),
            lambda: region.fill(1),
            lambda: region.__setitem__(3, 1),
            lambda: region.array(np.uint8).__setitem__(0, 1),
            lambda: region.array(np.uint8).__setitem__([1, 5], 1),
            lambda: region.array(np.uint8, (8, 8)).__setitem__((slice(None), 1), 1),
            lambda: controller.write(0, b"x"),
            lambda: controller.write_lines([0], np.ones((1, 64), np.uint8)),
        ):
            with pytest.raises(pmem.ReadOnlyDevice):
                use()
    assert path.read_bytes() == stored


@pytest.fixture
def wide(tmp_path: Path) -> Any:
    """A region that takes requests of several threads."""
    with pmem.create(tmp_path / "wide.img", "32MiB") as device:
        controller = Controller(device, threads=3)
        yield controller, controller.map(0, "32MiB", controller.program_key(Key.generate("aes-xts-128")))


@pytest.mark.parametrize("start", [0, 1, 4096, 5000])
def test_a_request_over_threads_gives_the_same_bytes(wide: Any, start: int) -> None:
    controller, region = wide
    size = parallel.SPLIT_FROM + 3 * PAGE + 77
    data = np.frombuffer(np.random.default_rng(start).bytes(size), np.uint8)
    region.fill(0xEE, 0, 1 << 14)
    region.write(start, data)
    out = np.empty(size, np.uint8)
    region.read_into(out, start)
    assert (out == data).all()
    assert region.read(0, start) == b"\xee" * start
    alone = Controller(controller.device, threads=1)
    alone.slots[1] = controller.slots[1]
    view = alone.map(0, "32MiB", 1)
    assert view.read(start, size) == data.tobytes()
    addresses = np.random.default_rng(1).integers(0, (32 << 20) // 64, parallel.SPLIT_FROM // 64 + 5) * 64
    assert (controller.read_lines(addresses) == alone.read_lines(addresses)).all()


def test_an_error_in_one_thread_of_a_request_is_raised() -> None:
    seen = []

    def work(first: int, last: int) -> None:
        seen.append((first, last))
        if first == 8:
            raise ValueError("in the second piece")

    with pytest.raises(ValueError, match="second piece"):
        parallel.split(work, 20, 4, 3)
    assert sorted(seen) == [(0, 8), (8, 16), (16, 20)]


def test_threads_on_separate_ranges_do_not_disturb_each_other(wide: Any) -> None:
    _, region = wide
    errors = []

    def work(number: int) -> None:
        rng = np.random.default_rng(number)
        base = number << 20
        for _ in range(50):
            at, size = base + int(rng.integers(0, 1 << 19)), int(rng.integers(1, 5000))
            data = rng.bytes(size)
            region.write(at, data)
            if region.read(at, size) != data:
                errors.append((number, at, size))

    threads = [threading.Thread(target=work, args=(n,)) for n in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not errors


def test_a_request_over_threads_works_in_a_forked_child(tmp_path: Path) -> None:
    code = """if 1:
        import os, sys, warnings, numpy as np, pmem, mktme
        warnings.simplefilter("ignore")
        with pmem.create(sys.argv[1], "32MiB") as device:
            controller = mktme.Controller(device, threads=2)
            region = controller.map(0, "32MiB", controller.program_key(mktme.Key.generate("aes-xts-128")))
            data = np.arange(32 << 20, dtype=np.uint8)
            region.write(0, data)
            child = os.fork()
            if not child:
                os._exit(0 if region.read(0, 32 << 20) == data.tobytes() else 3)
            print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
    """
    run = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path / "f.img")],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
        env=dict(os.environ),
    )
    assert run.stdout == "0\n", run.stderr


def test_nothing_of_a_controller_is_pickled(controller: Controller, region: Region) -> None:
    for thing in (controller, region, region.array(np.uint8)):
        with pytest.raises(TypeError):
            pickle.dumps(thing)
