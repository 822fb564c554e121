"""Gaussians straight from depth maps: one ball per point, as wide as its surroundings ask.

Nothing is optimised. Points of sure pixels are thinned to one per voxel, and each ball is a little
smaller than the distance to its neighbours, so that surfaces close without blurring.
"""

from collections.abc import Iterable
from dataclasses import dataclass, fields

import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from fm3d_plugins.geometry.neighbours import mean_neighbour_distance
from fm3d_plugins.geometry.point_filtering import thin_to_voxels
from fm3d_plugins.geometry.pointmaps import confidence_mask, points_at
from fm3d_plugins.geometry.rays import pixel_centers
from fm3d_plugins.one_pass.geometry.depth_views import DepthView, DepthViews

WIDTH_OVER_SPACING = 0.5
"""Standard deviation of a ball over the mean distance to its three nearest neighbours. On exact
depth of a synthetic room (500 000 points) held-out photos had 21.9 dB at 0.3, 22.8 at 0.4, 22.6 at
0.5 and 22.0 at 0.6; below 0.5 surfaces look pierced."""

WIDEST = 2.0
"""Standard deviation of a ball at most, over the spacing of its pixels on the surface after
thinning: stray points must not become clouds."""

HELD_POINTS = 4
"""While views are read, points are thinned when there are this many times what is asked for."""


@dataclass(frozen=True)
class PointSplats:
    """Isotropic gaussians, one per row; the surest of its voxel each."""

    means: Float[Tensor, "splat 3"]
    """Frame of the dataparser, as all that follows."""
    colors: UInt8[Tensor, "splat 3"]
    confidence: Float[Tensor, " splat"]
    """In [0, 1]."""
    scales: Float[Tensor, " splat"]
    """Standard deviations, scene units."""


@dataclass(frozen=True)
class _Points:
    """Points before they have a width."""

    positions: Float[Tensor, "point 3"]
    colors: UInt8[Tensor, "point 3"]
    confidence: Float[Tensor, " point"]
    spacing: Float[Tensor, " point"]
    """Distance to the neighbouring pixel's point on a surface that faces the camera."""

    def __getitem__(self, rows: Tensor) -> "_Points":
        return _Points(*(getattr(self, entry.name)[rows] for entry in fields(self)))

    @staticmethod
    def joined(parts: list["_Points"]) -> "_Points":
        return _Points(
            *(torch.cat([getattr(p, entry.name) for p in parts]) for entry in fields(_Points))
        )


def splats_from_depth(
    views: Iterable[DepthView], lowest_confidence: float, max_splats: int
) -> PointSplats:
    """Gaussians of all views' pixels that are sure enough.

    Args:
        views: Read one at a time; memory does not grow with their number.
        lowest_confidence: Less sure pixels are left out.
        max_splats: No more than this, one per voxel of the smallest size that allows it.

    Raises:
        ValueError: No pixel is sure enough.
    """
    held: list[_Points] = []
    num_seen = 0
    for view in views:
        held.append(_points_of(view, lowest_confidence))
        num_seen += len(held[-1].positions)
        if sum(len(part.positions) for part in held) > HELD_POINTS * max_splats:
            together = _Points.joined(held)
            kept = thin_to_voxels(together.positions, together.confidence, 2 * max_splats)
            held = [together[kept]]
    if num_seen < 2:
        raise ValueError(
            f"{num_seen} pixels of all training photos have a depth of a confidence of at least "
            f"{lowest_confidence:.3g}. Expected many. Lower --pipeline.model.min-confidence, or "
            "take other photos."
        )
    points = _Points.joined(held)
    points = points[thin_to_voxels(points.positions, points.confidence, max_splats)]
    thinning = max(1.0, num_seen / len(points.positions)) ** 0.5
    width = WIDTH_OVER_SPACING * mean_neighbour_distance(points.positions)
    return PointSplats(
        means=points.positions,
        colors=points.colors,
        confidence=points.confidence,
        scales=torch.minimum(width, WIDEST * thinning * points.spacing),
    )


def lowest_confidence_kept(views: DepthViews, keep_fraction: float, min_confidence: float) -> float:
    """The confidence below which all but a share of the pixels with a depth lie, or the minimum.

    Args:
        keep_fraction: In (0, 1]; of the pixels of all views, ranked together.
        min_confidence: Never less than this.
    """
    known = [confidence[depth > 0] for depth, confidence in map(views.maps, range(len(views)))]
    ranked = torch.cat(known)
    if not len(ranked):
        return min_confidence
    kept = ranked[confidence_mask(ranked, keep_fraction=keep_fraction)]
    return max(min_confidence, float(kept.min()))


def _points_of(view: DepthView, lowest_confidence: float) -> _Points:
    """The view's sure pixels in the world; the lens's distortion is taken out."""
    rows, columns = view.depth.shape
    is_kept = (view.depth > 0) & (view.confidence >= lowest_confidence)
    pixels = pixel_centers(rows, columns)[is_kept]
    depth = view.depth[is_kept]
    camera = view.intrinsics, view.world_from_camera, view.distortion
    focal = (view.intrinsics[0, 0] * view.intrinsics[1, 1]).sqrt()
    return _Points(
        positions=points_at(pixels, depth, *camera),
        colors=(view.rgb[is_kept] * 255).round().to(torch.uint8),
        confidence=view.confidence[is_kept].half(),
        spacing=depth / focal,
    )
