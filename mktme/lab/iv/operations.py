"""What a file system and an administrator want to do, each of them done.

First for nothing: the bytes on the medium (with what is kept beside them) go where they are wanted
and are mapped there with the coordinates that they have there. If the file reads as it was, the
operation is free. If not, it is done by whoever has the key, who reads and writes anew; and where
the operation happens while nobody has the key, or the old coordinates are gone, it can't be.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from mktme.errors import PoisonError
from mktme.lab.iv.subjects import Subject
from mktme.lab.iv.world import ALICE, BOB, WIRING, Bytes, Dimm, File, Wiring, World, rewired
from pmem.geometry import PAGE

EXTENT = 64 << 10  # bytes that are moved in one piece
FREE, REENCRYPTS, NEEDS_KEY, LOSES = "free", "re-encrypts", "needs key", "lost"


@dataclass(frozen=True)
class Piece:
    """An extent of a file: where it lies, as what, and how the device is wired."""

    slot: int
    at: int
    block: int  # bytes into its file
    file: File = ALICE
    wiring: Wiring = WIRING


@dataclass(frozen=True)
class Operation:
    """Pieces as they are and as they are wanted; whether somebody has the key, and if it is not
    free, whether the data can still be reached at its old coordinates.
    """

    name: str
    before: tuple[Piece, ...]
    after: tuple[Piece, ...]
    locked: bool = False
    gone: bool = False


def _pieces(slots: tuple[tuple[int, int], ...], **changes: Any) -> tuple[Piece, ...]:
    return tuple(Piece(slot, at, i * EXTENT, **changes) for i, (slot, at) in enumerate(slots))


ONE, MOVED = ((0, 0),), ((3, 5 * EXTENT),)
SCATTERED, TOGETHER = ((0, 0), (1, 4 * EXTENT), (2, EXTENT)), ((3, 0), (3, EXTENT), (3, 2 * EXTENT))
MODULE = ((0, 0), (0, EXTENT), (1, 0))
OPERATIONS = (
    Operation("move, unlocked", _pieces(ONE), _pieces(MOVED)),
    Operation("move, locked", _pieces(ONE), _pieces(MOVED), locked=True),
    Operation("defragment", _pieces(SCATTERED), _pieces(TOGETHER)),
    Operation("share (reflink)", _pieces(ONE), _pieces(ONE, file=BOB)),
    Operation(
        "copy the image", _pieces(MODULE), _pieces(MODULE, wiring=rewired(system=3 << 36, serial=0x77)),
        locked=True,
    ),
    Operation(
        "DIMM to another slot", _pieces(MODULE), _pieces(MODULE, wiring=rewired(system=5 << 36)),
        locked=True, gone=True,
    ),
    Operation(
        "grow the interleave set", _pieces(MODULE),
        _pieces(MODULE, wiring=rewired(system=6 << 36, interleaved=True)),
    ),
)  # fmt: skip


def perform(folder: Path, subject: Subject, data: Bytes, operation: Operation) -> dict[str, Any]:
    """Do an operation on a file of `data`; says what it took.

    `outcome`: one of the four above; `bytes`, `seconds`: what was encrypted anew, and how long it
    took; `verified`: whether the file read as it was at the end.
    """
    data = data[: EXTENT * len(operation.before)]
    with World(folder, subject) as world:
        for piece in operation.before:
            _write(world, subject, piece, _part(data, piece))
        dimm = Dimm(world)
        moves = list(zip(operation.before, operation.after, strict=True))
        images = [dimm.save(old.slot, EXTENT, old.at) for old, _ in moves]
        if any((old.slot, old.at) != (new.slot, new.at) for old, new in moves):
            for image, (_, new) in zip(images, moves, strict=True):
                dimm.put(new.slot, image, at=new.at)
        if _reads(world, subject, operation.after, data):
            return {"outcome": FREE, "bytes": 0, "seconds": 0.0, "verified": True}
        if operation.gone or operation.locked:
            back = _reads(world, subject, operation.before, data)  # nothing is lost for ever
            outcome = LOSES if operation.gone else NEEDS_KEY
            return {"outcome": outcome, "bytes": 0, "seconds": 0.0, "verified": back}
        begin = time.perf_counter()
        for old, new in moves:
            _write(world, subject, new, _read(world, subject, old))
        took = time.perf_counter() - begin
        verified = _reads(world, subject, operation.after, data)
    return {"outcome": REENCRYPTS, "bytes": data.size, "seconds": took, "verified": verified}


def _part(data: Bytes, piece: Piece) -> Bytes:
    return data[piece.block : piece.block + EXTENT]


def _places(subject: Subject, piece: Piece) -> list[tuple[int, int]]:
    """(offset, bytes) of what is mapped at once: pages where the device is interleaved."""
    apart = piece.wiring.interleaved and "device_address" in subject.scheme.coordinates
    size = PAGE if apart else EXTENT
    return [(at, size) for at in range(0, EXTENT, size)]


def _each(world: World, subject: Subject, piece: Piece, do: Callable[[Any, int, int], None]) -> None:
    for offset, size in _places(subject, piece):
        block = (piece.block + offset) // subject.scheme.unit
        at = piece.at + offset
        with world.file(piece.file, piece.slot, size, piece.wiring, block, at) as region:
            do(region, offset, size)


def _write(world: World, subject: Subject, piece: Piece, data: Bytes) -> None:
    _each(world, subject, piece, lambda region, at, size: region.write(0, data[at : at + size]))


def _read(world: World, subject: Subject, piece: Piece) -> Bytes:
    out = np.empty(EXTENT, np.uint8)
    _each(world, subject, piece, lambda region, at, size: region.read_into(out[at : at + size]))
    return out


def _reads(world: World, subject: Subject, pieces: tuple[Piece, ...], data: Bytes) -> bool:
    """Whether the file reads as it was."""
    try:
        return all((_read(world, subject, piece) == _part(data, piece)).all() for piece in pieces)
    except PoisonError:
        return False
