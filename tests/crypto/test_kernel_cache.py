"""Machine code on disk: kernels of one source that several processes compiled stay apart."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

MODULE = """
import sys
from mktme.crypto.kernel import kernel, part

def build(constant):
    @part
    def piece(x: int) -> int:
        for _ in range(x & 7):
{body}
            x += constant
        return x

    @kernel(constant)
    def twice(x: int) -> int:
        return piece(x) ^ piece(x + 1) ^ piece(x + 2) ^ piece(x + 3)

    return twice, piece

for constant in map(int, sys.argv[1:]):
    whole, piece = build(constant)
    wanted = piece.py_func(5) ^ piece.py_func(6) ^ piece.py_func(7) ^ piece.py_func(8)
    assert whole(5) == wanted, constant
    print(constant, sum(whole.stats.cache_hits.values()))
"""


def test_variants_that_different_processes_compiled_run_their_own_code_in_a_third(tmp_path: Path) -> None:
    body = "\n".join(f"            x = (x ^ {n}) + (x >> {n % 5 + 1}) & 0xFFFFFFFF" for n in range(3, 90))
    (tmp_path / "several.py").write_text(MODULE.format(body=body))
    environment = os.environ | {
        "NUMBA_CACHE_DIR": str(tmp_path / "cache"),
        "PYTHONPATH": str(Path(__file__).parents[2]),
    }

    def run(*constants: int) -> list[str]:
        command = [sys.executable, str(tmp_path / "several.py"), *map(str, constants)]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        return done.stdout.split()

    assert run(1) == ["1", "0"]
    assert run(2) == ["2", "0"]
    assert run(1, 2) == ["1", "1", "2", "1"]
    assert run(2, 1) == ["2", "1", "1", "1"]
