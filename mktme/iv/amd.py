"""The address-linear tweak of AMD's memory encryption (SME, SEV).

    T(pa) = xor of one 128-bit constant C[i] for each bit i >= 4 that is set in the physical address

(Du et al. 2017; Wilke et al., SEVurity, 2020), so T(a ^ b) = T(a) ^ T(b). Parts differ in their
constants and newer ones draw them at boot; ours are fixed: the words of SHA-256 of a label and
the bit's number, their top bits clear.
"""

from __future__ import annotations

import hashlib

import numpy as np
import numpy.typing as npt

from mktme.iv.scheme import Iv, Scheme, register

FIRST_BIT, BITS = 4, 48  # of a physical address


def constant(bit: int) -> tuple[int, int]:
    """The two words of the constant of an address bit."""
    digest = hashlib.sha256(b"address-linear tweak, bit %d" % bit).digest()
    low, high = (int.from_bytes(digest[at : at + 8], "little") >> 1 for at in (0, 8))
    return low, high


def table(word: int) -> npt.NDArray[np.uint64]:
    """A word of the xor of the constants for each byte of an address and its values: (6, 256)."""
    made = np.zeros((BITS // 8, 256), np.uint64)
    for bit in range(FIRST_BIT, BITS):
        made[bit // 8, np.arange(256) >> bit % 8 & 1 == 1] ^= np.uint64(constant(bit)[word])
    return made


LOW, HIGH = table(0), table(1)


def tweak(system_address: int) -> Iv:
    """The xor of the constants of the address bits that are set, from bit 4 up to 47."""
    a = system_address & 255
    b = system_address >> 8 & 255
    c = system_address >> 16 & 255
    d = system_address >> 24 & 255
    e = system_address >> 32 & 255
    f = system_address >> 40 & 255
    low = LOW[0, a] ^ LOW[1, b] ^ LOW[2, c] ^ LOW[3, d] ^ LOW[4, e] ^ LOW[5, f]
    high = HIGH[0, a] ^ HIGH[1, b] ^ HIGH[2, c] ^ HIGH[3, d] ^ HIGH[4, e] ^ HIGH[5, f]
    return low, high


XE, XEX = (
    register(
        Scheme(
            name=name,
            unit=16,
            coordinates=("system_address",),
            iv=tweak,
            summary=f"the address-linear tweak of each 16-byte block, for {name.upper()}",
            source="AMD SME/SEV as measured by Du et al. 2017 and Wilke et al. 2020; constants ours",
            least_unit=16,
            most_unit=16,
            families=(f"aes-{name}",),
        )
    )
    for name in ("xe", "xex")
)
