"""An image as a network block device, encrypted by an inline engine: a plugin of nbdkit, and what starts it.

Sectors are encrypted as dm-crypt does: data units of 512 bytes (or `unit`), numbered by their sector. The
process that serves is nbdkit's, with its own Python; the key comes to it through an open file, not among its
arguments.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from types import FrameType
from typing import Any

import numpy as np

from mktme.clients.daemon import Log
from mktme.crypto.algorithms import ALGORITHMS
from mktme.errors import BioError, ClientError, LibraryMissing
from mktme.keys import Key
from mktme.stack.bio import SECTOR, Bio
from mktme.stack.engine import BlockDevice
from mktme.stack.keyslots import UNITS, BlockKey, CryptoProfile
from pmem import Device

CIPHERS = {
    "aes-xts-plain64": "aes-xts-256",
    "aes-cbc-essiv:sha256": "aes-cbc-essiv-256",
}
ZEROS = 1 << 20  # bytes that are written at once
PLUGIN = Path(__file__).with_name("nbdkit_plugin.py")


class Disk:
    """Sectors behind an inline engine. Thread-safe.

    `cipher` is one of CIPHERS, as dm-crypt names them; its key has `key_bytes(cipher)` bytes; `unit`
    is 512 to 4096 bytes. Offsets and lengths are bytes, multiples of `unit`.

    Raises ClientError for a cipher, a key or a unit that can't be.
    """

    def __init__(self, device: Device, cipher: str, key: bytes | bytearray, unit: int = SECTOR) -> None:
        _check(cipher, len(key), unit)
        self.device, self.unit = device, unit
        algorithm = CIPHERS[cipher]
        self._key = Key.from_bytes(algorithm, key)
        self._block_key = BlockKey.of(self._key, unit)
        self._blocks = BlockDevice(device, CryptoProfile(1, {algorithm: UNITS}))

    @property
    def size(self) -> int:
        """Bytes."""
        return self.device.size

    def read_into(self, buffer: Any, offset: int) -> None:
        """Fill a writable buffer. Raises BioError, PoisonError."""
        self._submit(False, offset, np.frombuffer(buffer, np.uint8))

    def write(self, offset: int, data: Any) -> None:
        """Raises BioError, pmem.DeviceFull."""
        self._submit(True, offset, np.frombuffer(data, np.uint8))

    def _submit(self, write: bool, offset: int, data: Any) -> None:
        if offset % self.unit or data.size % self.unit:
            raise BioError(
                f"{data.size} bytes at {offset} are not whole data units of {self.unit} bytes: read, change "
                "and write those that they lie in"
            )
        sector = offset // SECTOR
        self._blocks.submit(Bio(write, sector, [data], self._block_key, sector * SECTOR // self.unit))

    def zero(self, offset: int, length: int) -> None:
        """Make a range read as zeros: their ciphertext is written."""
        zeros = np.zeros(min(length, ZEROS), np.uint8)
        for at in range(offset, offset + length, ZEROS):
            self._submit(True, at, zeros[: offset + length - at])

    def trim(self, offset: int, length: int) -> None:
        """Give a range back: what it reads as is undefined (what zeros decrypt to)."""
        self.device.discard(offset, length)

    def flush(self, offset: int = 0, length: int | None = None) -> None:
        """All that was written is durable."""
        self.device.persist(offset, length)

    def close(self) -> None:
        """Forget the key."""
        self._key.clear()


def key_bytes(cipher: str) -> int:
    """How long a cipher's key is. Raises ClientError for a cipher that there isn't."""
    if cipher not in CIPHERS:
        raise ClientError(f"{cipher!r} is no cipher: there are {', '.join(CIPHERS)}")
    return sum(ALGORITHMS[CIPHERS[cipher]].parts)


def _check(cipher: str, length: int, unit: int) -> None:
    if length != key_bytes(cipher):
        raise ClientError(f"a key of {length} bytes: {cipher} has {key_bytes(cipher)}")
    if unit not in UNITS:
        raise ClientError(f"data units of {unit} bytes: there are {', '.join(map(str, UNITS))}")


def _nbdkit() -> str:
    """The program. Raises LibraryMissing where it isn't, or has another Python than this one."""
    program = shutil.which("nbdkit")
    if program is None:
        raise LibraryMissing("serving a disk needs nbdkit: apt-get install nbdkit nbdkit-plugin-python")
    told = subprocess.run([program, "--dump-plugin", "python"], capture_output=True, text=True, check=False)
    if told.returncode:
        raise LibraryMissing("nbdkit has no plugin for Python: apt-get install nbdkit-plugin-python")
    facts = dict(line.split("=", 1) for line in told.stdout.splitlines() if "=" in line)
    version = facts.get("python_version", "").split(".")[:2]
    if version != [str(number) for number in sys.version_info[:2]]:
        raise LibraryMissing(
            f"nbdkit's plugin has Python {'.'.join(version)}, and this is {sys.version_info[0]}."
            f"{sys.version_info[1]}: install mktme for that one"
        )
    return program


