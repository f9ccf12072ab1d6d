"""The store log that pmemcheck writes and pmreorder reads.

pmemcheck (a tool of pmem's Valgrind, with ``--log-stores=yes``) puts one record after another between
START and STOP, each followed by a bar, fields apart by semicolons, numbers in hexadecimal:

    STORE;address;value;size[;stack frame...]    a value of `size` bytes, little-endian
    FLUSH;address;size                           CLWB and its like
    FENCE
    REGISTER_FILE;path;address;size;offset       where a file is mapped
    name.BEGIN, name.END                         marks that the program or a library set

As pmreorder reads them (pmdk 1.12 and later): a flush takes each store that it overlaps, whole; a fence
makes what was flushed durable, if there was a flush since the last one that did; what was not
flushed waits for a later fence; what comes after the last fence is never looked at.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TextIO

from mktme.errors import StoreLogError

PART = 8  # bytes of a store in a log, at most
CHUNK = 1 << 20  # characters that are read at once


@dataclass(frozen=True, slots=True)
class Store:
    """Bytes at an address; `source` is who stored them, frames with semicolons between."""

    address: int
    data: bytes
    source: str | None = None


@dataclass(frozen=True, slots=True)
class Flush:
    """A range that is flushed."""

    address: int
    length: int


@dataclass(frozen=True, slots=True)
class Fence:
    """A fence."""


@dataclass(frozen=True, slots=True)
class RegisterFile:
    """A file, mapped from `offset` in it on at an address."""

    path: str
    address: int
    size: int
    offset: int


@dataclass(frozen=True, slots=True)
class Label:
    """A mark of the program's: a name that ends in .BEGIN or .END."""

    name: str


Event = Store | Flush | Fence | RegisterFile | Label


def read(source: Path | TextIO) -> Iterator[Event]:
    """The events of a log, one after another; what Valgrind says around them is left out.

    Raises StoreLogError, which names the record; OSError.
    """
    if isinstance(source, Path):
        with source.open(errors="replace") as file:
            yield from read(file)
        return
    started = False
    for number, record in enumerate(_records(source)):
        text = record.strip()
        if not started:
            started = text.endswith("START")
        elif text.startswith("STOP"):
            return
        elif text:
            yield _event(number, text)
    raise StoreLogError(
        "the log has no STOP: the program, or its copying, was cut short"
        if started
        else "the log has no START: it is no store log of pmemcheck (--log-stores=yes)"
    )


def _records(file: TextIO) -> Iterator[str]:
    """What stands between bars."""
    rest = ""
    while chunk := file.read(CHUNK):
        *records, rest = (rest + chunk).split("|")
        yield from records
    yield rest


def _event(number: int, text: str) -> Event:
    kind, *fields = text.split(";")
    try:
        if kind == "STORE":
            address, value, size = (int(field, 16) for field in fields[:3])
            return Store(address, value.to_bytes(size, "little"), ";".join(fields[3:]) or None)
        if kind == "FLUSH":
            address, length = (int(field, 16) for field in fields)
            return Flush(address, length)
        if kind == "FENCE" and not fields:
            return Fence()
        if kind == "REGISTER_FILE":
            path, *numbers = fields
            address, size, offset = (int(field, 16) for field in numbers)
            return RegisterFile(path, address, size, offset)
        if kind.endswith((".BEGIN", ".END")):
            return Label(kind)
    except (ValueError, OverflowError) as error:
        raise StoreLogError(f"record {number}, {text[:80]!r}, can't be read: {error}") from None
    raise StoreLogError(
        f"record {number}, {text[:80]!r}, is none that is known: STORE, FLUSH, FENCE, REGISTER_FILE, or a "
        "mark that ends in .BEGIN or .END"
    )


def write(target: Path | TextIO, events: Iterable[Event]) -> None:
    """Write a log; stores of more than 8 bytes as parts that end at multiples of 8, as pmemcheck does.

    Raises StoreLogError for a name with a bar or a semicolon in it; OSError.
    """
    if isinstance(target, Path):
        with target.open("w") as file:
            write(file, events)
        return
    target.write("START|")
    for event in events:
        for text in _texts(event):
            target.write(text + "|")
    target.write("STOP\n")


def _texts(event: Event) -> Iterator[str]:
    if isinstance(event, Store):
        source = "" if event.source is None else ";" + event.source.replace("|", "/")
        at, data = event.address, event.data
        while data:
            part, data = data[: PART - at % PART], data[PART - at % PART :]
            yield f"STORE;{at:#x};{int.from_bytes(part, 'little'):#x};{len(part):#x}{source}"
            at += len(part)
    elif isinstance(event, Flush):
        yield f"FLUSH;{event.address:#x};{event.length:#x}"
    elif isinstance(event, Fence):
        yield "FENCE"
    elif isinstance(event, RegisterFile):
        yield f"REGISTER_FILE;{_name(event.path)};{event.address:#x};{event.size:#x};{event.offset:#x}"
    else:
        yield _name(event.name)


def _name(text: str) -> str:
    if "|" in text or ";" in text:
        raise StoreLogError(f"{text!r} can't be in a store log: it has a bar or a semicolon in it")
    return text
