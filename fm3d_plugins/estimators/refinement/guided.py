"""More matches where cameras are nearly known: features are compared near epipolar lines only."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch
from jaxtyping import Float64, Int64, UInt8

from fm3d_plugins.backends.pycolmap.relative_pose import relative_pose
from fm3d_plugins.backends.pycolmap.triangulation import Matches
from fm3d_plugins.estimators.refinement.epipolar import Pair, fundamental, pinholes, straightened
from fm3d_plugins.estimators.refinement.rounds import Evidence, Solution
from fm3d_plugins.geometry.poses import rotation_angle_degrees
from fm3d_plugins.kernels.bundle_adjustment import Cameras
from fm3d_plugins.kernels.bundle_adjustment.layout import POSE
from fm3d_plugins.kernels.descriptor_matching import guided_matches

NARROWEST, WIDEST = 4.0, 150.0
"""Pixels: least and largest band about a line."""

SURE_BAND = 8.0
"""Pixels; matches of a wider band must agree on a relative pose of their own."""

RATIO = 0.85

INLIER_PIXELS, LEAST_INLIERS = 2.0, 8

LOG10_CHANCE = -4.0
"""Largest probability, as a power of ten, that so many agree by chance."""


def with_guided_matches(
    evidence: Evidence,
    descriptors: Sequence[UInt8[np.ndarray, "_feature 128"]],
    pairs: Sequence[Pair],
    solution: Solution,
    excluded: Matches,
) -> Evidence:
    """The evidence, and what else fits the cameras of a solution as well as these are known.

    Args:
        descriptors: Of the evidence's keypoints.
        pairs: To be compared.
        solution: Of this evidence.
        excluded: Matches whose features may not take part: they judge.
    """
    cameras = solution.cameras
    matrices, straight = pinholes(cameras), straightened(cameras, evidence.keypoints)
    covariance = solution.covariance()
    reach = _median_distance(solution)
    is_out = [np.zeros(len(each), bool) for each in evidence.keypoints]
    for pair, rows in excluded.items():
        for side, view in enumerate(pair):
            is_out[view][rows[:, side]] = True
    joined = {**evidence.matches}
    for pair in pairs:
        turn, shift = _relative_deviations(cameras, covariance, pair)
        focal = float(cameras.focal[cameras.group[list(pair)]].mean())
        deviation = focal * np.hypot(turn, shift / reach)
        band = float(np.clip(3 * deviation, NARROWEST, WIDEST))
        first, second = ((straight[view], descriptors[view]) for view in pair)
        rows = guided_matches(
            first, second, fundamental(cameras, matrices, pair), band=band, ratio=RATIO
        )
        rows = rows[~(is_out[pair[0]][rows[:, 0]] | is_out[pair[1]][rows[:, 1]])]
        if band > SURE_BAND:
            rows = _agreeing(cameras, matrices, straight, evidence, pair, rows, band, turn)
        if len(rows):
            joined[pair] = _united(evidence.matches.get(pair), rows)
    return replace(evidence, matches=dict(sorted(joined.items())))


def _median_distance(solution: Solution) -> float:
    """Of points from the views that see them, scene units; 1 without any."""
    away = solution.points[solution.seen.point] - solution.cameras.centers[solution.seen.view]
    return float(np.median(np.linalg.norm(away, axis=1))) if len(away) else 1.0


def _relative_deviations(
    cameras: Cameras, covariance: Float64[np.ndarray, "unknown unknown"], pair: Pair
) -> tuple[float, float]:
    """Largest standard deviation of a pair's relative turn (radians) and shift (scene units)."""
    first, second = pair
    rows = np.r_[POSE * first : POSE * first + POSE, POSE * second : POSE * second + POSE]
    joint = covariance[np.ix_(rows, rows)]
    between = cameras.camera_from_world[second] @ cameras.camera_from_world[first].T
    eye, zero = np.eye(3), np.zeros((3, 3))
    turn = np.concatenate([-between, zero, eye, zero], axis=1)
    shift = np.concatenate([zero, -eye, zero, eye], axis=1)
    turned, shifted = (np.linalg.eigvalsh(by @ joint @ by.T)[-1] for by in (turn, shift))
    return float(np.sqrt(max(turned, 0.0))), float(np.sqrt(max(shifted, 0.0)))


def _agreeing(
    cameras: Cameras,
    matrices: Float64[np.ndarray, "view 3 3"],
    straight: Sequence[Float64[np.ndarray, "_feature 2"]],
    evidence: Evidence,
    pair: Pair,
    rows: Int64[np.ndarray, "_match 2"],
    band: float,
    turn: float,
) -> Int64[np.ndarray, "_kept 2"]:
    """Matches of a wide band that agree on one relative pose; none if it may be chance."""
    from scipy.stats import binom

    nothing = rows[:0]
    if len(rows) < LEAST_INLIERS:
        return nothing
    first, second = pair
    found = relative_pose(
        straight[first][rows[:, 0]],
        straight[second][rows[:, 1]],
        matrices[list(pair)],
        [evidence.image_sizes[view] for view in pair],
        error=INLIER_PIXELS,
    )
    if found is None or found.inliers.sum() < LEAST_INLIERS:
        return nothing
    believed = cameras.camera_from_world[second] @ cameras.camera_from_world[first].T
    angle = rotation_angle_degrees(torch.from_numpy(believed), torch.from_numpy(found.rotation))
    by_chance = min(1.0, 2 * INLIER_PIXELS / band)
    tail = binom.logsf(found.inliers.sum() - 1, len(rows), by_chance) / np.log(10)
    is_believable = float(angle) <= np.degrees(3 * turn) and tail < LOG10_CHANCE
    return rows[found.inliers] if is_believable else nothing


def _united(
    known: Int64[np.ndarray, "_known 2"] | None, new: Int64[np.ndarray, "_new 2"]
) -> Int64[np.ndarray, "_match 2"]:
    """Known matches, and the new ones whose features these leave free."""
    if known is None:
        return new
    free = ~np.isin(new[:, 0], known[:, 0]) & ~np.isin(new[:, 1], known[:, 1])
    return np.concatenate([known, new[free]])
