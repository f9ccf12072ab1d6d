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

from mktme.errors import KeyMaterialError

KEY_BYTES = {"aes-xts-128": 16, "aes-xts-256": 32}  # of the data key, and of the tweak key


class Key:
    """An AES-XTS key: a data key and a tweak key of 16 bytes (aes-xts-128) or 32 (aes-xts-256).

    Equal halves are refused, as IEEE 1619-2018 and FIPS 140 (IG C.I) want. Not thread-safe
    against `clear`.

    Raises KeyMaterialError for an unknown algorithm, a wrong length, or equal halves.
    """

    __slots__ = ("_material", "algorithm")

    def __init__(self, algorithm: str, *, data_key: Any, tweak_key: Any) -> None:
        size = _key_bytes(algorithm)
        data = _buffer(data_key, size, f"the data key of {algorithm} is a buffer of {size} bytes")
        tweak = _buffer(tweak_key, size, f"the tweak key of {algorithm} is a buffer of {size} bytes")
        if hmac.compare_digest(data, tweak):
            raise KeyMaterialError(
                f"the data key and the tweak key of {algorithm} are equal: draw them independently"
            )
        self.algorithm = algorithm
        self._material = bytearray(2 * size)
        self._material[:size] = data
        self._material[size:] = tweak

    @classmethod
    def generate(cls, algorithm: str) -> Key:
        """A key drawn from the operating system's generator."""
        material = bytearray(2 * _key_bytes(algorithm))
        with builtins.open("/dev/urandom", "rb", buffering=0) as source:
            source.readinto(material)
        return cls._owning(algorithm, material)

    @classmethod
    def from_bytes(cls, algorithm: str, material: Any) -> Key:
        """A key from its bytes in the order of IEEE 1619: the data key, then the tweak key."""
        size = _key_bytes(algorithm)
        wanted = f"{algorithm} takes a buffer of {2 * size} bytes: data key, then tweak key"
        view = _buffer(material, 2 * size, wanted)
        return cls(algorithm, data_key=view[:size], tweak_key=view[size:])

    @classmethod
    def _owning(cls, algorithm: str, material: bytearray) -> Key:
        size = len(material) // 2
        key = cls(algorithm, data_key=memoryview(material)[:size], tweak_key=memoryview(material)[size:])
        material[:] = bytes(len(material))
        return key

    @property
    def cleared(self) -> bool:
        """Whether the bytes have been overwritten."""
        return not self._material

    def halves(self) -> tuple[memoryview, memoryview]:
        """The data key and the tweak key, for a controller. Raises KeyMaterialError if cleared."""
        if self.cleared:
            raise KeyMaterialError("the key has been cleared: make it again from its source")
        view, size = memoryview(self._material), len(self._material) // 2
        return view[:size], view[size:]

    def clear(self) -> None:
        """Overwrite the bytes and forget them; the key can't be used again."""
        self._material[:] = bytes(len(self._material))
        self._material = bytearray()

    def __repr__(self) -> str:
        return f"<mktme.Key {self.algorithm}{' cleared' if self.cleared else ''}>"

    def __reduce__(self) -> NoReturn:
        raise TypeError("a key can't be pickled or copied: pass it by other means and make it there")


def _key_bytes(algorithm: str) -> int:
    if not isinstance(algorithm, str) or algorithm not in KEY_BYTES:
        # Only a short text is repeated: anything else may be a key in the wrong place.
        short = isinstance(algorithm, str) and len(algorithm) < 16
        named = repr(algorithm) if short else f"this {type(algorithm).__name__}"
        raise KeyMaterialError(f"{named} is not an algorithm: {', '.join(KEY_BYTES)}")
    return KEY_BYTES[algorithm]


def _buffer(material: Any, size: int, wanted: str) -> memoryview:
    """A contiguous buffer of just that many bytes. Raises KeyMaterialError saying what is wanted."""
    try:
        view = memoryview(material).cast("B")
    except (TypeError, ValueError, BufferError):
        raise KeyMaterialError(wanted) from None
    if view.nbytes != size:
        raise KeyMaterialError(wanted)
    return view
