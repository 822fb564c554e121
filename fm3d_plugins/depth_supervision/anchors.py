"""Alignment of depth maps by points that the dataparser knows in the scene.

Aligned to the rendered depth alone, maps of free scale follow whatever scene has formed, even where
every photo has a scale of its own. Points of the reconstruction that made the cameras say how far
away things are before anything is rendered.
"""

from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from nerfstudio.cameras.cameras import Cameras, CameraType
from torch import Tensor

from fm3d_plugins.depth_supervision.alignment import (
    Alignment,
    AlignmentMode,
    Moments,
    fit,
)
from fm3d_plugins.depth_supervision.depth_maps import DepthMaps
from fm3d_plugins.geometry.cameras import denormalize, distort
from fm3d_plugins.geometry.poses import transform_points
from fm3d_plugins.nerfstudio_cameras import lens_distortion, pinhole

MIN_ANCHORS = 20
"""A photo with fewer visible points is aligned to what is rendered instead."""
MIN_TRUST = 0.5
"""So is a photo whose fit explains less than this share of the variance of its points' depth."""
ROBUST_ROUNDS = 10
"""Reweighted fits. Many, as each photo is aligned once only, and as some points that count as
visible are hidden and have to lose their weight."""

CELLS = 24
"""The photo is divided into 24 x 24 cells; in each, only the nearest points count as visible."""
SAME_SURFACE = 1.1
"""Points up to this times as far away as the nearest one of their cell are visible too."""


@torch.no_grad()
def align_to_points(
    points: Float[Tensor, "point 3"], cameras: Cameras, maps: DepthMaps, mode: AlignmentMode
) -> Alignment:
    """Scale and shift of every photo's depth map by the points that the photo sees.

    Args:
        points: World frame, scene units.
        cameras: Of the photos as taken (OpenGL axes).
        maps: Their depth maps.
        mode: What to find.

    Returns:
        Trust 0 for photos that see too few points, or whose map contradicts them, and for lenses
        other than nerfstudio's perspective type.
    """
    rows, positions, depths = [], [], []
    for photo in range(len(cameras)):
        seen = project_points(points, cameras[photo])
        is_nearest = nearest_of_cell(seen.positions, seen.depth, cameras[photo])
        rows.append(torch.full_like(seen.rows[is_nearest], photo))
        positions.append(seen.positions[is_nearest])
        depths.append(seen.depth[is_nearest])
    photo, rendered = torch.cat(rows), torch.cat(depths).cpu().double()
    target, confidence = (v.cpu().double() for v in maps.at(photo, torch.cat(positions)))
    nothing = Moments.from_table(torch.zeros(len(cameras), Moments.NUM_COLUMNS).double())
    found, moments = fit(
        target, rendered, confidence, photo.cpu(), nothing, mode, rounds=ROBUST_ROUNDS
    )
    is_good = (moments.count >= MIN_ANCHORS) & (found.trust >= MIN_TRUST)
    return Alignment(found.scale, found.shift, found.trust.where(is_good, 0.0))


class SeenPoints(NamedTuple):
    """Points that fall into a photo, hidden or not."""

    rows: Int[Tensor, " seen"]
    """Of the points."""
    positions: Float[Tensor, "seen 2"]
    """Pixels, from the photo's corner."""
    depth: Float[Tensor, " seen"]
    """Along the optical axis, scene units."""


def project_points(points: Float[Tensor, "point 3"], camera: Cameras) -> SeenPoints:
    """Where the points fall into a photo; none for other lenses than the perspective type."""
    rows = torch.arange(len(points), device=points.device)
    if int(camera.camera_type.flatten()[0]) != CameraType.PERSPECTIVE.value:
        return SeenPoints(rows[:0], points.new_zeros(0, 2), points.new_zeros(0))
    seen = pinhole(camera)
    inside_camera = transform_points(seen.camera_from_world.to(points), points)
    in_front = inside_camera[:, 2] > 1e-3
    rows, inside_camera = rows[in_front], inside_camera[in_front]
    normalized = inside_camera[:, :2] / inside_camera[:, 2:]
    # Far outside the photo the lens's polynomial may fold points back into it.
    intrinsics = seen.intrinsics.to(points)
    in_reach = _is_inside(denormalize(normalized, intrinsics), camera, margin=0.25)
    rows, normalized, depth = rows[in_reach], normalized[in_reach], inside_camera[in_reach, 2]
    distorted = distort(normalized, lens_distortion(camera).reshape(6).to(points))
    position = denormalize(distorted, intrinsics)
    inside = _is_inside(position, camera, margin=0.0)
    return SeenPoints(rows[inside], position[inside], depth[inside])


def nearest_of_cell(
    positions: Float[Tensor, "point 2"], depth: Float[Tensor, " point"], camera: Cameras
) -> Bool[Tensor, " point"]:
    """Whether a point is on the nearest surface that the points of its part of the photo show."""
    size = positions.new_tensor([float(camera.width), float(camera.height)])
    cell: Int[Tensor, "point 2"] = (positions / size * CELLS).long().clamp(0, CELLS - 1)
    index = cell[:, 1] * CELLS + cell[:, 0]
    nearest = depth.new_full((CELLS * CELLS,), torch.inf).scatter_reduce(0, index, depth, "amin")
    return depth <= SAME_SURFACE * nearest[index]


def _is_inside(
    positions: Float[Tensor, "point 2"], camera: Cameras, margin: float
) -> Bool[Tensor, " point"]:
    size = positions.new_tensor([float(camera.width), float(camera.height)])
    return ((positions >= -margin * size) & (positions < (1 + margin) * size)).all(-1)
