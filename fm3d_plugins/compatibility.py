"""What nerfstudio 1.1.5 needs to run on today's torch."""

import importlib

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
