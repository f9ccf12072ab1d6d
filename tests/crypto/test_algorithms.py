"""The table of ciphers: what it says of them is what they do."""

from __future__ import annotations

import numpy as np
import pytest

from mktme.crypto.algorithms import ALGORITHMS, make


@pytest.mark.parametrize("name", ALGORITHMS)
def test_the_iv_is_xored_onto_what_the_table_says(name: str) -> None:
    """Two units that differ by the xor of their IVs, encrypted: equal, or equal but for that xor."""
    algorithm, rng = ALGORITHMS[name], np.random.default_rng(1)
    unit = 64 if algorithm.takes(64) else 16
    cipher = make(name, [rng.bytes(size) for size in algorithm.parts])
    ivs = rng.integers(0, 1 << 64, (2, algorithm.iv_bytes // 8), dtype=np.uint64)
    mask = np.zeros(unit, np.uint8)
    mask[:16] = (ivs[0] ^ ivs[1]).view(np.uint8)[:16]
    plain = np.frombuffer(rng.bytes(unit), np.uint8)
    made = np.empty(2 * unit, np.uint8)
    cipher.units(False, unit, ivs, np.concatenate([plain, plain ^ mask]), made)
    first, second = made.reshape(2, unit)
    found: tuple[str, ...] = ()
    if (first == second).all():
        found = ("plaintext",)
    elif (first == second ^ mask).all():
        found = ("plaintext", "ciphertext")
    assert algorithm.iv_xored == found
