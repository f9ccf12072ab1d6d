"""The notebooks run in an empty folder, their claims hold, and what is stored in them can be published."""

from __future__ import annotations

import base64
import json
import re
import sys
import tempfile
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
NOTEBOOKS = sorted((ROOT / "examples").glob("*.ipynb"))
FOLDERS = ("IPYTHONDIR", "JUPYTER_CONFIG_DIR", "JUPYTER_DATA_DIR", "JUPYTER_RUNTIME_DIR")
TIMEOUT = 240  # seconds for a cell, whose kernels may have to be compiled
PICTURE = 60_000  # bytes that a stored picture has at most
HERE = re.compile(r"/(?:home|root|tmp|Users|dev/shm|var|opt|usr)/|ipykernel_\d|\b[A-Z]:\\\\")

each_notebook = pytest.mark.parametrize("path", NOTEBOOKS, ids=[path.stem for path in NOTEBOOKS])


def cells_of(path: Path) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads(path.read_text())["cells"]
    return found


def outputs_of(path: Path) -> list[dict[str, Any]]:
    return [output for cell in cells_of(path) for output in cell.get("outputs", [])]


def test_there_are_notebooks() -> None:
    assert NOTEBOOKS


@each_notebook
@pytest.mark.filterwarnings("ignore:Jupyter is migrating its paths:DeprecationWarning")
def test_a_notebook_runs_in_an_empty_folder_and_leaves_nothing(
    path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    nbclient = pytest.importorskip("nbclient")
    nbformat = pytest.importorskip("nbformat")
    pytest.importorskip("ipykernel")
    pytest.importorskip("matplotlib")
    from jupyter_client.kernelspec import KernelSpec, KernelSpecManager
    from jupyter_client.manager import AsyncKernelManager

    class ThisPython(KernelSpecManager):
        """Knows one kernel, whether or not it is installed: the interpreter that runs the tests."""

        def get_kernel_spec(self, kernel_name: str) -> KernelSpec:
            argv = [sys.executable, "-m", "ipykernel_launcher", "-f", "{connection_file}"]
            return KernelSpec(argv=argv, language="python", display_name=kernel_name)

    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    monkeypatch.delenv("MPLBACKEND", raising=False)
    for name in FOLDERS:
        monkeypatch.setenv(name, str(tmp_path / name.lower()))
    place, images = tmp_path / "empty", tmp_path / "images"
    place.mkdir()
    images.mkdir()
    notebook = nbformat.read(path, as_version=4)
    with tempfile.TemporaryDirectory(prefix="nb-") as short:  # a socket's path has 107 characters at most
        monkeypatch.setenv("TMPDIR", str(images))
        manager = AsyncKernelManager(
            kernel_name="python3",
            kernel_spec_manager=ThisPython(),
            transport="ipc",
            connection_file=f"{short}/kernel.json",
        )
        resources = {"metadata": {"path": str(place)}}
        client = nbclient.NotebookClient(notebook, km=manager, timeout=TIMEOUT, resources=resources)
        client.execute(cleanup_kc=True)  # ends the kernel, which otherwise is the manager's owner's to do
    assert not any(place.iterdir())
    assert not any(images.iterdir())


@each_notebook
def test_a_notebooks_stored_outputs_are_complete_and_no_errors(path: Path) -> None:
    code = [cell for cell in cells_of(path) if cell["cell_type"] == "code"]
    assert [cell["execution_count"] for cell in code] == list(range(1, len(code) + 1))
    kinds = {output["output_type"] for output in outputs_of(path)}
    assert kinds <= {"stream", "display_data", "execute_result"}
    assert not any(output.get("name") == "stderr" for output in outputs_of(path))


@each_notebook
def test_a_notebook_says_nothing_of_the_machine_that_ran_it(path: Path) -> None:
    notebook = json.loads(path.read_text())
    assert notebook["metadata"] == {
        "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
        "language_info": {"name": "python"},
    }
    assert not any(cell["metadata"] for cell in notebook["cells"])
    for output in outputs_of(path):
        shown = {kind: text for kind, text in output.get("data", {}).items() if kind != "image/png"}
        text = json.dumps([output.get("text", ""), shown])
        assert not HERE.search(text), text


@each_notebook
def test_a_notebooks_pictures_are_small(path: Path) -> None:
    pictures = [
        output["data"]["image/png"] for output in outputs_of(path) if "image/png" in output.get("data", {})
    ]
    assert pictures
    assert max(len(base64.b64decode(picture)) for picture in pictures) < PICTURE


@each_notebook
def test_a_notebook_explains_its_code_and_numbers_its_cells(path: Path) -> None:
    cells = cells_of(path)
    assert cells[0]["cell_type"] == cells[-1]["cell_type"] == "markdown"
    assert 8 <= len(cells) <= 20
    assert [cell["id"] for cell in cells] == [f"cell-{number:02}" for number in range(1, len(cells) + 1)]
