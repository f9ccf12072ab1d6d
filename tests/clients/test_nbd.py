"""An image as a network block device: clients, what lies on the medium, signals."""

from __future__ import annotations

import hashlib
import json
import shutil
import signal
import struct
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from typer.testing import CliRunner

import mktme
import pmem
from mktme.cli import app
from mktme.clients.nbd import CIPHERS, Disk, key_bytes
from mktme.errors import BioError, ClientError

SIZE = 16 << 20
KEY = np.random.default_rng(4).bytes(64)


def needs(*programs: str) -> pytest.MarkDecorator:
    missing = [program for program in programs if shutil.which(program) is None]
    return pytest.mark.skipif(bool(missing), reason=f"{', '.join(missing)} isn't installed")


class Server:
    """`mktme serve` in a process of its own."""

    def __init__(self, folder: Path, key: bytes = KEY, *more: str) -> None:
        self.image, self.socket, file = folder / "disk.img", folder / "socket", folder / "disk.key"
        if not self.image.exists():
            with self.image.open("wb") as made:
                made.truncate(SIZE)
            file.touch(mode=0o600)
            file.write_bytes(key)
        self.uri = f"nbd+unix:///?socket={self.socket}"
        self.process = subprocess.Popen(
            [
                *(sys.executable, "-c", "from mktme.cli import main; main()", "serve", str(self.image)),
                *("--socket", str(self.socket), "--key", str(file), *more),
            ],
            stderr=subprocess.PIPE,
            text=True,
        )
        assert self.process.stderr is not None
        told = json.loads(self.process.stderr.readline())
        assert told["event"] == "serving", told

    def end(self, number: int = signal.SIGTERM) -> int:
        self.process.send_signal(number)
        status = self.process.wait(30)
        assert self.process.stderr is not None
        self.process.stderr.close()
        return status


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    made = Server(tmp_path)
    try:
        yield made
    finally:
        if made.process.poll() is None:
            assert made.end() == 0
        assert not made.socket.exists()


def run(*command: str) -> str:
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "failed" not in done.stdout, done.stdout
    return done.stdout


@needs("nbdkit", "qemu-io")
def test_requests_of_every_kind(server: Server) -> None:
    run(
        *("qemu-io", "-f", "raw", server.uri),
        *("-c", "write -P 0x5a 1M 2M", "-c", "read -P 0x5a 1M 2M"),
        *("-c", "write -P 0x33 100 1000", "-c", "read -P 0x33 100 1000"),  # parts of sectors
        *("-c", "write -f -P 0x11 64k 64k", "-c", "flush", "-c", "read -P 0x11 64k 64k"),
        *("-c", "write -z 2M 512k", "-c", "read -P 0 2M 512k", "-c", "read -P 0x5a 2560k 512k"),
        *("-c", "discard 1M 1M", "-c", "read -P 0x5a 2560k 512k"),
    )
    space = server.image.stat().st_blocks
    run("qemu-io", "-f", "raw", server.uri, "-c", "discard 0 16M")
    assert server.image.stat().st_blocks < space
    run("qemu-io", "-f", "raw", server.uri, "-c", "write -P 0x77 5M 1M")
    assert server.end() == 0
    with pmem.open(server.image) as device:
        disk = Disk(device, "aes-xts-plain64", KEY)
        found = np.empty(1 << 20, np.uint8)
        disk.read_into(found, 5 << 20)
        assert (found == 0x77).all()
        disk.close()


@needs("nbdkit", "fio")
def test_fio_verifies_what_it_wrote(server: Server) -> None:
    job = (
        "--name=job --ioengine=nbd --rw=randrw --bs=4k --size=4m --iodepth=8 --verify=crc32c --verify_fatal=1"
    )
    run("fio", *job.split(), f"--uri={server.uri}", "--fsync=32", "--verify_state_save=0")


