"""Encryption policies of directories, and the contexts in which inodes keep them.

A policy is set on an empty directory; what is created below inherits it, each inode with a nonce of
its own (fs/crypto/policy.c; include/uapi/linux/fscrypt.h). What the kernel refuses is refused here,
for a file system with blocks of 4096 bytes and stable inode numbers.
"""

from __future__ import annotations

import os
import struct
from dataclasses import dataclass

from mktme.errors import PolicyError
from mktme.fscrypt import modes
from mktme.fscrypt.modes import MODES, Mode

PAD_4, PAD_8, PAD_16, PAD_32 = range(4)  # FSCRYPT_POLICY_FLAGS_PAD_*
PAD_MASK = 0x03
DIRECT_KEY, IV_INO_LBLK_64, IV_INO_LBLK_32 = 0x04, 0x08, 0x10  # FSCRYPT_POLICY_FLAG_*
SHARED = DIRECT_KEY | IV_INO_LBLK_64 | IV_INO_LBLK_32  # files share a key: at most one of these
SCHEMES = {  # of `mktme.iv`
    0: "per-file-key",
    DIRECT_KEY: "direct-key",
    IV_INO_LBLK_64: "ino-lblk-64",
    IV_INO_LBLK_32: "ino-lblk-32",
}
BLOCK_BITS = 12  # log2 of the file system's blocks
NONCE = 16
DESCRIPTOR, IDENTIFIER = 8, 16

# struct fscrypt_context_v1 and _v2 (fs/crypto/fscrypt_private.h)
CONTEXT_V1, CONTEXT_V2 = struct.Struct("<4B8s16s"), struct.Struct("<5B3s16s16s")


@dataclass(frozen=True)
class Policy:
    """An encryption policy, v1 or v2 by the name of its master key.

    `key`: the master key's 8-byte descriptor (v1) or 16-byte identifier (v2); `contents`, `names`:
    numbers of modes; `flags`: padding of names, and which files share a key;
    `log2_data_unit_size`: 9 to 12, or 0 for the file system's block (v2 alone).

    Raises PolicyError for what fscrypt_supported_policy refuses.
    """

    key: bytes
    contents: int = modes.AES_256_XTS
    names: int = modes.AES_256_CTS
    flags: int = PAD_32
    log2_data_unit_size: int = 0

    def __post_init__(self) -> None:
        if not isinstance(self.key, bytes) or len(self.key) not in (DESCRIPTOR, IDENTIFIER):
            raise PolicyError(
                f"a policy names its master key by a descriptor of {DESCRIPTOR} bytes (v1) or an "
                f"identifier of {IDENTIFIER} (v2)"
            )
        self._check_modes()
        self._check_flags()
        self._check_units()

    def _check_modes(self) -> None:
        pairs = modes.PAIRS_V1 if self.version == 1 else modes.PAIRS_V2
        if (self.contents, self.names) not in pairs:
            can = ", ".join(f"{contents} with {names}" for contents, names in pairs)
            raise PolicyError(
                f"contents mode {self.contents} with names mode {self.names} is no pair of a "
                f"v{self.version} policy: take {can}"
            )

    def _check_flags(self) -> None:
        known = PAD_MASK | (DIRECT_KEY if self.version == 1 else SHARED)
        if self.flags & ~known:
            raise PolicyError(
                f"flags {self.flags:#04x}: a v{self.version} policy has only those in {known:#04x}"
            )
        shared = self.flags & SHARED
        if shared not in SCHEMES:
            raise PolicyError(
                f"flags {self.flags:#04x}: take one of DIRECT_KEY, IV_INO_LBLK_64 and IV_INO_LBLK_32"
            )
        if shared == DIRECT_KEY and (self.contents, self.names) != (modes.ADIANTUM, modes.ADIANTUM):
            raise PolicyError(
                "DIRECT_KEY wants one mode for contents and names whose IV has room for the nonce: take "
                "Adiantum for both"
            )
        if shared in (IV_INO_LBLK_64, IV_INO_LBLK_32) and self.contents != modes.AES_256_XTS:
            raise PolicyError(
                f"IV_INO_LBLK policies are for contents in AES-256-XTS, not mode {self.contents}"
            )

    def _check_units(self) -> None:
        bits = self.log2_data_unit_size
        if bits and self.version == 1:
            raise PolicyError(
                "a v1 policy has no data unit size: its data units are the file system's blocks"
            )
        if bits and not 9 <= bits <= BLOCK_BITS:
            raise PolicyError(f"data units of 2^{bits} bytes: they have 2^9 to 2^{BLOCK_BITS}")
        if bits not in (0, BLOCK_BITS) and self.flags & IV_INO_LBLK_32:
            raise PolicyError("IV_INO_LBLK_32 wants data units of whole blocks: take log2_data_unit_size=0")

    @property
    def version(self) -> int:
        """1 or 2."""
        return 1 if len(self.key) == DESCRIPTOR else 2

    @property
    def padding(self) -> int:
        """What names are padded to a multiple of, in bytes."""
        return 4 << (self.flags & PAD_MASK)

    @property
    def scheme(self) -> str:
        """The name of the IV scheme."""
        return SCHEMES[self.flags & SHARED]

    @property
    def unit(self) -> int:
        """Bytes of a data unit of contents."""
        return 1 << (self.log2_data_unit_size or BLOCK_BITS)

    def mode(self, kind: str) -> Mode:
        """The mode of a kind of inode: "contents" of a regular file, "names" of others."""
        return MODES[self.contents if kind == "contents" else self.names]


