"""The pages' code runs, and says what it says; the site builds without a warning.

A python block is run as the README's are: what it prints is what its `#>` comments say. A block with a
title is saved under that name. Of a console block each line that begins with `$ ` is run by bash; it
exits with 0, or as a comment at its end says (`# exits with 1`). The blocks of a page share a folder.
"""

from __future__ import annotations

import importlib.util
import os
import re
import subprocess
import sys
import textwrap
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
PAGES = [*sorted(DOCS.glob("**/*.md")), ROOT / "CONTRIBUTING.md"]
LANGUAGES = {"python", "console", "text", "toml", "svg"}
FENCE = re.compile(r"^( *)(`{3,}|~{3,})([^\n]*)\n(.*?)^\1\2$", re.MULTILINE | re.DOTALL)
EXITS = re.compile(r"\s+# exits with (\d+)$")
TIMEOUT = 300  # seconds: kernels may have to be compiled


@dataclass(frozen=True)
class Block:
    """A fenced block: its language, the name of a file that it is saved in, its text."""

    language: str
    title: str
    text: str

    @property
    def commands(self) -> list[str]:
        """The lines of a console block that are run."""
        return [line[2:] for line in self.text.splitlines() if line.startswith("$ ")]


def blocks(page: Path) -> list[Block]:
    found = []
    for _, _, info, text in FENCE.findall(page.read_text()):
        language, _, rest = info.strip().partition(" ")
        title = re.search(r'title="([^"]+)"', rest)
        found.append(Block(language, title[1] if title else "", textwrap.dedent(text)))
    return found


BLOCKS = {page.relative_to(ROOT).as_posix(): blocks(page) for page in PAGES}
RUN = [name for name, found in BLOCKS.items() if any(b.language in ("python", "console") for b in found)]


def environment(folder: Path) -> dict[str, str]:
    """Where `mktme` is this project's, under this interpreter, and `python` is the interpreter."""
    place = folder / "bin"
    place.mkdir()
    for name, arguments in (("mktme", " -m mktme.cli"), ("python", "")):
        shim = place / name
        shim.write_text(f'#!/bin/sh\nexec "{sys.executable}"{arguments} "$@"\n')
        shim.chmod(0o755)
    path = os.pathsep.join([str(place), os.environ.get("PATH", os.defpath)])
    return os.environ | {"PATH": path, "PYTHONPATH": str(ROOT), "COLUMNS": "110", "NO_COLOR": "1"}


def run_python(block: Block, folder: Path, env: dict[str, str]) -> None:
    command = [sys.executable, "-c", block.text]
    if block.title:
        (folder / block.title).write_text(block.text)
        command = [sys.executable, block.title]
    run = subprocess.run(
        command, cwd=folder, env=env, capture_output=True, text=True, check=False, timeout=TIMEOUT
    )
    assert run.returncode == 0, run.stderr
    assert run.stdout.splitlines() == re.findall(r"#> (.*)", block.text)


def run_command(line: str, folder: Path, env: dict[str, str]) -> None:
    ends = EXITS.search(line)
    expected = int(ends[1]) if ends else 0
    command = EXITS.sub("", line)
    run = subprocess.run(
        ["bash", "-c", command],
        cwd=folder,
        env=env,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
        timeout=TIMEOUT,
    )
    assert run.returncode == expected, f"{command}\n{run.stdout}\n{run.stderr}"


@pytest.mark.parametrize("name", RUN)
def test_every_block_of_a_page_runs(name: str, tmp_path: Path) -> None:
    env, folder = environment(tmp_path), tmp_path / "page"
    folder.mkdir()
    for block in BLOCKS[name]:
        if block.title and block.language != "python":
            (folder / block.title).write_text(block.text)
        elif block.language == "python":
            run_python(block, folder, env)
        elif block.language == "console":
            for line in block.commands:
                run_command(line, folder, env)


@pytest.mark.parametrize("name", BLOCKS)
def test_fences_are_of_known_languages_and_closed(name: str) -> None:
    assert {block.language for block in BLOCKS[name]} <= LANGUAGES
    fences = re.findall(r"^ *(?:```|~~~)", (ROOT / name).read_text(), re.MULTILINE)
    assert len(fences) == 2 * len(BLOCKS[name])


@pytest.mark.parametrize("name", RUN)
def test_console_blocks_have_commands(name: str) -> None:
    for block in BLOCKS[name]:
        assert block.language != "console" or block.commands, block.text


@pytest.mark.skipif(
    any(importlib.util.find_spec(name) is None for name in ("mkdocs", "material", "mkdocstrings")),
    reason="mkdocs isn't installed",
)
def test_the_site_builds_without_a_warning(tmp_path: Path) -> None:
    run = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(tmp_path / "site")],
        cwd=ROOT,
        env=os.environ | {"NO_MKDOCS_2_WARNING": "1"},
        capture_output=True,
        text=True,
        check=False,
        timeout=TIMEOUT,
    )
    assert run.returncode == 0, run.stderr
    assert "WARNING" not in run.stdout + run.stderr
    assert (tmp_path / "site" / "index.html").is_file()