@needs("nbdkit", "nbdcopy", "mke2fs", "e2fsck")
def test_a_file_system_inside(server: Server, tmp_path: Path) -> None:
    plain, back = tmp_path / "plain.ext4", tmp_path / "back.ext4"
    tree = Path(mktme.__file__).parent / "iv"
    run("mke2fs", "-q", "-t", "ext4", "-d", str(tree), str(plain), "16M")
    run("nbdcopy", str(plain), server.uri)
    run("nbdcopy", server.uri, str(back))
    run("e2fsck", "-f", "-n", str(back))
    assert back.read_bytes() == plain.read_bytes()
    assert server.end() == 0
    mark = (tree / "scheme.py").read_bytes()[:64]
    assert mark in plain.read_bytes()
    assert mark not in server.image.read_bytes()
    with pmem.open(server.image) as device:  # without nbdkit
        disk, found = Disk(device, "aes-xts-plain64", KEY), np.empty(SIZE, np.uint8)
        disk.read_into(found, 0)
        assert found.tobytes() == plain.read_bytes()
        disk.close()


@needs("nbdkit")
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_signals_end_it(tmp_path: Path, number: signal.Signals) -> None:
    server = Server(tmp_path)
    children = Path(f"/proc/{server.process.pid}/task/{server.process.pid}/children").read_text().split()
    for process in (str(server.process.pid), *children):
        for what in ("cmdline", "environ"):
            found = Path(f"/proc/{process}/{what}").read_bytes()
            assert KEY not in found
            assert KEY.hex().encode() not in found
    assert children
    assert server.end(number) == 0
    assert not server.socket.exists()


@needs("nbdkit", "qemu-io")
def test_a_killed_server_loses_nothing_that_was_flushed(tmp_path: Path) -> None:
    server = Server(tmp_path)
    run("qemu-io", "-f", "raw", server.uri, "-c", "write -P 0x42 3M 1M", "-c", "flush")
    children = Path(f"/proc/{server.process.pid}/task/{server.process.pid}/children").read_text().split()
    assert server.end(signal.SIGKILL) == -signal.SIGKILL
    for child in children:  # goes with its parent
        for _ in range(500):
            if (
                not Path(f"/proc/{child}").exists()
                or "Z" in Path(f"/proc/{child}/stat").read_text().split()[2]
            ):
                break
            time.sleep(0.01)
        else:
            raise AssertionError(f"{child} lives")
    server.socket.unlink(missing_ok=True)
    server = Server(tmp_path)
    run("qemu-io", "-f", "raw", server.uri, "-c", "read -P 0x42 3M 1M")
    assert server.end() == 0


LUKS = struct.Struct(">6sH32s32s32sII20s32sI40s")
SLOT = struct.Struct(">II32sII")


