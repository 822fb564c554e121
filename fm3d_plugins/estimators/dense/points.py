"""Points of a scene from the depth maps of its views."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from fm3d_plugins.estimators.dense.cameras import DenseCameras
from fm3d_plugins.geometry.point_filtering import consistent_mask, overlapping_views, thin_to_voxels
from fm3d_plugins.geometry.pointmaps import points_at
from fm3d_plugins.geometry.rays import pixel_centers
from fm3d_plugins.scene import Tracks, ViewDepth

NEIGHBOURS = 6
"""Views against which each view's depth is checked."""

HELD_POINTS = 4
"""Points held before they are thinned, over the number wanted."""

SAMPLED_CONFIDENCES = 2_000_000
"""From which the percentile is taken."""


@dataclass(frozen=True)
class PointOptions:
    """Which pixels become points."""

    percentile: float
    """Share of the known pixels with the least confidence that is left out, percent."""
    least_confidence: float
    """In [0, 1]: what is left out in any case."""
    consistent_views: int
    """Other views that must see the same depth where they look; 0 asks for none."""
    tolerance: float
    """Relative difference of depths that still counts as the same."""
    max_points: int


@dataclass(frozen=True)
class DensePoints:
    """Points with the pixel that each comes from."""

    points: Float[Tensor, "point 3"]
    colors: UInt8[Tensor, "point 3"]
    confidence: Float[Tensor, " point"]
    tracks: Tracks
    """Each point is seen by its own pixel."""


def points_from_views(
    depth: ViewDepth,
    cameras: DenseCameras,
    colors_of: Callable[[int], UInt8[Tensor, "rows columns 3"]],
    options: PointOptions,
    report: Callable[[int], None],
) -> DensePoints:
    """Confident pixels that agree between views, thinned to at most `max_points`.

    Memory does not grow with the number of views beyond the depth maps themselves.

    Args:
        colors_of: The picture of a view, in pixels of its depth map.
        report: Gets the number of views done.

    Raises:
        ValueError: No pixel is left.
    """
    intrinsics = depth.map_from_photo.intrinsics_on_map(cameras.intrinsics)
    threshold = max(options.least_confidence, _percentile(depth, options.percentile))
    shape = depth.depth, intrinsics, cameras.world_from_camera
    neighbours = overlapping_views(*shape, NEIGHBOURS) if options.consistent_views else None
    held: list[_Rows] = []
    for view in range(len(depth)):
        known = (depth.depth[view] > 0) & (depth.confidence[view] >= threshold)
        if neighbours is not None:
            known &= consistent_mask(
                depth.depth,
                depth.confidence,
                intrinsics,
                cameras.world_from_camera,
                neighbours,
                relative_tolerance=options.tolerance,
                least_views=options.consistent_views,
                judged=[view],
            )[0]
        held.append(_rows_of(depth, cameras, view, known, colors_of))
        if sum(len(rows.points) for rows in held) > HELD_POINTS * options.max_points:
            held = [_thinned(held, options.max_points)]
        report(view + 1)
    rows = _thinned(held, options.max_points)
    if not len(rows.points):
        raise ValueError(
            f"No point is left of {len(depth)} depth maps: each pixel is masked, unsure (confidence"
            f" below {threshold:.3f}) or contradicted by other views. Expected photos of one place "
            "that overlap. Try a lower --confidence-percentile, --min-confidence 0 or "
            "--consistent-views 0."
        )
    index = torch.arange(len(rows.points))
    return DensePoints(
        rows.points, rows.colors, rows.confidence, Tracks(index, rows.view, rows.pixels)
    )


@dataclass(frozen=True)
class _Rows:
    """Points of some views before thinning."""

    points: Tensor
    colors: Tensor
    confidence: Tensor
    view: Tensor
    pixels: Tensor

    def __getitem__(self, rows: Tensor) -> "_Rows":
        return _Rows(*(getattr(self, name)[rows] for name in self.__dataclass_fields__))


def _percentile(depth: ViewDepth, percentile: float) -> float:
    """The confidence below which that many percent of the known pixels lie."""
    stride = max(1, round((depth.depth.numel() / SAMPLED_CONFIDENCES) ** 0.5))
    known = depth.depth[:, ::stride, ::stride] > 0
    confidence = depth.confidence[:, ::stride, ::stride][known].float()
    if not len(confidence):
        return 0.0
    rank = min(len(confidence) - 1, int(percentile / 100 * len(confidence)))
    return float(confidence.kthvalue(rank + 1).values)


def _rows_of(
    depth: ViewDepth,
    cameras: DenseCameras,
    view: int,
    chosen: Tensor,
    colors_of: Callable[[int], Tensor],
) -> _Rows:
    """The chosen pixels of one view in the world."""
    rows, columns = chosen.shape
    on_map = pixel_centers(rows, columns, dtype=torch.float64)[chosen]
    pixels = depth.map_from_photo[view].on_photo(on_map)
    points = points_at(
        pixels,
        depth.depth[view][chosen].double(),
        cameras.intrinsics[view],
        cameras.world_from_camera[view],
        cameras.distortion[view],
    )
    return _Rows(
        points=points.float(),
        colors=colors_of(view)[chosen],
        confidence=depth.confidence[view][chosen].float(),
        view=torch.full((len(points),), view),
        pixels=pixels,
    )


def _thinned(held: list[_Rows], most: int) -> _Rows:
    names = _Rows.__dataclass_fields__
    joined = _Rows(*(torch.cat([getattr(rows, name) for rows in held]) for name in names))
    if len(joined.points) <= most:
        return joined
    return joined[thin_to_voxels(joined.points, joined.confidence, most)]
