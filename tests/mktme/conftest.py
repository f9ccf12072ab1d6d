"""A device, a controller with a key, a region."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

import pmem
from mktme import Controller, Key, Region
from mktme.crypto import backend

SIZE = 1 << 20


@pytest.fixture
def device(tmp_path: Path) -> Iterator[pmem.Device]:
    with pmem.create(tmp_path / "pool.img", SIZE) as made:
        yield made


@pytest.fixture
def controller(device: pmem.Device) -> Controller:
    return Controller(device)


@pytest.fixture
def key() -> Key:
    return Key.from_bytes("aes-xts-128", bytes(range(32)))


@pytest.fixture
def region(controller: Controller, key: Key) -> Region:
    """From 64 KiB on, 512 KiB long; offsets and addresses differ."""
    return controller.map(1 << 16, 1 << 19, controller.program_key(key))


@pytest.fixture(params=backend.available())
def engine(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Every backend that this processor has; controllers made in the test use it."""
    monkeypatch.setattr("mktme.crypto.backend.chosen", request.param)
    return str(request.param)
