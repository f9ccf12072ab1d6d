"""Encrypted names and link targets: padding, damage, no-key names."""

from __future__ import annotations

import base64
import hashlib
import struct

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mktme.crypto.algorithms import make
from mktme.errors import EncryptedNameError, KeyUnavailable
from mktme.fscrypt import modes
from mktme.fscrypt.derived import DerivedKey
from mktme.fscrypt.names import NameCipher, NoKeyName, padded_length, target_ciphertext

NAMES_MODES = [modes.MODES[n] for n in (4, 6, 8, 9, 10)]
QUICK = settings(max_examples=60, deadline=None, derandomize=True, database=None)
TEXT = st.binary(min_size=1, max_size=255).map(lambda b: b.replace(b"\0", b"\1").replace(b"/", b"_"))
NAME = TEXT.filter(lambda b: b not in (b".", b".."))


def cipher_of(mode: modes.Mode, padding: int = 32) -> NameCipher:
    rng = np.random.default_rng([mode.number, 1])
    return NameCipher(
        DerivedKey(mode.algorithm, rng.bytes(mode.key_bytes)), rng.bytes(mode.iv_bytes), padding
    )


@pytest.mark.parametrize("mode", NAMES_MODES, ids=lambda m: m.name)
@pytest.mark.parametrize("padding", [4, 8, 16, 32])
def test_every_length_is_padded_as_the_kernel_does_and_comes_back(mode: modes.Mode, padding: int) -> None:
    cipher = cipher_of(mode, padding)
    for length in range(1, 256):
        name = bytes(1 + i % 40 for i in range(length))
        stored = cipher.encrypt(name)
        whole = max(16, length)
        while whole % padding:
            whole += 1
        assert len(stored) == min(whole, 255) == padded_length(length, padding)
        assert cipher.decrypt(stored) == name


@pytest.mark.parametrize("mode", NAMES_MODES, ids=lambda m: m.name)
def test_a_name_is_its_padded_bytes_under_the_cipher_and_the_iv(mode: modes.Mode) -> None:
    rng = np.random.default_rng([mode.number, 1])
    key, iv = rng.bytes(mode.key_bytes), rng.bytes(mode.iv_bytes)
    made = np.empty(32, np.uint8)
    plain = np.frombuffer(b"letter.txt".ljust(32, b"\0"), np.uint8)
    ivs = np.frombuffer(iv, np.uint64).reshape(1, -1)
    make(mode.algorithm, [key], "portable").units(False, 32, ivs, plain, made)
    assert cipher_of(mode).encrypt(b"letter.txt") == made.tobytes()


@QUICK
@given(names=st.lists(NAME, max_size=40), padding=st.sampled_from([4, 8, 16, 32]))
@pytest.mark.parametrize("mode", NAMES_MODES, ids=lambda m: m.name)
def test_many_names_are_encrypted_as_one_by_one(mode: modes.Mode, names: list[bytes], padding: int) -> None:
    cipher = cipher_of(mode, padding)
    stored = cipher.encrypt_all(names)
    assert stored == [cipher.encrypt(name) for name in names]
    assert cipher.decrypt_all(stored) == names


@pytest.mark.parametrize("name", [b"", bytes(1), b"a\0b", b"x" * 256])
def test_what_can_not_be_a_name_is_refused(name: bytes) -> None:
    cipher = cipher_of(NAMES_MODES[0])
    with pytest.raises(EncryptedNameError, match="can't be encrypted"):
        cipher.encrypt(name)
    with pytest.raises(EncryptedNameError):
        cipher.encrypt_all([b"good", name])


