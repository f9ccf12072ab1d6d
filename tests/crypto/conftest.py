"""Every test of the ciphers runs on every backend that this processor has."""

from __future__ import annotations

import pytest

from mktme.crypto import backend


@pytest.fixture(params=backend.available())
def engine(request: pytest.FixtureRequest) -> str:
    return str(request.param)
