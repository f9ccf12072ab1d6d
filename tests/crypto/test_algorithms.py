"""The table of ciphers: what it says of them is what they do."""

from __future__ import annotations

import numpy as np
import pytest

from mktme.crypto.algorithms import ALGORITHMS, make
from mktme.crypto.backend import WIDTH, available
from mktme.errors import SchemeError


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


@pytest.mark.parametrize("back", [False, True])
@pytest.mark.parametrize("unit", [0, 16, 48, 100])
@pytest.mark.parametrize("name", [name for name, algorithm in ALGORITHMS.items() if algorithm.alone])
def test_kernels_of_lines_refuse_units_that_are_none(name: str, unit: int, back: bool) -> None:
    """They would write whole lines, behind the end of what is given."""
    algorithm = ALGORITHMS[name]
    assert not algorithm.takes(unit)
    room, ivs = np.full(8192, 7, np.uint8), np.zeros((3, algorithm.iv_bytes // 8), np.uint64)
    to = room[: 3 * unit]
    for backend in [each for each in available() if each in WIDTH]:
        cipher = make(name, [bytes(range(size)) for size in algorithm.parts], backend)
        with pytest.raises(SchemeError, match=f"no data units of {unit} bytes: .* portable"):
            cipher.units(back, unit, ivs, to, to)
    assert (room == 7).all()
