"""How far matches are from where two cameras allow them to be."""

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from jaxtyping import Float64, Int64

from fm3d_plugins.geometry.cameras import denormalize, straight
from fm3d_plugins.kernels.bundle_adjustment import Cameras

Pair = tuple[int, int]


def pinholes(cameras: Cameras) -> Float64[np.ndarray, "view 3 3"]:
    """Each view's matrix of focal lengths and principal point."""
    matrices = np.tile(np.eye(3), (len(cameras.group), 1, 1))
    matrices[:, (0, 1), (0, 1)] = cameras.focal[cameras.group]
    matrices[:, (0, 1), (2, 2)] = cameras.principal_point[cameras.group]
    return matrices


def straightened(
    cameras: Cameras, keypoints: Sequence[Float64[np.ndarray, "_feature 2"]]
) -> list[Float64[np.ndarray, "_feature 2"]]:
    """Keypoints where the views' pinholes would see them, without the lens; pixels."""
    found = []
    for view, (pixels, matrix) in enumerate(zip(keypoints, pinholes(cameras), strict=True)):
        lens = torch.from_numpy(cameras.distortion[cameras.group[view]])
        inverse = torch.from_numpy(matrix)
        found.append(
            denormalize(straight(torch.from_numpy(pixels), inverse, lens), inverse).numpy()
        )
    return found


def fundamental(
    cameras: Cameras, matrices: Float64[np.ndarray, "view 3 3"], pair: Pair
) -> Float64[np.ndarray, "3 3"]:
    """F with x₂ᵀ F x₁ = 0 for pinhole pixels of one point (Hartley and Zisserman, 9.2)."""
    first, second = pair
    turn = cameras.camera_from_world[second] @ cameras.camera_from_world[first].T
    shift = cameras.camera_from_world[second] @ (cameras.centers[first] - cameras.centers[second])
    x, y, z = shift
    across = np.array([[0, -z, y], [z, 0, -x], [-y, x, 0]])
    inverse = np.linalg.inv(matrices[[first, second]])
    return inverse[1].T @ across @ turn @ inverse[0]


def sampson_errors(
    cameras: Cameras,
    pinhole_keypoints: Sequence[Float64[np.ndarray, "_feature 2"]],
    matches: Mapping[Pair, Int64[np.ndarray, "_match 2"]],
) -> dict[Pair, Float64[np.ndarray, " _match"]]:
    """First-order distance of matches from their epipolar geometry (Sampson 1982), pixels."""
    matrices = pinholes(cameras)
    found = {}
    for (first, second), rows in matches.items():
        between = fundamental(cameras, matrices, (first, second))
        ends = (
            np.pad(pinhole_keypoints[view][rows[:, side]], ((0, 0), (0, 1)), constant_values=1.0)
            for side, view in enumerate((first, second))
        )
        one, two = ends
        line_in_second, line_in_first = one @ between.T, two @ between
        algebraic = (two * line_in_second).sum(1)
        slope = (line_in_second[:, :2] ** 2).sum(1) + (line_in_first[:, :2] ** 2).sum(1)
        found[first, second] = np.abs(algebraic) / np.sqrt(np.maximum(slope, 1e-300))
    return found


def noise_degrees(
    cameras: Cameras,
    keypoints: Sequence[Float64[np.ndarray, "_feature 2"]],
    matches: Mapping[Pair, Int64[np.ndarray, "_match 2"]],
) -> float:
    """By how much cameras contradict the photos: median over pairs of the median error of matches.

    Infinite without any match.
    """
    errors = sampson_errors(cameras, straightened(cameras, keypoints), matches)
    focal = cameras.focal[cameras.group].mean(1)
    angles = [
        np.degrees(np.arctan(np.median(each) / np.sqrt(focal[first] * focal[second])))
        for (first, second), each in errors.items()
    ]
    return float(np.median(angles)) if angles else np.inf
