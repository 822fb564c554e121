"""What nerfstudio 1.1.5 needs to run on today's torch."""

import importlib
import sys
import tarfile
from contextlib import AbstractContextManager, nullcontext
from functools import lru_cache, partial
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import torch


def allow_numpy_scalars_in_checkpoints() -> None:
    """Let `torch.load(weights_only=True)` read the learning rates in nerfstudio's checkpoints.

    Workaround: nerfstudio <= 1.1.5 computes learning rates with numpy, so optimizer and scheduler
    states hold numpy float64 scalars, and torch refuses every such checkpoint. Three
    harmless names are added to torch's list; checkpoints written under numpy 1 and 2 spell one of
    them differently. Every `ns-*` command imports its plugins before it loads a checkpoint, so this
    mends nerfstudio's own methods too. It may go when nerfstudio stores plain floats.
    """
    scalar = importlib.import_module(np.float64(0).__reduce__()[0].__module__).scalar
    torch.serialization.add_safe_globals(
        [
            (scalar, "numpy.core.multiarray.scalar"),
            (scalar, "numpy._core.multiarray.scalar"),
            np.dtype,
            type(np.dtype(np.float64)),
        ]
    )


def list_methods_without_reading_sources() -> None:
    """Let nerfstudio's list of methods ask for its callers by their names alone.

    Workaround: nerfstudio <= 1.1.5 makes 26 placeholders of methods that are not installed whenever
    any `ns-*` command starts, and each looks at `inspect.stack()` for the name of its caller. That
    reads the sources of all frames, and goes through all modules, of which torch 2.6 and newer have
    thousands: about half of the start of every command. It may go when nerfstudio asks otherwise.
    """
    external_methods = importlib.import_module("nerfstudio.configs.external_methods")
    stack = partial(_functions_on_stack, external_methods.__name__)
    vars(external_methods)["inspect"] = SimpleNamespace(stack=stack)


def read_icons_once() -> None:
    """Let the viewer read the list of its icons once.

    Workaround: viser 0.2.7, which nerfstudio pins, reads the heads of all 4290 icons in its archive
    for each of the sixteen that nerfstudio's buttons show: 1.4 of the 2 s before a viewer shows
    anything. It may go when viser keeps them.
    """
    vars(importlib.import_module("viser._icons"))["tarfile"] = SimpleNamespace(open=_opened)


@lru_cache(maxsize=1)
def _opened(archive: Path) -> AbstractContextManager[tarfile.TarFile]:
    """An archive that stays open, and so knows its list."""
    return nullcontext(tarfile.open(archive))


def _functions_on_stack(module: str) -> list[SimpleNamespace]:
    """The names that `inspect.stack()` has as `function`, from the innermost in a module outwards.

    Whatever checks the types of arguments may stand between that one and this.
    """
    frame, names = sys._getframe(1), []
    while frame is not None:
        if names or frame.f_globals.get("__name__") == module:
            names.append(SimpleNamespace(function=frame.f_code.co_name))
        frame = frame.f_back
    return names
