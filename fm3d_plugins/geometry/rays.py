"""Pixel grids and the rays through them."""

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import normalize as unit

from fm3d_plugins.geometry.cameras import straight


def pixel_centers(
    height: int,
    width: int,
    *,
    dtype: torch.dtype = torch.float32,
    device: torch.device | str | None = None,
) -> Float[Tensor, "height width 2"]:
    """Centres (x, y) = (column + 0.5, row + 0.5) of every pixel of an image."""
    y = torch.arange(height, dtype=dtype, device=device) + 0.5
    x = torch.arange(width, dtype=dtype, device=device) + 0.5
    return torch.stack(torch.meshgrid(x, y, indexing="xy"), dim=-1)


def camera_rays(
    pixels: Float[Tensor, "*batch point 2"],
    intrinsics: Float[Tensor, "*batch 3 3"],
    world_from_camera: Float[Tensor, "*batch 4 4"],
    distortion: Float[Tensor, "*batch 6"] | None = None,
) -> tuple[Float[Tensor, "*batch point 3"], Float[Tensor, "*batch point 3"]]:
    """Origins and unit directions, in the world, of the rays through pixels.

    Args:
        pixels: Positions in the image as stored, with the lens's distortion in it.
        intrinsics: In pixels.
        world_from_camera: OpenCV camera axes.
        distortion: k1, k2, k3, k4, p1, p2 as in `cameras.distort`; none means a pinhole.
    """
    plane = straight(pixels, intrinsics, distortion)
    directions_camera = torch.nn.functional.pad(plane, (0, 1), value=1.0)
    directions = directions_camera @ world_from_camera[..., :3, :3].transpose(-1, -2)
    origins = world_from_camera[..., None, :3, 3].expand_as(directions)
    return origins, unit(directions, dim=-1)


def plucker(
    origins: Float[Tensor, "*batch 3"],
    directions: Float[Tensor, "*batch 3"],
) -> Float[Tensor, "*batch 6"]:
    """Plücker coordinates (o × d, d) of rays.

    Args:
        origins: Any point on each ray. World frame, scene units.
        directions: Unit vectors. World frame.

    Returns:
        Moment then direction: the same ray gives the same six numbers
        whichever of its points is taken as origin.
    """
    return torch.cat([torch.linalg.cross(origins, directions), directions], dim=-1)


def plucker_maps(
    intrinsics: Float[Tensor, "*batch 3 3"],
    world_from_camera: Float[Tensor, "*batch 4 4"],
    height: int,
    width: int,
) -> Float[Tensor, "*batch 6 height width"]:
    """Plücker coordinates, as of `plucker`, of the ray through every pixel of pinhole images.

    Args:
        intrinsics: In pixels; centres of pixels are at +0.5.
        world_from_camera: OpenCV camera axes.
    """
    pixels = pixel_centers(height, width, dtype=intrinsics.dtype, device=intrinsics.device)
    points = pixels.flatten(0, 1).expand(*intrinsics.shape[:-2], -1, 2)
    rays = plucker(*camera_rays(points, intrinsics, world_from_camera))
    return rays.transpose(-1, -2).unflatten(-1, (height, width))
