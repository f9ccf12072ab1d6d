"""The plugin that nbdkit runs (nbdkit-python-plugin(3)): each request goes to a `Disk`."""

from __future__ import annotations

import builtins
import errno
from pathlib import Path
from typing import Any

import nbdkit

import pmem
from mktme.clients.nbd import Disk

API_VERSION = 2
_settings: dict[str, str] = {}
_disk: list[Disk] = []


def thread_model() -> int:
    return int(nbdkit.THREAD_MODEL_PARALLEL)


def config(key: str, value: str) -> None:
    if key not in ("image", "key-fd", "cipher", "unit"):
        raise ValueError(f"unknown parameter {key}")
    _settings[key] = value


def get_ready() -> None:
    """Open the image and take the key, before anybody connects."""
    descriptor = int(_settings["key-fd"])
    with builtins.open(descriptor, "r+b", buffering=0) as file:
        key = bytearray(128)
        del key[file.readinto(key) :]
        file.seek(0)
        file.write(bytes(len(key)))
    device = pmem.open(Path(_settings["image"]))
    try:
        _disk.append(Disk(device, _settings["cipher"], key, int(_settings["unit"])))
    finally:
        key[:] = bytes(len(key))


def cleanup() -> None:
    for disk in _disk:
        disk.flush()
        disk.close()
        disk.device.close()


def open(readonly: bool) -> Disk:
    return _disk[0]


def get_size(disk: Disk) -> int:
    return disk.size


def block_size(disk: Disk) -> tuple[int, int, int]:
    return disk.unit, max(disk.unit, 4096), 32 << 20


def can_write(disk: Disk) -> bool:
    return True


def can_flush(disk: Disk) -> bool:
    return True


def can_trim(disk: Disk) -> bool:
    return True


def can_zero(disk: Disk) -> bool:
    return True


def can_fua(disk: Disk) -> int:
    return int(nbdkit.FUA_NATIVE)


def can_multi_conn(disk: Disk) -> bool:
    return True


def is_rotational(disk: Disk) -> bool:
    return False


def pread(disk: Disk, buffer: Any, offset: int, flags: int) -> None:
    disk.read_into(buffer, offset)


def pwrite(disk: Disk, buffer: Any, offset: int, flags: int) -> None:
    disk.write(offset, buffer)
    _force(disk, offset, len(buffer), flags)


def zero(disk: Disk, count: int, offset: int, flags: int) -> None:
    if flags & nbdkit.FLAG_FAST_ZERO:
        nbdkit.set_error(errno.EOPNOTSUPP)
        raise OSError("zeros are written, which isn't fast")
    disk.zero(offset, count)
    _force(disk, offset, count, flags)


def trim(disk: Disk, count: int, offset: int, flags: int) -> None:
    disk.trim(offset, count)
    _force(disk, offset, count, flags)


def flush(disk: Disk, flags: int) -> None:
    disk.flush()


def _force(disk: Disk, offset: int, count: int, flags: int) -> None:
    """Forced unit access: the range is durable before the answer."""
    if flags & nbdkit.FLAG_FUA:
        disk.flush(offset, count)
