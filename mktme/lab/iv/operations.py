"""What a file system and an administrator want to do, each of them done.

First for nothing: the bytes on the medium (with what is kept beside them) go where they are wanted
and are mapped there with the coordinates that they have there. If the file reads as it was, the
operation is free. If not, it is done by whoever has the key, who reads and writes anew; and where
the operation happens while nobody has the key, or the old coordinates are gone, it can't be.

To share a block, nothing moves: a second file maps the bytes of the first where they lie. Where it
doesn't read them, it can only have a copy, and then there is no sharing.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from mktme.errors import PoisonError
from mktme.lab.iv.subjects import Subject
from mktme.lab.iv.world import ALICE, BOB, WIRING, Bytes, File, Wiring, World, coordinates, rewired
from pmem.geometry import PAGE

EXTENT = 64 << 10  # bytes that are moved in one piece
COPY = 3  # the slot of the first copy, where a block can't be shared
FREE, REENCRYPTS, NEEDS_KEY, LOSES = "free", "re-encrypts", "needs key", "lost"
SAME_OFFSET, COPIES = "same offset", "needs copy"  # of sharing
AS_IT_WAS, GARBAGE, REFUSED = "as it was", "garbage", "refused"


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

    `shares`: the one piece as it is stays, and those wanted are clones of it, at the same bytes.
    """

    name: str
    before: tuple[Piece, ...]
    after: tuple[Piece, ...]
    locked: bool = False
    gone: bool = False
    shares: bool = False


def _pieces(slots: tuple[tuple[int, int], ...], **changes: Any) -> tuple[Piece, ...]:
    return tuple(Piece(slot, at, i * EXTENT, **changes) for i, (slot, at) in enumerate(slots))


ONE, MOVED = ((0, 0),), ((3, 5 * EXTENT),)
SCATTERED, TOGETHER = ((0, 0), (1, 4 * EXTENT), (2, EXTENT)), ((3, 0), (3, EXTENT), (3, 2 * EXTENT))
MODULE = ((0, 0), (0, EXTENT), (1, 0))
OPERATIONS = (
    Operation("move, unlocked", _pieces(ONE), _pieces(MOVED)),
    Operation("move, locked", _pieces(ONE), _pieces(MOVED), locked=True),
    Operation("defragment", _pieces(SCATTERED), _pieces(TOGETHER)),
    Operation(
        "share (reflink)", _pieces(ONE),
        (Piece(0, 0, 0, BOB), Piece(0, 0, 5 * EXTENT, BOB)),  # at its offset, and at another one
        shares=True,
    ),
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

    `outcome`: one of those above; `bytes`, `seconds`: what was encrypted anew or copied, and how
    long it took; `verified`: whether at the end every file reads as it was, and where nothing
    could be done, the one at its old coordinates. `changed`: the coordinates of the scheme (and
    the key) that are not what they were, or not in the first clone that can't share.
    Of moves, `moved`: bytes that were put elsewhere on the device; `seen`: how the file read then,
    before anything was encrypted anew. Of sharing, `clones`, and how many of them are `shared`.
    """
    data = data[: EXTENT * len(operation.before)]
    with World(folder, subject) as world:
        for piece in operation.before:
            _write(world, subject, piece, _part(data, piece))
        if operation.shares:
            return _share(world, subject, data, operation)
        return _move(world, subject, data, operation)


def _move(world: World, subject: Subject, data: Bytes, operation: Operation) -> dict[str, Any]:
    """The file's pieces are to lie elsewhere, or its device is wired in another way."""
    before, after = list(operation.before), list(operation.after)
    parts = [_part(data, piece) for piece in before]
    pairs = list(zip(before, after, strict=True))
    moved = [(old, new) for old, new in pairs if (old.slot, old.at) != (new.slot, new.at)]
    images = [world.dimm.save(old.slot, EXTENT, old.at) for old, _ in moved]
    there = [world.dimm.save(new.slot, EXTENT, new.at) for _, new in moved]
    for image, (_, new) in zip(images, moved, strict=True):
        world.dimm.put(new.slot, image, at=new.at)
    seen = _seen(world, subject, after, parts)
    evidence: dict[str, Any] = {"bytes": 0, "seconds": 0.0, "seen": seen}
    evidence |= {"moved": EXTENT * len(moved), "changed": _changed(subject, pairs)}
    if seen == AS_IT_WAS:
        return evidence | {"outcome": FREE, "verified": True}
    if operation.gone or operation.locked:
        back = _seen(world, subject, before, parts) == AS_IT_WAS  # nothing is lost for ever
        return evidence | {"outcome": LOSES if operation.gone else NEEDS_KEY, "verified": back}
    for image, (_, new) in zip(there, moved, strict=True):  # what was put there helps nobody
        world.dimm.put(new.slot, image, at=new.at)
    begin = time.perf_counter()
    for old, new in pairs:
        _write(world, subject, new, _read(world, subject, old))
    took = time.perf_counter() - begin
    verified = _seen(world, subject, after, parts) == AS_IT_WAS
    return evidence | {"outcome": REENCRYPTS, "bytes": data.size, "seconds": took, "verified": verified}


def _share(world: World, subject: Subject, data: Bytes, operation: Operation) -> dict[str, Any]:
    """Other files are to read the bytes of the first; one that can't gets a copy elsewhere."""
    (original,), clones = operation.before, list(operation.after)
    shared = [_seen(world, subject, [clone], [data]) == AS_IT_WAS for clone in clones]
    apart = [(original, clone) for clone, works in zip(clones, shared, strict=True) if not works]
    begin = time.perf_counter()
    for number, works in enumerate(shared):
        if not works:
            clones[number] = replace(clones[number], slot=COPY + number)
            _write(world, subject, clones[number], _read(world, subject, original))
    took = time.perf_counter() - begin
    everyone = [original, *clones]
    return {
        "outcome": FREE if all(shared) else SAME_OFFSET if shared[0] else COPIES,
        "bytes": EXTENT * shared.count(False),
        "seconds": 0.0 if all(shared) else took,
        "clones": len(clones),
        "shared": shared.count(True),
        "changed": _changed(subject, apart[:1]),
        "verified": _seen(world, subject, everyone, [data] * len(everyone)) == AS_IT_WAS,
    }


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


def _seen(world: World, subject: Subject, pieces: list[Piece], parts: list[Bytes]) -> str:
    """How some pieces read that are to hold some bytes: as they were, as garbage, or not at all."""
    try:
        same = all(
            (_read(world, subject, piece) == part).all() for piece, part in zip(pieces, parts, strict=True)
        )
    except PoisonError:
        return REFUSED
    return AS_IT_WAS if same else GARBAGE


def _changed(subject: Subject, pairs: list[tuple[Piece, Piece]]) -> list[str]:
    """The coordinates of a scheme, and the key, that are not the same for two pieces of any pair."""
    scheme, found = subject.scheme, []
    for old, new in pairs:
        if scheme.file_key and old.file != new.file:
            found.append("key")
        for offset in range(0, EXTENT, PAGE):
            before, after = _coordinates(subject, old, offset), _coordinates(subject, new, offset)
            found += [name for name in before if before[name] != after[name]]
    return list(dict.fromkeys(found))


def _coordinates(subject: Subject, piece: Piece, offset: int) -> dict[str, int]:
    address, block = World.address(piece.slot) + piece.at, piece.block // subject.scheme.unit
    more = offset // subject.scheme.unit
    return coordinates(subject.scheme, piece.file, address + offset, piece.wiring, block + more)
