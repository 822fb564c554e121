"""Random points where cameras look, to start a scene from."""

import torch
from jaxtyping import Float
from torch import Tensor

from fm3d_plugins.geometry.looked_at import distance_looked_at
from fm3d_plugins.geometry.rays import camera_rays

NEAREST, FARTHEST = 0.5, 2.5
"""Depth of random points, in units of the cameras' distance to the point they look at."""


def random_points_in_view(
    world_from_camera: Float[Tensor, "view 4 4"],
    intrinsics: Float[Tensor, "view 3 3"],
    images: list[Float[Tensor, "_ _ 3"]],
    count: int,
    generator: torch.Generator,
) -> tuple[Float[Tensor, "point 3"], Float[Tensor, "point 3"]]:
    """Random points that at least one camera sees, with the colour of the pixel they lie behind.

    Depth is uniform in inverse depth around the point the cameras look at, so that near and far
    are covered alike. OpenCV cameras, world frame.

    Returns:
        Points, and colours in [0, 1].
    """
    reach = distance_looked_at(world_from_camera)
    views = torch.randint(len(images), (count,), generator=generator)
    uniform = torch.rand(count, 3, generator=generator)
    points, colors = world_from_camera.new_zeros(count, 3), world_from_camera.new_zeros(count, 3)
    for view, image in enumerate(images):
        rows = (views == view).nonzero().squeeze(-1)
        height, width = image.shape[:2]
        pixels = uniform[rows, :2] * uniform.new_tensor([width, height])
        origins, directions = camera_rays(pixels, intrinsics[view], world_from_camera[view])
        inverse_depth = torch.lerp(
            uniform.new_tensor(1 / FARTHEST), uniform.new_tensor(1 / NEAREST), uniform[rows, 2:]
        )
        points[rows] = origins + directions * (reach / inverse_depth)
        x, y = pixels.long().unbind(-1)
        colors[rows] = image[y.clamp(max=height - 1), x.clamp(max=width - 1)].to(colors)
    return points, colors
