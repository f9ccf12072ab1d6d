"""What an attacker finds on the medium, and what is left after a crash."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import pmem
from mktme import Controller, Key

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
