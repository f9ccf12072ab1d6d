"""SM4-XTS: published vectors first, then an oracle of single blocks, then bounds, on every backend."""

from __future__ import annotations

from typing import Any, NamedTuple

import cryptography_vectors
import numpy as np
import pytest
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from hypothesis import given, settings
from hypothesis import strategies as st

from mktme.crypto import portable_sm4, sm4_box
from mktme.crypto.algorithms import make
from mktme.crypto.backend import WIDTH, available, features
from mktme.crypto.cipher import PartCipher
from mktme.crypto.portable_sm4 import PortableSm4Xts
from mktme.crypto.sm4 import Sm4Xts, supported
from mktme.errors import BackendError

UNITS = (64, 128, 192, 512, 576, 1024, 4096)
BOXES = [box for box in (True, False) if not box or "gfni" in features()]


class Vector(NamedTuple):
    """A data unit of SM4-XTS as IEEE 1619 defines XTS, perhaps with ciphertext stealing."""

    key: bytes
    iv: bytes
    plain: bytes
    made: bytes


# The first: OpenSSL, test/recipes/30-test_evp_data/evpciph_sm4.txt, XTSStandard = IEEE. The
# second: Longfang Liu's xts(sm4) for Linux's crypto/testmgr.h (linux-crypto, 10 December 2020),
# with the inputs of vector 2 of IEEE 1619.
PUBLISHED = (
    Vector(
        bytes.fromhex("2b7e151628aed2a6abf7158809cf4f3c000102030405060708090a0b0c0d0e0f"),
        bytes.fromhex("f0f1f2f3f4f5f6f7f8f9fafbfcfdfeff"),
        bytes.fromhex(
            "6bc1bee22e409f96e93d7e117393172aae2d8a571e03ac9c9eb76fac45af8e51"
            "30c81c46a35ce411e5fbc1191a0a52eff69f2445df4f9b17"
        ),
        bytes.fromhex(
            "e9538251c71d7b80bbe4483fef497bd1b3db1a3e60408c575d63ff7db39f8326"
            "0869f9e2585fec9f0b863bf8fd784b8627d16c0db6d2cfc7"
        ),
    ),
    Vector(
        b"\x11" * 16 + b"\x22" * 16,
        b"\x33" * 5 + bytes(11),
        b"\x44" * 32,
        bytes.fromhex("a74d726c11196a32be04e001ff29d0c7932f9f3ec29bfcb64dd17f63cbd3ea31"),
    ),
)


def ciphers(engine: str, key: bytes) -> list[Any]:
    """SM4-XTS of a backend, with each of the S-boxes that it has."""
    if engine == "portable":
        return [PortableSm4Xts(key[:16], key[16:])]
    return [Sm4Xts(WIDTH[engine], key[:16], key[16:], box) for box in BOXES]


def words(ivs: bytes) -> Any:
    return np.frombuffer(ivs, "<u8").astype(np.uint64).reshape(-1, 2)


def crypt(cipher: Any, back: bool, unit: int, ivs: Any, data: bytes, skip: int = 0) -> bytes:
    source = np.frombuffer(data, np.uint8)
    out = np.empty_like(source)
    cipher.units(back, unit, ivs, source, out, skip)
    return out.tobytes()


def block(key: bytes, back: bool, data: bytes) -> bytes:
    cipher = Cipher(algorithms.SM4(key), modes.ECB())
    context = cipher.decryptor() if back else cipher.encryptor()
    return context.update(data)