def serve(
    image: Path,
    socket: Path,
    key: bytes | bytearray,
    *,
    cipher: str = "aes-xts-plain64",
    unit: int = SECTOR,
) -> None:
    """Serve an image on a Unix socket, until a signal comes (SIGINT, SIGTERM, SIGHUP).

    To be called from the main thread. Raises LibraryMissing without nbdkit; ClientError if it can't serve.
    """
    log, socket = Log(), socket.absolute()
    _check(cipher, len(key), unit)
    if not image.is_file():
        raise ClientError(f"there is no image {image}")
    if socket.exists():
        raise ClientError(f"{socket} is there already: another server's, or to be removed")
    program = _nbdkit()
    secret = os.memfd_create("key", 0)  # inherited; its bytes are nowhere else
    try:
        os.write(secret, key)
        os.lseek(secret, 0, os.SEEK_SET)
        command = [
            *(program, "--foreground", "--exit-with-parent", "--unix", str(socket)),
            *("--filter=blocksize", "python", str(PLUGIN)),
            *(f"image={image.absolute()}", f"key-fd={secret}", f"cipher={cipher}", f"unit={unit}"),
            *(f"minblock={unit}", "maxdata=1M", "maxlen=32M"),
        ]
        folders = dict.fromkeys(
            [str(Path(__file__).parents[2]), *(p for p in sys.path if "site-packages" in p)]
        )
        surroundings = os.environ | {"PYTHONPATH": os.pathsep.join(folders), "PYTHONDONTWRITEBYTECODE": "1"}
        process = subprocess.Popen(
            command, stderr=subprocess.PIPE, text=True, pass_fds=[secret], env=surroundings
        )
    finally:
        os.close(secret)

    def stop(number: int, frame: FrameType | None) -> None:
        process.send_signal(signal.SIGTERM)

    signals = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    before = {number: signal.signal(number, stop) for number in signals}
    teller = threading.Thread(target=_tell, args=(process, log))
    teller.start()
    try:
        while not socket.exists() and process.poll() is None:
            time.sleep(0.02)
        if process.poll() is None:
            log("serving", socket=str(socket), image=str(image), cipher=cipher)
        status = process.wait()
    finally:
        teller.join()
        for number, handler in before.items():
            signal.signal(number, handler)
        socket.unlink(missing_ok=True)
    log("ended", status=status)
    if status:
        raise ClientError(f"nbdkit ended with status {status}: its reasons are above")


def _tell(process: subprocess.Popen[str], log: Log) -> None:
    """What nbdkit says becomes events, too."""
    assert process.stderr is not None
    with process.stderr as lines:
        for line in lines:
            text = line.strip()
            if text:
                log("nbdkit", message=text)
