"""The address-linear tweak of AMD's memory encryption (SME, SEV).

    T(pa) = xor of one 128-bit constant C[i] for each bit i >= 4 that is set in the physical address

(Du et al. 2017; Wilke et al., SEVurity, 2020), so T(a ^ b) = T(a) ^ T(b). Parts differ in their
constants and newer ones draw them at boot; ours are fixed: the words of SHA-256 of a label and
the bit's number, their top bits clear.
"""

from __future__ import annotations

import hashlib

from mktme.iv.scheme import Iv, Scheme, register

FIRST_BIT, BITS = 4, 48  # of a physical address


def constant(bit: int) -> tuple[int, int]:
    """The two words of the constant of an address bit."""
    digest = hashlib.sha256(b"address-linear tweak, bit %d" % bit).digest()
    low, high = (int.from_bytes(digest[at : at + 8], "little") >> 1 for at in (0, 8))
    return low, high


LOW = tuple(constant(bit)[0] for bit in range(FIRST_BIT, BITS))
HIGH = tuple(constant(bit)[1] for bit in range(FIRST_BIT, BITS))


def tweak(system_address: int) -> Iv:
    """The xor of the constants of the address bits that are set, from bit 4 up to 47."""
    low = system_address & 0
    high = system_address & 0
    for i in range(BITS - FIRST_BIT):
        bit = system_address >> (i + FIRST_BIT) & 1
        low ^= bit * LOW[i]
        high ^= bit * HIGH[i]
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
