"""What is believed of estimated cameras before the photos are asked, and how firmly."""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float64

from fm3d_plugins.estimators.refinement.adjustment import Spread
from fm3d_plugins.kernels.bundle_adjustment import Cameras
from fm3d_plugins.scene import SceneGeometry

LEVEL_DEGREES = 0.53
"""Error of matches under cameras of level 1: 1.1 degrees and 1.8 % of the extent off, as those of
feed-forward networks are on outdoor scenes."""

LEVELS = (0.75, 6.0)
"""Within which the level is believed; too firm a prior costs little, too loose a one much."""

TURN_DEGREES, CENTER_SHARE = 0.75, 0.0135
"""Standard deviations at level 1, about and along each axis; centres in units of the extent."""

LOG_FOCAL, LOG_FOCAL_PER_LEVEL, K1 = 0.02, 0.015, 0.05


def cameras_of(scene: SceneGeometry, scales: Sequence[float]) -> Cameras:
    """A scene's views, in pixels of their scaled copies.

    Args:
        scales: Pixels of each copy per pixel of its photo.
    """
    poses = scene.world_from_camera.double().numpy()
    matrices = scene.intrinsics.double().numpy() * np.asarray(scales)[:, None, None]
    numbers, first, group = np.unique(
        np.column_stack([scene.camera_index.numpy(), np.asarray(scales)]),
        axis=0, return_index=True, return_inverse=True,
    )  # fmt: skip
    del numbers
    return Cameras(
        camera_from_world=np.ascontiguousarray(poses[:, :3, :3].transpose(0, 2, 1)),
        centers=np.ascontiguousarray(poses[:, :3, 3]),
        group=group.reshape(-1).astype(np.int64),
        focal=np.ascontiguousarray(matrices[first][:, (0, 1), (0, 1)]),
        principal_point=np.ascontiguousarray(matrices[first][:, (0, 1), (2, 2)]),
        distortion=np.ascontiguousarray(scene.distortion.double().numpy()[first]),
    )


def extent(centers: Float64[np.ndarray, "view 3"]) -> float:
    """Root mean square distance of centres from their mean, scene units."""
    return float(np.sqrt(((centers - centers.mean(0)) ** 2).sum(1).mean()))


DRIFT = "drift"
"""Key of a scene's provenance that holds the factor of `spread_at`."""


def spread_at(cameras: Cameras, noise_degrees: float, drift: float = 1.0) -> Spread:
    """How firmly cameras are believed that contradict the matches by so much.

    Args:
        drift: How many times as far a view may be off from all others as from its neighbours,
            whose matches tell the noise; more than 1 for cameras that were found part by part.
    """
    level = float(np.clip(noise_degrees / LEVEL_DEGREES, *LEVELS))
    views, lenses = len(cameras.centers), len(cameras.focal)
    return Spread(
        turn=np.full(views, np.radians(TURN_DEGREES * level * drift)),
        center=np.full(views, CENTER_SHARE * level * drift * extent(cameras.centers)),
        log_focal=np.full(lenses, LOG_FOCAL + LOG_FOCAL_PER_LEVEL * level),
        k1=np.full(lenses, K1),
    )
