"""IV schemes: from the coordinates of a data unit to its IV, and the registry of them.

A coordinate is something that may be known about a data unit: its persistent-memory address, its
file block, its sector ... A scheme names those that it needs; a path that doesn't know one and
isn't told it refuses the scheme at mapping time.

A scheme of one's own is a decorated function:

    @mktme.iv.define("tenant-line", source="ours")
    def tenant_line(address, tenant):
        \"\"\"The line's number beside the number of a tenant.\"\"\"
        return address >> 6, tenant

It is used by its name from then on: `controller.map(..., iv="tenant-line", tenant=7)`.
"""

from __future__ import annotations

import inspect
import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from mktme.errors import SchemeError

Iv = tuple[Any, ...]  # two or four 64-bit words, little-endian in memory; ints or uint64 arrays
Function = Callable[..., Iv]
WORD = (1 << 64) - 1
TAKEN = {  # what a coordinate can't be called, since `Controller.map` takes it for something else
    name: f"map's own argument: call it {name}_"
    for name in ("self", "length", "keyid", "iv", "unit", "metadata", "integrity")
} | {"nonce": "16 bytes: call its halves nonce_low and nonce_high"}


@dataclass(frozen=True)
class Scheme:
    """An IV scheme.

    `name`; `unit`: bytes of its usual data unit; `coordinates`: the names of what it needs, in
    the order of the function's parameters; `iv`: coordinates to the IV's 64-bit words, two or four
    (direct-key); `summary`: one sentence; `source`: where it is defined.

    `least_unit`, `most_unit`: between which sizes of data units the IVs stay apart. `families`:
    the ciphers that it is for (none: any). `seal`: the IV is AES-encrypted before its use, under
    SHA-256 of the key ("essiv") or the key ("eboiv"). `bits`: how long its coordinates may be
    (Linux refuses longer ones where IVs would repeat). `state`: what it keeps beside the data
    ("random", "global", "split", "deuce"). `file_key`: every file has a key of its own. `own`:
    a user's, as is every scheme whose function isn't one of this package.
    """

    name: str
    unit: int
    coordinates: tuple[str, ...]
    iv: Function
    summary: str
    source: str
    words: int = 2
    least_unit: int = 64
    most_unit: int = 4096
    families: tuple[str, ...] = ()
    seal: str = ""
    state: str = ""
    file_key: bool = False
    bits: int = 64
    own: bool = False

    def __post_init__(self) -> None:
        if not _is_ours(self.iv):
            object.__setattr__(self, "own", True)

    def iv_bytes(self, **coordinates: int) -> bytes:
        """One unit's IV, before it is sealed. Raises SchemeError if a coordinate is missing."""
        missing = [name for name in self.coordinates if name not in coordinates]
        if missing:
            raise SchemeError(f"{self.name} needs the {missing[0]} of a data unit: pass it by that name")
        words = self.iv(*(coordinates[name] for name in self.coordinates))
        return b"".join((int(word) & WORD).to_bytes(8, "little") for word in words)

    @property
    def runs(self) -> str:
        """How it is computed in bulk: "compiled", or "numpy: " and why; compiles it if it is new."""
        from mktme.iv.compiled import compile_scheme

        reason = compile_scheme(self).reason
        return f"numpy: {reason}" if reason else "compiled"


def _is_ours(function: Function) -> bool:
    """Whether a function is one of this package's, by what its module holds: names can be borrowed."""
    module = getattr(function, "__module__", None) or ""
    held = getattr(sys.modules.get(module), getattr(function, "__name__", ""), None)
    return module.startswith("mktme.iv.") and held is function


_registry: dict[str, Scheme] = {}


def register(scheme: Scheme) -> Scheme:
    """Add a scheme to the registry. Raises SchemeError if its name is taken."""
    if scheme.name in _registry:
        raise SchemeError(f"there is an IV scheme {scheme.name!r} already: choose another name")
    _registry[scheme.name] = scheme
    return scheme


def unregister(name: str) -> None:
    """Remove a user's own scheme; regions that are mapped with it go on. Raises SchemeError."""
    if not isinstance(name, str) or name not in _registry or not _registry[name].own:
        raise SchemeError(f"there is no IV scheme of your own with the name {name!r}")
    del _registry[name]


def define(name: str, *, unit: int = 64, source: str = "a user's own") -> Callable[[Function], Function]:
    """A decorator: register a function of coordinates, named by its parameters, as an IV scheme.

    It returns two words for an IV of 16 bytes (four for 32), made from its arguments by integer
    arithmetic. It is compiled by Numba if that can, with 64-bit signed integers; else it is called
    with one uint64 array for each coordinate that it names, a chunk of units at a time, and
    returns uint64 arrays of the same shape (`mktme.iv.schemes()[name].runs` says which, and why). A
    function that can raise an exception, divide by a coordinate that is 0 or leave a table isn't
    compiled, since a kernel can't stop for it: on numpy the exception is a SchemeError. It refuses a
    mapping, whose first and last units are tried, and a write before its first byte if that has whole
    units, 16384 of them at most, and less than 8 MiB; of another one, and of scattered lines, what was
    encrypted before stays written.
    `unit` is the usual size of its data unit, in bytes. Its docstring's first line is its summary.
    Coordinates that aren't the project's (`mktme.iv.COORDINATES`) are constants that `map` is
    given by their name.

    Raises SchemeError if the name is taken or the parameters aren't plain names.
    """

    def decorate(function: Function) -> Function:
        parameters = inspect.signature(function).parameters.values()
        for p in parameters:
            if p.kind is not p.POSITIONAL_OR_KEYWORD or p.default is not p.empty:
                raise SchemeError(f"{name}: the parameter {p} is to be a plain name, that of a coordinate")
            if p.name in TAKEN:
                raise SchemeError(f"{name}: no coordinate can have the name {p.name}, {TAKEN[p.name]}")
        summary = (inspect.getdoc(function) or "a user's own scheme").partition("\n")[0]
        names = tuple(p.name for p in parameters)
        register(Scheme(name, unit, names, function, summary, source, own=True))
        return function

    return decorate


def schemes() -> dict[str, Scheme]:
    """Every registered scheme by its name."""
    return dict(_registry)


def find(name: str) -> Scheme:
    """The scheme of that name. Raises SchemeError."""
    found = _registry.get(name) if isinstance(name, str) else None
    if found is None:
        raise SchemeError(f"there is no IV scheme {name!r}: there are {', '.join(sorted(_registry))}")
    return found
