"""Cameras as the nine numbers that VGGT predicts.

Translation (3) and quaternion x, y, z, w (4) of camera-from-world, OpenCV axes; then the vertical
and the horizontal field of view (2) in radians. The principal point is the centre of the image.
"""

import torch
from jaxtyping import Float
from torch import Tensor

from fm3d_plugins.geometry.cameras import intrinsics_matrix
from fm3d_plugins.geometry.poses import (
    pose_from_rotation_translation,
    quaternion_wxyz_from_rotation,
    rotation_from_quaternion_wxyz,
)


def decode(
    encoding: Float[Tensor, "*batch 9"], image_size: tuple[int, int]
) -> tuple[Float[Tensor, "*batch 4 4"], Float[Tensor, "*batch 3 3"]]:
    """`camera_from_world` (OpenCV, scene units) and intrinsics in pixels of the network's image.

    Quaternions may have any length but zero, which gives nan. A field of view of zero, which
    the network can predict, gives an infinite focal length.

    Args:
        image_size: (height, width) of the network's image, pixels.
    """
    translation, quaternion_xyzw, fov = encoding.split([3, 4, 2], dim=-1)
    rotation = rotation_from_quaternion_wxyz(quaternion_xyzw.roll(1, dims=-1))
    height, width = image_size
    fy = height / 2 / torch.tan(fov[..., 0] / 2)
    fx = width / 2 / torch.tan(fov[..., 1] / 2)
    cx, cy = torch.full_like(fx, width / 2), torch.full_like(fy, height / 2)
    return (
        pose_from_rotation_translation(rotation, translation),
        intrinsics_matrix(fx, fy, cx, cy),
    )


def encode(
    camera_from_world: Float[Tensor, "*batch 4 4"],
    intrinsics: Float[Tensor, "*batch 3 3"],
    image_size: tuple[int, int],
) -> Float[Tensor, "*batch 9"]:
    """The nine numbers of cameras, inverse of `decode`; the quaternion is unit with w >= 0.

    The principal point and the skew are not encoded: crop photos around their principal point.

    Args:
        image_size: (height, width) of the image that the intrinsics refer to, pixels.
    """
    quaternion_wxyz = quaternion_wxyz_from_rotation(camera_from_world[..., :3, :3])
    height, width = image_size
    fov = [
        2 * torch.atan(height / 2 / intrinsics[..., 1, 1]),
        2 * torch.atan(width / 2 / intrinsics[..., 0, 0]),
    ]
    parts = [
        camera_from_world[..., :3, 3],
        quaternion_wxyz.roll(-1, dims=-1),
        torch.stack(fov, dim=-1),
    ]
    return torch.cat(parts, dim=-1)
