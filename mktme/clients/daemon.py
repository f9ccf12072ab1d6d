"""What daemons share: keys from files that only their owner can read, and a log of one JSON object a line."""

from __future__ import annotations

import getpass
import json
import os
import stat
import sys
import threading
import time
from pathlib import Path
from typing import Any, TextIO

from mktme.errors import ClientError

SHORTEST, LONGEST = 16, 64  # bytes of a master key
_one = threading.Lock()


class KeyFileError(ClientError, OSError):
    """A key file that can't be used."""


def read_key(path: Path | None, whose: str = "the volume") -> bytearray:
    """A master key: the bytes of a file, or without one what is typed, in hexadecimal. The caller wipes it.

    Raises KeyFileError for a file that others may read (chmod 600), that isn't one, or has a length that
    no key has.
    """
    if path is None:
        typed = getpass.getpass(f"Key of {whose}, in hexadecimal: ")
        try:
            key = bytearray.fromhex(typed)
        except ValueError:
            raise KeyFileError("what was typed is not hexadecimal: 32 to 128 digits") from None
    else:
        try:
            opened = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
        except OSError as error:
            raise KeyFileError(f"{path}: {error.strerror}") from None
        try:
            found = os.fstat(opened)
            if not stat.S_ISREG(found.st_mode):
                raise KeyFileError(f"{path} is no file with a key")
            if found.st_mode & 0o077:
                raise KeyFileError(
                    f"{path} can be read by others (mode {stat.S_IMODE(found.st_mode):o}): chmod 600 {path}"
                )
            if found.st_uid not in (os.geteuid(), 0):
                raise KeyFileError(f"{path} belongs to user {found.st_uid}, not to you")
            key = bytearray(LONGEST + 1)
            with memoryview(key) as view:
                length = os.readv(opened, [view])
            del key[length:]
        finally:
            os.close(opened)
    if not SHORTEST <= len(key) <= LONGEST:
        length = len(key)
        key[:] = bytes(length)
        more = "more than " if length > LONGEST else ""
        raise KeyFileError(
            f"a key of {more}{min(length, LONGEST)} bytes: it has {SHORTEST} to {LONGEST}, as from "
            "(umask 077; head -c 64 /dev/urandom > FILE)"
        )
    return key


class Log:
    """Events on standard error (or `stream`), a JSON object a line. Thread-safe."""

    def __init__(self, stream: TextIO | None = None) -> None:
        self._stream = stream

    def close(self) -> None:
        """Close the stream, if it was given one."""
        if self._stream is not None:
            self._stream.close()

    def __call__(self, event: str, **details: Any) -> None:
        now = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime()) + f".{time.time_ns() // 10**6 % 1000:03}Z"
        line = json.dumps({"time": now, "event": event, "pid": os.getpid(), **details}, default=str)
        with _one:
            print(line, file=self._stream or sys.stderr, flush=True)
