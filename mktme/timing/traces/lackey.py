"""What Valgrind's lackey prints with --trace-mem=yes.

    I  04016ef3,3      an instruction of 3 bytes
     L 1ffefffe40,8    a load, a store (S), or a load and a store (M), of 8 bytes

(Valgrind manual, lackey.) Instructions in a row become one WORK record before the access that follows
them; lines of Valgrind's own begin with ==. Addresses are virtual: see `pages`.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from mktme.crypto.kernel import kernel
from mktme.timing.access import READ, RECORDS, WORK, WRITE, Chunk
from mktme.timing.traces.source import BLOCK, Problems, blocks, cut

RECORD, PENDING, LINE = range(3)  # of the counts: records so far, instructions that wait, lines
DONE, FULL, MALFORMED = range(3)
LONGEST = 100_000  # bytes that a line may have
MOST_WORK = (1 << 32) - 1


class Lackey:
    """A trace in lackey's format. `problems`: malformed lines of the last reading."""

    def __init__(self, path: Path, malformed: str = "refuse", block: int = BLOCK) -> None:
        self.path, self.name, self._block = path, path.name, block
        self.problems = Problems(malformed, self.name)

    def chunks(self) -> Iterator[Chunk]:
        """Its accesses. Raises TraceError, OSError."""
        self.problems.clear()
        kinds, addresses = np.empty(RECORDS, np.uint8), np.empty(RECORDS, np.uint64)
        sizes, counts = np.empty(RECORDS, np.uint32), np.zeros(3, np.int64)
        first, rest = 0, b""

        def take() -> Chunk:
            n = int(counts[RECORD])
            counts[RECORD] = 0
            return Chunk(kinds[:n].copy(), addresses[:n].copy(), sizes[:n].copy(), first=first)

        for block in blocks(self.path, self._block):
            text = np.frombuffer(rest + block, np.uint8)
            at = 0
            while True:
                at, why = _parse(text, at, kinds, addresses, sizes, counts)
                if why == DONE:
                    break
                if why == FULL:
                    made = take()
                    first += len(made)
                    yield made
                else:
                    line = bytes(text[at : at + 200]).split(b"\n")[0].decode(errors="replace")
                    self.problems.report(int(counts[LINE]) + 1, line, "is no line of lackey's")
                    counts[LINE] += 1
                    at = _next_line(text, at)
            rest = bytes(text[at:])
            if len(rest) > LONGEST:
                self.problems.report(int(counts[LINE]) + 1, rest[:80].decode(errors="replace"), "never ends")
                rest = b""
        if rest:
            raise cut(self.path, int(counts[LINE]) + 1)
        if counts[PENDING]:
            if counts[RECORD] == RECORDS:
                made = take()
                first += len(made)
                yield made
            place = int(counts[RECORD])
            kinds[place], addresses[place], sizes[place] = WORK, 0, counts[PENDING]
            counts[RECORD] += 1
        if counts[RECORD]:
            yield take()


def _next_line(text: Any, at: int) -> int:
    end = bytes(text[at:]).find(b"\n")
    return len(text) if end < 0 else at + end + 1


@kernel()
def _parse(
    text: Any, at: int, kinds: Any, addresses: Any, sizes: Any, counts: Any
) -> tuple[int, int]:  # pragma: no cover - compiled
    """Whole lines from `at` on. Returns where it stopped, and why: no whole line is left, the columns
    are full, or a line is malformed.
    """
    n, room = text.size, kinds.size
    while True:
        end = at
        while end < n and text[end] != 10:
            end += 1
        if end == n:
            return at, DONE
        if counts[RECORD] + 3 > room:
            return at, FULL
        last = end - 1 if end > at and text[end - 1] == 13 else end
        if last == at or (last - at >= 2 and text[at] == 61 and text[at + 1] == 61):  # empty, or ==
            counts[LINE] += 1
            at = end + 1
            continue
        if last - at < 6 or text[at + 2] != 32:
            return at, MALFORMED
        letter, instruction = text[at + 1], text[at] == 73 and text[at + 1] == 32  # "I "
        if not instruction and (text[at] != 32 or (letter != 76 and letter != 83 and letter != 77)):
            return at, MALFORMED
        place, address, digits = at + 3, np.uint64(0), 0
        while place < last and text[place] != 44:
            c = text[place]
            if 48 <= c <= 57:
                digit = c - 48
            elif 97 <= c <= 102:
                digit = c - 87
            elif 65 <= c <= 70:
                digit = c - 55
            else:
                return at, MALFORMED
            address = (address << np.uint64(4)) | np.uint64(digit)
            digits += 1
            place += 1
        size: Any = 0
        decimals = last - place - 1
        for i in range(place + 1, last):
            if text[i] < 48 or text[i] > 57:
                return at, MALFORMED
            size = size * 10 + np.int64(text[i]) - 48
            if size > 1 << 20:
                return at, MALFORMED
        if digits < 1 or digits > 16 or decimals < 1 or size == 0:
            return at, MALFORMED
        if instruction:
            counts[PENDING] += 1
        record = counts[RECORD]
        if counts[PENDING] and (not instruction or counts[PENDING] == MOST_WORK):
            kinds[record], addresses[record], sizes[record] = WORK, 0, counts[PENDING]
            counts[PENDING] = 0
            record += 1
        if not instruction:
            if letter != 83:
                kinds[record], addresses[record], sizes[record] = READ, address, size
                record += 1
            if letter != 76:
                kinds[record], addresses[record], sizes[record] = WRITE, address, size
                record += 1
        counts[RECORD] = record
        counts[LINE] += 1
        at = end + 1
