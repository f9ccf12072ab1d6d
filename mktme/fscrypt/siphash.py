"""SipHash-2-4 (Aumasson, Bernstein 2012): the keyed hash of fscrypt's inode numbers."""

from __future__ import annotations

WORD = (1 << 64) - 1


def siphash24(key: bytes | bytearray, message: bytes) -> int:
    """The 64-bit hash of a message under a key of 16 bytes."""
    k0, k1 = (int.from_bytes(key[at : at + 8], "little") for at in (0, 8))
    v = [k0 ^ 0x736F6D6570736575, k1 ^ 0x646F72616E646F6D, k0 ^ 0x6C7967656E657261, k1 ^ 0x7465646279746573]
    padded = message + bytes(-(len(message) + 1) % 8) + bytes([len(message) & 255])
    for at in range(0, len(padded), 8):
        word = int.from_bytes(padded[at : at + 8], "little")
        v[3] ^= word
        _rounds(v, 2)
        v[0] ^= word
    v[2] ^= 0xFF
    _rounds(v, 4)
    return v[0] ^ v[1] ^ v[2] ^ v[3]


def _rounds(v: list[int], count: int) -> None:
    """SipRounds: each of the four words takes part in two additions, rotations and xors."""
    v0, v1, v2, v3 = v
    for _ in range(count):
        v0, v2 = (v0 + v1) & WORD, (v2 + v3) & WORD
        v1, v3 = _left(v1, 13) ^ v0, _left(v3, 16) ^ v2
        v0 = (_left(v0, 32) + v3) & WORD
        v2 = (v2 + v1) & WORD
        v3, v1 = _left(v3, 21) ^ v0, _left(v1, 17) ^ v2
        v2 = _left(v2, 32)
    v[:] = v0, v1, v2, v3


def _left(x: int, by: int) -> int:
    return (x << by | x >> (64 - by)) & WORD
