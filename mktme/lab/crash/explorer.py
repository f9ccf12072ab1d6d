"""Run a program once, then look at every state that a power failure could have left of it."""

from __future__ import annotations

import inspect
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import pmem
from mktme.errors import CrashError
from mktme.lab.crash.engines import engine_of
from mktme.lab.crash.recording import Recorder, Recording
from mktme.lab.crash.states import Atomicity, StateDevice, States, expected_states
from pmem.domain import Domain
from pmem.geometry import Size
from pmem.tracked import TrackedDevice

Setup = Callable[[pmem.Device], Any]
Progress = Callable[[str, int, int], None]
LIMIT = 4096  # states of a point that are all looked at; beyond, so many are drawn
STEP = 256  # states between two reports of progress


@dataclass(frozen=True)
class Missing:
    """A line that is not on the medium in a state, or only in part."""

    address: int  # on the device
    keyid: int
    flushed: bool
    source: str  # file, line and function that stored it

    def __str__(self) -> str:
        why = "flushed, not fenced" if self.flushed else "not flushed"
        under = f" under KeyID {self.keyid}" if self.keyid else ""
        return f"line {self.address:#x}{under}, {why}, stored at {self.source}"


@dataclass(frozen=True)
class Failure:
    """A state that the check refused: where, what was missing of it, and what the check said."""

    point: int
    cut: tuple[int, ...]
    promised: int
    missing: tuple[Missing, ...]
    counters_lost: bool  # the counter cache, that wasn't written back
    present: int  # pieces that could have been missing, too, and were there
    error: str


@dataclass
class Result:
    """What `explore` found. `smallest` is the failing state in which the least is missing."""

    states: int = 0
    points: int = 0
    drawn: int = 0  # points whose states were drawn, since there were too many
    stores: int = 0
    promises: int = 0
    failures: int = 0
    smallest: Failure | None = None
    seconds: float = 0.0
    settings: dict[str, Any] = field(default_factory=dict)

    @property
    def consistent(self) -> bool:
        """Whether the check took every state."""
        return not self.failures

    def to_json(self) -> dict[str, Any]:
        """Everything, as JSON has it."""
        return asdict(self)


def explore(
    program: Callable[[Any], Any],
    check: Callable[..., Any],
    *,
    setup: Setup | None = None,
    prepare: Callable[[Any], Any] | None = None,
    reopen: Setup | None = None,
    size: Size = "1MiB",
    domain: str = "adr",
    atomicity: Atomicity | None = None,
    engine: str = "full",
    evictions: bool = True,
    limit: int = LIMIT,
    seed: int = 0,
    progress: Progress | None = None,
) -> Result:
    """Run `program` once on new persistent memory and `check` every state that it could leave.

    `setup(device)` makes what the program gets, a region for instance; without it that is the device.
    `prepare(memory)` may store what is durable before the program begins.
    `reopen(device)` makes what the check gets after the power failure, from a real device in that
    state: by default `setup` again, so with the keys; leave keys out there to look without them.
    If the program is a generator, each value that it yields is a promise that all before is durable;
    `check(memory, promised)` gets the list of those made before the failure, or `check(memory)`
    nothing. It fails by raising anything, or by returning False. It may write: recovery is undone.

    The states are those just before each fence, and at the end. Each line that was stored to and not
    fenced is there as any of the stores since left it, or as it was (`atomicity` 64, as lines enter
    the queue whole); with 8, lines are torn between two such stores, too; with "store" each store is
    there or not by itself, as pmreorder has it (for stores straight to a device). `evictions` false
    leaves out lines that were not flushed, as pmreorder does. `engine` is one of `ENGINES`; "full"
    takes all states, or `limit` of a fence's, drawn by `seed`, where there are more.

    Raises CrashError for settings that can't be; what `program` or `setup` raises.
    """
    found = Result()
    with _recorded(program, setup, prepare, size, domain, atomicity) as (device, recording, whole):
        chosen = engine_of(engine)
        moving = None if engine == "full" else chosen
        takes = _takes_promises(check)
        again = reopen or setup
        found.settings = {
            "domain": domain,
            "atomicity": whole,
            "engine": engine,
            "evictions": evictions,
            "limit": limit,
            "seed": seed,
            "size": device.size,
        }
        found.points, found.stores = len(recording.points), len(recording.sources)
        found.promises = len(recording.promised)
        least: tuple[int, int] | None = None
        expected = sum(
            expected_states(recording, point, whole, moving, evictions, limit) for point in recording.points
        )
        start = time.perf_counter()
        for number, point in enumerate(recording.points):
            states = States(device, recording, point, whole, evictions=evictions, seed=seed + number)
            found.drawn += moving is None and states.all > limit
            promised = recording.promised[: point.promised]
            for cut in states.cuts(moving, limit):
                states.put(cut)
                error = _refusal(check, device, again, promised, takes)
                device.undo()
                found.states += 1
                if progress is not None and found.states % STEP == 0:
                    progress("states", found.states, max(expected, found.states))
                if error is not None:
                    found.failures += 1
                    gone = len(states.missing(cut)) + states.lost_counters(cut)
                    if least is None or (gone, number) < least:
                        least = gone, number
                        found.smallest = _failure(states, recording, number, cut, point.promised, error)
            states.settle()
        found.seconds = time.perf_counter() - start
    return found


