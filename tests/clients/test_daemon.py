"""Keys from files and prompts, and the log."""

from __future__ import annotations

import getpass
import io
import json
import os
from pathlib import Path

import pytest

from mktme.clients.daemon import KeyFileError, Log, read_key

KEY = bytes(range(64))


def key_file(folder: Path, data: bytes, mode: int = 0o600) -> Path:
    path = folder / "key"
    path.write_bytes(data)
    path.chmod(mode)
    return path


@pytest.mark.parametrize("length", [16, 32, 64])
def test_a_key_is_the_bytes_of_a_file(tmp_path: Path, length: int) -> None:
    assert read_key(key_file(tmp_path, KEY[:length])) == KEY[:length]


@pytest.mark.parametrize(
    ("data", "mode", "says"),
    [
        (KEY, 0o640, "can be read by others"),
        (KEY, 0o604, "chmod 600"),
        (KEY[:15], 0o600, "a key of 15 bytes: it has 16 to 64"),
        (KEY + b"\n", 0o600, "a key of more than 64 bytes"),
        (b"", 0o600, "a key of 0 bytes"),
    ],
)
def test_files_that_hold_no_key(tmp_path: Path, data: bytes, mode: int, says: str) -> None:
    with pytest.raises(KeyFileError, match=says) as refused:
        read_key(key_file(tmp_path, data, mode))
    assert KEY[:8].hex() not in str(refused.value)


def test_what_is_no_file(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe, 0o600)
    for path, says in ((tmp_path / "none", "No such file"), (tmp_path, "no file"), (pipe, "no file")):
        with pytest.raises(KeyFileError, match=says):
            read_key(path)


def test_a_key_that_is_typed(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []

    def typed(text: str) -> str:
        asked.append(text)
        return KEY.hex()

    monkeypatch.setattr(getpass, "getpass", typed)
    assert read_key(None, "alice") == KEY
    assert "alice" in asked[0]
    monkeypatch.setattr(getpass, "getpass", lambda text: "no key")
    with pytest.raises(KeyFileError, match="not hexadecimal"):
        read_key(None)


def test_the_log_has_an_object_a_line() -> None:
    stream = io.StringIO()
    log = Log(stream)
    log("one", folder=Path("/mnt"), text='a "quoted"\nline')
    log("two")
    one, two = (json.loads(line) for line in stream.getvalue().splitlines())
    assert (one["event"], one["folder"], one["text"]) == ("one", "/mnt", 'a "quoted"\nline')
    assert two["event"] == "two"
    assert one["time"] <= two["time"]
    log.close()
    assert stream.closed
