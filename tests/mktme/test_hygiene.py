"""What an attacker finds on the medium, and what is left after a crash."""

from __future__ import annotations

import logging
import os
import signal
import subprocess
import sys
import warnings
from pathlib import Path

import numpy as np
import pytest

import pmem
from mktme import Controller, Key, pconfig

MATERIAL = bytes(range(200, 232)) + bytes(range(64, 96))


@pytest.mark.parametrize(("algorithm", "size"), [("aes-xts-128", 32), ("aes-xts-256", 64)])
def test_no_plaintext_block_and_no_key_byte_is_on_the_medium(
    tmp_path: Path, algorithm: str, size: int
) -> None:
    path = tmp_path / "pool.img"
    rng = np.random.default_rng(1)
    text = (b"The quick brown fox jumps over the lazy dog. " * 3000)[: 1 << 17]
    with pmem.create(path, "1MiB") as device:
        controller = Controller(device)
        region = controller.map(
            0, "512KiB", controller.program_key(Key.from_bytes(algorithm, MATERIAL[:size]))
        )
        region.write(0, text)
        region[200_001 : 200_001 + 1000] = text[:1000]
        region.array(np.float64, 1000, 300_000)[:] = 1.25
        region.array(np.uint8, (100, 100), 400_003)[::3, 5:9] = 0x41
        lines = np.frombuffer(text[: 64 * 100], np.uint8).reshape(100, 64)
        controller.write_lines(rng.permutation(1000)[:100] * 64 + 450_048 // 64 * 64, lines)
        region.fill(0x20, 1 << 17, 5000)
        region.persist()
        controller.unmap(region)
        controller.power_cycle()
    image = path.read_bytes()
    known = {text[i : i + 16] for i in range(200)} | {bytes(np.full(2, 1.25)), b"A" * 16, b" " * 16}
    for block in known:
        assert block not in image
    for start in range(0, size - 8, 4):
        assert MATERIAL[start : start + 8] not in image


def test_what_was_persisted_is_there_after_a_kill(tmp_path: Path) -> None:
    code = """if 1:
        import sys, pmem, mktme
        device = pmem.create(sys.argv[1], "1MiB")
        controller = mktme.Controller(device)
        key = mktme.Key.from_bytes("aes-xts-256", bytes(range(64)))
        region = controller.map(0, "1MiB", controller.program_key(key))
        region.write(5000, b"persisted" * 1000)
        region.persist(5000, 9000)
        region.write(100_000, b"perhaps")
        print("now", flush=True)
        sys.stdin.read()
    """
    path = tmp_path / "pool.img"
    process = subprocess.Popen(
        [sys.executable, "-c", code, str(path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "now\n"
    process.send_signal(signal.SIGKILL)
    process.communicate()
    with pmem.open(path) as device:
        controller = Controller(device)
        keyid = controller.program_key(Key.from_bytes("aes-xts-256", bytes(range(64))))
        assert controller.map(0, "1MiB", keyid).read(5000, 9000) == b"persisted" * 1000


def windows(data: bytes) -> set[bytes]:
    """Every 16 bytes in a row of some data."""
    rows = np.lib.stride_tricks.sliding_window_view(np.frombuffer(data, np.uint8), 16)
    return set(np.ascontiguousarray(rows).view("V16").reshape(-1).tolist())


def test_no_16_bytes_of_random_plaintext_are_anywhere_on_the_medium(tmp_path: Path, engine: str) -> None:
    """Written in every way, over KeyIDs that are reprogrammed, cleared pages left behind."""
    path, secret = tmp_path / "pool.img", np.random.default_rng(7).bytes(1 << 14)
    table = np.frombuffer(secret, np.float64)
    with pmem.create(path, "256KiB") as device:
        controller = Controller(device, tme=True)
        first = controller.program_key(Key.from_bytes("aes-xts-128", MATERIAL[:32]))
        random = pconfig.pack(9, pconfig.Command.SET_KEY_RANDOM, "aes-xts-256", MATERIAL[:32], MATERIAL[32:])
        assert controller.pconfig(random) is pconfig.Status.PROG_SUCCESS
        for number, keyid in enumerate((first, 9, 0)):
            region = controller.map(number << 16, 1 << 16, keyid)
            region.write(5, secret)
            region[20_000:20_100] = secret[100:200]
            region.array(np.float64, table.size, 20_480)[::-1] = table
            region.array(np.float64, (32, 64), 40_963)[:, 3:60] = table.reshape(32, 64)[:, 3:60]
            region.array(np.float64, 100, 60_000)[::2] = table[:50]
            lines = np.frombuffer(secret, np.uint8).reshape(-1, 64)[:16]
            controller.write_lines(region.address + 61_440 + np.arange(16) * 128, lines)
        controller.write((3 << 16) - 3000, secret[:6000])
        controller.program_key(Key.generate("aes-xts-256"), keyid=first)
        controller.regions[0].write(0, secret[:99])
        controller.power_cycle()
        device.persist()
    image = path.read_bytes()
    assert not windows(secret) & windows(image)
    assert not {MATERIAL[i : i + 16] for i in range(len(MATERIAL) - 15)} & windows(image)


def test_a_run_at_the_most_talkative_log_level_names_no_key_byte(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    with caplog.at_level(logging.DEBUG), warnings.catch_warnings(record=True) as warned:
        warnings.simplefilter("always")
        with pmem.create(tmp_path / "pool.img", "1MiB") as device:
            controller = Controller(device, tme=True, threads=2)
            key = Key.from_bytes("aes-xts-256", MATERIAL)
            packed = pconfig.pack(
                5, pconfig.Command.SET_KEY_DIRECT, "aes-xts-256", MATERIAL[:32], MATERIAL[32:]
            )
            controller.pconfig(packed)
            region = controller.map(0, "1MiB", controller.program_key(key))
            region.write(3, bytes(100_000))
            region.array(np.uint16, (100, 100), 5)[:, 3] += 1
            print(controller, region, key, device, region.array(np.uint8), controller.slots)
            key.clear()
            controller.power_cycle()
    out, err = capfd.readouterr()
    text = "\n".join([caplog.text, out, err, *(str(one.message) for one in warned)])
    assert "KeyID" in text
    for part in (MATERIAL[:6], MATERIAL[32:38]):
        for way in (part.hex(), repr(part)[2:-1], str(list(part))[1:-1], " ".join(map(str, part))):
            assert way.lower() not in text.lower()


SCAN = """if 1:
    import sys, numpy as np, pmem, mktme

    def found(inverted):
        # How often some bytes, given inverted, are in this process's memory.
        count, room = 0, np.empty(1 << 22, np.uint8)
        with open("/proc/self/maps") as maps, open("/proc/self/mem", "rb", buffering=0) as memory:
            for line in list(maps):
                place, rights, *_ = line.split()
                at, end = (int(x, 16) for x in place.split("-"))
                if "rw" not in rights:
                    continue
                while at < end:
                    memory.seek(at)
                    part = room[: memory.readinto(room[: end - at].data)]
                    np.invert(part, out=part)
                    count += part.tobytes().count(inverted)
                    at += part.size if at + part.size >= end else part.size - 64
        return count

    for algorithm in ("aes-xts-128", "aes-xts-256"):
        with pmem.create(sys.argv[1] + algorithm, "1MiB") as device:
            controller = mktme.Controller(device)
            key = mktme.Key.generate(algorithm)
            halves = [np.invert(half).tobytes() for half in key.parts()]
            keyid = controller.program_key(key)
            packed = mktme.pconfig.pack(9, mktme.pconfig.Command.SET_KEY_DIRECT, algorithm, *key.parts())
            assert controller.pconfig(packed) == 0
            packed[:] = bytes(256)
            region = controller.map(0, "1MiB", keyid)
            region.write(3, bytes(100_000))
            region.array(np.uint16, (100, 100), 5)[:, 3] += 1
            assert all(found(half) for half in halves), "the scan finds a key that is there"
            key.clear()
            controller.clear_key(keyid)
            controller.clear_key(9)
            assert [found(half) for half in halves] == [0, 0], "a cleared key is still in memory"
    print("clean")
"""


def child(code: str, *arguments: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *map(str, arguments[:1]), "-c", code, *map(str, arguments[1:])],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
        env=dict(os.environ),
    )


def test_a_cleared_key_is_nowhere_in_the_memory_of_the_process(tmp_path: Path) -> None:
    run = child(SCAN, "-B", tmp_path / "pool.img")
    assert run.stdout == "clean\n", run.stderr


def test_everything_works_without_assertions(tmp_path: Path) -> None:
    """In ``python -O``: no check may live in an assert, and no work."""
    code = """if 1:
        import sys, numpy as np, pmem, mktme
        if __debug__:
            sys.exit("it has not been optimised")

        def check(true):
            if not true:
                sys.exit("wrong")

        def refused(kind, call):
            try:
                call()
            except kind:
                return
            sys.exit("not refused")

        with pmem.create(sys.argv[1], "32MiB") as device:
            controller = mktme.Controller(device, threads=2)
            key = mktme.Key.from_bytes("aes-xts-128", bytes(range(32)))
            region = controller.map(0, "24MiB", controller.program_key(key))
            data = np.random.default_rng(1).bytes(10 << 20)
            region.write(77, data)
            check(region.read(77, 10 << 20) == data)
            a = region.array(np.int32, (1000, 1000), 4001)
            model = np.arange(1000000, dtype=np.int32).reshape(1000, 1000)
            a[...] = model
            a += 5
            a[::7, 3] = a[[1, 2], [3, 4]][0]
            model += 5
            model[::7, 3] = model[1, 3]
            check((np.asarray(a) == model).all() and a.max() == model.max())
            lines = np.ones((4, 64), np.uint8)
            controller.write_lines([0, 64, 30 << 20, 64], lines)
            check((controller.read_lines([30 << 20, 64]) == 1).all())
            before = device.media.tobytes()
            refused(mktme.RegionError, lambda: region.write(region.size, b"x"))
            refused(mktme.MappingError, lambda: controller.map(0, 4096, 1))
            refused(pmem.RangeError, lambda: controller.write_lines([0, 3], lines[:2]))
            refused(mktme.KeyIDError, lambda: controller.program_key(key, keyid=64))
            refused(ValueError, lambda: a.__setitem__(..., [1, 2]))
            refused(mktme.GeneralProtection, lambda: controller.pconfig(bytes([0] * 5 + [1] + [0] * 250)))
            check(device.media.tobytes() == before)
            controller.power_cycle()
            refused(mktme.RegionUnmapped, lambda: region.read(0, 1))
        print("done")
    """
    run = child(code, "-O", tmp_path / "pool.img")
    assert run.stdout == "done\n", run.stderr


def test_a_kill_leaves_what_was_persisted_and_plaintext_nowhere(tmp_path: Path) -> None:
    code = """if 1:
        import os, signal, sys, numpy as np, pmem, mktme
        device = pmem.create(sys.argv[1], "1MiB")
        controller = mktme.Controller(device)
        key = mktme.Key.from_bytes("aes-xts-128", bytes(range(32)))
        region = controller.map(4096, "512KiB", controller.program_key(key))
        table = region.array(np.uint32, (300, 100), 13)
        table[:, ::2] = np.arange(50) * 1000003
        controller.write_lines([8192, 4096 + (256 << 10)], np.full((2, 64), 0x41, np.uint8))
        region.persist()
        table += 1
        os.kill(os.getpid(), signal.SIGKILL)
    """
    path = tmp_path / "pool.img"
    run = child(code, "-B", path)
    assert run.returncode == -signal.SIGKILL, run.stderr
    assert b"A" * 16 not in path.read_bytes()
    with pmem.open(path) as device:
        controller = Controller(device)
        region = controller.map(
            4096, "512KiB", controller.program_key(Key.from_bytes("aes-xts-128", bytes(range(32))))
        )
        table = np.asarray(region.array(np.uint32, (300, 100), 13))
        rows = [row for row in range(300) if not 4096 <= 13 + row * 400 + 399 < 4160 + 400]
        kept = np.arange(50, dtype=np.uint32) * 1000003
        assert all((table[row, ::2] - kept <= 1).all() for row in rows)
        assert region.read(256 << 10, 64) == b"A" * 64
