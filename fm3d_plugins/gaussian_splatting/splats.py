"""The gaussians of a model as splats for files, in any frame."""

from collections.abc import Mapping

import torch
from jaxtyping import Bool
from torch import Tensor

from fm3d_plugins.geometry.alignment import Similarity
from fm3d_plugins.geometry.poses import (
    quaternion_wxyz_from_rotation,
    rotation_from_quaternion_wxyz,
)
from fm3d_plugins.io.splats import Splats
from fm3d_plugins.kernels.rasterizer.spherical_harmonics import rotated_sh

LEAST_OPACITY = 1 / 255
"""Gaussians below it are drawn by no rasteriser."""


def splats_of(gaussians: Mapping[str, Tensor]) -> Splats:
    """A model's gaussians that can be seen, in the frame of the model; on the CPU, float64.

    Args:
        gaussians: `gauss_params` of the model.
    """
    named = {name: values.detach().cpu().double() for name, values in gaussians.items()}
    shown = _is_shown(named)
    sh = torch.cat([named["features_dc"][:, None], named["features_rest"]], dim=1)
    return Splats(
        named["means"][shown],
        named["scales"][shown],
        named["quats"][shown],
        sh[shown],
        named["opacities"][shown, 0],
    )


def moved_splats(splats: Splats, similarity: Similarity) -> Splats:
    """Splats in another frame, where they look the same: colours by direction are turned, too.

    Args:
        similarity: From the frame of the splats into the other one.
    """
    rotations = similarity.rotation @ rotation_from_quaternion_wxyz(splats.quaternions_wxyz)
    return Splats(
        similarity.apply(splats.means),
        splats.log_scales + similarity.scale.log(),
        quaternion_wxyz_from_rotation(rotations),
        rotated_sh(splats.sh_coefficients, similarity.rotation),
        splats.opacity_logits,
    )


def _is_shown(gaussians: Mapping[str, Tensor]) -> Bool[Tensor, " gaussian"]:
    is_finite = torch.stack([v.flatten(1).isfinite().all(-1) for v in gaussians.values()]).all(0)
    return is_finite & (gaussians["opacities"][:, 0].sigmoid() >= LEAST_OPACITY)
