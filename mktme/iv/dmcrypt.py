"""dm-crypt's IV generators (drivers/md/dm-crypt.c). They count sectors of 512 bytes, also where a
data unit has more (dm-crypt's `iv_large_sectors` is off).
"""

from __future__ import annotations

from numba.extending import register_jitable

from mktme.iv.scheme import Iv, Scheme, register

DMCRYPT = "drivers/md/dm-crypt.c"


@register_jitable  # type: ignore[untyped-decorator]
def big_endian(x: int) -> int:
    """A 64-bit number with its bytes in the other order."""
    return (
        (x & 0xFF) << 56
        | (x >> 8 & 0xFF) << 48
        | (x >> 16 & 0xFF) << 40
        | (x >> 24 & 0xFF) << 32
        | (x >> 32 & 0xFF) << 24
        | (x >> 40 & 0xFF) << 16
        | (x >> 48 & 0xFF) << 8
        | (x >> 56 & 0xFF)
    )


def plain(sector: int) -> Iv:
    """The sector in 32 bits: it wraps at 2^32 sectors, 2 TiB."""
    return sector & 0xFFFFFFFF, 0


def plain64(sector: int) -> Iv:
    """The sector, 64 bits little-endian."""
    return sector, 0


def plain64be(sector: int) -> Iv:
    """The sector, 64 bits big-endian in the last 8 bytes."""
    return 0, big_endian(sector)


def benbi(sector: int) -> Iv:
    """The number of the first 16-byte block, counted from 1, big-endian in the last 8 bytes."""
    return 0, big_endian(sector * 32 + 1)


def null() -> Iv:
    """Zeros."""
    return 0, 0


def byte_offset(sector: int) -> Iv:
    """The byte offset on the device, 64 bits little-endian."""
    return sector * 512, 0


def drawn() -> Iv:
    """Not computed: drawn anew at every write and stored beside the data."""
    return 0, 0


PLAIN, PLAIN64, PLAIN64BE, ESSIV, BENBI, NULL, EBOIV, RANDOM = (
    register(
        Scheme(
            name=name,
            unit=512,
            coordinates=coordinates,
            iv=iv,
            summary=summary,
            source=f"{DMCRYPT}, {where}",
            least_unit=512,
            families=("aes-cbc",) if seal else (),
            seal=seal,
            state=state,
        )
    )
    for name, coordinates, iv, seal, state, where, summary in (
        ("plain", ("sector",), plain, "", "", "crypt_iv_plain_gen", "the sector in 32 bits"),
        ("plain64", ("sector",), plain64, "", "", "crypt_iv_plain64_gen", "the sector in 64 bits"),
        ("plain64be", ("sector",), plain64be, "", "", "crypt_iv_plain64be_gen",
         "the sector in 64 bits, big-endian at the end"),
        ("essiv", ("sector",), plain64, "essiv", "", "crypt_iv_essiv_gen (sha256)",
         "the sector, encrypted under the hash of the key"),
        ("benbi", ("sector",), benbi, "", "", "crypt_iv_benbi_gen",
         "the number of the first 16-byte block, from 1, big-endian at the end"),
        ("null", (), null, "", "", "crypt_iv_null_gen", "zeros"),
        ("eboiv", ("sector",), byte_offset, "eboiv", "", "crypt_iv_eboiv_gen",
         "the byte offset, encrypted under the data key"),
        ("random", (), drawn, "", "random", "crypt_iv_random_gen",
         "drawn anew at every write, stored beside the data"),
    )
)  # fmt: skip
