"""Gaussians straight from points: one ball per point, as wide as its surroundings ask.

Nothing is optimised. Each ball is a little smaller than the distance to its neighbours, so that
surfaces close without blurring.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from fm3d_plugins.geometry.neighbours import mean_neighbour_distance

WIDTH_OVER_SPACING = 0.5
"""Standard deviation of a ball over the mean distance to its three nearest neighbours. On exact
depth of a synthetic room (500 000 points) held-out photos had 21.9 dB at 0.3, 22.8 at 0.4, 22.6 at
0.5 and 22.0 at 0.6; below 0.5 surfaces look pierced."""

WIDEST = 4.0
"""Times the median angle that a ball may fill as the nearest camera sees it: stray points must not
become clouds."""

POINTS_AT_ONCE = 1 << 16


@dataclass(frozen=True)
class PointSplats:
    """Isotropic gaussians, one per row."""

    means: Float[Tensor, "splat 3"]
    """Frame of the dataparser, as all that follows."""
    colors: UInt8[Tensor, "splat 3"]
    confidence: Float[Tensor, " splat"]
    """In [0, 1]."""
    scales: Float[Tensor, " splat"]
    """Standard deviations, scene units."""


def splats_at(
    points: Float[Tensor, "point 3"],
    colors: UInt8[Tensor, "point 3"],
    confidence: Float[Tensor, " point"],
    camera_centers: Float[Tensor, "camera 3"],
) -> PointSplats:
    """Gaussians at points that cameras have seen.

    Raises:
        ValueError: There are fewer than two points.
    """
    if len(points) < 2:
        raise ValueError(
            f"The training photos have {len(points)} points. Expected many. Lower the estimator's "
            "--min-confidence or --confidence-percentile, or take other photos."
        )
    width = WIDTH_OVER_SPACING * mean_neighbour_distance(points)
    nearest = torch.cat(
        [torch.cdist(part, camera_centers).amin(dim=1) for part in points.split(POINTS_AT_ONCE)]
    ).clamp_min(torch.finfo(points.dtype).tiny)
    widest = WIDEST * (width / nearest).median() * nearest
    return PointSplats(points, colors, confidence.half(), torch.minimum(width, widest))
