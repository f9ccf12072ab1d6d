"""What the hardware would cost: a model of caches, encryption and persistent memory, fed by traces.

A `Machine` is composed of components, each with named parameters that have a unit and a source; it
replays a trace, chunk by chunk, and returns counts, times, rates and energy.

    machine = Machine.preset("optane", "xts")
    result = machine.run(generators.zipfian(count=1_000_000).chunks())
    result.time_ns, result["memory.media.write_amplification"]

The model is one of latencies, queues and occupancies, not of instructions: it answers how much more a
trace takes in one place than in another, and why. docs/timing.md says how far to believe it.
"""
