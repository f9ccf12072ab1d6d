"""The settings of fscrypt-crypt-util, and the keys and IVs that follow from them.

That is the program with which the Linux file-system test suite (xfstests) checks the ciphertext of real
images. Like it, this doesn't enforce policies: `mktme.fscrypt.policy` does. It takes more in two
places: SM4, and, with HKDF-SHA512, master keys as short as the kernel takes them (the mode's
security strength).
"""

from __future__ import annotations

import binascii
from dataclasses import dataclass

from mktme.errors import KeyMaterialError, PolicyError
from mktme.fscrypt import kdf
from mktme.fscrypt.modes import Mode
from mktme.iv.compiled import Binding
from mktme.iv.scheme import find

KDFS = ("none", "AES-128-ECB", "HKDF-SHA512")
LARGEST_UNIT = 1 << 20  # bytes
LONGEST_KEY = 64  # bytes


@dataclass(frozen=True, kw_only=True)
class Settings:
    """The options of fscrypt-crypt-util.

    `decrypt`; `data_unit_size` in bytes; `data_unit_index` of the first; `kdf`: "none" (the master
    key is the key), "AES-128-ECB" (v1) or "HKDF-SHA512" (v2); `mode_num`: the mode's number in the
    derivation; `file_nonce`, `fs_uuid`: 16 bytes; `inode_number`; `direct_key`, `iv_ino_lblk_64`,
    `iv_ino_lblk_32`: how the IV is made, the data unit's index alone if none is set;
    `enable_hw_kdf`: the master key is the raw key in a hardware-wrapped key; `use_inlinecrypt_key`:
    encrypt under its inline encryption key; `padding`: to a multiple of how many bytes the last data
    unit is filled with zeros, if it is partial (None: to the data unit's size).

    Raises PolicyError for values out of range, and where it is used (`check`) for settings that
    contradict each other, or miss one another.
    """

    decrypt: bool = False
    data_unit_size: int = 4096
    data_unit_index: int = 0
    kdf: str = "none"
    mode_num: int = 0
    file_nonce: bytes | None = None
    fs_uuid: bytes | None = None
    inode_number: int = 0
    direct_key: bool = False
    iv_ino_lblk_64: bool = False
    iv_ino_lblk_32: bool = False
    enable_hw_kdf: bool = False
    use_inlinecrypt_key: bool = False
    padding: int | None = None

    def __post_init__(self) -> None:
        if self.kdf not in KDFS:
            raise PolicyError(f"{self.kdf!r} is no key derivation: there are {', '.join(KDFS)}")
        for name, value, least, most in (
            ("--data-unit-size", self.data_unit_size, 1, LARGEST_UNIT),
            ("--data-unit-index", self.data_unit_index, 0, (1 << 64) - 1),
            ("--inode-number", self.inode_number, 0, (1 << 64) - 1),
            ("--mode-num", self.mode_num, 0, 255),
        ):
            if not least <= value <= most:
                raise PolicyError(f"{name}={value}: it is {least} to {most}")
        if self.padding is not None and (self.padding < 1 or self.padding & (self.padding - 1)):
            raise PolicyError(f"--padding={self.padding}: it is a power of two")
        for name, buffer in (("--file-nonce", self.file_nonce), ("--fs-uuid", self.fs_uuid)):
            if buffer is not None and len(buffer) != 16:
                raise PolicyError(f"{name} is 16 bytes, not {len(buffer)}")

    def check(self) -> None:
        """Refuse a way to the key and the IV that can't be. Raises PolicyError."""
        methods = (self.direct_key, self.iv_ino_lblk_64, self.iv_ino_lblk_32)
        if sum(methods) > 1:
            raise PolicyError("take one of --direct-key, --iv-ino-lblk-64 and --iv-ino-lblk-32")
        if any(methods) and self.kdf == "AES-128-ECB":
            raise PolicyError("--kdf=AES-128-ECB makes a key for each file: take no other way to the IV")
        if self.direct_key:
            self._needs("file_nonce", "--direct-key")
        if self.iv_ino_lblk_64 or self.iv_ino_lblk_32:
            self._check_numbered()
        if self.use_inlinecrypt_key:
            if not self.enable_hw_kdf:
                raise PolicyError("--use-inlinecrypt-key needs --enable-hw-kdf")
            if not self._numbered:
                raise PolicyError("--use-inlinecrypt-key needs --iv-ino-lblk-64 or --iv-ino-lblk-32")

    def _check_numbered(self) -> None:
        option = "--iv-ino-lblk-64" if self.iv_ino_lblk_64 else "--iv-ino-lblk-32"
        self._needs("inode_number", option)
        if self.data_unit_index >> 32:
            raise PolicyError(f"--data-unit-index={self.data_unit_index}: {option} takes 32 bits")
        if self.iv_ino_lblk_64 and self.inode_number >> 32:
            raise PolicyError(f"--inode-number={self.inode_number}: {option} takes 32 bits")
        if self.iv_ino_lblk_32 and self.kdf != "HKDF-SHA512":
            raise PolicyError("--iv-ino-lblk-32 needs --kdf=HKDF-SHA512, which its hash is keyed by")

    def _needs(self, name: str, why: str) -> None:
        if not getattr(self, name):
            raise PolicyError(f"{why} needs --{name.replace('_', '-')}")

    @property
    def _numbered(self) -> bool:
        return self.iv_ino_lblk_64 or self.iv_ino_lblk_32

    def secret(self, master_key: bytes) -> bytes:
        """What keys are derived from: the master key, or its software secret.

        Raises KeyMaterialError for a key that is too long, or (with enable_hw_kdf) isn't 32 bytes.
        """
        if not 0 < len(master_key) <= LONGEST_KEY:
            raise KeyMaterialError(f"a master key of {len(master_key)} bytes: it has 1 to {LONGEST_KEY}")
        return kdf.software_secret(master_key) if self.enable_hw_kdf else bytes(master_key)

    def real_key(self, mode: Mode, master_key: bytes) -> bytes:
        """The key that a mode encrypts with (derive_real_key).

        Raises KeyMaterialError for a key that is too short, PolicyError for a missing setting.
        """
        size, secret = mode.key_bytes, self.secret(master_key)
        if self.use_inlinecrypt_key:
            inline = kdf.inline_key(master_key)
            if size != len(inline):
                raise PolicyError(
                    f"--use-inlinecrypt-key is for ciphers with keys of 64 bytes, not {mode.name}"
                )
            return inline
        least = mode.strength if self.kdf == "HKDF-SHA512" else size
        if len(secret) < least:
            raise KeyMaterialError(f"a secret of {len(secret)} bytes is too short for {mode.name}: {least}")
        if self.kdf == "none":
            return secret[:size]
        if self.kdf == "AES-128-ECB":
            self._needs("file_nonce", "--kdf=AES-128-ECB")
            return kdf.per_file_key_v1(secret, self.file_nonce or b"", size)
        return self._expanded(kdf.extract(secret), size)

    def _expanded(self, prk: bytes, size: int) -> bytes:
        if self.direct_key or self._numbered:
            self._needs("mode_num", "this way to the IV with --kdf=HKDF-SHA512")
        if self.direct_key:
            return kdf.direct_key(prk, self.mode_num, size)
        if self._numbered:
            self._needs("fs_uuid", "this way to the IV with --kdf=HKDF-SHA512")
            derive = kdf.iv_ino_lblk_64_key if self.iv_ino_lblk_64 else kdf.iv_ino_lblk_32_key
            return derive(prk, self.mode_num, self.fs_uuid or b"", size)
        self._needs("file_nonce", "--kdf=HKDF-SHA512 without another way to the IV")
        return kdf.per_file_key(prk, self.file_nonce or b"", size)

    def ivs(self, master_key: bytes) -> Binding:
        """The IVs of the data units (generate_iv)."""
        values, scheme = {"block": self.data_unit_index}, "file-block"
        if self.direct_key:
            nonce, scheme = self.file_nonce or b"", "direct-key"
            values["nonce_low"] = int.from_bytes(nonce[:8], "little")
            values["nonce_high"] = int.from_bytes(nonce[8:], "little")
        elif self.iv_ino_lblk_64:
            values["inode"], scheme = self.inode_number, "ino-lblk-64"
        elif self.iv_ino_lblk_32:
            hash_key = kdf.inode_hash_key(kdf.extract(self.secret(master_key)))
            values["inode_hash"], scheme = kdf.inode_hash(hash_key, self.inode_number), "ino-lblk-32"
        return Binding(find(scheme), self.data_unit_size, values)


def from_hex(what: str, text: str) -> bytes:
    """Bytes from hexadecimal digits. Raises PolicyError, which names what they are and not them."""
    try:
        return binascii.unhexlify(text)
    except ValueError:
        raise PolicyError(f"{what} is to be an even number of hexadecimal digits") from None


def key_identifier(master_key: bytes, settings: Settings) -> bytes:
    """The 16-byte identifier of a master key (--dump-key-identifier).

    Raises PolicyError unless `kdf` is HKDF-SHA512, and KeyMaterialError for a wrong length.
    """
    if settings.kdf != "HKDF-SHA512":
        raise PolicyError("--dump-key-identifier needs --kdf=HKDF-SHA512")
    prk = kdf.extract(settings.secret(master_key))
    context = kdf.WRAPPED_KEY_IDENTIFIER if settings.enable_hw_kdf else kdf.KEY_IDENTIFIER
    return kdf.expand(prk, context, b"", 16)
