"""Parameters: each has a name, a value, a unit and a source, and says what it may be."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Self

from mktme.errors import TimingError
from pmem.errors import SizeError
from pmem.geometry import parse_size

GIVEN = "given by the user"


class Row(NamedTuple):
    """A parameter as it is shown."""

    name: str
    value: Any
    unit: str
    source: str


def parameter(
    default: Any, unit: str, source: str, *, low: float = 0, high: float = math.inf, power: bool = False
) -> Any:
    """A field of a component: its default, its unit (of one: ""), where the default comes from,
    between what it must lie, and whether it is to be a power of two.
    """
    return field(
        default=default, metadata={"unit": unit, "source": source, "low": low, "high": high, "power": power}
    )


@dataclass(frozen=True, kw_only=True)
class Component:
    """What a machine is composed of: a set of parameters. Immutable, thread-safe.

    `sources` says where values come from that are not the defaults.
    Raises TimingError for a value that can't be.
    """

    sources: Mapping[str, str] = field(default_factory=dict, compare=False, repr=False)

    def __post_init__(self) -> None:
        for name, value, spec in self._own():
            self._check(name, value, spec)

    def _own(self) -> Iterator[tuple[str, Any, Mapping[str, Any]]]:
        for one in dataclasses.fields(self):
            if one.metadata:
                yield one.name, getattr(self, one.name), one.metadata

    def _check(self, name: str, value: Any, spec: Mapping[str, Any]) -> None:
        what = f"{type(self).__name__}.{name} = {value!r}"
        if isinstance(value, str | bool):
            return
        if not isinstance(value, int | float) or not math.isfinite(value):
            raise TimingError(f"{what} is no number")
        if not spec["low"] <= value <= spec["high"]:
            most = "" if spec["high"] == math.inf else f" and at most {spec['high']:g}"
            unit = f" {spec['unit']}" if spec["unit"] else ""
            raise TimingError(f"{what}{unit}: it must be at least {spec['low']:g}{most}")
        if spec["power"] and (value != int(value) or int(value) & (int(value) - 1)):
            raise TimingError(f"{what}: it must be a power of two")

    def rows(self, prefix: str) -> Iterator[Row]:
        """Its parameters, named from `prefix` on."""
        for name, value, spec in self._own():
            yield Row(f"{prefix}.{name}", value, spec["unit"], self.sources.get(name, spec["source"]))

    def with_values(self, values: Mapping[str, Any], source: str = GIVEN) -> Self:
        """The same with other values. Raises TimingError for a name that it hasn't, or a value."""
        known = {name: value for name, value, _ in self._own()}
        changed: dict[str, Any] = {}
        for name, value in values.items():
            if name not in known:
                raise TimingError(
                    f"{type(self).__name__} has no parameter {name!r}: it has {', '.join(known)}"
                )
            changed[name] = convert(value, known[name], f"{type(self).__name__}.{name}")
        sources = {**self.sources, **dict.fromkeys(changed, source)}
        return dataclasses.replace(self, **changed, sources=sources)


def convert(value: Any, like: Any, name: str) -> Any:
    """A value, perhaps text ("48KiB"), as the type of the one that it replaces. Raises TimingError."""
    try:
        if isinstance(like, bool):
            if str(value).lower() in ("true", "yes", "1", "false", "no", "0"):
                return str(value).lower() in ("true", "yes", "1")
            raise ValueError
        if isinstance(like, str):
            return str(value)
        if isinstance(like, int) and isinstance(value, str) and value[-1:].isalpha():
            return parse_size(value)
        number = float(value)
        if isinstance(like, int):
            if number != int(number):
                raise ValueError
            return int(number)
        return number
    except (ValueError, OverflowError, SizeError):
        kind = {bool: "true or false", int: "a whole number, or a size as 48KiB"}.get(type(like), "a number")
        raise TimingError(f"{name} = {value!r}: it must be {kind}") from None
