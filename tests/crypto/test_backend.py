"""The choice of a backend, the kernels' cache on disk, and code for processors that aren't here."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import llvmlite.binding as llvm
import pytest
from llvmlite import ir

from mktme.crypto import backend, kernel, simd
from mktme.errors import BackendError

ENCRYPT_ONE_LINE = """
import numpy as np
from mktme.crypto import backend
cipher = backend.aes_xts(bytes(range(16)), bytes(range(16, 32)))
out = np.empty(64, np.uint8)
cipher.units(False, 64, np.zeros((1, 2), np.uint64), np.zeros(64, np.uint8), out)
print(backend.chosen, out.tobytes().hex())
"""


def child(code: str, *options: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *options, "-c", code],
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        check=False,
    )


def test_the_first_available_backend_is_chosen_and_all_give_the_same_bytes() -> None:
    made = {}
    for name in backend.available():
        run = child(ENCRYPT_ONE_LINE, MKTME_BACKEND=name)
        assert run.returncode == 0, run.stderr
        chosen, made[name] = run.stdout.split()
        assert chosen == name
    assert len(set(made.values())) == 1
    usual = child(ENCRYPT_ONE_LINE, MKTME_BACKEND="")
    assert usual.stdout.split()[0] == backend.available()[0]


def test_an_unknown_backend_is_refused_with_the_names_of_those_that_run_here() -> None:
    with pytest.raises(BackendError, match=r"no such backend.*portable"):
        backend.check("avx10")
    run = child("import mktme", MKTME_BACKEND="avx10")
    assert run.returncode == 1
    assert "there is no such backend" in run.stderr


def test_a_processor_without_aes_gets_the_portable_backend() -> None:
    run = child(ENCRYPT_ONE_LINE, NUMBA_CPU_NAME="generic", NUMBA_CPU_FEATURES="", MKTME_BACKEND="")
    assert run.returncode == 0, run.stderr
    assert run.stdout.split()[0] == "portable"
    refused = child("import mktme", NUMBA_CPU_NAME="generic", NUMBA_CPU_FEATURES="", MKTME_BACKEND="aesni")
    assert "this processor can't run it" in refused.stderr


@pytest.mark.skipif("aesni" not in backend.available(), reason="not an x86-64 processor with AES-NI")
@pytest.mark.parametrize(
    ("features", "expected"),
    [
        ("+sse4.2,+ssse3,+aes,+pclmul", "aesni"),
        ("+avx2,+aes,+pclmul,+vaes,+vpclmulqdq", "vaes256"),
    ],
)
def test_an_older_processor_gets_the_widest_registers_that_it_has(features: str, expected: str) -> None:
    if expected not in backend.available():
        pytest.skip(f"{expected} can't run here")
    run = child(ENCRYPT_ONE_LINE, NUMBA_CPU_NAME="x86-64", NUMBA_CPU_FEATURES=features, MKTME_BACKEND="")
    assert run.returncode == 0, run.stderr
    chosen, made = run.stdout.split()
    assert chosen == expected
    assert made == child(ENCRYPT_ONE_LINE, MKTME_BACKEND="portable").stdout.split()[1]


def test_kernels_are_kept_where_the_user_may_write_and_used_again(tmp_path: Path) -> None:
    first = child(ENCRYPT_ONE_LINE, NUMBA_CACHE_DIR=str(tmp_path))
    assert first.returncode == 0, first.stderr
    kept = sorted(path for path in tmp_path.rglob("*") if path.is_file())
    if first.stdout.split()[0] == "portable":
        return
    assert kept
    stamps = [path.stat().st_mtime_ns for path in kept]
    again = child(ENCRYPT_ONE_LINE, NUMBA_CACHE_DIR=str(tmp_path))
    assert again.stdout == first.stdout
    assert sorted(path for path in tmp_path.rglob("*") if path.is_file()) == kept
    assert [path.stat().st_mtime_ns for path in kept] == stamps


def test_without_any_place_to_keep_kernels_they_are_compiled_in_memory(tmp_path: Path) -> None:
    nowhere = tmp_path / "file"
    nowhere.touch()  # a file where a folder would have to be
    run = child(ENCRYPT_ONE_LINE, NUMBA_CACHE_DIR=str(nowhere))
    assert run.returncode == 0, run.stderr
    assert run.stdout == child(ENCRYPT_ONE_LINE).stdout


def test_nothing_compiles_at_import(tmp_path: Path) -> None:
    run = child("import mktme, pmem", NUMBA_CACHE_DIR=str(tmp_path))
    assert run.returncode == 0, run.stderr
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]


def test_the_cache_belongs_to_the_content_of_the_sources(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    before = kernel.digest()
    for folder in ("crypto", "iv", "timing"):
        (tmp_path / folder).mkdir()
        for source in (Path(kernel.__file__).parents[1] / folder).glob("*.py"):
            (tmp_path / folder / source.name).write_bytes(source.read_bytes())
    monkeypatch.setattr(kernel, "__file__", str(tmp_path / "crypto/kernel.py"))
    kernel.digest.cache_clear()
    try:
        assert kernel.digest() == before
        with (tmp_path / "crypto/simd.py").open("a") as file:
            file.write("# an edit of a file that holds no kernel\n")
        kernel.digest.cache_clear()
        assert kernel.digest() != before
    finally:
        monkeypatch.undo()
        kernel.digest.cache_clear()


def arm_code(emit: object) -> str:
    """AArch64 assembly of a function of two blocks in memory."""
    pack = simd.Pack(128, 1)
    module = ir.Module("arm")
    module.triple = "aarch64-unknown-linux-gnu"
    place = pack.reg.as_pointer()
    function = ir.Function(module, ir.FunctionType(ir.VoidType(), [place, place]), "f")
    b = ir.IRBuilder(function.append_basic_block())
    x, y = b.load(function.args[0], typ=pack.reg), b.load(function.args[1], typ=pack.reg)
    b.store(emit(b, pack, x, y), function.args[0])  # type: ignore[operator]
    b.ret_void()
    llvm.initialize_all_targets()
    llvm.initialize_all_asmprinters()
    target = llvm.Target.from_triple(module.triple)
    machine = target.create_target_machine(cpu="generic", features="+aes,+neon")
    parsed = llvm.parse_assembly(str(module))
    parsed.verify()
    return str(machine.emit_assembly(parsed))


@pytest.mark.parametrize(
    ("emit", "instructions"),
    [
        (simd.emit_aes("aesenc", "aese", "aesmc"), ("aese", "aesmc")),
        (simd.emit_aes("aesenclast", "aese", ""), ("aese",)),
        (simd.emit_aes("aesdec", "aesd", "aesimc"), ("aesd", "aesimc")),
        (simd.emit_aes("aesdeclast", "aesd", ""), ("aesd",)),
        (simd.emit_clmul(0), ("pmull",)),
        (simd.emit_clmul(1), ("pmull",)),
    ],
    ids=["aesenc", "aesenclast", "aesdec", "aesdeclast", "clmul_lo", "clmul_hi"],
)
def test_the_vocabulary_compiles_to_arms_instructions(emit: object, instructions: tuple[str, ...]) -> None:
    try:
        code = arm_code(emit)
    except RuntimeError as error:
        pytest.skip(f"this LLVM has no AArch64: {error}")
    for instruction in instructions:
        assert instruction in code
