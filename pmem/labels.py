"""Labels: which interleave set a DIMM belongs to, and at which place.

After the namespace labels of NVDIMMs (UEFI 2.10, 13.19: uuid, nlabel, position, isetcookie), which
lie in a label area apart from the data; here, in a file beside the image (`pmem.sidecar`).
"""

from __future__ import annotations

import uuid
from dataclasses import asdict, dataclass, fields
from pathlib import Path

from pmem import sidecar
from pmem.errors import LabelInvalid

KIND = "label"


@dataclass(frozen=True)
class Label:
    """A DIMM's label: `set` is the set's UUID as text, `size` and `granularity` are in bytes.

    `members` are the file names that the DIMMs had when the set was made, in order, so that one
    that is missing can be named.
    """

    set: str
    position: int
    granularity: int
    size: int
    members: tuple[str, ...]

    @property
    def ways(self) -> int:
        """How many DIMMs the set has."""
        return len(self.members)

    def fits(self, other: Label) -> bool:
        """Whether two DIMMs' labels are of one set."""
        mine = (self.set, self.granularity, self.size, self.members)
        return mine == (other.set, other.granularity, other.size, other.members)


def make(paths: list[Path], granularity: int, size: int) -> list[Label]:
    """Labels of a new set, in order."""
    name, members = str(uuid.uuid4()), tuple(path.name for path in paths)
    return [Label(name, i, granularity, size, members) for i in range(len(paths))]


def write(image: Path, label: Label) -> None:
    """Put a label beside an image. Raises DeviceFailed."""
    sidecar.write(image, KIND, asdict(label))


def read(image: Path) -> Label:
    """The label of an image. Raises LabelInvalid, DeviceFailed."""
    found = sidecar.read(image, KIND, LabelInvalid)
    path = sidecar.beside(image, KIND)
    if found is None:
        raise LabelInvalid(
            f"{image} has no label ({path}): put it back, or open the set with verify=False, "
            "which takes the DIMMs in the order of the paths"
        )
    if found.keys() != {field.name for field in fields(Label)}:
        raise LabelInvalid(f"{path} is no label: it has the fields {', '.join(sorted(found)) or 'none'}")
    numbers, members = [found[name] for name in ("position", "granularity", "size")], found["members"]
    if (
        not isinstance(found["set"], str)
        or any(type(number) is not int or number < 0 for number in numbers)
        or not isinstance(members, list)
        or not all(isinstance(name, str) for name in members)
        or found["position"] >= len(members)
    ):
        raise LabelInvalid(f"{path} is no label: its fields contradict each other, {found}")
    return Label(**found | {"members": tuple(members)})
