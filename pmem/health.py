"""A DIMM's health, beside its image: unsafe shutdowns, the dirty flag, known bad lines.

As libpmem2 and PMDK have them: the unsafe-shutdown count of the device
(``pmem2_source_device_usc(3)``), the dirty flag of a pool's shutdown state, which is set while the
pool is open, and the list of bad blocks, which outlives a restart. The record goes by the image's path:
whoever removes an image for good removes it too.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from pathlib import Path

from pmem import sidecar
from pmem.errors import HealthInvalid

KIND = "health"


@dataclass
class Health:
    """`bad` are ranges of the DIMM's lines by their numbers, (first, end), ascending and apart."""

    unsafe_shutdowns: int = 0
    dirty: bool = False
    bad: list[list[int]] = field(default_factory=list)


def read(image: Path, size: int) -> Health:
    """The health of a DIMM of so many lines; of one that nothing is recorded of, good.

    Raises HealthInvalid, DeviceFailed.
    """
    found = sidecar.read(image, KIND, HealthInvalid)
    if found is None:
        return Health()
    count, dirty, bad = (found.get(name) for name in ("unsafe_shutdowns", "dirty", "bad"))
    pairs = isinstance(bad, list) and all(isinstance(each, list) and len(each) == 2 for each in bad)
    edges = [edge for each in bad for edge in each] if pairs and bad else []
    if (
        not pairs
        or type(count) is not int
        or count < 0
        or type(dirty) is not bool
        or any(type(edge) is not int for edge in edges)
        or any(low >= high for low, high in zip([-1, *edges], [*edges, size + 1], strict=True))
    ):
        path = sidecar.beside(image, KIND)
        raise HealthInvalid(
            f"{path} is no record of a DIMM of {size} lines: restore it, or remove it to begin anew"
        )
    return Health(count, dirty, bad or [])


def write(image: Path, health: Health) -> None:
    """Record a DIMM's health, durably. Raises DeviceFailed."""
    sidecar.write(image, KIND, asdict(health))
