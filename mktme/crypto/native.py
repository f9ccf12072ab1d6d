"""The AES kernels as ciphers."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from functools import cache
from typing import Any, Self

import numpy as np

from mktme.crypto import aes, cbc, ctr, xex, xts
from mktme.crypto.cipher import LINE, Bytes, Words
from mktme.crypto.kernel import kernel
from mktme.errors import SchemeError

STREAM_FROM = 4 << 20  # bytes from which on a request is stored around the cache


@kernel()
def address(array: Any) -> int:
    """The address of an array's first byte, four times as fast as numpy's own ways to it."""
    return array.ctypes.data  # type: ignore[no-any-return]


schedule = cache(aes.build)
xts_kernels, ctr_kernels = cache(xts.build), cache(ctr.build)
cbc_kernel, xex_kernel = cache(cbc.build), cache(xex.build)


def check_unit(unit: int) -> None:
    """Refuse data units that a kernel of whole lines would write beyond the end of. Raises SchemeError."""
    if unit <= 0 or unit % LINE:
        raise SchemeError(
            f"this kernel has no data units of {unit} bytes: they are multiples of {LINE}; take the backend "
            "portable for others"
        )


class Schedule:
    """An AES key schedule at an address that doesn't move."""

    def __init__(self, data_key: Any, tweak_key: Any) -> None:
        room = np.zeros(aes.SCHEDULE_BYTES + LINE, np.uint8)
        skip = -address(room) % LINE
        self._room = room[skip : skip + aes.SCHEDULE_BYTES]
        self.address = address(self._room)
        data, tweak = (np.array(memoryview(key), np.uint8) for key in (data_key, tweak_key))
        schedule()(address(data), address(tweak), data.size, self.address)
        data[:] = tweak[:] = 0

    def wipe(self) -> None:
        self._room[8:] = 0  # the number of rounds stays, so that a late request is only garbage


class NativeAes:
    """A mode of AES by its kernels; see `mktme.crypto.cipher.Cipher`."""

    def __init__(self, units: Callable[..., None], data_key: Any, tweak_key: Any = None) -> None:
        self._units, self._seal = units, 0
        self._schedule = Schedule(data_key, data_key if tweak_key is None else tweak_key)
        self._at = self._schedule.address

    def units(
        self, back: bool, unit: int, ivs: Words, source: Bytes, to: Bytes, skip: int = 0, of: int = 0
    ) -> None:
        size = to.size
        self._units(
            self._at, self._seal, back, unit, skip, size, address(ivs), 0, 0, 0,
            address(source), address(to), max(size, of) >= STREAM_FROM,
        )  # fmt: skip

    def planned(
        self, back: bool, unit: int, fill: int, table: int, first: int, source: Bytes, to: Bytes, skip: int
    ) -> None:
        size = to.size
        self._units(
            self._at, self._seal, back, unit, skip, size, 0, fill, table, first,
            address(source), address(to), size >= STREAM_FROM,
        )  # fmt: skip

    def wipe(self) -> None:
        self._schedule.wipe()


class NativeParts(NativeAes):
    """A mode in which lines of a larger unit are reached alone; see `mktme.crypto.cipher.PartCipher`."""

    def __init__(
        self, units: Callable[..., None], lines: Callable[..., None], data_key: Any, tweak_key: Any = None
    ) -> None:
        super().__init__(units, data_key, tweak_key)
        self._lines = lines

    def units(
        self, back: bool, unit: int, ivs: Words, source: Bytes, to: Bytes, skip: int = 0, of: int = 0
    ) -> None:
        check_unit(unit)
        super().units(back, unit, ivs, source, to, skip, of)

    def lines(self, back: bool, ivs: Words, skips: Words, source: Bytes, to: Bytes) -> None:
        self._lines(
            self._at, self._seal, back, skips.size, address(ivs), address(skips), address(source), address(to)
        )


class NativeCbc(NativeAes):
    """AES-CBC, its IVs as they are or sealed: ESSIV, or EBOIV."""

    def __init__(self, bits: int, key: Any) -> None:
        super().__init__(cbc_kernel(bits), key)
        digest = bytearray(hashlib.sha256(key).digest())
        self._essiv = Schedule(digest, digest)
        digest[:] = bytes(len(digest))

    def sealed(self, kind: str) -> Self:
        """This cipher with IVs encrypted under the key's SHA-256 (essiv) or the key itself (eboiv)."""
        made = type(self).__new__(type(self))
        made.__dict__.update(self.__dict__)
        made._seal = self._essiv.address if kind == "essiv" else self._at
        return made

    def wipe(self) -> None:
        super().wipe()
        self._essiv.wipe()


class NativeXts(NativeParts):
    """AES-XTS with registers of `bits` bits; see `mktme.crypto.cipher.LineCipher`."""

    def __init__(self, bits: int, data_key: Any, tweak_key: Any) -> None:
        self._kernels = xts_kernels(bits)
        super().__init__(self._kernels.units, self._kernels.lines, data_key, tweak_key)

    def read(self, media: Bytes, base: int, start: int, out: Bytes) -> None:
        size = out.size
        self._kernels.read(self._at, base, 0, start, 1, size, address(out), size >= STREAM_FROM)

    def write(self, media: Bytes, base: int, start: int, data: Bytes) -> None:
        size, source = data.size, address(data)
        if base <= source < base + media.size:  # ciphertext as plaintext, from under our own hands
            data = data.copy()
            source = address(data)
        self._kernels.write(self._at, base, 0, start, 1, size, source, size >= STREAM_FROM)

    def read_runs(self, media: Bytes, base: int, starts: Words, length: int, out: Bytes) -> None:
        self._kernels.read(self._at, base, address(starts), 0, starts.size, length, address(out), False)

    def write_runs(self, media: Bytes, base: int, starts: Words, length: int, data: Bytes) -> None:
        self._kernels.write(self._at, base, address(starts), 0, starts.size, length, address(data), False)

    def read_lines(self, media: Bytes, base: int, addresses: Words, order: Words | None, out: Bytes) -> None:
        self._scatter(True, base, addresses, order, out)

    def write_lines(
        self, media: Bytes, base: int, addresses: Words, order: Words | None, lines: Bytes
    ) -> None:
        self._scatter(False, base, addresses, order, lines)

    def _scatter(self, back: bool, base: int, addresses: Words, order: Words | None, lines: Bytes) -> None:
        taken = addresses if order is None else order
        index = 0 if order is None else address(order)
        self._kernels.scatter(self._at, back, address(addresses), index, taken.size, base, address(lines))
