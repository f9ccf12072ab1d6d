"""fscrypt-crypt: every vector as a function and as a command, streams, and what is refused."""

from __future__ import annotations

import hashlib
import io
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms
from cryptography.hazmat.primitives.ciphers import modes as openssl
from hypothesis import given as drawn
from hypothesis import settings as tried
from hypothesis import strategies as st
from typer.testing import CliRunner

from mktme.cli import app
from mktme.errors import KeyMaterialError, MktmeError, PolicyError
from mktme.fscrypt import modes
from mktme.fscrypt.crypt import CHUNK, crypt, crypt_stream
from mktme.fscrypt.settings import Settings, from_hex, key_identifier

FILE = json.loads((Path(__file__).parents[1] / "vectors/fscrypt.json").read_text())
VECTORS = [v for v in FILE["vectors"] if v["op"] == "encrypt"]
IDENTIFIERS = [v for v in FILE["vectors"] if v["op"] == "key_identifier"]
KEY = np.random.default_rng(3).bytes(64)
NONCE, UUID = bytes(range(16)), bytes(range(16, 32))
OPTIONS = {  # of the command, by the fields of a vector
    "data_unit_index": "--data-unit-index",
    "data_unit_size": "--data-unit-size",
    "file_nonce": "--file-nonce",
    "fs_uuid": "--fs-uuid",
    "inode_number": "--inode-number",
    "kdf": "--kdf",
    "mode_num": "--mode-num",
    "padding": "--padding",
}
FLAGS = {"hw_kdf": "--enable-hw-kdf", "use_inlinecrypt_key": "--use-inlinecrypt-key"}


def settings_of(vector: dict[str, Any], decrypt: bool = False) -> Settings:
    given = {name: vector[name] for name in OPTIONS if vector[name] is not None}
    for name in ("file_nonce", "fs_uuid"):
        if name in given:
            given[name] = bytes.fromhex(given[name])
    return Settings(
        **given,
        decrypt=decrypt,
        enable_hw_kdf=vector["hw_kdf"],
        use_inlinecrypt_key=vector["use_inlinecrypt_key"],
        direct_key=vector["iv_method"] == "direct_key",
        iv_ino_lblk_64=vector["iv_method"] == "iv_ino_lblk_64",
        iv_ino_lblk_32=vector["iv_method"] == "iv_ino_lblk_32",
    )


def arguments_of(vector: dict[str, Any], decrypt: bool = False) -> list[str]:
    """The command's arguments, a vector's options between its two positional ones."""
    made = [f"{option}={vector[name]}" for name, option in OPTIONS.items() if vector[name] is not None]
    made += [flag for name, flag in FLAGS.items() if vector[name]]
    if vector["iv_method"] not in ("default", None):
        made.append("--" + vector["iv_method"].replace("_", "-"))
    return ["fscrypt-crypt", vector["cipher"], *made, vector["master_key"], *(["--decrypt"] * decrypt)]


def run(arguments: list[str], data: bytes = b"") -> Any:
    return CliRunner().invoke(app, arguments, input=data)


@pytest.mark.parametrize("vector", VECTORS, ids=[f"{v['id']}-{v['cipher']}" for v in VECTORS])
def test_every_vector_agrees_as_a_function_and_as_a_command(vector: dict[str, Any]) -> None:
    master, plain, made = (bytes.fromhex(vector[f]) for f in ("master_key", "plaintext", "ciphertext"))
    assert crypt(vector["cipher"], master, plain, settings_of(vector)) == made
    padded = plain.ljust(len(made), b"\0")
    assert crypt(vector["cipher"], master, made, settings_of(vector, decrypt=True)) == padded
    result = run(arguments_of(vector), plain)
    assert (result.exit_code, result.stdout_bytes) == (0, made)
    result = run(arguments_of(vector, decrypt=True), made)
    assert (result.exit_code, result.stdout_bytes) == (0, padded)


@pytest.mark.parametrize("vector", IDENTIFIERS, ids=[v["id"] for v in IDENTIFIERS])
@pytest.mark.parametrize("extra", [[], ["--iv-ino-lblk-64"], ["--direct-key"]], ids=["", "ino", "direct"])
def test_key_identifiers_are_printed_whatever_else_is_said_as_the_suite_does(
    vector: dict[str, Any], extra: list[str]
) -> None:
    flag = ["--enable-hw-kdf"] if vector["hw_kdf"] else []
    arguments = ["fscrypt-crypt", "--dump-key-identifier", "--kdf=HKDF-SHA512", *flag, *extra]
    result = run([*arguments, vector["master_key"]])
    assert (result.exit_code, result.stdout) == (0, vector["key_identifier"])
    settings = Settings(kdf="HKDF-SHA512", enable_hw_kdf=vector["hw_kdf"])
    assert key_identifier(bytes.fromhex(vector["master_key"]), settings).hex() == vector["key_identifier"]


