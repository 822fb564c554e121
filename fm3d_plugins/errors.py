"""Errors that a user can mend: one line each, and what to install where a module is absent."""

import contextlib
import importlib
import os
from collections.abc import Iterable, Iterator
from types import ModuleType

USER_ERRORS = (ValueError, OSError, ImportError)
"""What this package raises for something that the user can mend."""


@contextlib.contextmanager
def one_line_errors(*types: type[Exception]) -> Iterator[None]:
    """End the program with an error's message instead of its traceback.

    Args:
        types: Further exceptions to treat so, besides USER_ERRORS.

    Raises:
        SystemExit: With the message, so that the exit status is 1. With FM3D_TRACEBACK=1 in the
            environment the error itself passes.
    """
    try:
        yield
    except (*USER_ERRORS, *types) as error:
        if os.environ.get("FM3D_TRACEBACK"):
            raise
        raise SystemExit(f"Error: {error}") from error


def listed(items: Iterable[object], most: int = 5) -> str:
    """The first few items for a message, and how many there are besides."""
    every = [str(item) for item in items]
    rest = f" and {len(every) - most} more" if len(every) > most else ""
    return ", ".join(every[:most]) + rest


def require(module: str, *, purpose: str, install: str) -> ModuleType:
    """Import an optional or heavy dependency on first use, or say what to install.

    Args:
        module: Dotted name of the module.
        purpose: What needs it; the subject of the error message.
        install: The argument of `pip install` that brings it.

    Raises:
        ImportError: The module cannot be imported; the message names the cure.
    """
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise ImportError(
            f"{purpose} needs `{module}`, which cannot be imported: {error}. "
            f"Install it with: pip install '{install}'."
        ) from error