def luks(path: Path, passphrase: bytes) -> tuple[bytes, int]:
    """The volume key and where the payload begins, of a LUKS 1 volume (its on-disk format, version 1.2.3)."""
    raw = path.read_bytes()[: 4 << 20]
    _, version, name, mode, hashing, payload, length, digest, salt, iterations, _ = LUKS.unpack_from(raw)
    assert version == 1
    name, mode, hashing = (text.rstrip(b"\0").decode() for text in (name, mode, hashing))
    _, slot_iterations, slot_salt, offset, stripes = SLOT.unpack_from(raw, LUKS.size)
    slot_key = hashlib.pbkdf2_hmac(hashing, passphrase, slot_salt, slot_iterations, length)
    split = bytearray()
    for sector in range(-(-length * stripes // 512)):
        data = raw[offset * 512 + sector * 512 :][:512]
        if mode == "xts-plain64":
            how: modes.Mode = modes.XTS(sector.to_bytes(16, "little"))
        else:
            assert mode == "cbc-essiv:sha256"
            seal = Cipher(algorithms.AES(hashlib.sha256(slot_key).digest()), modes.ECB()).encryptor()
            how = modes.CBC(seal.update(sector.to_bytes(16, "little")))
        split += Cipher(algorithms.AES(slot_key), how).decryptor().update(data)
    merged = bytes(length)
    for stripe in range(stripes):
        merged = bytes(a ^ b for a, b in zip(merged, split[stripe * length :][:length], strict=True))
        if stripe < stripes - 1:
            size = hashlib.new(hashing).digest_size
            merged = b"".join(
                hashlib.new(hashing, i.to_bytes(4, "big") + merged[at : at + size]).digest()[: length - at]
                for i, at in enumerate(range(0, length, size))
            )
    assert hashlib.pbkdf2_hmac(hashing, merged, salt, iterations, 20) == digest
    return merged, payload * 512


@needs("qemu-img")
@pytest.mark.parametrize("cipher", list(CIPHERS))
def test_the_medium_has_the_bytes_of_luks(tmp_path: Path, cipher: str) -> None:
    """qemu's own implementation writes the same sectors under the same key."""
    mode, ivs = cipher.removeprefix("aes-").split("-")
    generator, _, hashing = ivs.partition(":")
    plain, volume, image = tmp_path / "plain", tmp_path / "volume.luks", tmp_path / "disk.img"
    data = np.random.default_rng(6).bytes(1 << 20)
    plain.write_bytes(data)
    options = [f"cipher-alg=aes-256,cipher-mode={mode},ivgen-alg={generator},iter-time=500,key-secret=s"]
    if hashing:
        options[0] += f",ivgen-hash-alg={hashing}"
    secret = ("--object", "secret,id=s,data=passphrase")
    target = ("--target-image-opts", f"driver=luks,file.filename={volume},key-secret=s")
    create = ("qemu-img", "create", "-q", *secret, "-f", "luks", "-o", options[0], str(volume), "1M")
    for _ in range(10):  # it measures the processor for the key's iterations, and may find it too busy
        done = subprocess.run(create, capture_output=True, text=True, check=False)
        if "CPU usage" not in done.stderr:
            break
    assert done.returncode == 0, done.stderr
    run("qemu-img", "convert", "-n", *secret, "-f", "raw", str(plain), *target)
    key, payload = luks(volume, b"passphrase")
    with pmem.create(image, "1MiB") as device:
        disk = Disk(device, cipher, key)
        disk.write(0, data)
        assert device.media.tobytes() == volume.read_bytes()[payload : payload + len(data)]
        disk.close()


@pytest.mark.parametrize("cipher", list(CIPHERS))
@pytest.mark.parametrize("unit", [512, 4096])
def test_a_disk(tmp_path: Path, cipher: str, unit: int) -> None:
    key = np.random.default_rng(1).bytes(key_bytes(cipher))
    data = np.random.default_rng(2).integers(0, 256, 3 << 20, np.uint8)
    with pmem.create(tmp_path / "disk.img", "8MiB") as device:
        disk = Disk(device, cipher, key, unit)
        disk.write(unit * 3, data)
        disk.zero(unit * 7, unit * 600)
        disk.trim(6 << 20, 1 << 20)
        disk.flush(0, unit)
        disk.flush()
        found = np.empty_like(data)
        disk.read_into(found, unit * 3)
        expected = data.copy()
        expected[unit * 4 : unit * 604] = 0
        assert (found == expected).all()
        with pytest.raises(BioError):
            disk.write(unit // 2, bytes(unit))
        disk.close()


def test_what_cannot_be_served(tmp_path: Path) -> None:
    image, socket, key = tmp_path / "disk.img", tmp_path / "socket", tmp_path / "key"
    image.write_bytes(bytes(1 << 20))
    key.touch(mode=0o600)
    key.write_bytes(KEY)
    taken = tmp_path / "taken"
    taken.touch()
    good = ["serve", str(image), "--socket", str(socket), "--key", str(key)]
    for arguments, says in (
        ([*good, "--cipher", "rot13"], "'rot13' is no cipher: there are aes-xts-plain64"),
        ([*good, "--cipher", "aes-cbc-essiv:sha256"], "a key of 64 bytes: aes-cbc-essiv:sha256 has 32"),
        ([*good, "--unit", "300"], "data units of 300 bytes"),
        ([*good[:2], "--socket", str(taken), "--key", str(key)], "is there already"),
        (["serve", str(tmp_path / "none"), *good[2:]], "there is no image"),
    ):
        done = CliRunner().invoke(app, arguments)
        assert done.exit_code == 1
        assert says in str(done.exception)
    with pmem.open(image) as device, pytest.raises(ClientError, match="data units of 300"):
        Disk(device, "aes-xts-plain64", KEY, 300)
    assert not socket.exists()