def command(*arguments: str, data: bytes) -> subprocess.CompletedProcess[bytes]:
    words = [sys.executable, "-m", "mktme.cli", "fscrypt-crypt", *arguments]
    return subprocess.run(words, input=data, capture_output=True, check=False, env=dict(os.environ))


def test_the_command_is_a_filter_of_bytes() -> None:
    """Through real pipes: more than one chunk, every byte value, a partial unit at the end."""
    data = np.random.default_rng(8).bytes(CHUNK + 5000)
    nonce = f"--file-nonce={NONCE.hex()}"
    made = command("--kdf=HKDF-SHA512", nonce, "AES-256-XTS", KEY.hex(), data=data)
    assert (made.returncode, made.stderr) == (0, b"")
    assert made.stdout == crypt("AES-256-XTS", KEY, data, Settings(kdf="HKDF-SHA512", file_nonce=NONCE))
    back = command("--decrypt", "--kdf", "HKDF-SHA512", nonce, "AES-256-XTS", KEY.hex(), data=made.stdout)
    assert back.stdout == data.ljust(len(made.stdout), b"\0")


def test_the_command_refuses_in_one_line_and_writes_nothing() -> None:
    wrong = command("--kdf=HKDF-SHA512", "AES-256-XTS", KEY.hex(), data=b"plain")
    assert (wrong.returncode, wrong.stdout) == (1, b"")
    assert wrong.stderr.decode().splitlines() == [
        "mktme: --kdf=HKDF-SHA512 without another way to the IV needs --file-nonce"
    ]


class Slow(io.RawIOBase):
    """A file that gives a few bytes at a time, as a pipe may."""

    def __init__(self, data: bytes, seed: int) -> None:
        self._data, self._at, self._rng = data, 0, np.random.default_rng(seed)

    def read(self, size: int = -1) -> bytes:
        n = min(size, int(self._rng.integers(1, 400_000)))
        part = self._data[self._at : self._at + n]
        self._at += len(part)
        return part


