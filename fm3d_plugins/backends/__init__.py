"""One seam per heavy dependency, each imported on first call."""

import importlib
from types import ModuleType


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
