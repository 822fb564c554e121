"""Camera poses from points and their pixels, by OpenCV."""

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from fm3d_plugins.errors import require
from fm3d_plugins.geometry.poses import pose_from_rotation_translation

LEAST_POINTS = 4
"""Fewer do not determine a pose and show that it is right."""


def absolute_pose(
    points_world: Float[Tensor, "point 3"],
    pixels: Float[Tensor, "point 2"],
    intrinsics: Float[Tensor, "3 3"],
    *,
    threshold: float | int = 5.0,
    iterations: int = 100,
    confidence: float = 0.99,
    seed: int | None = None,
) -> tuple[Float[Tensor, "4 4"], Bool[Tensor, " point"]]:
    """Pose of a camera from points and their pixels, and which of them agree with it.

    RANSAC with SQPnP (Terzakis and Lourakis 2020) for the hypotheses and the refit. With points
    in another camera's frame the result is the relative pose `camera_from_othercamera`.

    Args:
        points_world: Any unit, which becomes that of the translation.
        pixels: Undistorted, with the origin that the principal point refers to.
        intrinsics: In pixels.
        threshold: Largest reprojection error of a right point, in pixels.
        iterations: Most hypotheses.
        confidence: Probability of a right hypothesis at which no more are tried.
        seed: Of the order in which points are drawn; none draws them as they are given. Equal
            seeds give equal results.

    Returns:
        `camera_from_world` in OpenCV axes, and the inliers.

    Raises:
        ValueError: Fewer than four points, some not finite, or no pose fits four of them.
    """
    _require_usable(points_world, pixels)
    order = np.arange(len(points_world))
    if seed is not None:
        np.random.default_rng(seed).shuffle(order)
    points, seen, calibration = (
        np.ascontiguousarray(each.detach().cpu().double().numpy())
        for each in (points_world, pixels, intrinsics)
    )
    cv2 = require("cv2", purpose="A camera pose from points", install="opencv-python-headless")
    is_found, rotation_vector, translation, inliers = cv2.solvePnPRansac(
        points[order],
        seen[order],
        calibration,
        None,
        iterationsCount=iterations,
        reprojectionError=float(threshold),
        confidence=confidence,
        flags=cv2.SOLVEPNP_SQPNP,
    )
    if not is_found or inliers is None or not np.isfinite(translation).all():
        raise ValueError(
            f"No camera pose puts four of {len(points)} points within {threshold} px of their "
            "pixels. Expected points and pixels in the same order and a focal length that is "
            f"about right ({calibration[0, 0]:.1f} px was given). Check both, or raise the "
            "threshold."
        )
    rotation, place = torch.from_numpy(cv2.Rodrigues(rotation_vector)[0]), translation.flatten()
    camera_from_world = pose_from_rotation_translation(rotation, torch.from_numpy(place))
    agrees = torch.zeros(len(points), dtype=torch.bool)
    agrees[torch.from_numpy(order[inliers.flatten()])] = True
    return camera_from_world.to(points_world), agrees.to(points_world.device)


def _require_usable(
    points_world: Float[Tensor, "point 3"], pixels: Float[Tensor, "point 2"]
) -> None:
    if len(points_world) < LEAST_POINTS or not bool(
        points_world.isfinite().all() and pixels.isfinite().all()
    ):
        raise ValueError(
            f"A camera pose needs at least {LEAST_POINTS} finite points with finite pixels; found "
            f"{len(points_world)}, or some that are not finite. Lower the confidence that points "
            "must have, or drop the broken ones."
        )
