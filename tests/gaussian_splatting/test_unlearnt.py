"""Which gaussians masks leave nothing of."""

import torch
from nerfstudio.cameras.cameras import Cameras

from fm3d_plugins.gaussian_splatting.unlearnt import is_learnt

IN_COUNTED, IN_MASKED, HIDDEN, OUT_OF_VIEW = range(4)


def gaussians():
    """Before cameras at the origin that look along -z, with the left half counted."""
    means = torch.tensor([[-1.0, 0, -4], [1.0, 0, -4], [-2.0, 0, -8], [0.0, 0, 4]])
    return {
        "means": means,
        "quats": torch.tensor([[1.0, 0, 0, 0]]).repeat(4, 1),
        # The first one is larger than the one behind it, which is as large in the picture.
        "scales": torch.tensor([[0.4], [0.2], [0.1], [0.2]]).log().repeat(1, 3),
        "opacities": torch.full((4, 1), 20.0),
    }


def camera(x=0.0):
    pose = torch.eye(4)[None, :3].clone()
    pose[0, 0, 3] = x
    return Cameras(pose, 40.0, 40.0, 32.0, 24.0, 64, 48)


def left_half():
    mask = torch.zeros(48, 64, 1, dtype=torch.bool)
    mask[:, :32] = True
    return mask


def test_gaussians_are_learnt_that_pixels_show_which_count():
    found = is_learnt(gaussians(), [(camera(), left_half())])
    # What no camera sees stays as it is.
    assert found.tolist() == [True, False, True, True]


def test_gaussians_that_are_hidden_where_pixels_count_are_not_learnt():
    """The second camera sees the hidden one, 40 / 8 * 6 = 30 pixels right of its middle."""
    views = [(camera(), left_half()), (camera(-8.0), left_half())]
    assert is_learnt(gaussians(), views)[HIDDEN].item() is False
    whole = [(camera(), None), (camera(-8.0), None)]
    assert bool(is_learnt(gaussians(), whole).all())
