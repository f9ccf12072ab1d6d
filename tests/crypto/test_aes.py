"""The AES key schedule, against FIPS 197 and against the rounds of OpenSSL."""

from __future__ import annotations

import numpy as np
import pytest
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes

from mktme.crypto import aes, backend
from mktme.crypto.native import address, schedule

pytestmark = pytest.mark.skipif(backend.available() == ("portable",), reason="no AES instructions here")

# FIPS 197 Appendix A: the key, and the last round key of its expansion.
EXPANSIONS = {
    "2b7e151628aed2a6abf7158809cf4f3c": "d014f9a8c9ee2589e13f0cc8b6630ca6",
    "603deb1015ca71be2b73aef0857d77811f352c073b6108d72d9810a30914dff4": "fe4890d1e6188d0b046df344706c631e",
}


def expanded(key: bytes) -> np.ndarray:
    room = np.zeros(aes.SCHEDULE_BYTES, np.uint8)
    data = np.frombuffer(key, np.uint8)
    schedule()(address(data), address(data), data.size, address(room))
    return room


@pytest.mark.parametrize("key", EXPANSIONS)
def test_the_expansion_of_the_standards_keys_ends_as_printed(key: str) -> None:
    room = expanded(bytes.fromhex(key))
    rounds = int(room[:8].view(np.uint64)[0])
    assert rounds == len(key) // 8 + 6
    for start in (aes.ENCRYPT, aes.TWEAK):
        assert room[start : start + len(key) // 2].tobytes().hex() == key
        assert room[start + 16 * rounds : start + 16 * rounds + 16].tobytes().hex() == EXPANSIONS[key]


@pytest.mark.parametrize("size", [16, 32])
def test_the_inverse_schedule_holds_the_same_outer_keys_reversed(size: int) -> None:
    room = expanded(bytes(range(size)))
    rounds = size // 4 + 6
    forward = room[aes.ENCRYPT : aes.ENCRYPT + 16 * (rounds + 1)].reshape(-1, 16)
    back = room[aes.DECRYPT : aes.DECRYPT + 16 * (rounds + 1)].reshape(-1, 16)
    assert (back[0] == forward[-1]).all()
    assert (back[-1] == forward[0]).all()
    # InvMixColumns is linear: of the xor of two keys it is the xor of both.
    assert not (back[1:-1] == forward[1:-1][::-1]).all()


@pytest.mark.parametrize("size", [16, 32])
def test_random_keys_expand_so_that_openssl_agrees_on_a_block(size: int) -> None:
    rng = np.random.default_rng(size)
    for _ in range(20):
        key, other = rng.bytes(size), rng.bytes(size)
        cipher = backend.aes_xts(key, other, backend.available()[0])
        ivs = rng.integers(0, 1 << 64, (1, 2), dtype=np.uint64)
        data, out = np.frombuffer(rng.bytes(64), np.uint8), np.empty(64, np.uint8)
        cipher.units(False, 64, ivs, data, out)
        context = Cipher(algorithms.AES(key + other), modes.XTS(ivs.tobytes())).encryptor()
        assert out.tobytes() == context.update(data.tobytes())
