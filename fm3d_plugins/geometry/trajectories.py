"""Camera paths through key cameras."""

import torch
from jaxtyping import Float, Int
from torch import Tensor

from fm3d_plugins.geometry.poses import pose_from_rotation_translation, so3_exp, so3_log


def interpolate_cameras(
    world_from_camera: Float[Tensor, "*batch key 4 4"],
    intrinsics: Float[Tensor, "*batch key 3 3"],
    num_frames: int,
    *,
    loop: bool = False,
) -> tuple[Float[Tensor, "*batch frame 4 4"], Float[Tensor, "*batch frame 3 3"]]:
    """Poses and intrinsics on the way from each key camera to the next.

    Rotations turn at constant speed the shorter way (slerp); centres and intrinsics move linearly.
    A half turn has two shorter ways, of which one is taken.

    Args:
        num_frames: Of each transition, both of its ends included: a key camera between two
            transitions stands twice.
        loop: Return from the last key camera to the first.

    Raises:
        ValueError: There are fewer than two key cameras, or fewer than two frames.
    """
    if world_from_camera.shape[-3] < 2 or num_frames < 2:
        raise ValueError(
            f"Found {world_from_camera.shape[-3]} key cameras and {num_frames} frames per "
            "transition; expected at least 2 of both, because a transition has two ends. Give "
            "more cameras, or ask for more frames."
        )
    start_pose, end_pose = _transitions(world_from_camera, loop)
    start_intrinsics, end_intrinsics = _transitions(intrinsics, loop)
    fraction = torch.linspace(
        0, 1, num_frames, dtype=world_from_camera.dtype, device=world_from_camera.device
    )
    start, end = start_pose[..., :3, :3], end_pose[..., :3, :3]
    turn = so3_log(start.transpose(-1, -2) @ end)
    rotations = start @ so3_exp(fraction[:, None] * turn)
    centers = torch.lerp(start_pose[..., :3, 3], end_pose[..., :3, 3], fraction[:, None])
    poses = pose_from_rotation_translation(rotations, centers)
    shares = fraction.to(intrinsics)[:, None, None]
    lenses = torch.lerp(start_intrinsics, end_intrinsics, shares)
    return poses.flatten(-4, -3), lenses.flatten(-4, -3)


def _transitions(
    keys: Float[Tensor, "*batch key rows columns"], loop: bool
) -> tuple[
    Float[Tensor, "*batch transition 1 rows columns"],
    Float[Tensor, "*batch transition 1 rows columns"],
]:
    """Start and end of each transition, with an axis for its frames."""
    following = keys.roll(-1, dims=-3)
    count = keys.shape[-3] if loop else keys.shape[-3] - 1
    return keys[..., :count, None, :, :], following[..., :count, None, :, :]


def nearest_neighbour_order(world_from_camera: Float[Tensor, "view 4 4"]) -> Int[Tensor, " view"]:
    """Numbers of cameras along a walk from the first one, always to the nearest one left."""
    centers = world_from_camera[:, :3, 3]
    distances = torch.cdist(centers, centers, compute_mode="donot_use_mm_for_euclid_dist")
    order = [0] if len(centers) else []
    for _ in range(len(centers) - 1):
        distances[:, order[-1]] = torch.inf
        order.append(int(distances[order[-1]].argmin()))
    return torch.tensor(order, dtype=torch.long, device=centers.device)


def circles_around(
    world_from_camera: Float[Tensor, "key 4 4"], radius: float, num_frames: int
) -> Float[Tensor, "key_and_frame 4 4"]:
    """Cameras that move on a circle around each key camera and look the same way as it.

    The circle lies in the camera's image plane; it begins on the right (the camera's x axis) and
    turns towards its y axis.

    Args:
        radius: In the unit of the poses.
        num_frames: Of each circle.
    """
    angles = torch.arange(num_frames, device=world_from_camera.device) * (2 * torch.pi / num_frames)
    zero = torch.zeros_like(angles)
    shifts = radius * torch.stack([angles.cos(), angles.sin(), zero], dim=-1).to(world_from_camera)
    views = world_from_camera[:, None].repeat(1, num_frames, 1, 1)
    views[..., :3, 3] += torch.einsum("kij,fj->kfi", world_from_camera[:, :3, :3], shifts)
    return views.flatten(0, 1)
