"""Encryption policies and contexts: what the kernel takes, what it refuses, the bytes on the disk."""

from __future__ import annotations

import itertools
import struct
from typing import Any

import numpy as np
import pytest

from mktme.crypto.algorithms import ALGORITHMS
from mktme.errors import MktmeError, PolicyError
from mktme.fscrypt import modes, policy
from mktme.fscrypt.policy import Context, Policy
from mktme.iv import scheme

DESCRIPTOR, IDENTIFIER = bytes(range(8)), bytes(range(16))
NONCE = bytes(range(32, 48))


def allowed(version: int, contents: int, names: int, flags: int, bits: int) -> bool:
    """Documentation/filesystems/fscrypt.rst, "Encryption modes and usage" and "Setting an encryption
    policy", for a file system with blocks of 4096 bytes.
    """
    pairs = {(1, 4), (5, 6), (9, 9)} | ({(1, 10), (7, 8)} if version == 2 else set())
    direct, lblk_64, lblk_32 = flags & 4, flags & 8, flags & 16
    if (contents, names) not in pairs or flags > 31:
        return False
    if version == 1 and (bits or lblk_64 or lblk_32):
        return False
    if bool(direct) + bool(lblk_64) + bool(lblk_32) > 1:
        return False
    if direct and contents != 9:
        return False
    if (lblk_64 or lblk_32) and contents != 1:
        return False
    return bits in ((0, 12) if lblk_32 else (0, 9, 10, 11, 12))


@pytest.mark.parametrize("version", [1, 2])
def test_policies_are_taken_and_refused_as_the_kernel_does(version: int) -> None:
    key, taken = {1: DESCRIPTOR, 2: IDENTIFIER}[version], 0
    numbers = range(12)
    for contents, names in itertools.product(numbers, numbers):
        for flags, bits in itertools.product((*range(32), 32, 0x43), (0, 8, 9, 11, 12, 13)):
            fields = (contents, names, flags, bits)
            try:
                made = Policy(key, *fields)
            except PolicyError:
                assert not allowed(version, *fields), fields
            else:
                assert allowed(version, *fields), fields
                assert made.version == version
                assert made.padding == (4, 8, 16, 32)[flags & 3]
                assert made.unit == (1 << bits if bits else 4096)
                taken += 1
    # 4 paddings: pairs, sizes of units (v2: 4 of those tried), and what each flag is for
    assert taken == {1: 4 * (3 + 1), 2: 4 * 4 * (5 + 1 + 2) + 4 * 2 * 2}[version]


@pytest.mark.parametrize("key", [b"", bytes(7), bytes(17), bytearray(16), "identifier-16-by"])
def test_a_policy_names_its_key_by_8_or_16_bytes(key: Any) -> None:
    with pytest.raises(PolicyError, match="a descriptor of 8 bytes"):
        Policy(key)


def test_every_scheme_of_a_policy_is_registered_and_takes_its_ciphers() -> None:
    assert [Policy(IDENTIFIER, flags=flags).scheme for flags in (0, 8, 16)] == [
        "per-file-key", "ino-lblk-64", "ino-lblk-32",
    ]  # fmt: skip
    direct = Policy(IDENTIFIER, modes.ADIANTUM, modes.ADIANTUM, policy.DIRECT_KEY)
    assert direct.scheme == "direct-key"
    for name in policy.SCHEMES.values():
        found = scheme.find(name)
        for mode in modes.MODES.values():
            family = ALGORITHMS[mode.algorithm].family
            fits = not found.families or family in found.families
            assert fits == (8 * found.words <= mode.iv_bytes), (name, mode)


def test_the_modes_are_the_kernels() -> None:
    """Number, key and IV bytes of fscrypt_modes, and its security strengths."""
    assert {(m.number, m.key_bytes, m.iv_bytes, m.strength) for m in modes.MODES.values()} == {
        (1, 64, 16, 32), (4, 32, 16, 32), (5, 16, 16, 16), (6, 16, 16, 16),
        (7, 32, 16, 16), (8, 16, 16, 16), (9, 32, 32, 32), (10, 32, 32, 32),
    }  # fmt: skip
    for number, mode in modes.MODES.items():
        assert mode.number == number
        assert modes.named(mode.name) is mode
        least, most, _ = ALGORITHMS[mode.algorithm].units
        assert least == 16 if mode.least else most == 4096
    with pytest.raises(PolicyError, match="a text of 128 characters is not a cipher"):
        modes.named("ab" * 64)


def test_contexts_have_the_bytes_of_the_kernels_structures() -> None:
    v1 = Context(Policy(DESCRIPTOR, 5, 6, policy.PAD_16), NONCE)
    assert v1.to_bytes() == struct.pack("<BBBB8s16s", 1, 5, 6, 2, DESCRIPTOR, NONCE)
    assert len(v1.to_bytes()) == 28
    v2 = Context(Policy(IDENTIFIER, 1, 10, policy.IV_INO_LBLK_64 | policy.PAD_32, 9), NONCE)
    assert v2.to_bytes() == struct.pack("<BBBBB3x16s16s", 2, 1, 10, 11, 9, IDENTIFIER, NONCE)
    assert len(v2.to_bytes()) == 40
    for context in (v1, v2):
        assert Context.from_bytes(context.to_bytes()) == context


def test_bytes_that_are_no_context_are_refused() -> None:
    v2 = Context(Policy(IDENTIFIER), NONCE).to_bytes()
    v1 = Context(Policy(DESCRIPTOR), NONCE).to_bytes()
    for stored, says in (
        (b"", "not 0"),
        (v2[:-1], "not 39 of version 2"),
        (v2 + b"\0", "not 41"),
        (b"\x01" + v2[1:], "not 40 of version 1"),
        (b"\x03" + v2[1:], "not 40 of version 3"),
        (b"\x02" + v1[1:], "not 28 of version 2"),
        (v2[:6] + b"\1" + v2[7:], "reserved bytes"),
        (b"\x02\x63" + v2[2:], "contents mode 99"),
    ):
        with pytest.raises(PolicyError, match=says):
            Context.from_bytes(stored)


def test_any_damage_of_a_context_is_another_context_or_an_error_of_ours() -> None:
    rng = np.random.default_rng(5)
    for original in (Context(Policy(IDENTIFIER), NONCE), Context(Policy(DESCRIPTOR), NONCE)):
        stored = original.to_bytes()
        for at in range(8 * len(stored)):
            damaged = bytearray(stored)
            damaged[at // 8] ^= 1 << at % 8
            try:
                made = Context.from_bytes(bytes(damaged))
            except MktmeError:
                continue
            assert made != original
            assert made.to_bytes() == damaged
        for _ in range(200):
            blob = rng.bytes(int(rng.integers(0, 50)))
            with pytest.raises(PolicyError):
                Context.from_bytes(blob)


def test_what_is_created_below_inherits_the_policy_with_a_nonce_of_its_own() -> None:
    parent = Context.new(Policy(IDENTIFIER))
    children = [Context.new(parent.policy) for _ in range(100)]
    assert len({child.nonce for child in children} | {parent.nonce}) == 101
    assert all(parent.permits(child) for child in children)
    assert not parent.permits(None)
    assert not parent.permits(Context.new(Policy(IDENTIFIER, names=modes.AES_256_HCTR2)))
    assert not parent.permits(Context.new(Policy(bytes(16))))
    with pytest.raises(PolicyError, match="16 bytes"):
        Context(parent.policy, bytes(15))
