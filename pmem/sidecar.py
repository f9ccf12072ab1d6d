"""What is known of a DIMM besides its media bytes: small JSON files beside the image.

A real NVDIMM keeps such things (its label area, its health counters) apart from the data; an image
holds raw media bytes and nothing else. The file for `pool.img` is `pool.img.label`, or `.health`.
"""

from __future__ import annotations

import json
import os
from contextlib import suppress
from pathlib import Path
from typing import Any

from pmem.errors import DeviceFailed, PmemError


def beside(image: Path, kind: str) -> Path:
    """Where a record lies: beside the image itself, whatever link it is reached by."""
    real = Path(os.path.realpath(image))
    return real.with_name(f"{real.name}.{kind}")


def read(image: Path, kind: str, invalid: type[PmemError]) -> dict[str, Any] | None:
    """A record, None if there is none. Raises `invalid` if it isn't one, DeviceFailed."""
    path = beside(image, kind)
    try:
        found = json.loads(path.read_text("utf-8"))
        if isinstance(found, dict):
            return found
        problem = "it holds no JSON object"
    except FileNotFoundError:
        return None
    except OSError as error:
        raise DeviceFailed(error.errno, f"can't read it ({error.strerror})", str(path)) from None
    except (ValueError, RecursionError) as error:
        problem = str(error)
    raise invalid(f"{path} is damaged ({problem}): restore it, or remove it to do without")


def write(image: Path, kind: str, record: dict[str, Any]) -> None:
    """Replace a record, durably and as a whole. Raises DeviceFailed, with the old one in place."""
    path = beside(image, kind)
    fresh = path.with_name(f"{path.name}.new")
    try:
        with fresh.open("w", encoding="utf-8") as file:
            json.dump(record, file)
            file.flush()
            os.fsync(file.fileno())
        fresh.replace(path)
    except OSError as error:
        with suppress(OSError):
            fresh.unlink()
        raise DeviceFailed(error.errno, f"can't record it ({error.strerror})", str(path)) from None
