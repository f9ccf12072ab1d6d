"""What requests cost in bytes: exact counts, the same on every machine."""

from __future__ import annotations

import threading
from dataclasses import dataclass, field


@dataclass
class Traffic:
    """Bytes since it was made. Thread-safe.

    `asked` by the callers; `copied` from memory to memory as they are, on the way to or from the
    medium; `encrypted` and `decrypted`, whole data units or lines, whoever does it.
    """

    asked: int = 0
    copied: int = 0
    encrypted: int = 0
    decrypted: int = 0
    _lock: threading.Lock = field(default_factory=threading.Lock, repr=False, compare=False)

    def add(self, asked: int = 0, copied: int = 0, encrypted: int = 0, decrypted: int = 0) -> None:
        """Count some more."""
        with self._lock:
            self.asked += asked
            self.copied += copied
            self.encrypted += encrypted
            self.decrypted += decrypted

    def counts(self) -> dict[str, int]:
        """The counts by their names."""
        return {
            "asked": self.asked,
            "copied": self.copied,
            "encrypted": self.encrypted,
            "decrypted": self.decrypted,
        }