@dataclass(frozen=True)
class Context:
    """What an inode keeps in its encryption attribute: its policy and its nonce of 16 bytes."""

    policy: Policy
    nonce: bytes

    def __post_init__(self) -> None:
        if not isinstance(self.nonce, bytes) or len(self.nonce) != NONCE:
            raise PolicyError(f"the nonce of an inode is {NONCE} bytes")

    @classmethod
    def new(cls, policy: Policy) -> Context:
        """The context of a new inode: a directory's to which the policy is given, or one's below it."""
        return cls(policy, os.urandom(NONCE))

    def permits(self, child: Context | None) -> bool:
        """Whether a directory with this context may hold that inode: only one of the same policy
        (fscrypt_has_permitted_context).
        """
        return child is not None and child.policy == self.policy

    def to_bytes(self) -> bytes:
        """As on the disk: 28 bytes (v1) or 40 (v2)."""
        p = self.policy
        if p.version == 1:
            return CONTEXT_V1.pack(1, p.contents, p.names, p.flags, p.key, self.nonce)
        fields = (p.contents, p.names, p.flags, p.log2_data_unit_size)
        return CONTEXT_V2.pack(2, *fields, bytes(3), p.key, self.nonce)

    @classmethod
    def from_bytes(cls, stored: bytes) -> Context:
        """The context as it was stored. Raises PolicyError for what isn't one."""
        if len(stored) == CONTEXT_V1.size and stored[0] == 1:
            _, contents, names, flags, key, nonce = CONTEXT_V1.unpack(stored)
            return cls(Policy(key, contents, names, flags), nonce)
        if len(stored) == CONTEXT_V2.size and stored[0] == 2:
            _, contents, names, flags, bits, reserved, key, nonce = CONTEXT_V2.unpack(stored)
            if any(reserved):
                raise PolicyError("reserved bytes of an encryption context are set: it isn't one, or damaged")
            return cls(Policy(key, contents, names, flags, bits), nonce)
        version = f" of version {stored[0]}" if stored else ""
        raise PolicyError(
            f"an encryption context has {CONTEXT_V1.size} bytes (version 1) or {CONTEXT_V2.size} "
            f"(version 2), not {len(stored)}{version}"
        )
