"""Key material: an algorithm and its secret bytes, kept out of sight.

What hygiene Python allows: the bytes lie in one bytearray, drawn from the system's generator
straight into it; they are in no repr, pickle, message or exception of this package; `Key.clear`
overwrites them. What it doesn't: bytes that a caller passed in are the caller's to wipe, the
interpreter may have moved or copied any object that it manages, and memory can be swapped out or
dumped. A key that was programmed has been copied into the controller, which overwrites its own
copy when the KeyID is cleared or reprogrammed, or at a power cycle.
"""

from __future__ import annotations

import builtins
import hmac
from typing import Any, NoReturn

from mktme.crypto.algorithms import ALGORITHMS
from mktme.errors import KeyMaterialError


class Key:
    """A key of one of the algorithms (`mktme.crypto.algorithms.ALGORITHMS`).

    XTS has a data key and a tweak key of 16 bytes (aes-xts-128, sm4-xts) or 32 (aes-xts-256);
    equal halves are refused, as IEEE 1619-2018 and FIPS 140 (IG C.I) want. The others have a data
    key alone. Not thread-safe against `clear`.

    Raises KeyMaterialError for an unknown algorithm, a wrong length, or equal halves.
    """

    __slots__ = ("_material", "algorithm")

    def __init__(self, algorithm: str, *, data_key: Any, tweak_key: Any = None) -> None:
        sizes = _key_sizes(algorithm)
        if tweak_key is not None and len(sizes) == 1:
            raise KeyMaterialError(f"{algorithm} has no tweak key: give its data key alone")
        self.algorithm = algorithm
        given = [
            _buffer(key, size, f"the {what} key of {algorithm} is a buffer of {size} bytes")
            for size, what, key in zip(sizes, ("data", "tweak"), (data_key, tweak_key), strict=False)
        ]
        self._material = bytearray(sum(sizes))
        parts = self.parts()
        for part, view in zip(parts, given, strict=True):
            part[:] = view
        if len(parts) == 2 and hmac.compare_digest(*parts):
            self.clear()
            raise KeyMaterialError(
                f"the data key and the tweak key of {algorithm} are equal: draw them independently"
            )

    @classmethod
    def generate(cls, algorithm: str) -> Key:
        """A key drawn from the operating system's generator."""
        material = bytearray(sum(_key_sizes(algorithm)))
        with builtins.open("/dev/urandom", "rb", buffering=0) as source:
            source.readinto(material)
        return cls._owning(algorithm, material)

    @classmethod
    def from_bytes(cls, algorithm: str, material: Any) -> Key:
        """A key from its bytes; of XTS in the order of IEEE 1619, the data key, then the tweak key."""
        sizes = _key_sizes(algorithm)
        wanted = f"{algorithm} takes a buffer of {sum(sizes)} bytes"
        if len(sizes) == 2:
            wanted += ": data key, then tweak key"
        view = _buffer(material, sum(sizes), wanted)
        tweak = view[sizes[0] :] if len(sizes) == 2 else None
        return cls(algorithm, data_key=view[: sizes[0]], tweak_key=tweak)

    @classmethod
    def _owning(cls, algorithm: str, material: bytearray) -> Key:
        key = cls.from_bytes(algorithm, material)
        material[:] = bytes(len(material))
        return key

    @property
    def cleared(self) -> bool:
        """Whether the bytes have been overwritten."""
        return not self._material

    def parts(self) -> tuple[memoryview, ...]:
        """The data key, and of XTS the tweak key, for a controller. Raises KeyMaterialError if cleared."""
        if self.cleared:
            raise KeyMaterialError("the key has been cleared: make it again from its source")
        view, size = memoryview(self._material), ALGORITHMS[self.algorithm].parts[0]
        return (view[:size], view[size:]) if size < len(view) else (view,)

    def clear(self) -> None:
        """Overwrite the bytes and forget them; the key can't be used again."""
        self._material[:] = bytes(len(self._material))
        self._material = bytearray()

    def __repr__(self) -> str:
        return f"<mktme.Key {self.algorithm}{' cleared' if self.cleared else ''}>"

    def __reduce__(self) -> NoReturn:
        raise TypeError("a key can't be pickled or copied: pass it by other means and make it there")


def _key_sizes(algorithm: str) -> tuple[int, ...]:
    """Bytes of an algorithm's keys."""
    if not isinstance(algorithm, str) or algorithm not in ALGORITHMS:
        # Only a short text is repeated: anything else may be a key in the wrong place.
        short = isinstance(algorithm, str) and len(algorithm) < 16
        named = repr(algorithm) if short else f"this {type(algorithm).__name__}"
        raise KeyMaterialError(f"{named} is not an algorithm: {', '.join(ALGORITHMS)}")
    return ALGORITHMS[algorithm].parts


def _buffer(material: Any, size: int, wanted: str) -> memoryview:
    """A contiguous buffer of just that many bytes. Raises KeyMaterialError saying what is wanted."""
    try:
        view = memoryview(material).cast("B")
    except (TypeError, ValueError, BufferError):
        raise KeyMaterialError(wanted) from None
    if view.nbytes != size:
        raise KeyMaterialError(wanted)
    return view