def reproduce(
    program: Callable[[Any], Any],
    check: Callable[..., Any],
    point: int,
    cut: tuple[int, ...],
    *,
    setup: Setup | None = None,
    prepare: Callable[[Any], Any] | None = None,
    reopen: Setup | None = None,
    size: Size = "1MiB",
    domain: str = "adr",
    atomicity: Atomicity | None = None,
    evictions: bool = True,
    seed: int = 0,
) -> Any:
    """Run the program again and check one state, of a `Failure`; what the check raises comes through.

    Returns what the check returns. Raises CrashError if there is no such state.
    """
    with _recorded(program, setup, prepare, size, domain, atomicity) as (device, recording, whole):
        if not 0 <= point < len(recording.points):
            raise CrashError(f"there is no point {point}: the program has {len(recording.points)}")
        for number, each in enumerate(recording.points[: point + 1]):
            states = States(device, recording, each, whole, evictions=evictions, seed=seed + number)
            if number < point:
                states.settle()
        sizes = [len(track.options) for track in states.tracks]
        if len(sizes) != len(cut) or any(not 0 <= i < n for i, n in zip(cut, sizes, strict=True)):
            raise CrashError(
                f"there is no state {cut} at point {point}, whose lines have {sizes} states each"
            )
        states.put(tuple(cut))
        again = reopen or setup
        memory = device if again is None else again(device)
        promised = recording.promised[: each.promised]
        return check(memory, promised) if _takes_promises(check) else check(memory)


@contextmanager
def _recorded(
    program: Callable[[Any], Any],
    setup: Setup | None,
    prepare: Callable[[Any], Any] | None,
    size: Size,
    domain: str,
    atomicity: Atomicity | None,
) -> Iterator[tuple[StateDevice, Recording, Atomicity]]:
    """Run a program and follow it: the device as it was before, what happened, bytes that persist whole."""
    model = Domain(domain, atomicity=atomicity if isinstance(atomicity, int) else None)
    if isinstance(atomicity, str) and atomicity != "store":
        raise CrashError(f'{atomicity!r} is no atomicity: 8, 64, or "store"')
    with tempfile.TemporaryDirectory(prefix="mktme-crash-") as folder:
        device = pmem.create(Path(folder) / "program.img", size, domain=model)
        assert isinstance(device, TrackedDevice)
        with ExitStack() as kept:
            with device:
                memory: Any = device if setup is None else setup(device)
                if prepare is not None:
                    prepare(memory)
                    model.settle()
                before = kept.enter_context(device.snapshot(StateDevice))
                recorder = Recorder(device)
                kept.callback(recorder.recording.close)
                _run(program, memory, recorder)
                del memory
            yield before, recorder.recording, "store" if atomicity == "store" else model.atomicity


def _run(program: Callable[[Any], Any], memory: Any, recorder: Recorder) -> None:
    """Run a program to its end, and look away."""
    try:
        made = program(memory)
        if inspect.isgenerator(made):
            for value in made:
                recorder.promise(value)
        recorder.finish()
    finally:
        recorder.stop()


def _takes_promises(check: Callable[..., Any]) -> bool:
    """Whether a check takes the promises, too."""
    try:
        inspect.signature(check).bind(None, None)
    except TypeError:
        return False
    return True


def _refusal(
    check: Callable[..., Any], device: StateDevice, again: Setup | None, promised: list[Any], takes: bool
) -> str | None:
    """What a check says against the state that a device is in; None if it takes it."""
    try:
        memory = device if again is None else again(device)
        fine = check(memory, promised) if takes else check(memory)
    except Exception as error:
        text = f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
        traceback.clear_frames(error.__traceback__)
        return text
    return "the check returned False" if fine is False else None


def _failure(
    states: States, recording: Recording, number: int, cut: tuple[int, ...], promised: int, error: str
) -> Failure:
    gone = states.missing(cut)
    missing = []
    for place in gone:
        piece = states.pieces[place]
        address, keyid = states.address(piece)
        flushed = recording.points[number].pieces[states.places[place]][1]
        missing.append(Missing(address, keyid, flushed, recording.sources[piece.store]))
    return Failure(
        number,
        cut,
        promised,
        tuple(dict.fromkeys(missing)),
        states.lost_counters(cut),
        len(states.pieces) - len(gone),
        error,
    )
