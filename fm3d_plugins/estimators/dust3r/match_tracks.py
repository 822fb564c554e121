"""Points that several photos see, from matches within pairs of them."""

from collections.abc import Callable, Iterable

import torch
from jaxtyping import Bool, Float, Int, UInt8
from torch import Tensor

from fm3d_plugins.dust3r.pair_pointmaps import PairPointmaps
from fm3d_plugins.estimators.dense.cameras import DenseCameras
from fm3d_plugins.estimators.dense.points import DensePoints
from fm3d_plugins.geometry.cameras import project
from fm3d_plugins.geometry.matching import (
    PixelTracks,
    pixel_positions,
    reciprocal_matches,
    tracks_from_matches,
)
from fm3d_plugins.geometry.pointmaps import points_at
from fm3d_plugins.geometry.poses import invert, transform_points
from fm3d_plugins.scene import Tracks
from fm3d_plugins.view_depth import ViewDepth

STRIDE = 8
"""Pixels between those from which matches are sought: matches of all pixels chain up."""

LARGEST_ERROR = 2.0
"""Pixels of the network's maps by which an observation may miss its point."""

LEAST_CONFIDENCE = 1.5
"""Of the network (from 1), that matched pixels must have."""


def tracked_points(
    pairs: Iterable[PairPointmaps],
    depth: ViewDepth,
    cameras: DenseCameras,
    shapes: list[tuple[int, int]],
    colors_of: Callable[[int], UInt8[Tensor, "rows columns 3"]],
) -> DensePoints:
    """Points seen by two photos or more, each with all pixels that see it.

    Nearest neighbours in the space of a pair's points are matches, both ways; matches that share
    a pixel are one track. Its point is the mean of what the aligned depth maps say; pixels that
    miss it are dropped, and so is a point that fewer than two pixels are left of.

    Args:
        depth: Of the aligned scene.
        cameras: In photo pixels, without distortion.
        shapes: Rows and columns of each photo's map, without padding.
        colors_of: The picture of a view, in pixels of its depth map.
    """
    matches: dict[tuple[int, int], Int[Tensor, "_ 2"]] = {}
    for pair in pairs:
        if pair.first < pair.second:
            matches[pair.first, pair.second] = reciprocal_matches(
                pair.points_first,
                pair.points_second_in_first,
                pair.confidence_first >= LEAST_CONFIDENCE,
                pair.confidence_second >= LEAST_CONFIDENCE,
                stride=STRIDE,
            )
    seen = tracks_from_matches(matches, [rows * columns for rows, columns in shapes])
    return _points_of(seen, depth, cameras, shapes, colors_of)


def _points_of(
    seen: PixelTracks,
    depth: ViewDepth,
    cameras: DenseCameras,
    shapes: list[tuple[int, int]],
    colors_of: Callable[[int], UInt8[Tensor, "rows columns 3"]],
) -> DensePoints:
    track, view_index, pixel_index = seen.track_index, seen.view_index, seen.pixel_index
    count = len(track)
    on_map = torch.zeros(count, 2, dtype=torch.float64)
    world = torch.full((count, 3), torch.nan, dtype=torch.float64)
    colors = torch.zeros(count, 3)
    confidence = torch.zeros(count)
    intrinsics = depth.map_from_photo.intrinsics_on_map(cameras.intrinsics)
    for view in view_index.unique().tolist():
        mine = view_index == view
        columns = shapes[view][1]
        on_map[mine] = pixel_positions(pixel_index[mine], columns)
        row, column = pixel_index[mine] // columns, pixel_index[mine] % columns
        own = depth.depth[view][row, column].double()
        in_world = points_at(on_map[mine], own, intrinsics[view], cameras.world_from_camera[view])
        world[mine] = torch.where(own[:, None] > 0, in_world, torch.nan)
        colors[mine] = colors_of(view)[row, column].float()
        confidence[mine] = depth.confidence[view][row, column].float()
    kept = world.isfinite().all(-1)
    kept &= _hits(seen, _means(world, track, kept), on_map, cameras, intrinsics)
    kept &= (_counts(track, kept) >= 2)[track]
    remaining, index = track[kept].unique(return_inverse=True)
    pixels = depth.map_from_photo[view_index[kept]].on_photo(on_map[kept][:, None]).squeeze(1)
    means = _means(world, track, kept)[remaining]
    return DensePoints(
        means.float(),
        _means(colors.double(), track, kept)[remaining].round().to(torch.uint8),
        _means(confidence.double()[:, None], track, kept)[remaining, 0].float(),
        Tracks(index, view_index[kept], pixels),
    )


def _hits(
    seen: PixelTracks,
    means: Float[Tensor, "track 3"],
    on_map: Float[Tensor, "observation 2"],
    cameras: DenseCameras,
    intrinsics: Float[Tensor, "view 3 3"],
) -> Bool[Tensor, " observation"]:
    """Whether the point of an observation's track falls near its pixel."""
    near = torch.zeros(len(seen.track_index), dtype=torch.bool)
    for view in seen.view_index.unique().tolist():
        mine = seen.view_index == view
        camera_from_world = invert(cameras.world_from_camera[view])
        local = transform_points(camera_from_world, means[seen.track_index[mine]])
        error = (project(local, intrinsics[view]) - on_map[mine]).norm(dim=-1)
        near[mine] = (error <= LARGEST_ERROR) & (local[:, 2] > 0)
    return near


def _counts(
    track: Int[Tensor, " observation"], kept: Bool[Tensor, " observation"]
) -> Int[Tensor, " track"]:
    most = int(track.max()) + 1 if len(track) else 0
    return torch.bincount(track[kept], minlength=most)


def _means(
    values: Float[Tensor, "observation n"],
    track: Int[Tensor, " observation"],
    kept: Bool[Tensor, " observation"],
) -> Float[Tensor, "track n"]:
    """Mean of the kept observations of each track; nan without any."""
    counts = _counts(track, kept)
    sums = values.new_zeros(len(counts), values.shape[1])
    sums.index_add_(0, track[kept], values[kept])
    return sums / counts[:, None]
