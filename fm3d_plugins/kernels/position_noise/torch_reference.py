"""Random moves of gaussians in plain torch: the definition."""

import torch
from jaxtyping import Float
from torch import Tensor

from fm3d_plugins.geometry.poses import rotation_from_quaternion_wxyz

STEEPNESS = 100.0
"""Of the gate over opacity, as in Kheradmand et al. 2024."""


def add_noise_torch(
    means: Float[Tensor, "n 3"],
    quaternions_wxyz: Float[Tensor, "n 4"],
    log_scales: Float[Tensor, "n 3"],
    opacity_logits: Float[Tensor, "n 1"],
    noise: Float[Tensor, "n 3"],
    smallest_opacity: float,
) -> None:
    """`add_position_noise` on any device, in any float dtype."""
    gate = torch.sigmoid(STEEPNESS * (smallest_opacity - opacity_logits.sigmoid()))
    axes = rotation_from_quaternion_wxyz(quaternions_wxyz) * log_scales.exp()[:, None, :]
    means.add_((axes @ (axes.mT @ (noise * gate)[..., None])).squeeze(-1))
