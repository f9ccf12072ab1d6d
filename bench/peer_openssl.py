"""OpenSSL's own speed loop, where the program is installed."""

from __future__ import annotations

import re
import shutil
import subprocess


def speed(cipher: str, size: int, seconds: int = 1) -> float | None:
    """Bytes a second of ``openssl speed -evp`` at a buffer size; None where there is no openssl."""
    program = shutil.which("openssl")
    if program is None:
        return None
    command = [program, "speed", "-mr", "-seconds", str(seconds), "-bytes", str(size), "-evp", cipher]
    run = subprocess.run(command, capture_output=True, text=True, check=False)
    found = re.search(r"^\+F:\d+:[^:]*:([\d.]+)", run.stdout, re.MULTILINE)
    return float(found[1]) if found else None
