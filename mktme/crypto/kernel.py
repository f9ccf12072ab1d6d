"""How a kernel is compiled and where its machine code is kept.

Nothing compiles at import: a kernel compiles at its first call and is then kept on disk, one
folder per content of the sources that hold kernels (Numba's own cache notices an edit of the
file that holds a kernel, but not of the files that it calls into, and a stale cipher is the one
thing a laboratory of ciphers must not run). The folder lies in ``NUMBA_CACHE_DIR`` where that is
set, else in the user's cache directory, so an installation may be read-only; where neither can
be written, kernels are compiled anew in each process.
"""

from __future__ import annotations

import hashlib
import itertools
import os
import tempfile
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any, TypeVar

import numba
from numba.core import config, sigutils
from numba.core.bytecode import FunctionIdentity
from numba.core.caching import CompileResultCacheImpl, FunctionCache, IndexDataCacheFile, _CacheLocator
from numba.core.ccallback import CFunc

F = TypeVar("F", bound=Callable[..., Any])

# Numba tells functions of one name apart by a number, counted from 1 in every process, so kernels of
# one source that two processes compiled and kept can have one symbol; of the pieces that they call,
# only that of the kernel that is loaded first would then run. Counting from a drawn number prevents it.
FunctionIdentity._unique_ids = itertools.count(int.from_bytes(os.urandom(6), "little"))


@cache
def digest() -> str:
    """A digest of every source that kernels are made from, with Numba's version."""
    state = hashlib.sha256(numba.__version__.encode())
    package = Path(__file__).parents[1]
    for path in sorted(
        path for folder in ("crypto", "iv", "timing") for path in package.glob(f"{folder}/*.py")
    ):
        state.update(path.name.encode() + b"\0" + path.read_bytes())
    return state.hexdigest()[:16]


@cache
def cache_directory() -> Path | None:
    """The folder with this version's machine code; None where no place can be written."""
    home = config.CACHE_DIR or os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    path = Path(home).expanduser() / "mktme" / digest()
    try:
        path.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=path).close()
    except (OSError, RuntimeError):
        return None
    return path


class _Locator(_CacheLocator):  # type: ignore[misc]
    def __init__(self, function: Any, file: str) -> None:
        self._py_file = file
        self._name = function.__qualname__

    def get_cache_path(self) -> str:
        return str(cache_directory())

    def get_source_stamp(self) -> str:
        return digest()

    def get_disambiguator(self) -> str:
        return "k"

    @classmethod
    def from_function(cls, function: Any, file: str) -> _Locator:
        return cls(function, file)


class _CacheImpl(CompileResultCacheImpl):  # type: ignore[misc]
    _locator_classes = (_Locator,)


class _KernelCache(FunctionCache):  # type: ignore[misc]
    """A cache with files of its own for each variant of a function.

    Numba keeps all that is made from one place in the source under one index, and two processes
    that add to it at the same moment can give one file name to two different kernels.
    """

    _impl_class = _CacheImpl

    def __init__(self, function: Callable[..., Any], variant: object) -> None:
        super().__init__(function)
        code = function.__code__
        constants = [c for c in code.co_consts if not hasattr(c, "co_code")]
        body = repr((code.co_code, code.co_names, constants, variant))
        self._body = hashlib.sha256(body.encode()).hexdigest()
        self._cache_file = IndexDataCacheFile(
            cache_path=self._cache_path,
            filename_base=f"{self._impl.filename_base}-{self._body[:16]}",
            source_stamp=self._impl.locator.get_source_stamp(),
        )

    def _index_key(self, signature: Any, codegen: Any) -> tuple[Any, ...]:
        return signature, codegen.magic_tuple(), self._body


def kernel(variant: object = None) -> Callable[[F], F]:
    """A decorator: the function as a kernel that releases the GIL and is cached on disk.

    `variant` tells apart kernels made from one source by a function that returns them (the
    register width). Kernels are thread-safe: they keep no state.
    """

    def decorate(function: F) -> F:
        compiled = numba.njit(nogil=True)(function)
        if cache_directory() is not None:
            compiled._cache = _KernelCache(function, variant)
        return compiled  # type: ignore[no-any-return]

    return decorate


def callback(function: Callable[..., Any], signature: Any, variant: object = None) -> CFunc:
    """A function that kernels call by its address, `.address`; as a kernel, but compiled at once.

    A `variant` of None keeps it off the disk.
    """
    compiled = CFunc(function, sigutils.normalize_signature(signature), locals={}, options={"nopython": True})
    if variant is not None and cache_directory() is not None:
        vars(compiled)["_cache"] = _KernelCache(function, variant)
    compiled.compile()
    return compiled


def inline(function: F) -> F:
    """A decorator: a piece of a kernel, always compiled into it."""
    return numba.njit(forceinline=True)(function)  # type: ignore[no-any-return]


def part(function: F) -> F:
    """A decorator: a piece of a kernel, compiled once and called."""
    return numba.njit(function)  # type: ignore[no-any-return]
