"""Whether cameras are put about right before training, and that it is said."""

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from fm3d_plugins.camera_optimization.camera_optimizer import TRACKS, CameraOptimizer
from fm3d_plugins.camera_optimization.rough_scene import (
    STILL,
    SmallPhotos,
    num_steps,
    settle_cameras,
    small_photos,
)
from fm3d_plugins.camera_optimization.track_anchors import PhotoTracks
from fm3d_plugins.camera_photos import CAMERA_CONFIDENCE
from fm3d_plugins.progress import say, signs_of_life

OFF = "Without: --pipeline.model.camera-optimizer.rough-scene False."


def settle_before_training(manager: Any, cameras: CameraOptimizer, steps: int) -> None:
    """Correct the training cameras by a rough scene, where that was asked for or may help.

    Args:
        manager: A datamanager with this package's `PhotoDatasets`.
        cameras: As yet without corrections; changed in place.
        steps: Of the run that follows.

    Raises:
        ValueError: A rough scene was asked for, but lenses have no pinhole.
    """
    wanted = cameras.config.rough_scene
    if not cameras.is_on:
        return
    if wanted is False or len(manager.train_dataset) < 2:
        return
    try:
        pinholes = manager.train_pinholes()
    except ValueError:
        if wanted:
            raise
        return  # Some of these lenses have no pinhole.
    photos = small_photos(pinholes, cameras.pose_adjustment.device)
    if wanted is None and known_to_be_right(manager.train_dataset.metadata, photos):
        return
    count = num_steps(len(photos.images), steps)
    with signs_of_life(lambda t: f"A rough scene puts the cameras right: {t:.0f} s."):
        moved = settle_cameras(cameras, photos, count, torch.Generator().manual_seed(0))
    if moved:
        say(f"A rough scene moved the cameras by {moved:.1f} pixels on average. {OFF}")
    else:
        say(f"A rough scene found the cameras as good as it can tell. {OFF}")


def known_to_be_right(metadata: dict[str, Any], photos: SmallPhotos) -> bool:
    """Whether the dataparser tells that cameras are as good as a rough scene could make them.

    By their standard deviations, or how far its tracks are from where the cameras see them.
    """
    limit = STILL * photos.shrinking
    confidence = metadata.get(CAMERA_CONFIDENCE)
    if confidence is not None:
        deviation = (1 / confidence.double().clamp_min(1e-12) - 1).sqrt()
        return bool(deviation.median() < limit)
    tracks = metadata.get(TRACKS)
    return tracks is not None and bool(track_errors(tracks, photos).median() < limit)


def track_errors(tracks: PhotoTracks, photos: SmallPhotos) -> Float[Tensor, " observation"]:
    """Reprojection errors, pixels that are trained on; endless of points behind a camera."""
    row = tracks.photo_index.long()
    poses = photos.world_from_camera.cpu()[row]
    offsets = tracks.points.float()[tracks.point_index.long()] - poses[:, :3, 3]
    x, y, z = torch.einsum("oji,oj->oi", poses[:, :3, :3], offsets).unbind(-1)
    focal_lengths = photos.intrinsics.cpu()[:, (0, 1), (0, 1)][row] * photos.shrinking
    seen = torch.stack([x, y], dim=-1) / z[:, None]
    errors = ((seen - tracks.rays.float()) * focal_lengths).norm(dim=-1)
    return torch.where(z > 0, errors, torch.inf)
