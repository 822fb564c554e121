"""What cameras look at: the point nearest to all their optical axes, and how far away it is."""

import torch
from jaxtyping import Float
from torch import Tensor

PULL = 1e-3
"""Weight of the cameras' centre beside one axis: parallel axes, which meet nowhere, then give a
finite point."""


def point_looked_at(world_from_camera: Float[Tensor, "view 4 4"]) -> Float[Tensor, "3"]:
    """The point nearest to all optical axes, by regularised least squares. OpenCV axes."""
    poses = world_from_camera.double()
    centres, axes = poses[:, :3, 3], poses[:, :3, 2]
    identity = torch.eye(3, dtype=torch.float64, device=centres.device)
    across = identity - axes[:, :, None] * axes[:, None, :]
    matrix = across.sum(0) + PULL * len(centres) * identity
    right = (across @ centres[..., None]).sum(0) + PULL * len(centres) * centres.mean(0)[:, None]
    return torch.linalg.solve(matrix, right).squeeze(-1).to(world_from_camera)


def distance_looked_at(world_from_camera: Float[Tensor, "view 4 4"]) -> Float[Tensor, ""]:
    """Median distance of cameras to the point they look at, scene units.

    The cameras' spread where the axes meet nowhere; 1 where that too is nothing, as for one camera.
    """
    centres = world_from_camera[:, :3, 3].double()
    reach = (centres - point_looked_at(world_from_camera.double())).norm(dim=-1).median()
    spread = (centres - centres.mean(0)).norm(dim=-1).max()
    largest = torch.maximum(reach, spread)
    rounding = 1e-9 * (1 + centres.abs().max())
    return torch.where(largest > rounding, largest, 1.0).to(world_from_camera)
