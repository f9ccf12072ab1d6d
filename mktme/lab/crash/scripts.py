"""Programs in a file, as `mktme crash` takes them, and files that reproduce what it found."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

from mktme import storelog
from mktme.errors import CrashError, SchemeError
from mktme.lab.crash.explorer import Failure, Progress, Result, explore, explore_log
from mktme.lab.crash.worlds import room, world, zeroed
from mktme.lab.iv.subjects import subjects

SIZE = "64KiB"
PRESENT = 6  # lines that are listed


class Script:
    """A Python file that defines `program(memory)` and `check(memory, promised)`.

    `SIZE` in it is how large a region it wants (text or bytes). A `setup(device)` makes its memory in
    place of a mapped region; the device then has SIZE bytes.

    Raises CrashError if it isn't there or can't be run; what it raises comes through.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        if not path.is_file():
            raise CrashError(f"there is no script {path}")
        folder = str(path.resolve().parent)
        sys.path.insert(0, folder)
        module = ModuleType("crash")
        module.__file__ = str(path)
        self._names = vars(module)
        before = sys.modules.get("crash")
        sys.modules["crash"] = module
        try:  # its assertions are the check, also under python -O
            exec(compile(path.read_bytes(), str(path), "exec", dont_inherit=True, optimize=0), self._names)
        finally:
            sys.path.remove(folder)
            del sys.modules["crash"]
            if before is not None:
                sys.modules["crash"] = before
        self.size = self._names.get("SIZE", SIZE)
        self.setup: Callable[..., Any] | None = self._names.get("setup")

    def function(self, name: str) -> Callable[..., Any]:
        """One of its functions. Raises CrashError."""
        found = self._names.get(name)
        if not callable(found):
            own = [n for n, f in self._names.items() if getattr(f, "__module__", "") == "crash"]
            raise CrashError(
                f"{self.path} has no function {name!r}: it has {', '.join(sorted(own)) or 'none'}"
            )
        made: Callable[..., Any] = found
        return made

    def explore(
        self,
        subject: str,
        *,
        program: str = "program",
        check: str = "check",
        counter_cache: str = "write-through",
        progress: Progress | None = None,
        **settings: Any,
    ) -> tuple[Result, str]:
        """Explore it on a region under a subject (see `world`); also the text of a script that
        reproduces the smallest failing state, "" if there is none. Settings as for `explore`.

        Raises CrashError, SchemeError, and what the program raises.
        """
        run, judge = self.function(program), self.function(check)
        if self.setup is not None:
            result = explore(run, judge, setup=self.setup, size=self.size, progress=progress, **settings)
            made = "script.setup", repr(self.size), ""
        else:
            opened = world(subject, self.size, counter_cache=counter_cache)
            size = room(subject, self.size)
            result = explore(
                run, judge, setup=opened, prepare=zeroed, size=size, progress=progress, **settings
            )
            kept = f", counter_cache={counter_cache!r}" if counter_cache != "write-through" else ""
            made = f"crash.world({subject!r}, {self.size!r}{kept})", repr(size), "crash.zeroed"
        found = result.smallest
        return result, "" if found is None else self._text(found, result, program, check, *made)

    def explore_log(self, log: Path, image: Path | None, *, check: str = "check", **settings: Any) -> Result:
        """Explore a store log with its check; `image` is what the first registered file held before.

        Settings as for `mktme.lab.crash.explore_log`. Raises CrashError, StoreLogError, OSError.
        """
        events = [*storelog.read(log)]
        images = {}
        if image is not None:
            first = next((event for event in events if isinstance(event, storelog.RegisterFile)), None)
            if first is not None:
                images[first.path] = image
        return explore_log(events, self.function(check), images=images, **settings)

    def _text(
        self,
        found: Failure,
        result: Result,
        program: str,
        check: str,
        setup: str,
        size: str,
        prepare: str,
    ) -> str:
        settings = result.settings
        lines = "".join(f"    {line}\n" for line in described(found))
        given = {
            "setup": setup,
            **({"prepare": prepare} if prepare else {}),
            "size": size,
            "domain": repr(settings["domain"]),
            "atomicity": repr(settings["atomicity"]),
            "evictions": repr(settings["evictions"]),
            "seed": repr(settings["seed"]),
        }
        arguments = "".join(f"    {name}={value},\n" for name, value in given.items())
        return (
            f'"""A power failure that {self.path.name} doesn\'t survive.\n\n{lines}"""\n\n'
            "from pathlib import Path\n\n"
            "from mktme.lab import crash\n\n"
            f"script = crash.Script(Path({str(self.path.resolve())!r}))\n"
            "crash.reproduce(\n"
            f"    script.function({program!r}),\n"
            f"    script.function({check!r}),\n"
            f"    {found.point},\n"
            f"    {found.cut!r},\n"
            f"{arguments}"
            ")\n"
        )


def described(found: Failure) -> list[str]:
    """What a failing state is, in lines."""
    made = [
        f"Just before {found.before}, with {found.promised} promises made, the check says:",
        f"  {found.error}",
    ]
    made += [f"missing: {line}" for line in found.missing]
    if found.counters_lost:
        made.append("missing: the counters, which the counter cache had not written back")
    made += [f"there:   {line}" for line in found.present[:PRESENT]]
    if len(found.present) > PRESENT:
        made.append(f"and {len(found.present) - PRESENT} more lines that were not durable are there")
    if not found.present and not found.missing:
        made.append("nothing was pending: all that was stored is durable")
    return made


def wanted(names: str) -> list[str]:
    """The subjects that a list means, separated by commas: "all", or as `world` takes them.

    Raises SchemeError.
    """
    if names == "all":
        return [subject.name for subject in subjects()]
    listed = [name.strip() for name in names.split(",") if name.strip()]
    if not listed:
        raise SchemeError("name an IV scheme, several with commas between, or all")
    for name in listed:
        room(name, 4096)
    return listed
