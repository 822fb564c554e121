"""The frame that LVSM's cameras are given in (Jin et al. 2025; the published training program)."""

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import normalize

from fm3d_plugins.geometry.alignment import Similarity

SCALE = 1.35
"""No coordinate of a normalised centre exceeds 1 / SCALE."""

LEAST_AXIS = 1e-3
"""Length of the mean of unit vectors below which it is no direction."""


def normalization(
    world_from_camera: Float[Tensor, "*batch view 4 4"], scale: float | int = SCALE
) -> Similarity:
    """The similarity from the world into the frame of the mean camera.

    Its origin is the mean centre, its z axis the mean viewing direction, its y axis as near to the
    mean y axis as can be; the largest coordinate of a centre becomes 1 / `scale`. The result does
    not depend on the world's own frame and unit, so give the context views and apply it to all.

    **Departure:** the published loader takes the target views too, so that what is known of a
    scene changes with what is asked of it.

    Cameras that leave something open get a finite frame all the same. Where axes have no mean (a
    full circle that looks outwards), those of the first camera are taken. Where all centres
    coincide, as for one camera, the world's unit stays: `scale` has no effect.

    Args:
        world_from_camera: OpenCV axes.
    """
    rotations, centers = world_from_camera[..., :3, :3], world_from_camera[..., :3, 3]
    origin = centers.mean(-2)
    forward, down = rotations[..., 2].mean(-2), rotations[..., 1].mean(-2)
    z_axis = normalize(forward, dim=-1)
    right = torch.linalg.cross(down, z_axis)
    x_axis = normalize(right, dim=-1)
    axes = torch.stack([x_axis, torch.linalg.cross(z_axis, x_axis), z_axis], dim=-2)
    is_clear = torch.minimum(forward.norm(dim=-1), right.norm(dim=-1)) > LEAST_AXIS
    first = rotations[..., 0, :, :].transpose(-1, -2)
    axes = torch.where(is_clear[..., None, None], axes, first)
    moved = (centers - origin.unsqueeze(-2)) @ axes.transpose(-1, -2)
    reach = moved.abs().amax((-2, -1))
    rounding = 16 * torch.finfo(centers.dtype).eps * centers.abs().amax((-2, -1))
    unit = torch.where(reach > rounding, 1 / (scale * reach), 1.0)
    translation = -unit.unsqueeze(-1) * (axes @ origin.unsqueeze(-1)).squeeze(-1)
    return Similarity(unit, axes, translation)
