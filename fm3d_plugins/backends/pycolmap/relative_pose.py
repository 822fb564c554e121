"""The relative pose of two pinhole cameras, by matches of which some are wrong."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float64

from fm3d_plugins.backends.pycolmap.running import library


@dataclass(frozen=True)
class RelativePose:
    """Second camera from first, up to the length of the shift."""

    rotation: Float64[np.ndarray, "3 3"]
    inliers: Bool[np.ndarray, " match"]


def relative_pose(
    first: Float64[np.ndarray, "match 2"],
    second: Float64[np.ndarray, "match 2"],
    intrinsics: Float64[np.ndarray, "2 3 3"],
    image_sizes: Sequence[tuple[int, int]],
    *,
    error: float,
) -> RelativePose | None:
    """By locally optimised RANSAC on the essential matrix; the same at every call.

    Args:
        first: Pinhole pixels.
        second: Those that match them.
        intrinsics: Of both cameras.
        image_sizes: Width and height of both, pixels.
        error: Pixels by which a match may be off.

    Returns:
        None where no pose is found.
    """
    pycolmap = library()
    cameras = [
        pycolmap.Camera(
            model="PINHOLE",
            width=width,
            height=height,
            params=[matrix[0, 0], matrix[1, 1], matrix[0, 2], matrix[1, 2]],
        )
        for matrix, (width, height) in zip(intrinsics, image_sizes, strict=True)
    ]
    options = pycolmap.RANSACOptions()
    options.max_error, options.random_seed = error, 0
    found = pycolmap.estimate_relative_pose(cameras[0], first, cameras[1], second, options)
    if found is None:
        return None
    rotation = np.asarray(found["cam2_from_cam1"].rotation.matrix(), dtype=np.float64)
    return RelativePose(rotation, np.asarray(found["inlier_mask"], dtype=bool))
