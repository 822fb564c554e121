"""Whether cameras are put about right before training, and that it is said."""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from copy import deepcopy
from typing import Any

import torch
from jaxtyping import Float
from nerfstudio.cameras.cameras import Cameras
from torch import Tensor

from fm3d_plugins.camera_optimization.camera_optimizer import TRACKS, CameraOptimizer
from fm3d_plugins.camera_optimization.rough_scene import (
    STILL,
    SmallPhotos,
    corrected,
    num_steps,
    settle_cameras,
    small_photos,
)
from fm3d_plugins.camera_optimization.track_anchors import PhotoTracks
from fm3d_plugins.camera_photos import CAMERA_CONFIDENCE, GIVEN_CAMERAS
from fm3d_plugins.nerfstudio_cameras import opengl_rows, world_from_cameras
from fm3d_plugins.progress import say, signs_of_life

OFF = "Without: --pipeline.model.camera-optimizer.rough-scene False."


@contextmanager
def settled(pipeline: Any, config: Any, is_resumed: bool) -> Iterator[None]:
    """Put cameras about right before what the body makes ready for training.

    A resumed run goes on with the cameras of its checkpoint. But where points that follow cameras
    are in no checkpoint, the rough scene, which is the same each time, is made once more for them.

    Args:
        config: Of the trainer.
    """
    cameras, manager = pipeline.model.camera_optimizer, pipeline.datamanager
    if not cameras.is_on or (is_resumed and not manager.settles_when_resumed):
        yield
        return
    reached = [parameter.detach().clone() for parameter in cameras.parameters()]
    # The schedule is that of the whole run, also in a part of it.
    steps = config.optimizers["camera_opt"]["scheduler"].max_steps or config.max_num_iterations
    settle_before_training(manager, cameras, steps)
    yield
    if is_resumed:
        _take(cameras, reached)


@torch.no_grad()
def _take(cameras: CameraOptimizer, values: Iterable[Tensor]) -> None:
    """Make these the corrections."""
    for parameter, value in zip(cameras.parameters(), values, strict=True):
        parameter.copy_(value)


def settle_before_training(manager: Any, cameras: CameraOptimizer, steps: int) -> None:
    """Correct the training cameras by a rough scene, where that was asked for or may help.

    Args:
        manager: A datamanager with this package's `PhotoDatasets`.
        cameras: Their corrections are replaced.
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
    photos = small_photos(pinholes)
    if wanted is None and known_to_be_right(manager.train_dataset.metadata, photos):
        return
    count = num_steps(len(photos.images), steps)
    # On the CPU, whose kernels are there also where a field is trained on another device.
    metadata = manager.train_dataset.metadata
    found: CameraOptimizer = cameras.config.setup(
        num_cameras=cameras.num_cameras,
        device="cpu",
        cameras=metadata[GIVEN_CAMERAS],
        confidence=metadata.get(CAMERA_CONFIDENCE),
        tracks=metadata.get(TRACKS),
    )
    with signs_of_life(lambda t: f"A rough scene puts the cameras right: {t:.0f} s."):
        moved = settle_cameras(found, photos, count, torch.Generator().manual_seed(0))
    _take(cameras, found.parameters())
    if moved:
        say(f"A rough scene moved the cameras by {moved:.1f} pixels on average. {OFF}")
        pinholes.cameras = moved_cameras(pinholes.cameras, cameras)
        manager.take_settled(pinholes)
    else:
        say(f"A rough scene found the cameras as good as it can tell. {OFF}")


@torch.no_grad()
def moved_cameras(cameras: Cameras, optimizer: CameraOptimizer) -> Cameras:
    """All training cameras with their corrections and focal lengths."""
    every = torch.arange(len(cameras), device=optimizer.pose_adjustment.device)
    poses = corrected(world_from_cameras(cameras).float(), optimizer(every).to(cameras.device))
    factors = optimizer.focal_factors().to(cameras.fx)[:, None]
    moved = deepcopy(cameras)
    moved.camera_to_worlds = opengl_rows(poses).to(cameras.camera_to_worlds)
    moved.fx, moved.fy = cameras.fx * factors, cameras.fy * factors
    return moved


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
    poses = photos.world_from_camera[row]
    offsets = tracks.points.float()[tracks.point_index.long()] - poses[:, :3, 3]
    x, y, z = torch.einsum("oji,oj->oi", poses[:, :3, :3], offsets).unbind(-1)
    focal_lengths = photos.intrinsics[:, (0, 1), (0, 1)][row] * photos.shrinking
    seen = torch.stack([x, y], dim=-1) / z[:, None]
    errors = ((seen - tracks.rays.float()) * focal_lengths).norm(dim=-1)
    return torch.where(z > 0, errors, torch.inf)
