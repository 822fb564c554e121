"""Compile functions of arrays with Numba.

Imported by kernel modules only, which are themselves imported on the first call of a backend.
"""

import hashlib
import inspect
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path
from typing import Any

import numba


@lru_cache
def _digest_of_sources(folder: Path) -> str:
    """A short hash of all sources in this folder and another one."""
    digest = hashlib.sha256()
    for each in dict.fromkeys((Path(__file__).parent, folder)):
        for path in sorted(each.rglob("*.py")):
            digest.update(path.read_bytes())
    return digest.hexdigest()[:8]


def _block_of(file: Path) -> Path:
    """The folder of this package that a file lies in, however deep."""
    package = Path(__file__).parents[1]
    return package / file.relative_to(package).parts[0] if package in file.parents else file.parent


def _compile(function: Callable[..., Any], *, forceinline: bool) -> Callable[..., Any]:
    # The tests' import hook wraps functions to check types; Numba compiles byte code.
    plain = inspect.unwrap(function)
    # Numba's cache looks at the file of the compiled function alone, and would go on using machine
    # code that contains an old version of a function from another file. The name is in its key.
    digest = _digest_of_sources(_block_of(Path(plain.__code__.co_filename)))
    plain.__qualname__ = f"{plain.__qualname__}_{digest}"
    options = {"nogil": True, "error_model": "numpy", "forceinline": forceinline}
    dispatcher = numba.njit(**options)(plain)
    try:
        dispatcher.enable_caching()
    except RuntimeError:
        # Neither the package's folder nor the user's cache can be written: compiled in each run.
        pass
    return dispatcher


def kernel(function: Callable[..., Any]) -> Callable[..., Any]:
    """Compile a function of arrays: releases the GIL, is cached on disk, divides as IEEE says."""
    return _compile(function, forceinline=False)


def inlined_kernel(function: Callable[..., Any]) -> Callable[..., Any]:
    """A kernel that becomes part of its caller: no call, and constants leave the caller's loop."""
    return _compile(function, forceinline=True)
