"""The controller: KeyID table, page map, scattered lines, the hardware's behaviour."""

from __future__ import annotations

import os
import pickle
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from hypothesis import given, settings
from hypothesis import strategies as st

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
    parts = (old, old.cipher, getattr(old.cipher, "_schedule", old))
    held = [v for part in parts for v in vars(part).values() if isinstance(v, bytearray | np.ndarray)]
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


def on_media(material: bytes, address: int, plain: bytes) -> bytes:
    """Whole lines as OpenSSL encrypts them, one data unit each."""
    made = b""
    for at in range(0, len(plain), 64):
        iv = ((address + at) // 64).to_bytes(16, "little")
        made += Cipher(algorithms.AES(material), modes.XTS(iv)).encryptor().update(plain[at : at + 64])
    return made


@pytest.mark.parametrize(("algorithm", "size"), [("aes-xts-128", 32), ("aes-xts-256", 64)])
@pytest.mark.parametrize("page", [0, 5, (1 << 24) - 2])
def test_the_medium_holds_what_openssl_makes_of_every_line(
    tmp_path: Path, engine: str, algorithm: str, size: int, page: int
) -> None:
    material = np.random.default_rng(size).bytes(size)
    with pmem.create(tmp_path / "big.img", "64GiB") as device:
        controller = Controller(device)
        keyid = controller.program_key(Key.from_bytes(algorithm, material))
        region = controller.map(page * PAGE, 2 * PAGE, keyid)
        model = bytearray(np.random.default_rng(page).bytes(2 * PAGE))
        region.write(0, model)
        assert device.read(region.address, 2 * PAGE) == on_media(material, region.address, model)
        region[1000:3001] = model[1000:3001] = b"a" * 2001
        region.array(np.uint8, (128, 64))[:, 7] = 3
        model[7::64] = b"\x03" * 128
        lines = np.arange(3 * 64, dtype=np.uint8).reshape(3, 64)
        controller.write_lines(region.address + np.array([64, 0, PAGE + 64]), lines)
        for number, at in enumerate((64, 0, PAGE + 64)):
            model[at : at + 64] = lines[number].tobytes()
        assert device.read(region.address, 2 * PAGE) == on_media(material, region.address, model)


def test_ciphertext_written_by_an_attacker_is_decrypted_line_by_line(
    controller: Controller, region: Region, engine: str
) -> None:
    region.fill(0, 0, PAGE)
    stored = controller.device.read(region.address, PAGE)
    controller.device.write(region.address + 640, bytes([stored[640] ^ 1]))
    read = np.frombuffer(region.read(0, PAGE), np.uint8).reshape(-1, 16)
    assert np.flatnonzero(read.any(axis=1)).tolist() == [40]
    controller.device.write(region.address, stored[64:128])
    assert region[0:64] != bytes(64)


def test_a_cleared_keyid_reads_and_writes_under_the_tme_key(device: pmem.Device, key: Key) -> None:
    controller = Controller(device, tme=True)
    region = controller.map(0, PAGE, controller.program_key(key))
    controller.clear_key(region.keyid)
    region[0:64] = b"m" * 64
    stored = device.read(0, 64)
    assert garbage(stored, b"m" * 64)
    controller.unmap(region)
    assert controller.read(0, 64) == b"m" * 64
    assert garbage(Controller(device, tme=True).read(0, 64), b"m" * 64)


def test_a_power_cycle_wipes_every_key_of_the_table(device: pmem.Device, key: Key) -> None:
    controller = Controller(device, tme=True)
    controller.program_key(key)
    controller.program_key(Key.generate("aes-xts-256"), keyid=63)
    held = [
        value
        for slot in controller.slots
        if slot is not None
        for value in vars(slot).values()
        if isinstance(value, bytearray | np.ndarray)
    ]
    assert len(held) >= 3
    assert all(any(bytes(value)[8:]) for value in held)
    controller.power_cycle()
    assert not any(any(bytes(value)[8:]) for value in held)


def test_the_last_keyid_of_15_bits_encrypts(device: pmem.Device, key: Key) -> None:
    controller = Controller(device, 15)
    region = controller.map(PAGE, PAGE, controller.program_key(key, keyid=0x7FFF))
    controller.map(3 * PAGE, PAGE, controller.program_key(Key.generate("aes-xts-128")))
    lines = np.random.default_rng(1).integers(0, 256, (256, 64), dtype=np.uint8)
    controller.write_lines(np.arange(256) * 64, lines)
    assert region[:] == lines[64:128].tobytes()
    assert device.read(PAGE, PAGE) == on_media(bytes(range(32)), PAGE, lines[64:128].tobytes())
    assert device.read(2 * PAGE, PAGE) == lines[128:192].tobytes()
    assert (controller.read_lines(np.arange(256) * 64) == lines).all()


def test_regions_may_touch_and_sizes_may_be_text(controller: Controller, key: Key) -> None:
    keyid = controller.program_key(key)
    first, last = controller.map("0", "64KiB", keyid), controller.map("128KiB", "64 KiB", keyid)
    between = controller.map(np.int64(1 << 16), 1 << 16, keyid)
    assert controller.regions == (first, between, last)
    assert [r.size for r in controller.regions] == [1 << 16] * 3


OUTSIDE: list[tuple[Any, int]] = [
    (1 << 20, 1),
    (-1, 1),
    ((1 << 20) - 1, 2),
    (1 << 64, 5),
    (-(1 << 62), 5),
    (np.int64((1 << 63) - 1), 5),
    (np.uint64((1 << 64) - 1), 5),
    (np.int32((1 << 31) - 1), 5),
]


@pytest.mark.parametrize(("address", "length"), OUTSIDE)
def test_a_range_outside_of_the_device_is_refused_whole(
    controller: Controller, region: Region, address: Any, length: int
) -> None:
    before = controller.device.media.tobytes()
    for use in (
        lambda: controller.read(address, length),
        lambda: controller.read_into(bytearray(length), address),
        lambda: controller.write(address, bytes(length)),
    ):
        with pytest.raises(pmem.RangeError, match="outside of the device"):
            use()
    assert controller.device.media.tobytes() == before


def test_a_length_that_no_memory_could_hold_is_refused_as_any_other(controller: Controller) -> None:
    for length in (1 << 60, -1):
        with pytest.raises(pmem.RangeError):
            controller.read(0, length)


def test_an_address_that_is_no_integer_is_refused_whole(controller: Controller, region: Region) -> None:
    before = controller.device.media.tobytes()
    for address in (0.5, "0", None, float(region.address)):
        uses: tuple[Callable[[Any], Any], ...] = (
            lambda a: controller.read(a, 4),
            lambda a: controller.read_into(bytearray(4), a),
            lambda a: controller.write(a, b"data"),
        )
        for use in uses:
            with pytest.raises(pmem.RangeError, match="integers"):
                use(address)
    assert controller.device.media.tobytes() == before


def test_addresses_of_numpys_are_as_good_as_pythons(controller: Controller, key: Key) -> None:
    controller.map(0, PAGE, controller.program_key(key))
    controller.write(np.uint8(200), bytes(range(100)))
    assert controller.read(np.uint8(200), np.uint8(100)) == bytes(range(100))
    out = bytearray(100)
    controller.read_into(out, np.uint8(200))
    assert out == bytes(range(100))
    controller.write(np.uint16((1 << 16) - 1), b"ab")
    assert controller.read(np.uint16((1 << 16) - 1), np.int8(2)) == b"ab"


def test_reading_lines_at_bad_addresses_is_refused(controller: Controller, region: Region) -> None:
    for addresses in ([1], [1 << 20], [-64], [0.0], [[0]], ["0"], [True], [1 << 64], 0):
        with pytest.raises(pmem.RangeError):
            controller.read_lines(addresses)
    assert controller.read_lines([]).shape == (0, 64)


@given(st.data())
@settings(derandomize=True, deadline=None, max_examples=40)
def test_a_request_of_any_place_and_length_is_split_into_the_same_bytes(
    tmp_path_factory: pytest.TempPathFactory, data: Any
) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(parallel, "SPLIT_FROM", 2 * PAGE)
        start = data.draw(st.integers(0, 1 << 18))
        size = data.draw(st.integers(1, (1 << 19) - start))
        threads = data.draw(st.integers(2, 5))
        with pmem.create(tmp_path_factory.mktemp("split") / "s.img", 1 << 19) as device:
            key = Key.from_bytes("aes-xts-128", bytes(range(32)))
            split, alone = (Controller(device, threads=n) for n in (threads, 1))
            ours, other = (c.map(0, 1 << 19, c.program_key(key)) for c in (split, alone))
            model = bytearray(np.random.default_rng(size).bytes(1 << 19))
            other.write(0, model)
            model[start : start + size] = value = np.random.default_rng(start).bytes(size)
            ours.write(start, value)
            assert other.read(0, 1 << 19) == model
            assert ours.read(start, size) == value
            assert split.read(start, size) == value
            out = bytearray(size)
            ours.read_into(out, start)
            assert out == value


def test_an_error_of_the_calling_threads_piece_comes_after_the_others_have_ended() -> None:
    ended = []

    def work(first: int, last: int) -> None:
        if first == 0:
            raise ValueError("in the first piece")
        threading.Event().wait(0.05)
        ended.append(first)

    with pytest.raises(ValueError, match="first piece"):
        parallel.split(work, 20, 4, 3)
    assert sorted(ended) == [8, 16]


@pytest.mark.parametrize(
    ("length", "grain", "threads"),
    [(0, 1, 4), (1, 4, 4), (17, 4, 1), (17, 4, 2), (17, 4, 100), (4096 * 7 + 3, 4096, 3)],
)
def test_pieces_cover_a_request_once_and_end_at_the_grain(length: int, grain: int, threads: int) -> None:
    seen: list[tuple[int, int]] = []
    parallel.split(lambda first, last: seen.append((first, last)), length, grain, threads)
    seen.sort()
    assert [first for first, _ in seen] == [0, *(last for _, last in seen[:-1])]
    assert seen[-1][1] == length
    assert all(first % grain == 0 for first, _ in seen)
    assert len(seen) <= threads


@pytest.mark.parametrize(
    ("source", "target", "size"),
    [(PAGE, 0, 1 << 19), (0, PAGE, 1 << 19), (100, 77, 1 << 18), (77, 100, 1 << 18), (0, 0, 1 << 19)],
)
def test_ciphertext_as_plaintext_is_as_if_copied_first(
    controller: Controller,
    engine: str,
    monkeypatch: pytest.MonkeyPatch,
    source: int,
    target: int,
    size: int,
) -> None:
    """From the medium of the same device, overlapping, in one region, over regions, and split."""
    monkeypatch.setattr(parallel, "SPLIT_FROM", 1 << 15)
    device = controller.device
    controller.threads = 3
    keyid = controller.program_key(Key.generate("aes-xts-128"))
    other = controller.program_key(Key.generate("aes-xts-256"))
    controller.map(1 << 15, 1 << 16, other)
    controller.map(1 << 18, 1 << 18, keyid)
    region = controller.map(1 << 19, 1 << 19, keyid)
    raw = np.random.default_rng(3).bytes(device.size)
    device.write(0, raw)
    controller.write(target, device.media[source : source + size])
    assert controller.read(target, size) == raw[source : source + size]
    device.write(0, raw)
    first, room = region.address + source, min(size, region.size - max(source, target))
    region.write(target, device.media[first : first + room])
    assert region.read(target, room) == raw[first : first + room]


def test_lines_from_the_medium_are_written_as_if_copied_first(controller: Controller, engine: str) -> None:
    device = controller.device
    controller.map(0, 2 * PAGE, controller.program_key(Key.generate("aes-xts-128")))
    controller.map(4 * PAGE, PAGE, controller.program_key(Key.generate("aes-xts-256")))
    for shift in (1, -1, 0, 200):
        device.write(0, np.random.default_rng(1).bytes(1 << 16))
        lines = device.media[64 * 250 : 64 * 450].reshape(-1, 64)
        want = lines.copy()
        addresses = (np.arange(250, 450) + shift) * 64
        controller.write_lines(addresses, lines)
        assert (controller.read_lines(addresses) == want).all()


@pytest.mark.parametrize("order", ["same", "mixed"])
def test_of_lines_for_one_address_the_last_stays(controller: Controller, engine: str, order: str) -> None:
    controller.map(PAGE, PAGE, controller.program_key(Key.generate("aes-xts-128")))
    controller.map(2 * PAGE, PAGE, controller.program_key(Key.generate("aes-xts-256")))
    few = np.array([PAGE, PAGE + 64, 2 * PAGE, 0, 5 * PAGE], np.uint64)
    addresses = np.tile(few[:1] if order == "same" else few, 1000)
    lines = np.random.default_rng(1).integers(0, 256, (addresses.size, 64), dtype=np.uint8)
    controller.write_lines(addresses, lines)
    last = {int(a): line.tobytes() for a, line in zip(addresses, lines, strict=True)}
    for address, line in last.items():
        assert controller.read(address, 64) == line
    read = controller.read_lines(addresses)
    assert all(row.tobytes() == last[int(a)] for a, row in zip(addresses, read, strict=True))


def test_a_full_file_system_refuses_a_write_before_its_first_byte(
    controller: Controller, region: Region, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Space for the first 64 KiB of each write, and none for what follows."""
    before = controller.device.media.tobytes()
    real = os.posix_fallocate

    def little(fd: int, start: int, length: int) -> None:
        if start + length > 2 << 16:
            raise OSError(28, "No space left on device")
        real(fd, start, length)

    monkeypatch.setattr(os, "posix_fallocate", little)
    monkeypatch.setattr("mktme.region.FILL", PAGE)
    table = region.array(np.uint8, (1 << 13, 64))
    for use in (
        lambda: region.write(0, bytes(1 << 17)),
        lambda: region.fill(1),
        lambda: controller.write(0, bytes(1 << 19)),
        lambda: controller.write_lines([0, 1 << 18], np.ones((2, 64), np.uint8)),
        lambda: table.__setitem__(..., 1),
        lambda: table.__setitem__((slice(None), 3), 1),
        lambda: table.__setitem__(([0, 5000], 3), 1),
        lambda: table.__iadd__(1),
        lambda: np.add(np.uint8(1), np.uint8(1), out=table[:, 2:4]),
        lambda: table.T.__setitem__(..., 1),
    ):
        with pytest.raises(pmem.DeviceFull, match="nothing was written"):
            use()
    assert controller.device.media.tobytes() == before


def test_keys_and_mappings_change_in_several_threads_at_once(controller: Controller, region: Region) -> None:
    """Each thread has pages and KeyIDs of its own; the table and the map stay consistent."""
    errors: list[BaseException] = []
    region.write(0, b"kept")

    def work(number: int) -> None:
        try:
            base = (1 << 19) + (1 << 17) + number * 8 * PAGE
            for turn in range(60):
                key = Key.from_bytes("aes-xts-128", bytes([turn]) * 16 + bytes([100 + number]) * 16)
                keyid = controller.program_key(key, keyid=10 + number)
                mine = [controller.map(base + at * PAGE, PAGE, keyid) for at in (0, 2, 3)]
                data = np.random.default_rng(turn).bytes(5000)
                controller.write(base + 5, data)
                assert controller.read(base + 5, 5000) == data
                for one in mine:
                    controller.unmap(one)
                controller.clear_key(keyid)
                controller.clear_key(controller.program_key(key))
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=work, args=(n,)) for n in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == []
    assert controller.regions == (region,)
    assert region[0:4] == b"kept"
