"""Encryption of bytes as fscrypt does it, with explicit settings: what `mktme fscrypt-crypt` runs.

Data is cut into data units; a last, partial one is filled with zeros. Each is encrypted by itself.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import BinaryIO

import numpy as np

from mktme.crypto.algorithms import ALGORITHMS, make
from mktme.crypto.cipher import Cipher
from mktme.errors import PolicyError
from mktme.fscrypt.modes import Mode, named
from mktme.fscrypt.settings import Settings

CHUNK = 1 << 20  # bytes of a stream that are taken at a time


def crypt(cipher: str, master_key: bytes, data: bytes, settings: Settings) -> bytes:
    """Data encrypted, or decrypted, with the padding of its last data unit.

    `cipher`: the name of a mode (`mktme.fscrypt.modes.NAMES`); `master_key`: up to 64 bytes.

    Raises PolicyError for settings or data that the cipher can't have, KeyMaterialError for a key.
    """
    with _units(cipher, master_key, settings) as units:
        return units.crypt(data)


def crypt_stream(
    cipher: str, master_key: bytes, source: BinaryIO, sink: BinaryIO, settings: Settings
) -> None:
    """As `crypt`, from a file to another, a chunk at a time."""
    size = settings.data_unit_size * max(1, CHUNK // settings.data_unit_size)
    with _units(cipher, master_key, settings) as units:
        while data := _filled(source, size):
            sink.write(units.crypt(data))


def _filled(source: BinaryIO, size: int) -> bytes:
    """So many bytes of a file, fewer only at its end: a pipe may give them in parts."""
    data = source.read(size)
    while 0 < len(data) < size and (more := source.read(size - len(data))):
        data += more
    return data


@contextmanager
def _units(cipher: str, master_key: bytes, settings: Settings) -> Iterator[_Units]:
    mode = named(cipher)
    settings.check()
    made = _Units(mode, master_key, settings)
    try:
        yield made
    finally:
        made.wipe()


class _Units:
    """The data units of a stream, one request after another."""

    def __init__(self, mode: Mode, master_key: bytes, settings: Settings) -> None:
        size, algorithm = settings.data_unit_size, ALGORITHMS[mode.algorithm]
        if size < mode.least:
            raise PolicyError(f"--data-unit-size={size}: {mode.name} takes {mode.least} bytes or more")
        self.mode, self.settings, self.done = mode, settings, 0
        self._binding = settings.ivs(master_key)
        self._width = algorithm.iv_bytes // 8
        key, keys = settings.real_key(mode, master_key), []
        for part in algorithm.parts:
            keys.append(key[:part])
            key = key[part:]
        self._keys = keys
        self._ciphers: dict[str, Cipher] = {}

    def length(self, given: int) -> int:
        """Bytes of a unit of which so many are given."""
        size, padding = self.settings.data_unit_size, self.settings.padding
        if padding is None or given == size:
            return size
        return min(-(-max(given, self.mode.least) // padding) * padding, size)

    def crypt(self, data: bytes) -> bytes:
        """The next units, of which only a stream's last may be partial."""
        size = self.settings.data_unit_size
        whole = len(data) // size * size
        made = self._crypt(size, data[:whole]) if whole else b""
        if len(data) > whole:
            length = self.length(len(data) - whole)
            made += self._crypt(length, data[whole:].ljust(length, b"\0"))
        return made

    def _crypt(self, unit: int, data: bytes) -> bytes:
        if not self.mode.least and unit % 16:
            raise PolicyError(
                f"{self.mode.name} takes data units of whole blocks of 16 bytes, not of {unit}: pass "
                "--data-unit-size or --padding so that they are"
            )
        n = len(data) // unit
        ivs = self._binding.ivs(self.done, n, max(self._width, self._binding.words))
        source, to = np.frombuffer(data, np.uint8), np.empty(len(data), np.uint8)
        self._cipher(unit).units(
            self.settings.decrypt, unit, np.ascontiguousarray(ivs[:, : self._width]), source, to
        )
        self.done += n
        return to.tobytes()

    def _cipher(self, unit: int) -> Cipher:
        """The chosen backend's, or, for sizes that its kernels don't have, the portable one's."""
        engine = "" if ALGORITHMS[self.mode.algorithm].takes(unit) else "portable"
        if engine not in self._ciphers:
            self._ciphers[engine] = make(self.mode.algorithm, self._keys, engine)
        return self._ciphers[engine]

    def wipe(self) -> None:
        for cipher in self._ciphers.values():
            cipher.wipe()
