"""A key slot: what a KeyID (or a file, or a keyslot of an inline engine) encrypts with."""

from __future__ import annotations

import hashlib
from typing import Any, cast

from mktme.crypto.algorithms import ALGORITHMS, Algorithm, make
from mktme.crypto.cipher import Cipher, LineCipher
from mktme.crypto.portable import Plain
from mktme.errors import SchemeError
from mktme.iv.scheme import Scheme
from mktme.keys import Key


class Slot:
    """A programmed cipher. `algorithm` is None for no encryption.

    The key of the lines' MACs is the first 16 bytes of SHA-256 of a label and the key.
    """

    def __init__(self, algorithm: Algorithm | None, cipher: Cipher, mac_key: bytes = b"") -> None:
        self.algorithm, self.cipher = algorithm, cipher
        self._mac_key = bytearray(mac_key)
        self._mac_cipher: Cipher | None = None

    def mac_cipher(self) -> Cipher:
        """What the lines' MACs are made with: AES-128-CBC whose IVs are encrypted under its own key."""
        if self._mac_cipher is None:
            self._mac_cipher = cast(Any, make("aes-cbc-128", [self._mac_key])).sealed("eboiv")
        made: Cipher = self._mac_cipher
        return made

    def fingerprint(self) -> bytes:
        """16 bytes that differ from key to key, and from which no key can be found; empty without one."""
        return (
            hashlib.sha256(b"mktme key fingerprint" + self._mac_key).digest()[:16] if self.algorithm else b""
        )

    @classmethod
    def of(cls, key: Key) -> Slot:
        """A slot with a copy of a key. Raises KeyMaterialError if the key has been cleared."""
        return cls.from_parts(key.algorithm, list(key.parts()))

    @classmethod
    def from_parts(cls, algorithm: str, parts: list[Any]) -> Slot:
        """A slot with the keys of an algorithm: buffers, which are copied."""
        digest = hashlib.sha256(b"mktme line integrity")
        for part in parts:
            digest.update(part)
        return cls(ALGORITHMS[algorithm], make(algorithm, parts), digest.digest()[:16])

    def for_scheme(self, scheme: Scheme) -> Cipher:
        """The cipher, its IVs sealed as the scheme wants."""
        if not scheme.seal or self.algorithm is None:
            return self.cipher
        made: Cipher = cast(Any, self.cipher).sealed(scheme.seal)
        return made

    @property
    def lines(self) -> LineCipher | None:
        """The cipher, if it serves a memory by itself with the scheme pmem-line."""
        serves = self.algorithm is None or self.algorithm.family == "aes-xts"
        return cast(LineCipher, self.cipher) if serves else None

    def check(self, scheme: Scheme, unit: int, words: int) -> None:
        """Refuse what doesn't fit together: the cipher, a scheme of so many words, the data unit.

        `words`: the 64-bit words of the scheme's IVs. Raises SchemeError.
        """
        if self.algorithm is not None:
            check(self.algorithm, scheme, unit, words)

    def wipe(self) -> None:
        """Overwrite what was made from the key."""
        self.cipher.wipe()
        self._mac_key[:] = bytes(len(self._mac_key))
        if self._mac_cipher is not None:
            self._mac_cipher.wipe()


def check(algorithm: Algorithm, scheme: Scheme, unit: int, words: int) -> None:
    """Refuse what doesn't fit together; see `Slot.check`."""
    if scheme.families and algorithm.family not in scheme.families:
        fitting = [name for name, a in ALGORITHMS.items() if a.family in scheme.families]
        raise SchemeError(
            f"{scheme.name} is not for {algorithm.name}: program a key of {' or '.join(fitting)}"
        )
    if 8 * words > algorithm.iv_bytes:
        wide = [name for name, a in ALGORITHMS.items() if 8 * words <= a.iv_bytes]
        raise SchemeError(
            f"{scheme.name} makes IVs of {8 * words} bytes and {algorithm.name} takes "
            f"{algorithm.iv_bytes}: program a key of {' or '.join(wide)}"
        )
    if not algorithm.takes(unit):
        least, most, multiple = algorithm.units
        sizes = f"{least} bytes" if least == most else f"{least} to {most} bytes, in multiples of {multiple}"
        raise SchemeError(f"{algorithm.name} has no data units of {unit} bytes: they have {sizes}")


PLAIN = Slot(None, Plain())
