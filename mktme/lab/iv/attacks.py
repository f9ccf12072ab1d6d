"""Attackers: objects that get what an attacker has, media bytes and chosen data, and never a key.

The scheme, its coordinates and the constants of an address-linear tweak are public (Kerckhoffs).
Each returns what it recovered; the experiments hold that against the truth.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from mktme.lab.iv.dimm import Bytes, Dimm, Image

LINE, BLOCK = 64, 16
Mask = npt.NDArray[np.bool_]


def lines_of(data: Bytes) -> npt.NDArray[np.void]:
    """A buffer as lines that can be compared whole."""
    return np.ascontiguousarray(data).view(f"V{LINE}")


class Linker:
    """Looks at one image of the medium for lines that are equal: their plaintexts must be, too."""

    def __init__(self, media: Bytes) -> None:
        self._lines = lines_of(media)

    def linked(self) -> Mask:
        """For each line, whether another one has the same ciphertext."""
        _, group, count = np.unique(self._lines, return_inverse=True, return_counts=True)
        found: Mask = count[group.reshape(-1)] > 1
        return found


class Watcher:
    """Looks at the same place at several times (the ciphertext side channel of CipherLeaks)."""

    def __init__(self, moments: list[Bytes]) -> None:
        self._moments = [lines_of(media) for media in moments]

    def same(self, earlier: int, later: int) -> Mask:
        """The lines that hold at a later moment what they held at an earlier one."""
        found: Mask = self._moments[earlier] == self._moments[later]
        return found


class Mover:
    """Puts somebody's ciphertext over a place that it can read as its own, and reads it there.

    Some ciphers xor the IV itself onto a unit's first block (`Algorithm.iv_xored`). What is read
    then is the plaintext under a mask, the xor of the IVs of the two places: who predicts both
    takes it off, and where the IV is xored onto the ciphertext, too, puts it on that before (Wilke et al.,
    SEVurity, 2020). `ivs`: those of the units of its own place and of the victim's, (n, 16 or
    more) each; None where they can't be predicted.
    """

    def __init__(
        self, dimm: Dimm, unit: int, iv_xored: tuple[str, ...], ivs: tuple[Bytes, Bytes] | None
    ) -> None:
        self._dimm, self._iv_xored = dimm, iv_xored
        self._mask: Bytes | None = None
        if iv_xored and ivs is not None:
            mask = np.zeros((len(ivs[0]), unit), np.uint8)
            mask[:, :BLOCK] = (ivs[0] ^ ivs[1])[:, :BLOCK]
            self._mask = mask.reshape(-1)

    @property
    def masked(self) -> bool:
        """Whether there is a mask to take off."""
        return self._mask is not None and bool(self._mask.any())

    def put(self, victim: int, own: int, size: int) -> None:
        """Put the victim's slot, `size` bytes, over its own."""
        image = self._dimm.save(victim, size)
        if self._mask is not None and "ciphertext" in self._iv_xored:
            image = Image(image.data ^ self._mask, image.beside)
        self._dimm.put(own, image)

    def recover(self, seen: Bytes) -> Bytes:
        """What the victim's slot holds, from what the machine returned for its own."""
        return seen if self._mask is None else seen ^ self._mask


class Replayer:
    """Saves a place, and puts it back after its owner has written it anew."""

    def __init__(self, dimm: Dimm, slot: int, size: int) -> None:
        self._dimm, self._slot = dimm, slot
        self._old: Image = dimm.save(slot, size)

    def put_back(self, *, beside: bool) -> None:
        """The data as it was, and with `beside` all that was kept beside it, too."""
        self._dimm.put(self._slot, self._old, beside=beside)


class Watermarker:
    """Makes a file whose encrypted form can be told on the medium (Saarinen 2004).

    Under CBC the first block of a unit is E(P ^ IV): who knows the IVs of two units can choose
    two plaintexts that become equal ciphertext. Under XE and XEX, whose units are one block, that
    marks every block; XEX's known tweak is taken off again. `ivs`: the
    predicted IVs of the units, (n, 16 or more).
    """

    def __init__(self, ivs: Bytes, unit: int, seed: int) -> None:
        self._unit, rng = unit, np.random.default_rng(seed)
        self._mark = np.frombuffer(rng.bytes(BLOCK), np.uint8)
        self._ivs = ivs[:, :BLOCK]
        self._rest = np.frombuffer(rng.bytes(unit - BLOCK), np.uint8)

    def file(self) -> Bytes:
        """The data that somebody is made to store."""
        units = np.empty((len(self._ivs), self._unit), np.uint8)
        units[:, :BLOCK] = self._ivs ^ self._mark
        units[:, BLOCK:] = self._rest
        return units.reshape(-1)

    def found(self, media: Bytes) -> int:
        """How many units on the medium bear the mark: equal first blocks."""
        first = media.reshape(-1, self._unit)[:, :BLOCK]
        return max(self._equal(first), self._equal(first ^ self._ivs))

    @staticmethod
    def _equal(blocks: Bytes) -> int:
        """How many blocks have an equal among them."""
        _, count = np.unique(np.ascontiguousarray(blocks).view(f"V{BLOCK}"), return_counts=True)
        return int(count[count > 1].sum())


class PadThief:
    """Has two images of a place that were encrypted under the same pad: their xor is the plaintexts'."""

    def __init__(self, earlier: Bytes, later: Bytes) -> None:
        self._xor = earlier ^ later

    def plaintext(self, known: Bytes) -> Bytes:
        """The later plaintext, given the earlier one."""
        made: Bytes = self._xor ^ known
        return made
