"""The pose of a pinhole camera, by points that it sees, of which some are wrong."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float64

from fm3d_plugins.backends.pycolmap.running import library


@dataclass(frozen=True)
class AbsolutePose:
    """Where a camera is."""

    camera_from_world: Float64[np.ndarray, "3 3"]
    center: Float64[np.ndarray, "3"]
    focal: float
    """As it was given, or estimated, pixels."""
    inliers: Bool[np.ndarray, " match"]


def absolute_pose(
    pixels: Float64[np.ndarray, "match 2"],
    points: Float64[np.ndarray, "match 3"],
    intrinsics: Float64[np.ndarray, "3 3"],
    image_size: tuple[int, int],
    *,
    error: float,
    knows_focal: bool,
) -> AbsolutePose | None:
    """By locally optimised RANSAC, then refined; the same at every call.

    Args:
        pixels: Where a pinhole would see the points.
        points: World frame.
        intrinsics: Pinhole matrix, pixels.
        image_size: Width and height, pixels.
        error: Pixels by which a point may be off.
        knows_focal: Whether the focal length is held, or estimated as well.

    Returns:
        None where no pose is found.
    """
    pycolmap = library()
    width, height = image_size
    focal = float(np.sqrt(intrinsics[0, 0] * intrinsics[1, 1]))
    camera = pycolmap.Camera(
        model="SIMPLE_PINHOLE",
        width=width,
        height=height,
        params=[focal, intrinsics[0, 2], intrinsics[1, 2]],
    )
    estimation = pycolmap.AbsolutePoseEstimationOptions()
    estimation.estimate_focal_length = not knows_focal
    estimation.ransac.max_error, estimation.ransac.random_seed = error, 0
    refinement = pycolmap.AbsolutePoseRefinementOptions()
    refinement.refine_focal_length = not knows_focal
    found = pycolmap.estimate_and_refine_absolute_pose(
        pixels, points, camera, estimation, refinement
    )
    if found is None:
        return None
    pose = found["cam_from_world"]
    rotation = np.asarray(pose.rotation.matrix(), dtype=np.float64)
    center = -rotation.T @ np.asarray(pose.translation, dtype=np.float64)
    if not (np.isfinite(rotation).all() and np.isfinite(center).all()):
        return None
    inliers = np.asarray(found["inlier_mask"], dtype=bool)
    return AbsolutePose(rotation, center, float(camera.params[0]), inliers)
