"""Limits in which the model must return what can be calculated by hand."""

from __future__ import annotations

from typing import Any

from mktme.lab.timing.published import Figure
from mktme.timing import generators
from mktme.timing.controller import Controller
from mktme.timing.machine import Machine

# Nothing takes time, and nothing is a bottleneck.
FREE = {
    "l1.latency_ns": 0,
    "l2.latency_ns": 0,
    "llc.latency_ns": 0,
    "core.issue_ns": 0,
    "core.instruction_ns": 0,
    "core.call_ns": 0,
    "queues.line_bus_ns": 0,
    "queues.enter_ns": 0,
    "queues.nontemporal_ns": 0,
    "media.read_ns": 0,
    "media.buffer_read_ns": 0,
    "media.unit_read_ns": 0,
    "media.unit_write_ns": 0,
    "engine.aes_ns": 0,
    "engine.xor_ns": 0,
    "engine.line_ns": 0,
    "counters.latency_ns": 0,
    "counters.hash_ns": 0,
}
COUNT = 20_000


def machine(configuration: str = "none", **changed: float) -> Machine:
    """A machine on which everything is free but what is given; "media__read_ns" for media.read_ns."""
    values = {**FREE, **{name.replace("__", "."): value for name, value in changed.items()}}
    return Machine.preset("optane", configuration).with_values(values)


def limits() -> list[Figure]:
    """Times in ns that follow from one parameter, exactly."""
    random = generators.random(COUNT, space="1GiB")
    chase = generators.pointer_chase(COUNT, space="1GiB")
    ordered = generators.sequential(COUNT, kind="nontemporal", space="64MiB", persist=False)
    fenced = generators.sequential(COUNT, kind="nontemporal", space="64MiB")
    one: dict[str, Any] = {"queues__channels": 1}
    units = COUNT // 4
    cases = [
        ("nothing takes time", machine("xts"), random, 0.0),
        (
            "a chain of loads: their number times the latency",
            machine(media__read_ns=100),
            chase,
            COUNT * 100.0,
        ),
        (
            "the same under XTS: AES on the way of each",
            machine("xts", media__read_ns=100, engine__aes_ns=40),
            chase,
            COUNT * 140.0,
        ),
        (
            "counter mode, every counter in the cache: the pad is ready before the data",
            machine(
                "ctr-battery",
                media__read_ns=100,
                media__buffer_read_ns=100,
                engine__aes_ns=40,
                counters__size=64 << 20,
            ),
            generators.pointer_chase(COUNT, space="64KiB"),
            1024 * 100.0 + 16 * 40.0,
        ),
        (
            "stores in order to one DIMM: units times their write, but for the last ones that are queued",
            machine(media__unit_write_ns=100, **one),
            ordered,
            (units - 1 - Controller().write_queue) * 100.0,
        ),
        ("fenced stores: their number times the latency", machine(queues__enter_ns=50), fenced, COUNT * 50.0),
        ("the bus alone: lines times a line's time", machine(queues__line_bus_ns=4, **one), random, 0.0),
    ]
    found = []
    for name, model, trace, expected in cases:
        ours = model.run(trace.chunks())
        if "bus" in name:
            expected = ours["memory.reads"] * 4.0
        slack = 0.001 * expected + 1000 * ("bus" in name)
        found.append(
            Figure(
                "limits",
                name,
                expected,
                ours.time_ns,
                expected - slack,
                expected + slack,
                "ns",
                "exact",
                "by hand",
            )
        )
    return found
