"""A generator's trace from text, as commands and studies name it."""

from __future__ import annotations

import inspect
from collections.abc import Iterable
from typing import Any

from mktme.errors import TraceError
from mktme.timing.generators import GENERATORS, Generated


def generated(name: str, arguments: Iterable[str], **defaults: Any) -> Generated:
    """The trace of a generator by its name and arguments as text ("count=1000").

    `defaults`: values for arguments that aren't given, if the generator has them. Raises TraceError for a
    name or an argument that there isn't, or a value that can't be.
    """
    if name not in GENERATORS:
        raise TraceError(f"{name!r} is no generator: {', '.join(GENERATORS)}")

    make = GENERATORS[name]
    known = {
        one.name: one.annotation
        for one in inspect.signature(make).parameters.values()
        if one.name not in ("mix", "what")
    }
    values: dict[str, Any] = {"count": 100_000} | {k: v for k, v in defaults.items() if k in known}
    for text in arguments:
        key, equals, value = text.partition("=")
        if not equals or key not in known:
            raise TraceError(f"{name} takes {', '.join(f'{one}=' for one in known)}: not {text!r}")
        try:
            values[key] = _value(value, str(known[key]))
        except ValueError:
            raise TraceError(f"{name}: {key}={value!r} is no {known[key]}") from None
    return make(**values)


def _value(text: str, kind: str) -> Any:
    """Text as an argument's type. Raises ValueError."""
    if kind == "int":
        number = float(text)
        if number != int(number):
            raise ValueError(text)
        return int(number)
    if kind == "float":
        return float(text)
    if kind == "bool":
        if text.lower() not in ("true", "false"):
            raise ValueError(text)
        return text.lower() == "true"
    return text
