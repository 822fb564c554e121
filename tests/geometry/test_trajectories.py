"""Paths through key cameras."""

import pytest
import torch

from fm3d_plugins.geometry.poses import (
    pose_from_rotation_translation,
    rotation_angle_degrees,
    so3_exp,
)
from fm3d_plugins.geometry.trajectories import (
    circles_around,
    interpolate_cameras,
    nearest_neighbour_order,
)


def random_cameras(*batch):
    generator = torch.Generator().manual_seed(0)
    draw = lambda *shape: torch.randn(*batch, *shape, generator=generator).double()  # noqa: E731
    poses = pose_from_rotation_translation(so3_exp(draw(3)), draw(3))
    return poses, torch.eye(3).double() * (2 + draw(1, 1))


@pytest.mark.parametrize("loop", [False, True])
@pytest.mark.parametrize("batch", [(3,), (1, 2), (2, 2, 4)])
def test_both_ends_of_each_transition_are_the_key_cameras(batch, loop):
    poses, intrinsics = random_cameras(*batch)
    path, lenses = interpolate_cameras(poses, intrinsics, 5, loop=loop)
    transitions = path.unflatten(-3, (-1, 5))
    assert transitions.shape[-4] == batch[-1] - 1 + loop
    following = poses.roll(-1, dims=-3)
    count = transitions.shape[-4]
    torch.testing.assert_close(transitions[..., 0, :, :], poses[..., :count, :, :])
    torch.testing.assert_close(transitions[..., -1, :, :], following[..., :count, :, :])
    middle = (intrinsics + intrinsics.roll(-1, dims=-3))[..., :count, :, :] / 2
    torch.testing.assert_close(lenses.unflatten(-3, (-1, 5))[..., 2, :, :], middle)


def test_turn_has_constant_speed_and_takes_the_shorter_way():
    """From -100 to 100 degrees about an axis it is 160 degrees backwards, in steps of 40."""
    axis = torch.tensor([0.6, 0.0, 0.8])
    ends = so3_exp(torch.deg2rad(torch.tensor([[-100.0], [100.0]])) * axis)
    poses = pose_from_rotation_translation(ends, torch.tensor([[0.0, 0, 0], [4, 8, 0]]))
    path, _ = interpolate_cameras(poses, torch.eye(3).expand(2, 3, 3), 5)
    steps = rotation_angle_degrees(path[:-1, :3, :3], path[1:, :3, :3])
    torch.testing.assert_close(steps, torch.full((4,), 40.0))
    expected = torch.arange(5.0)[:, None] * torch.tensor([1.0, 2, 0])
    torch.testing.assert_close(path[:, :3, 3], expected)


def test_equal_cameras_stand_still():
    poses = random_cameras(1)[0].repeat(2, 1, 1)
    path, _ = interpolate_cameras(poses, torch.eye(3).expand(2, 3, 3), 4)
    torch.testing.assert_close(path, poses[:1].expand(4, 4, 4))


@pytest.mark.parametrize(("keys", "frames"), [(1, 5), (3, 1)])
def test_a_transition_without_two_ends_is_refused(keys, frames):
    with pytest.raises(ValueError, match="at least 2 of both"):
        interpolate_cameras(
            torch.eye(4).expand(keys, 4, 4), torch.eye(3).expand(keys, 3, 3), frames
        )


def test_order_goes_from_the_first_camera_to_the_nearest_one_left():
    """Places on a line; 2 and 4 are equally near to 3, of which the earlier is taken."""
    poses = torch.eye(4).repeat(5, 1, 1)
    poses[:, 0, 3] = torch.tensor([3.0, 10.0, 4.0, 2.0, -7.0])
    assert nearest_neighbour_order(poses).tolist() == [0, 2, 3, 1, 4]
    assert nearest_neighbour_order(poses[:0]).tolist() == []


def test_circles_lie_in_the_image_planes_of_their_cameras():
    poses, _ = random_cameras(3)
    views = circles_around(poses, 0.5, 8).unflatten(0, (3, 8))
    torch.testing.assert_close(views[..., :3, :3], poses[:, None, :3, :3].expand(3, 8, 3, 3))
    shifts = views[..., :3, 3] - poses[:, None, :3, 3]
    inside = torch.einsum("kji,kfj->kfi", poses[:, :3, :3], shifts)
    torch.testing.assert_close(shifts.norm(dim=-1), torch.full((3, 8), 0.5).double())
    torch.testing.assert_close(inside[..., 2], torch.zeros(3, 8).double())
    torch.testing.assert_close(inside[:, 2, 1], torch.full((3,), 0.5).double())
