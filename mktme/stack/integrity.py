"""A keyed MAC of 28 bits for each line, as long as TME-MK's with integrity (Intel 336907).

    MAC(line i under KeyID k) = the low 28 bits of CBC-MAC(K', (i, k), C[0], C[1], C[2], C[3])
    under a scheme that keeps a counter or a drawn IV    CBC-MAC(K', (i, k + 2^63), S, C[0] .. C[3])

over the line's number, its KeyID, what its scheme keeps (S, 16 bytes: the drawn IV; a counter; the
major and the minor counter; the counter and DEUCE's bits) and its ciphertext, with AES-128; K' is
the first 16 bytes of SHA-256 of a label and the key. The first block tells both lengths apart, so
no message begins with another, and for such CBC-MAC is a pseudorandom function (Petrank, Rackoff
2000). Intel's construction (SHA-3) isn't published in full; this one is ours. A MAC lies in 32 bits
of metadata, of which bit 31 says that there is one: a line that was never written has none, and is
poisoned, as memory is that nobody initialised.

Forging takes 2^28 tries. A line put back together with its MAC and its counter is accepted, as no
tree above the counters says which are the latest.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NoReturn

import numpy as np
import numpy.typing as npt

from mktme.crypto.cipher import LINE, Bytes, Cipher, Words
from mktme.errors import PoisonError

MAC_BITS = 28
PRESENT = np.uint32(1 << 31)
BYTES = 4  # of metadata, a line
CHUNK = 2048  # lines taken at once
KEPT = np.uint64(1 << 63)  # beside the KeyID where the message has a block of what the scheme keeps
BEFORE = 16  # bytes of that block


class LineMacs:
    """The MACs of a range of lines that begins at line number `first`, under one key and KeyID.

    `cipher` is AES-128-CBC that encrypts its IVs under its own key: the IV is then the first block
    of a CBC-MAC.
    `place` is the slice of the medium where they lie; `grain` is how many bytes are written
    together; `counted` says that the lines have write counters. Thread-safe for different lines.
    """

    def __init__(
        self, place: slice, first: int, cipher: Cipher, keyid: int, grain: int, counted: bool
    ) -> None:
        self._place = place
        whole = "line" if grain == LINE else f"data unit of {grain} bytes"
        self._way_out = f"write the whole {whole} to use it again"
        if counted:
            self._way_out = (
                f"write the whole {whole} if it was never written; else its write counter can't be trusted "
                "either, so map the range anew, with metadata of zeros and under another key"
            )
        self._first, self._keyid = np.uint64(first), keyid
        self._cbc = cipher

    def check(self, media: Bytes, ciphertext: Bytes, numbers: Words, kept: Words | None = None) -> None:
        """Refuse lines whose MAC doesn't match. Raises PoisonError, naming the first of them.

        `kept` is what the scheme keeps of each line, (n, 2).
        """
        for part, rows, state in _chunks(ciphertext, numbers, kept):
            valid = self.valid(media, part, rows, state)
            if not valid.all():
                self.refuse(int(rows[np.argmin(valid)]))

    def refuse(self, line: int) -> NoReturn:
        """Raises PoisonError."""
        raise PoisonError(
            f"line {line} (address {line * LINE:#x}) is poisoned: its MAC doesn't match what lies on "
            f"the medium; {self._way_out}",
            line,
        )

    def valid(
        self, media: Bytes, ciphertext: Bytes, numbers: Words, kept: Words | None = None
    ) -> npt.NDArray[np.bool_]:
        """For each line whether its MAC matches."""
        recorded = self._macs(media)[numbers - self._first]
        matches: npt.NDArray[np.bool_] = recorded == self._mac(ciphertext, numbers, kept)
        return matches

    def absent(self, media: Bytes, numbers: Words) -> npt.NDArray[np.bool_]:
        """For each line whether it has no MAC, as one that was never written."""
        none: npt.NDArray[np.bool_] = self._macs(media)[numbers - self._first] == 0
        return none

    def seal(self, media: Bytes, ciphertext: Bytes, numbers: Words, kept: Words | None = None) -> None:
        """Record the MACs of lines as they are now on the medium."""
        for part, rows, state in _chunks(ciphertext, numbers, kept):
            self._macs(media)[rows - self._first] = self._mac(part, rows, state)

    def seal_at(self, media: Bytes, numbers: Words) -> None:
        """The same for scattered lines of the medium."""
        self.seal(media, media.reshape(-1, LINE)[numbers].reshape(-1), numbers)

    def _macs(self, media: Bytes) -> npt.NDArray[np.uint32]:
        return media[self._place].view("<u4")

    def _mac(self, ciphertext: Bytes, numbers: Words, kept: Words | None) -> npt.NDArray[np.uint32]:
        ivs = np.empty((numbers.size, 2), np.uint64)
        ivs[:, 0], ivs[:, 1] = numbers, self._keyid
        message, size = np.ascontiguousarray(ciphertext), LINE
        if kept is not None:
            ivs[:, 1] |= KEPT
            size += BEFORE
            rows = np.empty((numbers.size, size), np.uint8)
            rows[:, :BEFORE] = np.ascontiguousarray(kept, np.dtype("<u8")).view(np.uint8).reshape(-1, BEFORE)
            rows[:, BEFORE:] = ciphertext.reshape(-1, LINE)
            message = rows.reshape(-1)
        chain = np.empty(message.size, np.uint8)
        self._cbc.units(False, size, ivs, message, chain)
        last = chain.view("<u4").reshape(-1, size // 4)[:, -4]  # the first word of the last block
        made: npt.NDArray[np.uint32] = last & np.uint32((1 << MAC_BITS) - 1) | PRESENT
        return made


def _chunks(
    ciphertext: Bytes, numbers: Words, kept: Words | None
) -> Iterator[tuple[Bytes, Words, Words | None]]:
    for at in range(0, numbers.size, CHUNK):
        part = slice(at, at + CHUNK)
        yield (
            ciphertext[at * LINE : (at + CHUNK) * LINE],
            numbers[part],
            None if kept is None else kept[part],
        )
