"""Which photos probably show the same things, by the cameras and depth that an estimate gave."""

import numpy as np
import torch
from jaxtyping import Bool, Float64

from fm3d_plugins.geometry.cameras import project, unproject
from fm3d_plugins.geometry.poses import invert, transform_points
from fm3d_plugins.scene import SceneGeometry

LEAST_SHARE = 0.10
"""Of what one photo shows, in the frame of the other, for the two to be compared."""

MARGIN = 0.10
"""Of the frame on every side: cameras are not exact yet."""

WIDEST_ANGLE = 75.0
"""Degrees between two views of a thing beyond which they do not look alike."""

SAMPLES = 192
"""Of what a photo shows."""

GRID = (12, 16)
"""Rows and columns of the samples of a depth map."""

ALL_UP_TO = 80
"""Photos; of more, each is compared with its best neighbours only."""

NEAR = 3.0
"""One over the distance, in units of the centres' extent, at which nearness is a half."""

NEIGHBOURS = 30
"""Of each of very many photos."""


def covisible_pairs(scene: SceneGeometry) -> list[tuple[int, int]]:
    """Pairs of views, first row below the second, in order.

    What a view shows is sampled from its depth, or from the points whose tracks it is in, or from
    all points before it. A scene with none of these is judged by its viewing directions alone.
    """
    shares = _shares(scene)
    shares = np.maximum(shares, shares.T)
    np.fill_diagonal(shares, 0)
    chosen = shares >= LEAST_SHARE
    if len(scene) > ALL_UP_TO:
        best = np.argsort(-shares * _nearness(scene), axis=1, kind="stable")[:, :NEIGHBOURS]
        near = np.zeros_like(chosen)
        np.put_along_axis(near, best, True, axis=1)
        chosen &= near | near.T
    return [(int(a), int(b)) for a, b in np.argwhere(np.triu(chosen))]


def _nearness(scene: SceneGeometry) -> Float64[np.ndarray, "view view"]:
    """From 1 to 0 as views are farther apart: near ones see the same more alike."""
    centers = scene.world_from_camera[:, :3, 3].double()
    extent = (centers - centers.mean(0)).square().sum(1).mean().sqrt().clamp_min(1e-12)
    apart = torch.cdist(centers, centers) / extent
    return (1 / (1 + (NEAR * apart).square())).numpy()


def _shares(scene: SceneGeometry) -> Float64[np.ndarray, "view view"]:
    """Share of what each view (row) shows that each other (column) sees from a like direction."""
    count = len(scene)
    poses = scene.world_from_camera.double()
    camera_from_world, intrinsics = invert(poses), scene.intrinsics.double()
    centers, sizes = poses[:, :3, 3], scene.image_sizes.double()
    shares = np.zeros((count, count))
    for view in range(count):
        points = _shown(scene, view)
        if not len(points):
            # Looking the same way is all that is known.
            ahead = poses[:, :3, 2]
            angle = torch.rad2deg(torch.acos((ahead @ ahead[view]).clamp(-1, 1)))
            shares[view] = (1 - angle / WIDEST_ANGLE).clamp_min(0).numpy()
            continue
        here = transform_points(camera_from_world, points.expand(count, -1, -1))
        pixels = project(here, intrinsics)
        margin = MARGIN * sizes[:, None]
        inside = ((pixels >= -margin) & (pixels <= sizes[:, None] + margin)).all(-1)
        inside &= here[..., 2] > 0
        own = torch.nn.functional.normalize(points - centers[view], dim=-1)
        other = torch.nn.functional.normalize(points - centers[:, None], dim=-1)
        alike = (own * other).sum(-1) > np.cos(np.radians(WIDEST_ANGLE))
        shares[view] = (inside & alike).double().mean(1).numpy()
    return shares


def _shown(scene: SceneGeometry, view: int) -> Float64[torch.Tensor, "point 3"]:
    """Some world points that a view shows; none where nothing is known of them."""
    if scene.depth is not None:
        return _from_depth(scene, view)
    points = scene.points.double()
    if scene.tracks is not None:
        rows = scene.tracks.point_index[scene.tracks.view_index == view].unique()
        if len(rows):
            return points[_spread_rows(len(rows), rows)]
    if not len(points):
        return points
    some = points[_spread_rows(len(points), torch.arange(len(points)), 20 * SAMPLES)]
    inside = _before(scene, view, some)
    kept = torch.arange(len(some))[inside]
    return some[_spread_rows(len(kept), kept)]


def _before(
    scene: SceneGeometry, view: int, points: Float64[torch.Tensor, "point 3"]
) -> Bool[torch.Tensor, " point"]:
    here = transform_points(invert(scene.world_from_camera[view].double()), points)
    pixels = project(here, scene.intrinsics[view].double())
    size = scene.image_sizes[view].double()
    return (here[:, 2] > 0) & (pixels >= 0).all(-1) & (pixels <= size).all(-1)


def _from_depth(scene: SceneGeometry, view: int) -> Float64[torch.Tensor, "point 3"]:
    """The surer half of a grid over the photo."""
    assert scene.depth is not None
    width, height = (int(side) for side in scene.image_sizes[view])
    depth, confidence = scene.depth.in_photo_frame(view, (width, height), GRID)
    known = depth > 0
    if not bool(known.any()):
        return torch.zeros(0, 3, dtype=torch.float64)
    known &= confidence >= confidence[known].float().median()
    row, column = torch.nonzero(known, as_tuple=True)
    pixels = torch.stack(
        [(column + 0.5) * (width / GRID[1]), (row + 0.5) * (height / GRID[0])], dim=-1
    ).double()
    points = unproject(pixels, depth[known].double(), scene.intrinsics[view].double())
    return transform_points(scene.world_from_camera[view].double(), points)


def _spread_rows(count: int, rows: torch.Tensor, most: int = SAMPLES) -> torch.Tensor:
    """At most so many of some rows, evenly spaced."""
    if count <= most:
        return rows
    return rows[torch.linspace(0, count - 1, most).round().long()]
