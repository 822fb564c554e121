"""What a checkpoint says when it is of other photos than those of the run."""

import pytest
import torch
from torch import nn

from fm3d_plugins.camera_optimization.saved_state import check_state


def model_of(num_photos):
    """A model with corrections for each photo."""
    model = nn.Module()
    model.camera_optimizer = nn.Module()
    model.camera_optimizer.pose_adjustment = nn.Parameter(torch.zeros(num_photos, 6))
    model.exposure = nn.Module()
    model.exposure.corrections = nn.Parameter(torch.zeros(num_photos, 3))
    return model


def saved_of(model):
    return {f"_model.{key}": value for key, value in model.state_dict().items()}


def test_a_checkpoint_of_as_many_photos_is_taken():
    assert len(check_state(model_of(7), saved_of(model_of(7)))) == 2


def test_a_checkpoint_of_more_photos_says_how_many():
    with pytest.raises(ValueError, match="of 7 training photos, and there are 6 now.*Restore"):
        check_state(model_of(6), saved_of(model_of(7)))


def test_only_what_is_wrong_is_told():
    state = saved_of(model_of(7))
    with pytest.raises(ValueError, match="^The checkpoint holds _model.x that the model has not"):
        check_state(model_of(7), state | {"_model.x": torch.zeros(1)})
    del state["_model.exposure.corrections"]
    with pytest.raises(ValueError, match=r"^The checkpoint lacks _model\.exposure\.corrections\."):
        check_state(model_of(7), state)
