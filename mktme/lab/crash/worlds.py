"""What a program gets that is to be interrupted: a region under any IV scheme, and what opens it again."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

import pmem
from mktme.controller import Controller
from mktme.errors import SchemeError
from mktme.iv.coordinates import HALVES
from mktme.keys import Key
from mktme.lab.iv.subjects import Subject, subjects
from mktme.lab.iv.world import ALICE, coordinates
from mktme.mapping import metadata_bytes
from mktme.region import Region
from pmem.geometry import PAGE, Size, parse_size


def world(
    subject: str | Subject = "pmem-line",
    size: Size = "64KiB",
    *,
    unit: int | None = None,
    counter_cache: str = "write-through",
    key: bytes | None = None,
) -> Callable[[pmem.Device], Region]:
    """A function from a device to a region of `size` bytes on it, always under one key.

    `subject` is the name of an IV scheme, with the cipher that it is compared with, or "scheme/cipher",
    "+mac" behind it for integrity. The device needs `room` bytes. `unit` as for `Controller.map`,
    `counter_cache` as for `mktme.Controller`.

    Raises SchemeError for a scheme or a cipher that doesn't exist.
    """
    chosen = subject if isinstance(subject, Subject) else _find(subject)
    length = -(-parse_size(size) // PAGE) * PAGE
    parts = [bytes(part) for part in Key.generate(chosen.algorithm).parts()]
    material = np.random.default_rng(1).bytes(sum(map(len, parts))) if key is None else key
    known = coordinates(chosen.scheme, ALICE, 0)
    given: dict[str, Any] = {n: v for n, v in known.items() if n not in HALVES | {"address"}}
    if "nonce_low" in chosen.scheme.coordinates:
        given["nonce"] = ALICE.nonce
    if metadata_bytes(chosen.scheme.name, length, unit=unit, integrity=chosen.integrity):
        given["metadata"] = length

    def opened(device: pmem.Device) -> Region:
        controller = Controller(device, threads=1, counter_cache=counter_cache)
        keyid = controller.program_key(Key.from_bytes(chosen.algorithm, material))
        return controller.map(
            0, length, keyid, iv=chosen.scheme.name, unit=unit, integrity=chosen.integrity, **given
        )

    return opened


def zeroed(region: Region) -> None:
    """Fill a region with zeros, as what it is before a program begins."""
    region.fill(0)


def room(subject: str | Subject, size: Size) -> int:
    """Bytes of a device that has room for a region of `size` bytes and what is kept beside it."""
    chosen = subject if isinstance(subject, Subject) else _find(subject)
    length = -(-parse_size(size) // PAGE) * PAGE
    return length + metadata_bytes(chosen.scheme.name, length, integrity=chosen.integrity)


def _find(name: str) -> Subject:
    scheme, _, cipher = name.removesuffix("+mac").partition("/")
    every = subjects([scheme])
    for subject in every:
        if subject.integrity == name.endswith("+mac") and cipher in ("", subject.algorithm):
            return subject
    raise SchemeError(f"there is no subject {name!r}: there are {', '.join(s.name for s in every)}")
