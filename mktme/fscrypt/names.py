"""Encrypted file names and symbolic link targets (fs/crypto/fname.c, hooks.c).

A name is padded with zeros to at least 16 bytes, to a multiple of the policy's padding and to no
more than 255 bytes, then encrypted under its directory's key; all names of a directory have one IV,
so equal names are found by their ciphertext. Without the key a name is shown as its no-key name.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import struct
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from mktme.errors import EncryptedNameError
from mktme.fscrypt.derived import DerivedKey

LEAST, LONGEST = 16, 255  # bytes of an encrypted name: FSCRYPT_FNAME_MIN_MSG_LEN, NAME_MAX
TARGET_ROOM = 4096  # bytes of a link's block
TARGET_EXTRA = 3  # a little-endian length of 16 bits before the encrypted target, a zero behind it
DOTS = (b".", b"..")  # are not encrypted
SHOWN = 149  # bytes of ciphertext that a no-key name holds itself (struct fscrypt_nokey_name)

DAMAGED = "what is stored decrypts to no name: it is another key's or damaged; delete it by its no-key name"


def padded_length(length: int, padding: int, most: int = LONGEST) -> int:
    """Bytes of a name of `length` bytes once encrypted (__fscrypt_fname_encrypted_size)."""
    return min(-(-max(length, LEAST) // padding) * padding, most)


class NameCipher:
    """The names of a directory, or the target of a symbolic link, under its key.

    `iv`: of data unit 0, as long as the cipher takes; `padding`: 4, 8, 16 or 32. Thread-safe. All
    calls raise KeyUnavailable once the key is evicted, and EncryptedNameError for what can't be a
    name or doesn't decrypt to one. Names carry no MAC: damage that decrypts to a possible name isn't
    told.
    """

    def __init__(self, key: DerivedKey, iv: bytes, padding: int) -> None:
        self._key, self._padding = key, padding
        self._iv = np.frombuffer(iv, "<u8").astype(np.uint64).reshape(1, -1)

    def encrypt(self, name: bytes) -> bytes:
        """A name as the directory stores it, 16 to 255 bytes."""
        return self.encrypt_all([name])[0]

    def decrypt(self, stored: bytes) -> bytes:
        """A name from what the directory stores."""
        name = self.decrypt_all([stored])[0]
        if name is None:
            raise EncryptedNameError(DAMAGED)
        return name

    def encrypt_all(self, names: Iterable[bytes]) -> list[bytes]:
        """Many names, those of one padded length in one call of the cipher."""
        return self._crypt(False, [self._padded(name, LONGEST) for name in names])

    def decrypt_all(self, stored: Iterable[bytes]) -> list[bytes | None]:
        """Many names of a directory; None for what doesn't decrypt to a name, to be shown as its
        no-key name.
        """
        texts = list(stored)
        for text in texts:
            _check_stored(text, LONGEST)
        made = [self._stripped(text, LONGEST) for text in self._crypt(True, texts)]
        return [None if name is None or b"/" in name or name in DOTS else name for name in made]

    def encrypt_target(self, target: bytes) -> bytes:
        """A link's target as it is stored: length, ciphertext, zero (__fscrypt_encrypt_symlink)."""
        (made,) = self._crypt(False, [self._padded(target, TARGET_ROOM - TARGET_EXTRA)])
        return struct.pack("<H", len(made)) + made + b"\0"

    def decrypt_target(self, stored: bytes) -> bytes:
        """A link's target from what is stored (fscrypt_get_symlink)."""
        (text,) = self._crypt(True, [target_ciphertext(stored)])
        target = self._stripped(text, TARGET_ROOM - TARGET_EXTRA)
        if target is None:
            raise EncryptedNameError(DAMAGED)
        return target

    def _padded(self, name: bytes, most: int) -> bytes:
        if not name or len(name) > most:
            raise EncryptedNameError(f"a name of {len(name)} bytes can't be encrypted: 1 to {most}")
        if 0 in name:
            raise EncryptedNameError("a name with a zero byte can't be encrypted: take it out")
        return name.ljust(padded_length(len(name), self._padding, most), b"\0")

    def _stripped(self, text: bytes, most: int) -> bytes | None:
        """A name without its padding, if that is as it should be."""
        name = text.rstrip(b"\0")
        whole = name and 0 not in name and padded_length(len(name), self._padding, most) == len(text)
        return name if whole else None

    def _crypt(self, back: bool, texts: Sequence[bytes]) -> list[bytes]:
        cipher, made = self._key.slot.cipher, [b""] * len(texts)
        lengths: dict[int, list[int]] = {}
        for i, text in enumerate(texts):
            lengths.setdefault(len(text), []).append(i)
        for length, rows in lengths.items():
            source = np.frombuffer(b"".join([texts[i] for i in rows]), np.uint8)
            to = np.empty(source.size, np.uint8)
            cipher.units(back, length, self._iv.repeat(len(rows), 0), source, to)
            out = to.tobytes()
            for at, i in enumerate(rows):
                made[i] = out[at * length : (at + 1) * length]
        return made


