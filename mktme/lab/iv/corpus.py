"""Real bytes: the standard library's files, and a SQLite database of them in successive versions."""

from __future__ import annotations

import sqlite3
from pathlib import Path

import numpy as np
import numpy.typing as npt

from mktme.lab.workloads import library, library_files

Bytes = npt.NDArray[np.uint8]
VERSIONS = 9
CHANGES = 24  # rows that are changed from a version to the next
EXCERPT = 160  # characters of a file that a row holds


def files(size: int) -> Bytes:
    """The standard library's files one after another, `size` bytes of them."""
    made: Bytes = np.resize(np.concatenate(library(2 * size)), size)
    return made


def database(folder: Path, size: int, seed: int) -> list[Bytes]:
    """A database file as it was at VERSIONS moments: (VERSIONS) arrays of `size` bytes.

    Each version has some rows changed, added and deleted, in one transaction.
    """
    rng = np.random.default_rng(seed)
    path = folder / "library.db"
    db = sqlite3.connect(path)
    db.execute("PRAGMA page_size = 4096")
    db.execute("CREATE TABLE files (name TEXT PRIMARY KEY, size INTEGER, changed INTEGER, head TEXT)")
    paths = library_files()
    for number, source in enumerate(paths):
        db.execute("INSERT INTO files VALUES (?, ?, ?, ?)", _row(source, number))
        if number % 64 == 63:
            db.commit()
            if path.stat().st_size > size * 3 // 4:
                break
    db.commit()
    versions = [_image(path, size)]
    names = [name for (name,) in db.execute("SELECT name FROM files ORDER BY name")]
    for version in range(1, VERSIONS):
        for name in rng.choice(names, CHANGES, replace=False).tolist():
            db.execute("UPDATE files SET size = size + 1, changed = ? WHERE name = ?", (version, name))
        for name in rng.choice(names, 2, replace=False).tolist():
            db.execute("DELETE FROM files WHERE name = ?", (name,))
            db.execute("INSERT INTO files VALUES (?, 0, ?, ?)", (f"{name}.{version}", version, name * 4))
        db.commit()
        names = [name for (name,) in db.execute("SELECT name FROM files ORDER BY name")]
        versions.append(_image(path, size))
    db.close()
    return versions


def _row(source: Path, number: int) -> tuple[str, int, int, str]:
    text = source.read_text(errors="replace")
    return f"{number}/{source.parent.name}/{source.name}", len(text), number, text[:EXCERPT]


def _image(path: Path, size: int) -> Bytes:
    """The file's bytes, cut or filled with zeros."""
    image = np.zeros(size, np.uint8)
    data = np.frombuffer(path.read_bytes(), np.uint8)[:size]
    image[: data.size] = data
    return image
