"""Run a program once, then look at every state that a power failure could have left of it."""

from __future__ import annotations

import inspect
import tempfile
import time
import traceback
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

import pmem
from mktme import storelog
from mktme.errors import CrashError
from mktme.lab.crash.engines import Engine, engine_of
from mktme.lab.crash.export import events_of
from mktme.lab.crash.recording import Point, Recorder, Recording, of_log
from mktme.lab.crash.states import Atomicity, StateDevice, States, expected_states
from mktme.storelog import Event, RegisterFile
from pmem.domain import Domain
from pmem.geometry import PAGE, Size
from pmem.tracked import TrackedDevice

Setup = Callable[[pmem.Device], Any]
Progress = Callable[[str, int, int], None]
LIMIT = 4096  # states of a point that are all looked at; beyond, so many are drawn
STEP = 256  # states between two reports of progress


@dataclass(frozen=True)
class Line:
    """A line that was stored to and not durable."""

    address: int  # on the device
    keyid: int
    flushed: bool
    source: str  # file, line and function that stored it
    counters: bool = False  # it holds counters, that the counter cache was to write back

    def __str__(self) -> str:
        why = "flushed, not fenced" if self.flushed else "not flushed"
        under = f" under KeyID {self.keyid}" if self.keyid else ""
        what = "counters in line" if self.counters else "line"
        return f"{what} {self.address:#x}{under}, {why}, stored at {self.source}"


@dataclass(frozen=True)
class Failure:
    """A state that the check refused: the moment, what was missing, what was there, what the check said."""

    point: int
    before: str  # what would have made more durable: a fence, an eviction, or the end
    cut: tuple[int, ...]
    promised: int
    missing: tuple[Line, ...]
    counters_lost: bool  # the counter cache, that wasn't written back
    present: tuple[Line, ...]  # could have been missing, too, and had reached the medium
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
    log: Path | None = None,
    image: Path | None = None,
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

    `log` is where to write what reached the medium, as pmemcheck's store log, and `image` the medium
    as it was before, for pmreorder and the like.

    Raises CrashError for settings that can't be; what `program` or `setup` raises.
    """
    chosen = engine_of(engine)
    with _recorded(program, setup, prepare, size, domain, atomicity) as (device, recording, whole):
        if log is not None:
            storelog.write(log, events_of(recording, device, str(image or log.with_suffix(".img"))))
            if image is not None:
                image.write_bytes(device.bytes)
        look = _Look(device, recording, whole, chosen, evictions, limit, seed)
        look.result.settings |= {"domain": domain}
        return look.at_all(check, reopen or setup, progress)


def explore_log(
    events: Iterable[Event] | Path,
    check: Callable[..., Any],
    *,
    images: Mapping[str, Path] | None = None,
    atomicity: Atomicity = "store",
    engine: str = "full",
    evictions: bool = False,
    limit: int = LIMIT,
    seed: int = 0,
    progress: Progress | None = None,
) -> Result:
    """`explore` for a program that ran elsewhere: pmemcheck's log of its stores.

    `check(device)` gets a device with the registered files one after another, each from a page on;
    with two parameters, `check(device, places)`, also where each file begins, by its path.
    `images` are what the files held before the program ran, by their paths in the log; else zeros.
    The settings are those of `explore`; by default as pmreorder has them: each store by itself, and
    only those that were flushed before a fence.

    Raises CrashError, StoreLogError; OSError for an image that can't be read.
    """
    chosen, listed = engine_of(engine), [*storelog.read(events)] if isinstance(events, Path) else [*events]
    sizes: dict[str, int] = {}
    for event in listed:
        if isinstance(event, RegisterFile):
            sizes[event.path] = max(sizes.get(event.path, 0), event.offset + event.size)
    if not sizes:
        raise CrashError("the log registers no file, so that no store of it can be placed")
    places, size = {}, 0
    for path, length in sizes.items():
        places[path] = size
        size += -(-length // PAGE) * PAGE
    with tempfile.TemporaryDirectory(prefix="mktme-crash-") as folder:
        whole = Path(folder) / "log.img"
        with pmem.create(whole, size) as device:
            for path, source in (images or {}).items():
                if path not in places:
                    raise CrashError(f"the log registers no file {path!r}: it has {', '.join(sizes)}")
                device.write(places[path], source.read_bytes()[: sizes[path]])
        with pmem.open(whole) as device, StateDevice(device) as before:
            recording = of_log(listed, np.memmap(whole, np.uint8, "c"), places)
            for point in recording.points:
                point.promised = 1
            recording.promised = [places]
            look = _Look(before, recording, atomicity, chosen, evictions, limit, seed)
            return look.at_all(
                (lambda device, made: check(device, made[0])) if _takes_promises(check) else check,
                None,
                progress,
            )


class _Look:
    """A look at all states of a recording."""

    def __init__(
        self,
        device: StateDevice,
        recording: Recording,
        whole: Atomicity,
        engine: Engine,
        evictions: bool,
        limit: int,
        seed: int,
    ) -> None:
        self._device, self._recording, self._whole = device, recording, whole
        self._engine = None if engine.name == "full" else engine
        self._evictions, self._limit, self._seed = evictions, limit, seed
        self.result = Result(
            points=len(recording.points),
            stores=len(recording.sources),
            promises=len(recording.promised),
            settings={
                "atomicity": whole,
                "engine": engine.name,
                "evictions": evictions,
                "limit": limit,
                "seed": seed,
                "size": device.size,
            },
        )

    def at_all(self, check: Callable[..., Any], reopen: Setup | None, progress: Progress | None) -> Result:
        """Check every state."""
        found, device, recording = self.result, self._device, self._recording
        expected = sum(map(self._expected, recording.points))
        least: tuple[int, int] | None = None
        takes, start = _takes_promises(check), time.perf_counter()
        for number, point in enumerate(recording.points):
            states = States(
                device, recording, point, self._whole, evictions=self._evictions, seed=self._seed + number
            )
            found.drawn += self._engine is None and states.all > self._limit
            promised = recording.promised[: point.promised]
            for cut in states.cuts(self._engine, self._limit):
                states.put(cut)
                error = _refusal(check, device, reopen, promised, takes)
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

    def _expected(self, point: Point) -> int:
        return expected_states(
            self._recording, point, self._whole, self._engine, self._evictions, self._limit
        )


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
    gone = set(states.missing(cut))
    missing: list[Line] = []
    present: list[Line] = []
    for place, piece in enumerate(states.pieces):
        address, keyid = states.address(piece)
        flushed = recording.points[number].pieces[states.places[place]][1]
        beside = any(first <= address < last for first, last in recording.points[number].volatile)
        line = Line(address, keyid, flushed, recording.sources[piece.store], beside)
        (missing if place in gone else present).append(line)
    return Failure(
        number,
        recording.points[number].source,
        cut,
        promised,
        tuple(dict.fromkeys(missing)),
        states.lost_counters(cut),
        tuple(dict.fromkeys(present)),
        error,
    )
