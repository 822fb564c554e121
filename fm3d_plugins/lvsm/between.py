"""Cameras between those of photos, and what the network sees from them."""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from fm3d_plugins.geometry.cameras import camera_distances
from fm3d_plugins.geometry.neighbours import spanning_tree
from fm3d_plugins.geometry.trajectories import interpolate_cameras
from fm3d_plugins.lvsm.contexts import nearest
from fm3d_plugins.lvsm.inference import PosedPhotos, ViewRenderer
from fm3d_plugins.one_pass.views.sizes import resized_intrinsics, size_within


@dataclass(frozen=True)
class CamerasBetween:
    """Cameras without lens distortion; pictures of whole patches."""

    world_from_camera: Float[Tensor, "view 4 4"]
    intrinsics: Float[Tensor, "view 3 3"]
    sizes: Int[Tensor, "view 2"]
    """Width and height, pixels."""


def cameras_between(
    photos: PosedPhotos, count: int, longest: int, patch_size: int
) -> CamerasBetween:
    """Cameras on the straight ways between neighbouring photos, where these are farthest apart.

    Neighbours are the pairs of the spanning tree of least `camera_distances`. One camera after the
    other goes to the pair whose gaps are widest, and those of a pair divide its way evenly. Lens
    and aspect ratio are those of the pair's first photo.

    Args:
        longest: Long side of a picture, pixels.

    Raises:
        ValueError: No two photos are apart.
    """
    poses = photos.world_from_camera
    distances = camera_distances(poses, poses)
    pairs = spanning_tree(distances)
    if not pairs:
        raise ValueError(
            f"Views between the photos were asked for, but the training photos ({len(photos)}) "
            "were not taken from two places. Expected at least 2 photos from different places. "
            "Add photos, or leave the dataparser lvsm out."
        )
    lengths, shares = torch.stack([distances[pair] for pair in pairs]), [0] * len(pairs)
    for _ in range(count):
        shares[int((lengths / (1 + lengths.new_tensor(shares))).argmax())] += 1
    found = []
    for pair, share in zip(pairs, shares, strict=True):
        image, intrinsics = photos.images[pair[0]], photos.intrinsics[pair[0]]
        before = (image.shape[-2], image.shape[-1])
        size = size_within(*before, longest, patch_size)
        lens = resized_intrinsics(intrinsics, before, size).expand(2, 3, 3)
        ways, lenses = interpolate_cameras(poses[list(pair)], lens, share + 2)
        # Both ends are photos.
        found.append((ways[1:-1], lenses[1:-1], torch.tensor(size[::-1]).expand(share, 2)))
    return CamerasBetween(*(torch.cat(each) for each in zip(*found, strict=True)))


def rendered_between(
    renderer: ViewRenderer, cameras: CamerasBetween, num_contexts: int
) -> Iterator[Float[Tensor, "3 _ _"]]:
    """What each camera sees, in (0, 1), made from the photos nearest to it."""
    photos = renderer.photos.world_from_camera
    views = zip(cameras.world_from_camera, cameras.intrinsics, cameras.sizes.tolist(), strict=True)
    for pose, intrinsics, (width, height) in views:
        # In order, so that the same photos are encoded once.
        context = sorted(nearest(pose, photos, num_contexts))
        yield renderer.render(context, pose[None], intrinsics[None], height, width)[0]
