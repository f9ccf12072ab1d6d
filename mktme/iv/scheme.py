"""IV schemes: from the coordinates of a data unit to its 16 bytes, and the registry of them.

A coordinate is something that a path may know about a data unit: its persistent-memory address,
its file block, its sector ... A scheme declares which it needs; a path that doesn't know one of
them refuses the scheme at mapping time.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from mktme.errors import SchemeError

Iv = tuple[int, int]  # the low and the high 64 bits, little-endian in memory


@dataclass(frozen=True)
class Scheme:
    """An IV scheme.

    `name`; `unit`: bytes of its data unit; `coordinates`: the names of what it needs, in the
    order of the function's parameters; `iv`: coordinates to the IV's two 64-bit words; `summary`:
    one sentence; `source`: where it is defined.
    """

    name: str
    unit: int
    coordinates: tuple[str, ...]
    iv: Callable[..., Iv]
    summary: str
    source: str

    def iv_bytes(self, **coordinates: int) -> bytes:
        """The 16 bytes of one unit's IV. Raises SchemeError if a coordinate is missing."""
        missing = [name for name in self.coordinates if name not in coordinates]
        if missing:
            raise SchemeError(f"{self.name} needs the {missing[0]} of a data unit: pass it by that name")
        low, high = self.iv(*(coordinates[name] for name in self.coordinates))
        return low.to_bytes(8, "little") + high.to_bytes(8, "little")


_registry: dict[str, Scheme] = {}


def register(scheme: Scheme) -> Scheme:
    """Add a scheme to the registry. Raises SchemeError if its name is taken."""
    if scheme.name in _registry:
        raise SchemeError(f"there is an IV scheme {scheme.name!r} already: choose another name")
    _registry[scheme.name] = scheme
    return scheme


def schemes() -> dict[str, Scheme]:
    """Every registered scheme by its name."""
    return dict(_registry)


def find(name: str, known: frozenset[str], path: str) -> Scheme:
    """The scheme of that name, if a path that knows these coordinates can serve it.

    Raises SchemeError, naming the coordinate that is missing.
    """
    scheme = _registry.get(name)
    if scheme is None:
        raise SchemeError(f"there is no IV scheme {name!r}: there are {', '.join(sorted(_registry))}")
    missing = [c for c in scheme.coordinates if c not in known]
    if missing:
        raise SchemeError(f"{name} needs the {missing[0]} of a data unit, and {path} doesn't know it")
    return scheme
