"""kill -9 at random moments of real programs on a real image; bench/soak.py does it for longer."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import ModuleType

import pytest

SOAK = Path(__file__).parents[2] / "bench" / "soak.py"


def load() -> ModuleType:
    spec = importlib.util.spec_from_file_location("soak", SOAK)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize(
    "name", ["files on bounce", "files on inline", "files on line", "records under pmem-line"]
)
def test_nothing_that_was_promised_is_lost(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = str(SOAK.parents[1])
    monkeypatch.setenv("PYTHONPATH", root)
    done = load().soak(tmp_path, rounds=3, seed=1, only=name)
    assert done[name] > 0
    assert list(tmp_path.iterdir()) == []


def test_the_soak_can_fail(tmp_path: Path) -> None:
    soak = load()
    image = tmp_path / "image"
    soak.make_region(image, "pmem-line")
    with pytest.raises(AssertionError, match="5 was promised"):
        soak.check_region(image, "pmem-line", 5)
    soak.make_files(tmp_path / "files", "line")
    with pytest.raises(AssertionError, match="5 was promised"):
        soak.check_files(tmp_path / "files", "line", 5)
