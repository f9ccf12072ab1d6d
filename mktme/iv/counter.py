"""Counter schemes for AES-CTR: a line's IV holds how often it was written, so no pad is used twice.

The line's number is part of every IV, so two lines never share a pad either; the IV's last byte
is left to the cipher, which counts blocks there. The counters lie in a reserved part of the
device, in plaintext; whoever can set them back makes a pad repeat.
"""

from __future__ import annotations

from mktme.iv.scheme import Iv, Scheme, register


def ctr_global(address: int, counter: int) -> Iv:
    """The counter, and the number of the line."""
    return counter, address >> 6


def ctr_split(address: int, major: int, minor: int) -> Iv:
    """The page's major counter, and the number of the line with its 7-bit minor counter above it."""
    return major, address >> 6 | minor << 48


CTR_GLOBAL = register(
    Scheme(
        name="ctr-global",
        unit=64,
        coordinates=("address", "counter"),
        iv=ctr_global,
        summary="a 64-bit counter of all writes, each line keeping the value that it was written under",
        source="global counters: Yan et al., ISCA 2006",
        most_unit=64,
        families=("aes-ctr",),
        state="global",
    )
)
CTR_SPLIT = register(
    Scheme(
        name="ctr-split",
        unit=64,
        coordinates=("address", "major", "minor"),
        iv=ctr_split,
        summary="a 64-bit major counter for a page, a 7-bit minor counter for a line",
        source="split counters: Yan et al., ISCA 2006; one line of counters a page",
        most_unit=64,
        families=("aes-ctr",),
        state="split",
    )
)
CTR_DEUCE = register(
    Scheme(
        name="ctr-deuce",
        unit=64,
        coordinates=("address", "counter"),
        iv=ctr_global,
        summary="two counters for a line, of which a 2-byte word takes the leading one once it was modified",
        source="DEUCE: Young, Nair and Qureshi, ASPLOS 2015; words of 2 bytes, epochs of 32 writes",
        most_unit=64,
        families=("aes-ctr",),
        state="deuce",
    )
)
