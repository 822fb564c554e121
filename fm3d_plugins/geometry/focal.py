"""The focal length that a pointmap implies: where its points lie against where they are seen."""

import torch
from jaxtyping import Float
from torch import Tensor

WEISZFELD_ROUNDS = 10
"""Reweighted fits; the focal length changes by less than rounding after about five."""


def weiszfeld_focal(
    pixels: Float[Tensor, "*batch point 2"],
    points_camera: Float[Tensor, "*batch point 3"],
    weights: Float[Tensor, "*batch point"] | None = None,
) -> Float[Tensor, "*batch"]:
    """Focal length that minimises Σ w |pixel - f (x / z, y / z)|, in pixels; no squares.

    Weiszfeld's algorithm (1937): least squares with the inverse distances as weights, as section
    3.3 of DUSt3R (Wang et al. 2024) has it. A share of wrong points therefore matters little.

    Args:
        pixels: Where the points are seen, minus the principal point.
        points_camera: OpenCV camera frame, any unit. Points with z = 0 count as on the axis.
        weights: Not negative; none means all equal.

    Raises:
        ValueError: No positive focal length fits, as where the points lie behind the camera.
    """
    direction = (points_camera[..., :2] / points_camera[..., 2:]).nan_to_num(0.0, 0.0, 0.0)
    weights = torch.ones_like(direction[..., 0]) if weights is None else weights
    along = (direction * pixels).sum(-1)
    square = direction.square().sum(-1)
    # The first fit weighs all points alike, as if all were off by one pixel.
    distance = torch.ones_like(along)
    focal = along.new_zeros(along.shape[:-1])
    for _ in range(WEISZFELD_ROUNDS + 1):
        share = weights / distance
        focal = (share * along).sum(-1) / (share * square).sum(-1)
        distance = (pixels - focal[..., None, None] * direction).norm(dim=-1).clamp(min=1e-8)
    if not bool(((focal > 0) & focal.isfinite()).all()):
        raise ValueError(
            f"The points imply the focal length {focal.min().item():.4g}; expected a positive, "
            "finite one. They must lie in front of the camera (z > 0, OpenCV axes) and be given "
            "in the order of their pixels; check both."
        )
    return focal
