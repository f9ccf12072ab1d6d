"""Our kernels beside what else is installed: OpenSSL, cryptography, numpy; ratios to the chosen backend.

python bench/peers.py
"""

from __future__ import annotations

import sys
from functools import partial

import numpy as np
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from figure import repeated
from peer_openssl import speed
from rich.console import Console
from rich.table import Table

from mktme.crypto import backend
from mktme.crypto.backend import aes_xts
from mktme.lab.machine import describe
from mktme.lab.measure import Run, Sample, interleave

SIZE = 1 << 19
SLOW = 1 << 15  # bytes for those that need a call a line


def by_call(key: bytes, unit: int, source: np.ndarray, size: int) -> Run:
    """One call into `cryptography` for each unit."""
    algorithm = algorithms.AES(key)

    def run() -> int:
        for number in range(size // unit):
            context = Cipher(algorithm, modes.XTS(number.to_bytes(16, "little"))).encryptor()
            context.update(source[number * unit : (number + 1) * unit].data)
        return size

    return run


def ours(engine: str, key: bytes, unit: int, source: np.ndarray, to: np.ndarray) -> Run:
    """A backend of ours."""
    cipher = aes_xts(key[: len(key) // 2], key[len(key) // 2 :], engine)
    ivs = np.zeros((SIZE // unit, 2), np.uint64)
    ivs[:, 0] = np.arange(SIZE // unit)
    return repeated(partial(cipher.units, False, unit, ivs, source, to), SIZE, 4)


def measure(bits: int, unit: int) -> dict[str, Sample]:
    """All contestants in one key size and unit size."""
    rng = np.random.default_rng(1)
    source, to = rng.integers(0, 256, SIZE, dtype=np.uint8), np.empty(SIZE, np.uint8)
    key = rng.bytes(bits // 4)
    runs: dict[str, Run] = {
        f"mktme, {name}": ours(name, key, unit, source, to) for name in backend.available()
    }
    runs["cryptography, a call a unit"] = by_call(key, unit, source, SLOW if unit == 64 else SIZE)
    runs["numpy memcpy"] = repeated(partial(np.copyto, to, source), SIZE, 4)
    return interleave(runs, 9)


def main() -> None:
    """Measure and print."""
    where = describe()
    console = Console(width=100 if not sys.stdout.isatty() else None)
    table = Table(title=f"AES-XTS in the second-level cache, one core: {where['processor']}")
    for name in ("", "data unit", "GB/s", f"of mktme, {backend.chosen}"):
        table.add_column(name, justify="right" if name else "left")
    for bits in (128, 256):
        for unit in (64, 4096):
            rates = {name: sample.rate for name, sample in measure(bits, unit).items()}
            for size in (64,) if unit == 64 else (4096, 16384):
                found = speed(f"aes-{bits}-xts", size)
                if found is not None:
                    rates[f"openssl speed, {size} B"] = found
            table.add_section()
            for name, rate in rates.items():
                ratio = rate / rates[f"mktme, {backend.chosen}"]
                table.add_row(f"AES-{bits}-XTS: {name}", f"{unit} B", f"{rate / 1e9:.3g}", f"{ratio:.3g}")
    console.print(table)
    if speed("aes-128-xts", 64) is None:
        console.print("OpenSSL's program is not installed, or its speed loop doesn't know XTS.")


if __name__ == "__main__":
    main()
