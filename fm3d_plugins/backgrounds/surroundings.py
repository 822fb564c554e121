"""What lies behind everything: the colours that photos have in each direction, smoothly filled.

A held-out view shows a bit of ceiling or floor that no photo shows. No gaussian is there, and any
one colour would be a hole.
"""

import math
from collections.abc import Sequence

import torch
from jaxtyping import Float, Float32, Shaped
from torch import Tensor
from torch.nn.functional import avg_pool2d, grid_sample, interpolate

from fm3d_plugins.dense_points import in_floats
from fm3d_plugins.geometry.rays import camera_rays, pixel_centers

ROWS = 16
"""From the zenith (+z of the world) down to the nadir; twice as many columns all around."""

SAMPLED_SIZE = 64
"""Long side in pixels that photos are looked at with."""


@torch.no_grad()
def surroundings(
    images: Sequence[Shaped[Tensor, "_ _ 3"]],
    masks: Sequence[Tensor | None],
    intrinsics: Float[Tensor, "view 3 3"],
    world_from_camera: Float[Tensor, "view 4 4"],
) -> Float32[Tensor, "row column 3"]:
    """The photos' mean colour in each direction of the world, whatever the distance.

    Directions that no photo looks into get the mean of the nearest that some do, from coarser and
    coarser pictures of the sphere.

    Args:
        images: Colours in [0, 1], or bytes.
        masks: [H, W, 1] each, above one half where a photo counts; None: everywhere.
        intrinsics: Pixels of the photos.
        world_from_camera: OpenCV cameras.

    Returns:
        Colours in [0, 1]; grey where no photo counts at all.
    """
    sums = torch.zeros(ROWS * 2 * ROWS, 4)
    for image, mask, matrix, pose in zip(images, masks, intrinsics, world_from_camera, strict=True):
        step = max(1, max(image.shape[:2]) // SAMPLED_SIZE)
        pixels = pixel_centers(*image.shape[:2])[::step, ::step].reshape(-1, 2)
        _, directions = camera_rays(pixels, matrix.float().cpu(), pose.float().cpu())
        colors = in_floats(image[::step, ::step]).reshape(-1, 3)
        counts = torch.ones(len(colors), 1)
        if mask is not None:
            shown = mask.reshape(image.shape[:2])[::step, ::step].reshape(-1, 1)
            counts = (shown > 0.5).float().cpu()  # noqa: PLR2004
        place = (_on_the_map(directions) + 1) / 2
        column = (place[:, 0] * 2 * ROWS).long().clamp(0, 2 * ROWS - 1)
        row = (place[:, 1] * ROWS).long().clamp(0, ROWS - 1)
        sums.index_add_(0, row * 2 * ROWS + column, torch.cat([colors * counts, counts], 1))
    return smoothly_filled(sums.reshape(ROWS, 2 * ROWS, 4))


def seen_in(
    colors: Float[Tensor, "row column 3"], directions: Float[Tensor, "*batch 3"]
) -> Float[Tensor, "*batch 3"]:
    """The surroundings in some directions, between the map's cells linearly.

    Args:
        colors: As `surroundings` makes them.
        directions: Unit vectors in the world.
    """
    # A column from the other end on either side, as the map closes to a ring.
    ring = torch.cat([colors[:, -1:], colors, colors[:, :1]], 1).permute(2, 0, 1)[None]
    columns = colors.shape[1]
    place = _on_the_map(directions) * directions.new_tensor([columns / (columns + 2), 1.0])
    grid = place.reshape(1, -1, 1, 2)
    found = grid_sample(ring, grid, padding_mode="border", align_corners=False)
    return found[0, :, :, 0].T.reshape(directions.shape)


def _on_the_map(directions: Float[Tensor, "*batch 3"]) -> Float[Tensor, "*batch 2"]:
    """Azimuth and polar angle, each from -1 to 1; -1 is the zenith."""
    x, y, z = directions.unbind(-1)
    azimuth = torch.atan2(y, x) / math.pi
    return torch.stack([azimuth, -torch.asin(z.clamp(-1, 1)) / (math.pi / 2)], -1)


def smoothly_filled(sums: Float[Tensor, "row column 4"]) -> Float[Tensor, "row column 3"]:
    """Mean colours; where nothing was counted, those of a picture of half the size, smoothly.

    Args:
        sums: Of colours, and of how many.

    Returns:
        Grey where nothing was counted anywhere.
    """
    colors, counts = sums[..., :3], sums[..., 3:]
    if min(sums.shape[:2]) == 1:
        total = sums.sum((0, 1))
        mean = total[:3] / total[3] if total[3] > 0 else torch.full((3,), 0.5)
        return mean.expand_as(colors)
    coarse = smoothly_filled(avg_pool2d(sums.permute(2, 0, 1)[None], 2)[0].permute(1, 2, 0))
    smooth = interpolate(coarse.permute(2, 0, 1)[None], sums.shape[:2], mode="bilinear")
    return torch.where(counts > 0, colors / counts.clamp_min(1e-9), smooth[0].permute(1, 2, 0))
