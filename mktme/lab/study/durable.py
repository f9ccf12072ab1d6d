"""Files that are whole and stay, or aren't there: written beside, synced, renamed, and the folder synced."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any


def sync(path: Path) -> None:
    """Wait until a file, or the names in a folder, are on the disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def place(temporary: Path, path: Path) -> None:
    """Give a file that is written its name, durably."""
    sync(temporary)
    temporary.replace(path)
    sync(path.parent)


def write(path: Path, value: Any) -> None:
    """Write plain data as JSON. Readers see the whole of it, or no file."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    temporary.write_text(json.dumps(value))
    place(temporary, path)


def read(path: Path) -> Any:
    """What `write` wrote; None if it isn't there, or isn't whole."""
    try:
        return json.loads(path.read_text())
    except (OSError, ValueError):
        return None
