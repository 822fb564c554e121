"""How sure refined cameras are, by the covariance of their poses."""

import numpy as np
from jaxtyping import Float64

from fm3d_plugins.estimators.refinement.gate import LEAST_OBSERVATIONS
from fm3d_plugins.estimators.refinement.rounds import Solution
from fm3d_plugins.kernels.bundle_adjustment import Cameras, Observations, derivatives
from fm3d_plugins.kernels.bundle_adjustment.layout import POSE

GRID = (-0.6, 0.0, 0.6)
"""Where a view's picture is looked at, along each axis, in units of half its sides."""


def camera_confidence(solution: Solution) -> Float64[np.ndarray, " view"]:
    """1 / (1 + s²) of each view, whose pose's standard deviation moves its picture by s pixels.

    Of poses relative to each other: that all together may be elsewhere moves no picture.
    """
    cameras = solution.cameras
    views = len(cameras.group)
    poses = relative_covariance(solution)
    points, seen = _looked_at(solution)
    slopes = derivatives(cameras, points, seen).by_camera[:, :, :POSE]
    own = np.stack(
        [poses[POSE * v : POSE * (v + 1), POSE * v : POSE * (v + 1)] for v in range(views)]
    )
    squared = np.einsum("oai,oij,oaj->o", slopes, own[seen.view], slopes)
    return 1 / (1 + np.bincount(seen.view, squared, minlength=views) / len(GRID) ** 2)


def relative_covariance(solution: Solution) -> Float64[np.ndarray, "unknown unknown"]:
    """Of all poses, moves of the world as a whole taken out (Baarda's S-transformation).

    What is left is measured from the frame in which the squared moves of all views with matches,
    in units of their priors' standard deviations, are least together.
    """
    cameras, spread = solution.cameras, solution.spread
    size = POSE * len(cameras.group)
    whole = solution.covariance()[:size, :size]
    moves = world_moves(cameras)
    deviations = np.repeat(np.stack([spread.turn, spread.center], axis=1), 3, axis=1).ravel()
    counted = np.repeat(solution.observations >= LEAST_OBSERVATIONS, POSE)
    weighted = moves * (counted / deviations**2)[:, None]
    taken = np.eye(size) - moves @ np.linalg.pinv(weighted.T @ moves) @ weighted.T
    return taken @ whole @ taken.T


def _starts(views: int) -> range:
    """Row of each view's first unknown."""
    return range(0, POSE * views, POSE)


def world_moves(cameras: Cameras) -> Float64[np.ndarray, "unknown 7"]:
    """How all poses change as the world turns and shifts along each axis, and grows."""
    views = len(cameras.group)
    moves = np.zeros((views, POSE, 7))
    for axis in range(3):
        turn = np.eye(3)[axis]
        # World points turn with the centres: what a camera sees stays.
        moves[:, :3, axis] = -cameras.camera_from_world @ turn
        moves[:, 3:, axis] = np.cross(turn, cameras.centers)
        moves[:, 3 + axis, 3 + axis] = 1
    moves[:, 3:, 6] = cameras.centers - cameras.centers.mean(0)
    return moves.reshape(-1, 7)


def _looked_at(solution: Solution) -> tuple[Float64[np.ndarray, "point 3"], Observations]:
    """Points over each view's picture, as far as what it sees."""
    cameras, seen = solution.cameras, solution.seen
    away = solution.points[seen.point] - cameras.centers[seen.view]
    ahead = (away * cameras.camera_from_world[seen.view, 2]).sum(1)
    usual = float(np.median(ahead)) if len(ahead) else 1.0
    views = len(cameras.group)
    y, x = (axis.ravel() for axis in np.meshgrid(GRID, GRID, indexing="ij"))
    points = np.empty((views, len(x), 3))
    for view in range(views):
        own = ahead[seen.view == view]
        lens = cameras.group[view]
        flat = np.stack([x, y], axis=1) * cameras.principal_point[lens] / cameras.focal[lens]
        reach = float(np.median(own)) if len(own) else usual
        rays = np.pad(reach * flat, ((0, 0), (0, 1)), constant_values=reach)
        points[view] = cameras.centers[view] + rays @ cameras.camera_from_world[view]
    count = points[..., 0].size
    view = np.repeat(np.arange(views), len(x))
    return points.reshape(-1, 3), Observations(view, np.arange(count), np.zeros((count, 2)))
