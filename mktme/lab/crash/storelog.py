"""placeholder: replaced"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Store:
    address: int
    data: bytes
    source: str | None = None


@dataclass(frozen=True, slots=True)
class Flush:
    address: int
    length: int


@dataclass(frozen=True, slots=True)
class Fence:
    pass


@dataclass(frozen=True, slots=True)
class RegisterFile:
    path: str
    address: int
    size: int
    offset: int


@dataclass(frozen=True, slots=True)
class Label:
    name: str


Event = Store | Flush | Fence | RegisterFile | Label
