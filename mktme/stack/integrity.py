"""A keyed MAC of 28 bits for each line, as long as TME-MK's with integrity (Intel 336907).

    MAC(line i under KeyID k) = the low 28 bits of CBC-MAC(K', (i, k), C[0], C[1], C[2], C[3])

over the line's number, its KeyID and its ciphertext, with AES-128; K' is the first 16 bytes of
SHA-256 of a label and the key. Messages have one length, for which CBC-MAC is a pseudorandom
function (Bellare, Kilian, Rogaway 2000). Intel's construction (SHA-3) isn't published in full;
this one is ours. A MAC lies in 32 bits of metadata, of which bit 31 says that there is one: a
line that was never written has none, and is poisoned, as memory is that nobody initialised.

Forging takes 2^28 tries. A line and its MAC put back together are accepted: nothing counts writes.
Counters and drawn IVs are not covered: where they are forged, a line reads as garbage.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from mktme.crypto.cipher import LINE, Bytes, Cipher, Words
from mktme.errors import PoisonError

MAC_BITS = 28
PRESENT = np.uint32(1 << 31)
BYTES = 4  # of metadata, a line
CHUNK = 2048  # lines taken at once


class LineMacs:
    """The MACs of a range of lines that begins at line number `first`, under one key and KeyID.

    `cipher` is AES-128-CBC that encrypts its IVs under its own key: the IV is then the first block
    of a CBC-MAC.
    `place` is the slice of the medium where they lie; `grain` is how many bytes are written
    together. Thread-safe for different lines.
    """

    def __init__(self, place: slice, first: int, cipher: Cipher, keyid: int, grain: int = LINE) -> None:
        self._place = place
        self._whole = "line" if grain == LINE else f"data unit of {grain} bytes"
        self._first, self._keyid = np.uint64(first), keyid
        self._cbc = cipher

    def check(self, media: Bytes, ciphertext: Bytes, numbers: Words) -> None:
        """Refuse lines whose MAC doesn't match. Raises PoisonError, naming the first of them."""
        for part, rows in self._chunks(ciphertext, numbers):
            valid = self.valid(media, part, rows)
            if not valid.all():
                line = int(rows[np.argmin(valid)])
                raise PoisonError(
                    f"line {line} (address {line * LINE:#x}) is poisoned: its MAC doesn't match what lies on "
                    f"the medium; write the whole {self._whole} to use it again",
                    line,
                )

    def valid(self, media: Bytes, ciphertext: Bytes, numbers: Words) -> npt.NDArray[np.bool_]:
        """For each line whether its MAC matches."""
        kept = self._macs(media)[numbers - self._first]
        matches: npt.NDArray[np.bool_] = kept == self._mac(ciphertext, numbers)
        return matches

    def seal(self, media: Bytes, ciphertext: Bytes, numbers: Words) -> None:
        """Record the MACs of lines as they are now on the medium."""
        for part, rows in self._chunks(ciphertext, numbers):
            self._macs(media)[rows - self._first] = self._mac(part, rows)

    def seal_at(self, media: Bytes, numbers: Words) -> None:
        """The same for scattered lines of the medium."""
        self.seal(media, media.reshape(-1, LINE)[numbers].reshape(-1), numbers)

    def _macs(self, media: Bytes) -> npt.NDArray[np.uint32]:
        return media[self._place].view("<u4")

    def _chunks(self, ciphertext: Bytes, numbers: Words) -> list[tuple[Bytes, Words]]:
        return [
            (ciphertext[at * LINE : (at + CHUNK) * LINE], numbers[at : at + CHUNK])
            for at in range(0, numbers.size, CHUNK)
        ]

    def _mac(self, ciphertext: Bytes, numbers: Words) -> npt.NDArray[np.uint32]:
        ivs = np.empty((numbers.size, 2), np.uint64)
        ivs[:, 0], ivs[:, 1] = numbers, self._keyid
        chain = np.empty(ciphertext.size, np.uint8)
        self._cbc.units(False, LINE, ivs, np.ascontiguousarray(ciphertext), chain)
        last = chain.view("<u4").reshape(-1, LINE // 4)[:, 12]  # the first word of the last block
        made: npt.NDArray[np.uint32] = last & np.uint32((1 << MAC_BITS) - 1) | PRESENT
        return made
