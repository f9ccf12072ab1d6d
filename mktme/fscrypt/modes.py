"""fscrypt's encryption modes (include/uapi/linux/fscrypt.h; fs/crypto/keysetup.c, fscrypt_modes)."""

from __future__ import annotations

from dataclasses import dataclass

from mktme.crypto.algorithms import ALGORITHMS
from mktme.errors import PolicyError


@dataclass(frozen=True)
class Mode:
    """How contents or names are encrypted.

    `number`: FSCRYPT_MODE_*; `name`: as fscrypt-crypt-util takes it; `algorithm`: in
    `mktme.crypto.algorithms`; `strength`: the security strength in bytes, the shortest master key
    of a v2 policy; `least`: bytes of the shortest input.
    """

    number: int
    name: str
    algorithm: str
    strength: int
    least: int = 0

    @property
    def key_bytes(self) -> int:
        """Bytes of the key: of XTS, both keys."""
        return sum(ALGORITHMS[self.algorithm].parts)

    @property
    def iv_bytes(self) -> int:
        """Bytes of an IV: 16 or 32."""
        return ALGORITHMS[self.algorithm].iv_bytes


AES_256_XTS, AES_256_CTS, AES_128_CBC, AES_128_CTS = 1, 4, 5, 6
SM4_XTS, SM4_CTS, ADIANTUM, AES_256_HCTR2 = 7, 8, 9, 10

_table = [
    Mode(AES_256_XTS, "AES-256-XTS", "aes-xts-256", 32),
    Mode(AES_256_CTS, "AES-256-CTS-CBC", "aes-cts-256", 32, 16),
    Mode(AES_128_CBC, "AES-128-CBC-ESSIV", "aes-cbc-essiv-128", 16),
    Mode(AES_128_CTS, "AES-128-CTS-CBC", "aes-cts-128", 16, 16),
    Mode(SM4_XTS, "SM4-XTS", "sm4-xts", 16),
    Mode(SM4_CTS, "SM4-CTS-CBC", "sm4-cts", 16, 16),
    Mode(ADIANTUM, "Adiantum", "adiantum", 32, 16),
    Mode(AES_256_HCTR2, "AES-256-HCTR2", "aes-hctr2-256", 32, 16),
]
MODES = {mode.number: mode for mode in _table}
NAMES = {mode.name: mode for mode in _table}

# Contents and names modes that a policy may pair (fs/crypto/policy.c, fscrypt_valid_enc_modes_*)
PAIRS_V1 = ((AES_256_XTS, AES_256_CTS), (AES_128_CBC, AES_128_CTS), (ADIANTUM, ADIANTUM))
PAIRS_V2 = (*PAIRS_V1, (AES_256_XTS, AES_256_HCTR2), (SM4_XTS, SM4_CTS))


def named(name: str) -> Mode:
    """The mode of that name. Raises PolicyError."""
    if name not in NAMES:
        # Only a short text is repeated: a longer one may be a key in the wrong place.
        given = repr(name) if len(name) < 24 else f"a text of {len(name)} characters"
        raise PolicyError(f"{given} is not a cipher of fscrypt: there are {', '.join(NAMES)}")
    return NAMES[name]
