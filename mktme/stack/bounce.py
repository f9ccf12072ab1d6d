"""fscrypt in software: a file's way through page-cache pages and bounce pages (fs/crypto/crypto.c)."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property
from typing import Any

import numpy as np

from mktme.crypto.cipher import Bytes
from mktme.iv.scheme import Scheme
from mktme.stack.contents import Contents
from mktme.stack.path import CHUNK, FileKey, FilePath
from mktme.stack.units import UnitCipher
from pmem.geometry import PAGE


class BounceContents(Contents):
    """A file's encryption on the bounce path; its cipher is made when it is first needed."""

    def __init__(self, key: FileKey, scheme: Scheme, unit: int, given: Mapping[str, Any]) -> None:
        super().__init__(key.algorithm, scheme, unit, given)
        self._key = key

    @cached_property
    def cipher(self) -> UnitCipher:
        """The cipher of the file's data units."""
        return self.units(self._key.slot)


class Bounce(FilePath[BounceContents]):
    """`bounce`: page-cache pages hold plaintext, bounce pages ciphertext.

    Whole blocks only, as the file system writes them back. Reading copies the block into the page
    cache, decrypts it there and copies what was asked; writing copies into the page cache, encrypts
    into bounce pages and copies these to the medium. Nothing stays in the page cache: each request
    finds it cold, as one larger than memory does.
    """

    name = "bounce"

    def bind(self, key: FileKey, scheme: Scheme, unit: int, given: Mapping[str, Any]) -> BounceContents:
        return BounceContents(key, scheme, unit, given)

    def grain(self, how: BounceContents) -> int:
        return PAGE

    def fetch(self, how: BounceContents, offset: int, address: int, page: Bytes) -> None:
        if self.device.poison is not None:
            self.device.poison.check_read(address, page.size)
        page[:] = self.device.mapping()[address : address + page.size]
        how.cipher.crypt(True, how.number(offset, address), 0, page, page)
        self.traffic.add(copied=page.size, decrypted=page.size)

    def put(self, how: BounceContents, offset: int, address: int, page: Bytes) -> None:
        bounce = self._bounce_pages(page.size)
        how.cipher.crypt(False, how.number(offset, address), 0, page, bounce)
        self.device.storing(address, page.size)
        self.device.mapping()[address : address + page.size] = bounce
        if self.device.poison is not None:
            self.device.poison.written(address, page.size)
        self.traffic.add(copied=page.size, encrypted=page.size)

    def load(self, how: BounceContents, offset: int, address: int, out: Bytes) -> None:
        for at in range(0, out.size, CHUNK):
            part = out[at : at + CHUNK]
            page = self.page(part.size)
            self.fetch(how, offset + at, address + at, page)
            part[:] = page
        self.traffic.add(copied=out.size)

    def store(self, how: BounceContents, offset: int, address: int, data: Bytes) -> None:
        for at in range(0, data.size, CHUNK):
            part = data[at : at + CHUNK]
            page = self.page(part.size)
            page[:] = part
            self.put(how, offset + at, address + at, page)
        self.traffic.add(copied=data.size)

    def _bounce_pages(self, size: int) -> Bytes:
        room: Bytes | None = getattr(self._local, "bounce", None)
        if room is None:
            room = self._local.bounce = np.empty(CHUNK, np.uint8)
        return room[:size]