def _check_stored(text: bytes, most: int) -> None:
    if not LEAST <= len(text) <= most:
        raise EncryptedNameError(f"{len(text)} bytes are no encrypted name: {LEAST} to {most}")


def target_ciphertext(stored: bytes) -> bytes:
    """The ciphertext in a stored link's target. Raises EncryptedNameError if it is damaged."""
    length = int.from_bytes(stored[:2], "little")
    if len(stored) != length + TARGET_EXTRA or stored[-1]:
        raise EncryptedNameError(
            f"a stored link's target of {len(stored)} bytes is damaged: it has a length of 16 bits, so many "
            "bytes, and a zero"
        )
    text = stored[2:-1]
    _check_stored(text, TARGET_ROOM - TARGET_EXTRA)
    return text


@dataclass(frozen=True)
class NoKeyName:
    """What tells an encrypted name while its key is absent: up to 149 bytes of it, and the SHA-256
    of the rest, in base64url (struct fscrypt_nokey_name).

    `hashes` are the two 32-bit hashes by which some file systems find a directory's entry; zero
    where entries are found by their names.
    """

    shown: bytes
    digest: bytes = b""
    hashes: tuple[int, int] = (0, 0)

    @classmethod
    def of(cls, stored: bytes, hashes: tuple[int, int] = (0, 0)) -> NoKeyName:
        """The no-key name of a name as its directory stores it, or of a link's target."""
        rest = stored[SHOWN:]
        return cls(stored[:SHOWN], hashlib.sha256(rest).digest() if rest else b"", hashes)

    @classmethod
    def parse(cls, text: str) -> NoKeyName:
        """A no-key name from what `str` made. Raises EncryptedNameError: no file has that name."""
        try:
            packed = base64.b64decode(text.encode() + b"=" * (-len(text) % 4), b"-_", validate=True)
        except (binascii.Error, UnicodeEncodeError):
            packed = b""
        made = cls(packed[8 : 8 + SHOWN], packed[8 + SHOWN :], (_u32(packed, 0), _u32(packed, 4)))
        if not made.shown or len(made.digest) not in (0, 32) or str(made) != text:
            raise EncryptedNameError(f"{text!r} is no no-key name, and other names want the key: add it")
        return made

    def matches(self, stored: bytes) -> bool:
        """Whether a stored name is the one that is meant (fscrypt_match_name)."""
        return NoKeyName.of(stored, self.hashes) == self

    def __str__(self) -> str:
        packed = struct.pack("<2I", *self.hashes) + self.shown + self.digest
        return base64.urlsafe_b64encode(packed).rstrip(b"=").decode()


def _u32(packed: bytes, at: int) -> int:
    return int.from_bytes(packed[at : at + 4], "little")