@pytest.mark.parametrize("mode", NAMES_MODES, ids=lambda m: m.name)
def test_damage_never_makes_a_name_that_a_directory_can_not_have(mode: modes.Mode) -> None:
    """Names carry no MAC: garbage without a zero or a slash looks like a name, as it does in Linux."""
    cipher, told = cipher_of(mode), 0
    for name in (b"letter.txt", b"n" * 32):
        stored = cipher.encrypt(name)
        for at in range(8 * len(stored)):
            damaged = bytearray(stored)
            damaged[at // 8] ^= 1 << at % 8
            try:
                made = cipher.decrypt(bytes(damaged))
            except EncryptedNameError:
                told += 1
            else:
                assert made != name
                assert 0 < len(made) <= len(stored)
                assert not {0, ord("/")} & set(made)
    assert told > 50
    for length in (0, 15, 256):
        with pytest.raises(EncryptedNameError, match=f"{length} bytes are no encrypted name"):
            cipher.decrypt(bytes(length))


@pytest.mark.parametrize("text", [b".", b"..", b"a/b", b"../../etc/passwd"])
def test_a_name_that_would_lead_elsewhere_is_not_given_out(text: bytes) -> None:
    """Whoever writes to the medium can make them where he knows a key; the kernel checks as the VFS does."""
    cipher = cipher_of(NAMES_MODES[0])
    stored = target_ciphertext(cipher.encrypt_target(text))
    with pytest.raises(EncryptedNameError):
        cipher.decrypt(stored)
    assert cipher.decrypt_all([cipher.encrypt(b"good"), stored]) == [b"good", None]


def test_names_of_another_padding_or_with_garbage_behind_are_refused() -> None:
    narrow, wide = cipher_of(NAMES_MODES[0], 4), cipher_of(NAMES_MODES[0], 32)
    assert wide.decrypt(wide.encrypt(b"n" * 17)) == b"n" * 17
    with pytest.raises(EncryptedNameError):
        wide.decrypt(narrow.encrypt(b"n" * 17))


@QUICK
@given(target=st.binary(min_size=1, max_size=4093).map(lambda b: b.replace(b"\0", b"/")), n=st.integers(0, 3))
def test_link_targets_have_a_length_before_and_a_zero_behind(target: bytes, n: int) -> None:
    for mode in NAMES_MODES:
        cipher = cipher_of(mode, 4 << n)
        stored = cipher.encrypt_target(target)
        assert len(stored) == struct.unpack("<H", stored[:2])[0] + 3 <= 4096
        assert stored[-1] == 0
        assert len(target_ciphertext(stored)) == padded_length(len(target), 4 << n, 4093)
        assert cipher.decrypt_target(stored) == target


def test_link_targets_too_long_or_damaged_are_refused() -> None:
    cipher = cipher_of(NAMES_MODES[3])
    for target in (b"", b"x" * 4094, b"a\0"):
        with pytest.raises(EncryptedNameError, match="can't be encrypted"):
            cipher.encrypt_target(target)
    assert cipher.decrypt_target(cipher.encrypt_target(b"x" * 4093)) == b"x" * 4093
    stored = cipher.encrypt_target(b"../somewhere")
    for damaged in (b"", b"\0", stored[:-1], stored + b"\0", stored[:-1] + b"\1", b"\x08\0" + bytes(9)):
        with pytest.raises(EncryptedNameError):
            cipher.decrypt_target(damaged)


@pytest.mark.parametrize("length", [16, 32, 148, 149, 150, 181, 254, 255, 4093])
def test_no_key_names_have_the_bytes_of_the_kernels_structure(length: int) -> None:
    stored = np.random.default_rng(length).bytes(length)
    text = str(NoKeyName.of(stored, (0x01020304, 0xFFFFFFFE)))
    packed = struct.pack("<II", 0x01020304, 0xFFFFFFFE) + stored[:149]
    if length > 149:
        packed += hashlib.sha256(stored[149:]).digest()
    assert text == base64.urlsafe_b64encode(packed).decode().rstrip("=")
    assert len(text) <= 255
    assert not set(text) & set("/.= \0+")
    assert NoKeyName.of(stored).hashes == (0, 0)


@QUICK
@given(names=st.lists(st.binary(min_size=16, max_size=255), min_size=2, max_size=8, unique=True))
def test_a_no_key_name_finds_its_name_and_no_other(names: list[bytes]) -> None:
    texts = [str(NoKeyName.of(stored)) for stored in names]
    assert len(set(texts)) == len(names)
    for i, text in enumerate(texts):
        parsed = NoKeyName.parse(text)
        assert [parsed.matches(stored) for stored in names] == [i == j for j in range(len(names))]


def test_long_names_that_differ_only_behind_are_told_apart() -> None:
    head = bytes(range(149))
    texts = [str(NoKeyName.of(head + tail)) for tail in (b"", b"a", b"b", b"a" * 106)]
    assert len(set(texts)) == 4
    assert not NoKeyName.parse(texts[0]).matches(head + b"a")


@pytest.mark.parametrize(
    "text",
    [
        "", "A", "AAAAAAAAAAA", "letter.txt", "no key name", "\u00e9" * 20,
        base64.urlsafe_b64encode(bytes(8)).decode().rstrip("="),  # no ciphertext
        base64.urlsafe_b64encode(bytes(8 + 149 + 31)).decode().rstrip("="),  # a short digest
        base64.urlsafe_b64encode(bytes(8 + 149 + 33)).decode().rstrip("="),
        "AAAAAAAAAAAA=", "AAAAAAAAAAAA+", "AAAAAAAAAAAAB",
    ],
)  # fmt: skip
def test_what_is_no_no_key_name_is_refused(text: str) -> None:
    with pytest.raises(EncryptedNameError, match="is no no-key name"):
        NoKeyName.parse(text)


def test_no_key_names_are_parsed_in_one_form_only() -> None:
    """Of the spare bits of the last character only zeros are taken, as the kernel's decoder does."""
    text = str(NoKeyName.of(bytes(17)))
    last = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_".index(text[-1])
    other = text[:-1] + "ABCDEFGH"[last + 1]
    assert base64.urlsafe_b64decode(text + "==") == base64.urlsafe_b64decode(other + "==")
    with pytest.raises(EncryptedNameError):
        NoKeyName.parse(other)


def test_names_of_an_evicted_key_are_not_made() -> None:
    mode = NAMES_MODES[0]
    key = DerivedKey(mode.algorithm, bytes(range(32)))
    cipher = NameCipher(key, bytes(16), 32)
    stored = cipher.encrypt(b"letter.txt")
    key.wipe()
    for call in (lambda: cipher.encrypt(b"letter.txt"), lambda: cipher.decrypt(stored)):
        with pytest.raises(KeyUnavailable, match="evicted"):
            call()
