"""The wheel: what is in it, and that it works where nothing can be written."""

from __future__ import annotations

import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
USE = """
import sys, pmem, mktme
assert mktme.__file__.startswith(sys.argv[1]), mktme.__file__
with pmem.create(sys.argv[2], "64KiB") as device:
    controller = mktme.Controller(device)
    region = controller.map(0, 65536, controller.program_key(mktme.Key.generate("aes-xts-128")))
    region[10:15] = b"hello"
    print(region[10:15].decode(), __debug__)
"""


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", "--no-build-isolation"]
    command += ["--disable-pip-version-check", "-w", str(folder), str(ROOT)]
    subprocess.run(command, check=True, capture_output=True)
    return next(folder.glob("mktme-*.whl"))


def test_the_wheel_holds_the_two_packages_and_nothing_else(wheel: Path) -> None:
    names = zipfile.ZipFile(wheel).namelist()
    tops = {name.split("/")[0] for name in names}
    assert {top for top in tops if not top.endswith(".dist-info")} == {"mktme", "pmem"}
    for package in ("mktme", "pmem"):
        files = [path for path in (ROOT / package).rglob("*.*") if "__pycache__" not in path.parts]
        sources = {str(path.relative_to(ROOT)) for path in files}
        assert package == "pmem" or any(name.endswith("page.html") for name in sources)
        assert sources <= set(names)


def test_it_works_installed_read_only_optimised_and_without_a_home(wheel: Path, tmp_path: Path) -> None:
    site = tmp_path / "site"
    zipfile.ZipFile(wheel).extractall(site)
    for path in [site, *site.rglob("*")]:
        path.chmod(0o555 if path.is_dir() else 0o444)
    environment = {k: v for k, v in os.environ.items() if k not in ("NUMBA_CACHE_DIR", "XDG_CACHE_HOME")}
    environment |= {"PYTHONPATH": str(site), "HOME": "/proc/nowhere", "PYTHONDONTWRITEBYTECODE": "1"}
    try:
        run = subprocess.run(
            [sys.executable, "-O", "-c", USE, str(site), str(tmp_path / "pool.img")],
            env=environment,
            cwd=tmp_path,
            capture_output=True,
            text=True,
            check=False,
        )
    finally:
        for path in [site, *site.rglob("*")]:
            if path.is_dir():
                path.chmod(0o755)
    assert run.returncode == 0, run.stderr
    assert run.stdout == "hello False\n"