@pytest.mark.parametrize(
    ("cipher", "unit", "length"),
    [
        ("AES-256-XTS", 4096, CHUNK + 4097),
        ("AES-128-CBC-ESSIV", 512, 2 * CHUNK),
        ("SM4-XTS", 1024, CHUNK + 1),
        ("Adiantum", 4095, CHUNK + 100),
        ("Adiantum", 512, 0),
    ],
)
def test_a_stream_is_encrypted_as_the_whole(cipher: str, unit: int, length: int) -> None:
    data, sink = np.random.default_rng(unit).bytes(length), io.BytesIO()
    settings = Settings(kdf="AES-128-ECB", file_nonce=NONCE, data_unit_size=unit, data_unit_index=2**64 - 300)
    crypt_stream(cipher, KEY, Slow(data, 1), sink, settings)  # type: ignore[arg-type]
    assert sink.getvalue() == crypt(cipher, KEY, data, settings)
    assert len(sink.getvalue()) == -(-length // unit) * unit


@pytest.mark.parametrize("unit", [16, 32, 80, 1008, 8192, 65552])
@pytest.mark.parametrize("cipher", ["AES-256-XTS", "SM4-XTS", "AES-128-CBC-ESSIV"])
def test_data_units_that_kernels_do_not_have_agree_with_openssl(cipher: str, unit: int) -> None:
    data = np.random.default_rng(unit).bytes(2 * unit)
    mode = modes.NAMES[cipher]
    key = KEY[: mode.key_bytes]
    made = crypt(cipher, KEY, data, Settings(data_unit_size=unit, data_unit_index=7))
    for i in range(2):
        iv, part = (7 + i).to_bytes(16, "little"), data[i * unit : (i + 1) * unit]
        if cipher == "AES-256-XTS":
            expected = Cipher(algorithms.AES(key), openssl.XTS(iv)).encryptor().update(part)
        elif cipher == "SM4-XTS":
            expected = sm4_xts(key, iv, part)
        else:
            salt = Cipher(algorithms.AES(hashlib.sha256(key).digest()), openssl.ECB()).encryptor()
            chained = openssl.CBC(salt.update(iv))
            expected = Cipher(algorithms.AES(key), chained).encryptor().update(part)
        assert made[i * unit : (i + 1) * unit] == expected


def sm4_xts(key: bytes, iv: bytes, data: bytes) -> bytes:
    """IEEE 1619's XTS of single blocks."""

    def sm4(half: bytes, block: bytes) -> bytes:
        return Cipher(algorithms.SM4(half), openssl.ECB()).encryptor().update(block)

    tweak, made = int.from_bytes(sm4(key[16:], iv), "little"), b""
    for at in range(0, len(data), 16):
        mixed = int.from_bytes(data[at : at + 16], "little") ^ tweak
        block = int.from_bytes(sm4(key[:16], mixed.to_bytes(16, "little")), "little") ^ tweak
        made += block.to_bytes(16, "little")
        tweak = (tweak << 1) ^ ((1 << 128 | 0x87) if tweak >> 127 else 0)
    return made


@tried(max_examples=60, deadline=None, derandomize=True, database=None)
@drawn(
    cipher=st.sampled_from(sorted(modes.NAMES)),
    length=st.integers(0, 3000),
    size=st.integers(1, 80),
    padding=st.sampled_from([None, 4, 8, 16, 32, 4096]),
    index=st.integers(0, 2**64 - 1),
)
def test_data_comes_back_with_the_zeros_that_the_program_pads_with(
    cipher: str, length: int, size: int, padding: int | None, index: int
) -> None:
    least = modes.NAMES[cipher].least
    unit = 16 * size
    if not least and padding in (4, 8):
        padding = 16
    data = np.random.default_rng(length).bytes(length)
    kept = {"data_unit_size": unit, "padding": padding, "data_unit_index": index}
    made = crypt(cipher, KEY, data, Settings(**kept))
    tail = length % unit
    if tail:
        wanted = unit if padding is None else min(unit, -(-max(tail, least) // padding) * padding)
        assert len(made) == length - tail + wanted
    else:
        assert len(made) == length
    assert crypt(cipher, KEY, made, Settings(decrypt=True, **kept)) == data.ljust(len(made), b"\0")


V2 = {"kdf": "HKDF-SHA512"}
REFUSED: list[tuple[dict[str, Any], str]] = [
    ({"kdf": "HKDF"}, "'HKDF' is no key derivation: there are none, AES-128-ECB, HKDF-SHA512"),
    ({"data_unit_size": 0}, "--data-unit-size=0: it is 1 to 1048576"),
    ({"data_unit_size": 1 << 21}, "--data-unit-size=2097152"),
    ({"data_unit_index": 1 << 64}, "--data-unit-index=18446744073709551616"),
    ({"mode_num": 256}, "--mode-num=256: it is 0 to 255"),
    ({"inode_number": -1}, "--inode-number=-1"),
    ({"padding": 0}, "--padding=0: it is a power of two"),
    ({"padding": 12}, "--padding=12"),
    ({"file_nonce": bytes(15)}, "--file-nonce is 16 bytes, not 15"),
    ({"fs_uuid": bytes(17)}, "--fs-uuid is 16 bytes, not 17"),
    ({"direct_key": True, "iv_ino_lblk_64": True}, "take one of --direct-key, --iv-ino-lblk-64"),
    ({"kdf": "AES-128-ECB", "direct_key": True, "file_nonce": NONCE}, "makes a key for each file"),
    ({"kdf": "AES-128-ECB"}, "--kdf=AES-128-ECB needs --file-nonce"),
    (V2, "needs --file-nonce"),
    ({"direct_key": True}, "--direct-key needs --file-nonce"),
    (V2 | {"direct_key": True, "file_nonce": NONCE}, "needs --mode-num"),
    ({"iv_ino_lblk_64": True}, "--iv-ino-lblk-64 needs --inode-number"),
    ({"iv_ino_lblk_32": True, "inode_number": 1}, "--iv-ino-lblk-32 needs --kdf=HKDF-SHA512"),
    (V2 | {"iv_ino_lblk_64": True, "inode_number": 1}, "needs --mode-num"),
    (V2 | {"iv_ino_lblk_64": True, "inode_number": 1, "mode_num": 1}, "needs --fs-uuid"),
    (
        {"iv_ino_lblk_64": True, "inode_number": 1 << 32},
        "--inode-number=4294967296: ",
    ),
    ({"iv_ino_lblk_64": True, "inode_number": 1, "data_unit_index": 1 << 32}, "takes 32 bits"),
    ({"use_inlinecrypt_key": True}, "needs --enable-hw-kdf"),
    ({"use_inlinecrypt_key": True, "enable_hw_kdf": True}, "needs --iv-ino-lblk-64 or --iv-ino-lblk-32"),
    ({"data_unit_size": 100}, "whole blocks of 16 bytes, not of 100"),
]


@pytest.mark.parametrize(("given", "says"), REFUSED, ids=[says for _, says in REFUSED])
def test_settings_that_can_not_be_are_refused_before_anything_is_written(
    given: dict[str, Any], says: str
) -> None:
    sink = io.BytesIO()
    key = KEY[:32] if given.get("enable_hw_kdf") else KEY
    with pytest.raises(PolicyError) as caught:
        crypt_stream("AES-256-XTS", key, io.BytesIO(bytes(5000)), sink, Settings(**given))
    assert says in str(caught.value)
    assert not sink.getvalue()


def test_a_partial_unit_that_is_no_whole_block_is_refused() -> None:
    with pytest.raises(PolicyError, match="not of 24: pass --data-unit-size or --padding"):
        crypt("AES-256-XTS", KEY, bytes(21), Settings(padding=8))


@pytest.mark.parametrize(
    ("cipher", "size", "given", "says"),
    [
        ("AES-256-XTS", 63, {}, "a secret of 63 bytes is too short for AES-256-XTS: 64"),
        (
            "AES-256-XTS",
            31,
            V2 | {"file_nonce": NONCE},
            "a secret of 31 bytes is too short",
        ),
        ("Adiantum", 65, {}, "a master key of 65 bytes: it has 1 to 64"),
        ("Adiantum", 33, {"enable_hw_kdf": True}, "raw key is to be 32 bytes, not 33"),
    ],
)
def test_master_keys_of_wrong_lengths_are_refused(
    cipher: str, size: int, given: dict[str, Any], says: str
) -> None:
    with pytest.raises(KeyMaterialError, match=says):
        crypt(cipher, bytes(range(1, size + 1)), b"plain", Settings(**given))


def test_with_hkdf_a_master_key_may_be_as_short_as_the_kernel_takes_it() -> None:
    settings = Settings(kdf="HKDF-SHA512", file_nonce=NONCE)
    made = crypt("AES-256-XTS", KEY[:32], bytes(4096), settings)
    assert made != crypt("AES-256-XTS", KEY, bytes(4096), settings)


def test_small_units_and_unknown_ciphers_are_refused() -> None:
    with pytest.raises(PolicyError, match="--data-unit-size=15: Adiantum takes 16 bytes or more"):
        crypt("Adiantum", KEY, bytes(15), Settings(data_unit_size=15))
    with pytest.raises(PolicyError, match="'AES-512' is not a cipher of fscrypt: there are AES-256-XTS"):
        crypt("AES-512", KEY, b"", Settings())
    inline = Settings(enable_hw_kdf=True, use_inlinecrypt_key=True, iv_ino_lblk_64=True, inode_number=1)
    with pytest.raises(PolicyError, match="64 bytes"):
        crypt("Adiantum", KEY[:32], b"", inline)
    with pytest.raises(PolicyError, match="--dump-key-identifier needs --kdf=HKDF-SHA512"):
        key_identifier(KEY, Settings())


@pytest.mark.parametrize(
    "arguments",
    [
        [KEY.hex(), "AES-256-XTS"],  # the wrong way round
        [KEY.hex(), KEY.hex()],
        ["AES-256-XTS", KEY.hex() + "0"],
        ["AES-256-XTS", KEY.hex() + "00"],
        ["AES-256-XTS", "  " + KEY.hex()],
        ["AES-256-XTS", KEY.hex(), "more"],
        [KEY.hex()],
        ["--dump-key-identifier", "AES-256-XTS", KEY.hex()],
        ["--dump-key-identifier", KEY.hex()],
        ["--kdf=HKDF-SHA512", "--file-nonce", "zz", "AES-256-XTS", KEY.hex()],
        ["--kdf=HKDF-SHA512", "AES-256-XTS", KEY.hex()],
        ["--no-such-option", "AES-256-XTS", KEY.hex()],
        ["--padding=x", "AES-256-XTS", KEY.hex()],
    ],
)
def test_the_command_never_repeats_the_key(arguments: list[str]) -> None:
    result = run(["fscrypt-crypt", *arguments], b"plain")
    assert result.exit_code != 0
    assert result.stdout == ""
    assert isinstance(result.exception, MktmeError | SystemExit)
    assert KEY.hex()[:16] not in result.output + str(result.exception)


def test_hexadecimal_is_taken_as_the_program_takes_it() -> None:
    assert from_hex("it", "00fFA5") == b"\0\xff\xa5"
    for wrong in ("0", "0x00", "00 11", "gg", "\u0660\u0660"):
        with pytest.raises(PolicyError, match="it is to be an even number of hexadecimal digits"):
            from_hex("it", wrong)
