"""A recording as a store log: what happened to the medium, ciphertext and all, for other tools."""

from __future__ import annotations

import numpy as np

from mktme.errors import CrashError
from mktme.lab.crash.recording import Piece, Point, Recording
from mktme.lab.crash.states import StateDevice
from mktme.storelog import Event, Fence, Flush, RegisterFile, Store
from pmem.cache import CpuCache
from pmem.geometry import LINE

ADDRESS = 1 << 44  # where the log says that the image is mapped
WORD = 8


def events_of(recording: Recording, device: StateDevice, path: str) -> list[Event]:
    """The stores to the medium, 8 bytes each, the flushes and fences of a recording.

    `device` is as it was before, and is so again afterwards; `path` is the image's in the log. Each
    store of the program is taken to be written back at once: what it changes, in its line and beside
    it (counters, MACs), follows, and flushes cover that, too.

    Raises CrashError for a recording under eADR, whose stores need no flush.
    """
    if recording.kind == "eadr":
        raise CrashError("a store log has no way to say that stores are durable at once (eADR)")
    made: list[Event] = [RegisterFile(path, ADDRESS, device.size, 0)]
    begin = 0
    beside: dict[tuple[CpuCache | None, int], list[int]] = {}  # lines of the medium that belong to a line
    for point in recording.points:
        for event in recording.events[begin : point.event]:
            if isinstance(event, Piece):
                made += _stores(recording, point, device, event, beside)
            elif event is not None:
                made += _flushes(event, beside)
            else:
                made.append(Fence())
        begin = point.event
    made += [Fence() for event in recording.events[begin:] if event is None]
    device.undo()
    return made


def _stores(
    recording: Recording,
    point: Point,
    device: StateDevice,
    piece: Piece,
    beside: dict[tuple[CpuCache | None, int], list[int]],
) -> list[Event]:
    at = piece.number * LINE
    lines = [at]
    if piece.cache is not None:
        way = point.ways[recording.caches.index(piece.cache), piece.number]
        address, _ = piece.cache.memory.split(np.array([at], np.uint64))
        lines = way.touched(address).tolist()
        before = {line: device.bytes[line : line + LINE].tobytes() for line in lines}
        row = np.frombuffer(piece.row, np.uint8).reshape(1, LINE).copy()
        way.write(device, address, np.zeros(1, np.uint64), row)
        lines.sort(key=lambda line: line != int(address[0]))  # the line itself first
    else:
        before = {at: device.bytes[at : at + LINE].tobytes()}
        device.reserve(at, LINE)
        device.bytes[at : at + LINE] = piece.row
    volatile = point.volatile if piece.cache is not None else []
    beside[piece.cache, piece.number] = [
        line for line in lines if not any(first <= line < last for first, last in volatile)
    ]
    source, made = recording.sources[piece.store], []
    for line in lines:
        after = device.bytes[line : line + LINE].tobytes()
        made += [
            Store(ADDRESS + line + i, after[i : i + WORD], source)
            for i in range(0, LINE, WORD)
            if after[i : i + WORD] != before[line][i : i + WORD]
        ]
    return [*made]


def _flushes(
    event: tuple[CpuCache | None, int, int], beside: dict[tuple[CpuCache | None, int], list[int]]
) -> list[Event]:
    cache, address, length = event
    numbers = range(address // LINE, -(-(address + length) // LINE))
    if len(numbers) < len(beside):
        found = [beside.get((cache, number), []) for number in numbers]
    else:
        found = [lines for (of, number), lines in beside.items() if of is cache and number in numbers]
    return [Flush(ADDRESS + line, LINE) for line in sorted({line for lines in found for line in lines})]
