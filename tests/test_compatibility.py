"""nerfstudio's checkpoints load on today's torch, and only they."""

import pickle

import numpy as np
import pytest
import torch

import fm3d_plugins  # noqa: F401  (its import is what is tested)


def test_learning_rates_as_numpy_scalars_load_safely(tmp_path):
    state = {"lr": np.float64(0.5), "schedulers": {"_last_lr": [np.float64(1e-3)]}}
    torch.save(state, tmp_path / "step.ckpt")
    assert torch.load(tmp_path / "step.ckpt", weights_only=True) == state


def test_code_in_a_checkpoint_is_still_refused(tmp_path):
    class Hostile:
        def __reduce__(self):
            return (print, ("ran",))

    torch.save({"lr": Hostile()}, tmp_path / "step.ckpt")
    with pytest.raises(pickle.UnpicklingError):
        torch.load(tmp_path / "step.ckpt", weights_only=True)