def oracle(key: bytes, back: bool, unit: int, ivs: Any, data: bytes, skip: int = 0) -> bytes:
    """IEEE 1619-2018, 5.3.2, a block at a time."""
    made, numbers = b"", ivs.astype("<u8")
    for u in range(-(-(skip + len(data)) // unit)):
        t = int.from_bytes(block(key[16:], False, numbers[u].tobytes()), "little")
        for at in range(u * unit, u * unit + unit, 16):
            if skip <= at < skip + len(data):
                x = int.from_bytes(data[at - skip : at - skip + 16], "little") ^ t
                y = block(key[:16], back, x.to_bytes(16, "little"))
                made += (int.from_bytes(y, "little") ^ t).to_bytes(16, "little")
            t = t << 1 ^ (t >> 127) * (1 << 128 | 0x87)
    return made


def stolen(cipher: Any, vector: Vector) -> bytes:
    """A unit of any length of at least a block, by ciphertext stealing (5.3.2) over whole blocks."""
    iv, whole, rest = words(vector.iv), len(vector.plain) & -16, len(vector.plain) % 16
    made = crypt(cipher, False, 64, iv, vector.plain[:whole].ljust(64, b"\0"))[:whole]
    if not rest:
        return made
    last = vector.plain[whole:] + made[whole - 16 + rest :]
    padded = (bytes(whole) + last).ljust(64, b"\0")
    end = crypt(cipher, False, 64, iv, padded)[whole : whole + 16]
    return made[: whole - 16] + end + made[whole - 16 : whole - 16 + rest]


def test_the_s_box_is_that_of_the_standard() -> None:
    def inverse(x: int) -> int:
        return next((y for y in range(256) if sm4_box.product(x, y, sm4_box.AES_FIELD) == 1), 0)

    inverses = sm4_box.table(inverse)
    s = sm4_box.table(lambda x: sm4_box.Q[inverses[sm4_box.P[x] ^ sm4_box.ISOMORPHISM[0xD3]]] ^ 0xD3)
    assert s[:16].hex() == "d690e9fecce13db716b614c228fb2c05"  # GB/T 32907-2016, 6.2: its first row
    assert sorted(s) == list(range(256))


def test_the_vectors_of_the_standard_agree(engine: str) -> None:
    """As XTS of a plaintext that the tweak makes the vector's."""
    with cryptography_vectors.open_vector_file("ciphers/SM4/draft-ribose-cfrg-sm4-10-ecb.txt", "r") as file:
        fields = [line.split(" = ") for line in file.read().splitlines() if " = " in line]
    found = {
        name: [bytes.fromhex(v) for n, v in fields if n == name]
        for name in ("KEY", "PLAINTEXT", "CIPHERTEXT")
    }
    assert found["CIPHERTEXT"][0][:16].hex() == "681edf34d206965e86b3e94f536e4246"
    for key, plain, made in zip(*found.values(), strict=True):
        tweak = block(key, False, bytes(16))
        mixed = bytes(a ^ b for a, b in zip(plain[:16], tweak, strict=True)).ljust(64, b"\0")
        expected = bytes(a ^ b for a, b in zip(made[:16], tweak, strict=True))
        for cipher in ciphers(engine, key + key):
            assert crypt(cipher, False, 64, words(bytes(16)), mixed)[:16] == expected


@pytest.mark.parametrize("vector", PUBLISHED, ids=["openssl", "linux"])
def test_published_vectors_of_xts_agree(engine: str, vector: Vector) -> None:
    for cipher in ciphers(engine, vector.key):
        assert stolen(cipher, vector) == vector.made


@pytest.mark.parametrize("unit", UNITS)
def test_units_of_every_size_agree_with_the_oracle(engine: str, unit: int) -> None:
    rng = np.random.default_rng(unit)
    key = rng.bytes(32)
    n = max(2, 1400 // unit)
    ivs = rng.integers(0, 1 << 64, (n, 2), dtype=np.uint64)
    data = rng.bytes(n * unit)
    for cipher in ciphers(engine, key):
        for back in (False, True):
            assert crypt(cipher, back, unit, ivs, data) == oracle(key, back, unit, ivs, data)


@pytest.mark.parametrize("unit", UNITS)
def test_native_and_portable_agree_whatever_part_of_units_is_asked_for(engine: str, unit: int) -> None:
    rng = np.random.default_rng(unit)
    key = rng.bytes(32)
    plain = PortableSm4Xts(key[:16], key[16:])
    native = ciphers(engine, key)
    counts = (1, 2, 3, 5, 8, 15, 16, 17, 31, 33, 64, 127, 128, 129, 300)
    for n in counts if unit < 1000 else (1, 2, 3, 5, 129):
        ivs = rng.integers(0, 1 << 64, (n, 2), dtype=np.uint64)
        for _ in range(3):
            skip, missing = (64 * int(x) for x in rng.integers(0, unit // 64, 2))
            length = n * unit - skip - missing
            if length <= 0:
                continue
            back, data = bool(rng.integers(2)), rng.bytes(length)
            expected = crypt(plain, back, unit, ivs, data, skip)
            for cipher in native:
                assert crypt(cipher, back, unit, ivs, data, skip) == expected


def test_a_part_of_a_very_long_unit_is_that_of_the_whole(engine: str) -> None:
    rng = np.random.default_rng(3)
    key, unit = rng.bytes(32), 320 << 10
    ivs = rng.integers(0, 1 << 64, (2, 2), dtype=np.uint64)
    data = rng.bytes(2 * unit)
    whole = crypt(PortableSm4Xts(key[:16], key[16:]), False, unit, ivs, data)
    for cipher in ciphers(engine, key):
        for skip in (0, 64, 1024, 1088, 8192, unit - 64):
            for end in (skip + 64, unit + 64, 2 * unit):
                assert crypt(cipher, False, unit, ivs, data[skip:end], skip) == whole[skip:end]


@pytest.mark.parametrize("shift", [0, 1, 16, 63])
@pytest.mark.parametrize("unit", [64, 576])
def test_a_cipher_writes_its_units_and_no_byte_beside_them(engine: str, unit: int, shift: int) -> None:
    rng = np.random.default_rng(shift)
    for cipher in ciphers(engine, rng.bytes(32)):
        for n in (1, 3, 17, 129):
            ivs = rng.integers(0, 1 << 64, (n, 2), dtype=np.uint64)
            source = np.frombuffer(rng.bytes(n * unit), np.uint8)
            room = np.full(n * unit + 256, 0xA5, np.uint8)
            start, end = 64 + shift, 64 + shift + n * unit
            cipher.units(False, unit, ivs, source, room[start:end])
            assert (room[:start] == 0xA5).all()
            assert (room[end:] == 0xA5).all()
            cipher.units(True, unit, ivs, room[start:end], room[start:end])
            assert (room[start:end] == source).all()
            assert (room[:start] == 0xA5).all()
            assert (room[end:] == 0xA5).all()


@settings(max_examples=40, deadline=None)
@given(data=st.data())
def test_decryption_undoes_encryption_in_place(data: st.DataObject) -> None:
    lines = data.draw(st.integers(1, 40), "lines of a unit")
    skip = data.draw(st.integers(0, lines - 1), "lines left out")
    length = 64 * data.draw(st.integers(1, 300), "lines")
    rng = np.random.default_rng(data.draw(st.integers(0, 1 << 32), "seed"))
    engine, key = data.draw(st.sampled_from(available()), "backend"), rng.bytes(32)
    ivs = rng.integers(0, 1 << 64, (length // 64 // lines + 2, 2), dtype=np.uint64)
    plain = np.frombuffer(rng.bytes(length), np.uint8)
    for cipher in ciphers(engine, key):
        room = plain.copy()
        cipher.units(False, 64 * lines, ivs, room, room, 64 * skip)
        assert (room != plain).any()
        cipher.units(True, 64 * lines, ivs, room, room, 64 * skip)
        assert (room == plain).all()


def test_a_wiped_cipher_holds_no_key_and_gives_other_bytes(engine: str) -> None:
    key = b"\x5a" * 16 + b"\xc3" * 16
    ivs, data = np.zeros((1, 2), np.uint64), bytes(64)
    for cipher in ciphers(engine, key):
        before = crypt(cipher, False, 64, ivs, data)
        cipher.wipe()
        assert crypt(cipher, False, 64, ivs, data) != before
        if engine == "portable":
            held = bytes(cipher._data_key + cipher._tweak_key)
        else:
            held = cipher._room[:384].tobytes()
        assert not any(held)


def test_the_native_cipher_is_offered_wherever_a_native_backend_is() -> None:
    assert supported() == (len(available()) > 1)
    assert Sm4Xts.iv_bytes == PortableSm4Xts.iv_bytes == 16


def test_an_openssl_without_sm4_is_said_to_be_one(monkeypatch: pytest.MonkeyPatch) -> None:
    class Absent:
        def __init__(self, *_: object) -> None: ...

        def encryptor(self) -> None:
            raise UnsupportedAlgorithm("no such cipher")

    monkeypatch.setattr(portable_sm4, "Cipher", Absent)
    with pytest.raises(BackendError, match="has no SM4"):
        PortableSm4Xts(bytes(16), bytes(16))


@pytest.mark.parametrize("engine", available())
def test_scattered_lines_of_larger_units_are_those_of_the_whole(engine: str) -> None:
    rng, unit = np.random.default_rng(12), 4096
    for n in (1, 5, 300):
        cipher = make("sm4-xts", [bytes(range(16)), bytes(range(16, 32))], engine)
        assert isinstance(cipher, PartCipher)
        ivs = rng.integers(0, 1 << 63, (n, 2)).astype(np.uint64)
        plain = rng.integers(0, 256, n * unit, np.uint8)
        made = np.empty_like(plain)
        cipher.units(False, unit, ivs, plain, made)
        which = rng.integers(0, n * unit // 64, 700)
        rows, skips = which * 64 // unit, (which * 64 % unit).astype(np.uint64)
        for back, source, expected in ((True, made, plain), (False, plain, made)):
            lines = source.reshape(-1, 64)[which].reshape(-1)
            out = np.empty_like(lines)
            cipher.lines(back, ivs[rows].copy(), skips, lines, out)
            assert (out.reshape(-1, 64) == expected.reshape(-1, 64)[which]).all()
