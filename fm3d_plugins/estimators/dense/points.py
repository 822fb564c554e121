"""Points of a scene from the depth maps of its views."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch
from jaxtyping import Bool, Float, UInt8
from torch import Tensor

from fm3d_plugins.geometry.point_filtering import (
    DepthViews,
    consistent_mask,
    overlapping_views,
    thin_to_voxels,
)
from fm3d_plugins.geometry.pointmaps import points_at
from fm3d_plugins.geometry.rays import pixel_centers
from fm3d_plugins.scene import SceneGeometry, Tracks

NEIGHBOURS = 6
"""Views against which each view's depth is checked."""

HELD_POINTS = 4
"""Points are thinned in between whenever there are this many times as many as are wanted."""

SAMPLED_CONFIDENCES = 2_000_000
"""Confidences, evenly spaced over all maps, from which the percentile is taken."""


@dataclass(frozen=True)
class PointOptions:
    """Which pixels of depth maps become points."""

    confidence_percentile: float = 20.0
    """Percent of the pixels, the least confident ones, that become no points."""
    min_confidence: float = 0.1
    """Pixels below this confidence (0 to 1) become no points."""
    consistent_views: int = 1
    """Other views that must agree on a pixel's depth for it to become a point; 0: none, which also
    keeps what a single view sees."""
    depth_tolerance: float = 0.05
    """Relative difference of depths that still agree."""
    max_depth_error: float | None = 0.05
    """Median relative error of the depth where matches tell it (--refine) beyond which depth makes
    no points, those of the matches do; None: it always does."""
    max_points: int = 200_000
    """Most points, spread evenly over space."""


@dataclass(frozen=True)
class DensePoints:
    """Points with the pixel that each comes from."""

    points: Float[Tensor, "point 3"]
    colors: UInt8[Tensor, "point 3"]
    confidence: Float[Tensor, " point"]
    tracks: Tracks
    """By which pixels each point is seen."""

    def added_to(self, scene: SceneGeometry) -> SceneGeometry:
        """A scene with these points before its own, whose tracks are known."""
        own = scene.tracks
        assert own is not None
        return replace(
            scene,
            points=torch.cat([self.points, scene.points]),
            point_colors=torch.cat([self.colors, scene.point_colors]),
            point_confidence=torch.cat([self.confidence, scene.point_confidence]),
            tracks=Tracks(
                torch.cat([self.tracks.point_index, own.point_index + len(self.points)]),
                torch.cat([self.tracks.view_index, own.view_index]),
                torch.cat([self.tracks.pixels, own.pixels]),
            ),
        )


def points_from_views(
    scene: SceneGeometry,
    views: Sequence[int],
    options: PointOptions,
    report: Callable[[int], None],
) -> DensePoints:
    """Confident pixels that agree between views, thinned to at most `max_points`.

    Memory does not grow with the number of views beyond the depth maps themselves.

    Args:
        scene: With depth and its colours.
        views: Whose pixels become points, and are asked whether they agree.
        report: Gets the number of views done.

    Raises:
        ValueError: No pixel is left.
    """
    assert scene.depth is not None and scene.depth.colors is not None
    rows = list(views)
    depth, confidence = scene.depth.depth, scene.depth.confidence
    if rows != list(range(len(scene))):
        depth, confidence = depth[rows], confidence[rows]
    intrinsics = scene.depth.map_from_photo[torch.tensor(rows)].intrinsics_on_map(
        scene.intrinsics[rows]
    )
    maps = DepthViews(depth, confidence, intrinsics, scene.world_from_camera[rows])
    threshold = max(
        options.min_confidence, _percentile(depth, confidence, options.confidence_percentile)
    )
    neighbours = overlapping_views(maps, NEIGHBOURS)
    held: list[_Rows] = []
    for place, view in enumerate(rows):
        known = (depth[place] > 0) & (confidence[place] >= threshold)
        if options.consistent_views:
            known &= consistent_mask(
                maps,
                place,
                neighbours[place],
                relative_tolerance=options.depth_tolerance,
                least_views=options.consistent_views,
            )
        held.append(_rows_of(scene, view, known))
        if sum(len(rows.points) for rows in held) > HELD_POINTS * options.max_points:
            held = [_thinned(held, options.max_points)]
        report(place + 1)
    found = _thinned(held, options.max_points)
    if not len(found.points):
        raise ValueError(
            f"No point is left of {len(rows)} depth maps: each pixel is masked, unsure "
            f"(confidence below {threshold:.3f}) or contradicted by other views. Expected photos "
            "of one place that overlap. Try a lower --confidence-percentile, --min-confidence 0 or "
            "--consistent-views 0."
        )
    index = torch.arange(len(found.points))
    tracks = Tracks(index, found.view, found.pixels)
    return DensePoints(found.points, found.colors, found.confidence, tracks)


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


def _percentile(
    depth: Float[Tensor, "view rows columns"],
    confidence: Float[Tensor, "view rows columns"],
    percentile: float,
) -> float:
    """The confidence below which that many percent of the known pixels lie."""
    stride = max(1, round((depth.numel() / SAMPLED_CONFIDENCES) ** 0.5))
    known = depth[:, ::stride, ::stride] > 0
    values = confidence[:, ::stride, ::stride][known].float()
    if not len(values):
        return 0.0
    rank = min(len(values) - 1, int(percentile / 100 * len(values)))
    return float(values.kthvalue(rank + 1).values)


def _rows_of(scene: SceneGeometry, view: int, chosen: Bool[Tensor, "rows columns"]) -> _Rows:
    """The chosen pixels of one view in the world."""
    maps = scene.depth
    assert maps is not None and maps.colors is not None
    on_map = pixel_centers(*chosen.shape, dtype=torch.float64)[chosen]
    pixels = maps.map_from_photo[view].on_photo(on_map)
    points = points_at(
        pixels,
        maps.depth[view][chosen].double(),
        scene.intrinsics[view].double(),
        scene.world_from_camera[view].double(),
        scene.distortion[view].double(),
    )
    return _Rows(
        points=points.float(),
        colors=maps.colors[view][chosen],
        confidence=maps.confidence[view][chosen].float(),
        view=torch.full((len(points),), view),
        pixels=pixels,
    )


def _thinned(held: list[_Rows], most: int) -> _Rows:
    names = _Rows.__dataclass_fields__
    joined = _Rows(*(torch.cat([getattr(rows, name) for rows in held]) for name in names))
    if len(joined.points) <= most:
        return joined
    return joined[thin_to_voxels(joined.points, joined.confidence, most)]
