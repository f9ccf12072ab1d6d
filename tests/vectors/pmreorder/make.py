"""Run pmreorder's own code on the logs beside this file, and note every image that it checks.

    python make.py /path/to/pmdk/src/tools/pmreorder > states.json

The file that a log registers as POOL is 4096 bytes of zeros. For each log and engine there is a list
of fences at which pmreorder checks, and of each the different images, as [offset, hexadecimal bytes]
of what isn't zero.
"""

from __future__ import annotations

import json
import re
import sys
import tempfile
from pathlib import Path
from types import SimpleNamespace
from typing import Any

HERE = Path(__file__).parent
SIZE = 4096
ENGINES = ("ReorderFull", "NoReorderDoCheck", "ReorderAccumulative", "ReorderReverseAccumulative")


class Notes:
    """A consistency checker that takes everything, and keeps what it is shown."""

    def __init__(self) -> None:
        self.fences: list[set[bytes]] = []

    def check_consistency(self, path: str) -> int:
        self.fences[-1].add(Path(path).read_bytes())
        return 0


def shown(image: bytes) -> list[list[Any]]:
    """The runs of bytes that aren't zero."""
    return [[m.start(), m.group().hex()] for m in re.finditer(rb"[^\0]+", image)]


def states(log: Path, engine: str) -> list[list[list[list[Any]]]]:
    """What pmreorder checks, by fence."""
    import reorderengines  # type: ignore[import-not-found]
    import statemachine  # type: ignore[import-not-found]
    from binaryoutputhandler import BinaryOutputHandler  # type: ignore[import-not-found]
    from loggingfacility import LoggingBase  # type: ignore[import-not-found]
    from operationfactory import OperationFactory  # type: ignore[import-not-found]

    notes = Notes()
    with tempfile.NamedTemporaryFile() as pool:
        pool.write(bytes(SIZE))
        pool.flush()
        records = log.read_text().replace("POOL", pool.name).strip().split("|")
        assert records[0] == "START"
        assert records[-1] == "STOP"
        stack: list[tuple[str, Any]] = [("DEFAULT", vars(sys.modules["memoryoperations"])[engine])]
        operations = [OperationFactory.create_operation(text, None, stack) for text in records[1:-1]]
        chosen = reorderengines.get_engine(engine)

        class Fences:
            def generate_sequence(self, stores: list[Any]) -> Any:
                notes.fences.append(set())
                return chosen.generate_sequence(stores)

        following = Fences()
        context = SimpleNamespace(
            reorder_engine=following,
            default_engine=following,
            test_on_barrier=True,
            default_barrier=True,
            file_handler=BinaryOutputHandler(notes),
            logger=LoggingBase(),
        )
        statemachine.State.trans_stores = []
        plain = [each for each in operations if not hasattr(each, "_marker_name")]
        statemachine.StateMachine(statemachine.InitState(context)).run_all(plain)
    return [sorted(map(shown, images)) for images in notes.fences]


def main() -> None:
    """Print the states of all logs."""
    sys.path.insert(0, sys.argv[1])
    found = {
        log.stem: {engine: states(log, engine) for engine in ENGINES} for log in sorted(HERE.glob("*.log"))
    }
    lines = [f" {json.dumps(name)}: {json.dumps(states)}" for name, states in found.items()]
    print("{\n" + ",\n".join(lines) + "\n}")


if __name__ == "__main__":
    main()
