"""A master key: its secrets, and the keys of files that are derived from them (fs/crypto/keysetup.c)."""

from __future__ import annotations

from typing import NoReturn

from mktme.errors import KeyMaterialError, PolicyError
from mktme.fscrypt import kdf
from mktme.fscrypt.derived import DerivedKey
from mktme.fscrypt.fileinfo import FileInfo
from mktme.fscrypt.kdf import Secret
from mktme.fscrypt.modes import Mode
from mktme.fscrypt.policy import DESCRIPTOR, Context

LEAST, MOST, WRAPPED = 16, 64, 32  # bytes of a raw master key; of a raw key inside a hardware-wrapped one


class MasterKey:
    """The secrets of one master key and the keys that files share; not thread-safe by itself.

    Of a v1 key the raw bytes are kept; of a v2 key what HKDF extracts from them; of a
    hardware-wrapped key what it extracts from the software secret, and the inline encryption key,
    which real hardware would keep to itself. `name`: the key's descriptor (v1) or identifier (v2);
    `identifier` is known of both, `size` is the key's, in bytes.

    Raises KeyMaterialError for a key of a wrong length.
    """

    def __init__(self, raw: Secret, wrapped: bool = False, descriptor: bytes | None = None) -> None:
        if not isinstance(raw, bytes | bytearray):
            raise KeyMaterialError(f"a master key is bytes, not {type(raw).__name__}")
        if wrapped and descriptor is not None:
            raise KeyMaterialError("hardware-wrapped keys have no descriptor: use them with v2 policies")
        if descriptor is not None and len(descriptor) != DESCRIPTOR:
            raise KeyMaterialError(f"a key descriptor is {DESCRIPTOR} bytes, not {len(descriptor)}")
        if wrapped and len(raw) != WRAPPED:
            raise KeyMaterialError(f"a hardware-wrapped key holds {WRAPPED} bytes, not {len(raw)}")
        if not LEAST <= len(raw) <= MOST:
            raise KeyMaterialError(f"a master key of {len(raw)} bytes: it has {LEAST} to {MOST}")
        self.size, self.wrapped = len(raw), wrapped
        self._inline = bytearray(kdf.inline_key(raw) if wrapped else b"")
        self._secret = bytearray(kdf.extract(kdf.software_secret(raw) if wrapped else raw))
        context = kdf.WRAPPED_KEY_IDENTIFIER if wrapped else kdf.KEY_IDENTIFIER
        self.name = self.identifier = kdf.expand(self._secret, context, b"", 16)
        if descriptor is not None:
            self.name, self._secret = bytes(descriptor), bytearray(raw)
        self._shared: dict[tuple[str, int], DerivedKey] = {}
        self._inode_hash_key = bytearray()

    @property
    def present(self) -> bool:
        """Whether keys can be derived: the secrets haven't been removed."""
        return bool(self._secret)

    def restore(self, other: MasterKey) -> None:
        """Take the secrets of the same key, added again; the shared keys are still right."""
        self._secret, self._inline = bytearray(other._secret), bytearray(other._inline)

    def remove_secrets(self) -> None:
        """Overwrite the secrets; files that are open go on under keys derived already."""
        for secret in (self._secret, self._inline, self._inode_hash_key):
            secret[:] = bytes(len(secret))
        self._secret, self._inline, self._inode_hash_key = bytearray(), bytearray(), bytearray()

    def wipe(self) -> None:
        """Overwrite the secrets and the keys that files share."""
        self.remove_secrets()
        for key in self._shared.values():
            key.wipe()
        self._shared.clear()

    def info(self, context: Context, inode: int, kind: str, uuid: bytes) -> FileInfo:
        """An inode's key and coordinates (setup_file_encryption_key).

        Raises KeyMaterialError if the master key is too short for the mode, and PolicyError if
        the policy can't have such an inode or such a key.
        """
        policy, mode, coordinates = context.policy, context.policy.mode(kind), {"block": 0}
        self._check(context, inode, mode)
        if policy.scheme == "per-file-key":
            derive = kdf.per_file_key_v1 if policy.version == 1 else kdf.per_file_key
            own = DerivedKey(mode.algorithm, derive(self._secret, context.nonce, mode.key_bytes))
            return FileInfo(context, inode, kind, mode, own, coordinates, shared=False)
        if policy.scheme == "direct-key":
            for half, part in (("nonce_low", context.nonce[:8]), ("nonce_high", context.nonce[8:])):
                coordinates[half] = int.from_bytes(part, "little")
        elif policy.scheme == "ino-lblk-64":
            coordinates["inode"] = inode
        else:
            coordinates["inode_hash"] = self._inode_hash(inode)
        key = self._shared_key(policy.version, policy.scheme, mode, kind, uuid)
        return FileInfo(context, inode, kind, mode, key, coordinates, shared=True)

    def _check(self, context: Context, inode: int, mode: Mode) -> None:
        policy = context.policy
        least = mode.key_bytes if policy.version == 1 else mode.strength
        if self.size < least:
            raise KeyMaterialError(
                f"a master key of {self.size} bytes is too short for {mode.name} in a v{policy.version} "
                f"policy: it takes {least}"
            )
        numbered = policy.scheme.startswith("ino-lblk")
        if self.wrapped and not numbered:
            raise PolicyError(
                "hardware-wrapped keys are for IV_INO_LBLK_64 and IV_INO_LBLK_32 policies: set one of them"
            )
        if numbered and not 0 < inode < 1 << 32:
            raise PolicyError(f"IV_INO_LBLK policies want inode numbers of 1 to 2^32 - 1, not {inode}")

    def _shared_key(self, version: int, scheme: str, mode: Mode, kind: str, uuid: bytes) -> DerivedKey:
        """The key of all files of a mode (setup_per_mode_enc_key; keysetup_v1.c, fscrypt_get_direct_key)."""
        place = (scheme, mode.number)
        if place not in self._shared:
            size = mode.key_bytes
            material: Secret
            if version == 1:
                material = self._secret[:size]
            elif self.wrapped and kind == "contents":
                material = self._inline[:size]
            elif scheme == "direct-key":
                material = kdf.direct_key(self._secret, mode.number, size)
            else:
                wide = scheme == "ino-lblk-64"
                derive = kdf.iv_ino_lblk_64_key if wide else kdf.iv_ino_lblk_32_key
                material = derive(self._secret, mode.number, uuid, size)
            self._shared[place] = DerivedKey(mode.algorithm, material)
        return self._shared[place]

    def _inode_hash(self, inode: int) -> int:
        if not self._inode_hash_key:
            self._inode_hash_key = bytearray(kdf.inode_hash_key(self._secret))
        return kdf.inode_hash(self._inode_hash_key, inode)

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.name.hex()}{'' if self.present else ' removed'}>"

    def __reduce__(self) -> NoReturn:
        raise TypeError("a master key can't be pickled or copied")
