"""Two hazards of caches before an encrypting controller: stale lines, and plaintext when power fails."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import numpy as np

import pmem
from mktme.controller import Controller
from mktme.keys import Key
from mktme.lab.crash.worlds import world
from mktme.rekey import JOURNAL
from pmem.geometry import LINE, PAGE

WAYS = ("remap", "flush, then remap", "reprogram", "flush, then reprogram", "rekey")
OLD, NEW = b"old data under the old key ".ljust(LINE, b"."), b"new data under the new key ".ljust(LINE, b".")
SECRET = b"plaintext of a secret, a line long".ljust(LINE, b"!")


def stale_lines(seed: int = 0) -> list[dict[str, Any]]:
    """A page gets another key while a line of it is dirty in the CPU cache under the old one.

    A row for each way to do it, and what the new key's owner reads: `at_first`, before writing; `then`,
    what was written and made durable; `later`, once the cache has evicted what it held: "old data",
    "new data" or "garbage". `evicted`: lines that were still dirty.
    """
    return [_stale(way, seed) for way in WAYS]


def _stale(way: str, seed: int) -> dict[str, Any]:
    material = [np.random.default_rng([seed, n]).bytes(64) for n in range(2)]
    with (
        tempfile.TemporaryDirectory(prefix="mktme-crash-") as folder,
        pmem.create(Path(folder) / "line.img", PAGE + JOURNAL, domain="adr") as device,
    ):
        controller = Controller(device)
        first = controller.program_key(Key.from_bytes("aes-xts-256", material[0]))
        region = controller.map(0, PAGE, first)
        region.write(0, OLD)  # dirty: nobody has flushed it
        key = Key.from_bytes("aes-xts-256", material[1])
        if way == "rekey":
            region = controller.rekey(region, key, PAGE)
        else:
            if way.startswith("flush"):
                region.persist()
            if way.endswith("reprogram"):
                controller.program_key(key, first)
            else:
                controller.unmap(region)
                region = controller.map(0, PAGE, controller.program_key(key))
        inherited = region.read(0, LINE)
        region.write(0, NEW)
        region.persist()
        sees = region.read(0, LINE)
        assert controller.cache is not None
        evicted = len(controller.cache.dirty)
        controller.cache.write_back()
        return {
            "way": way,
            "evicted": evicted,
            "at_first": _called(inherited),
            "then": _called(sees),
            "later": _called(region.read(0, LINE)),
        }


def _called(line: bytes) -> str:
    return {OLD: "old data", NEW: "new data"}.get(line, "garbage")


def residual(schemes: tuple[str, ...] = ("pmem-line", "essiv", "ctr-split")) -> list[dict[str, Any]]:
    """Where caches are in the persistence domain (eADR), the power fails with a secret in the cache.

    A row for each scheme and flush path: whether the residual energy takes the lines through the
    controller or past it; `leaked`: whether somebody who holds the DIMM finds the secret; `kept`:
    whether its owner finds it after the restart.
    """
    rows = []
    for scheme in schemes:
        for encrypted in (False, True):
            with (
                tempfile.TemporaryDirectory(prefix="mktme-crash-") as folder,
                pmem.create(Path(folder) / "line.img", "64KiB", domain="eadr") as device,
            ):
                opened = world(scheme, PAGE)
                region = opened(device)
                region.write(LINE, SECRET)
                with device.crash(encrypted=encrypted) as after:
                    leaked = SECRET in after.read(0, after.size)
                    kept = opened(after).read(LINE, LINE) == SECRET
                rows.append(
                    {"scheme": scheme, "through_controller": encrypted, "leaked": leaked, "kept": kept}
                )
    return rows
