"""The point that cameras look at."""

import torch

from fm3d_plugins.geometry.looked_at import distance_looked_at, point_looked_at


def looking_at_origin(positions):
    """OpenCV cameras at `positions` with their optical axes through the origin."""
    forward = -torch.nn.functional.normalize(positions, dim=-1)
    right = torch.linalg.cross(forward, forward.new_tensor([[0.0, 0.0, 1.0]]).expand_as(forward))
    right = torch.nn.functional.normalize(right, dim=-1)
    down = torch.linalg.cross(forward, right)
    poses = torch.eye(4).repeat(len(positions), 1, 1)
    poses[:, :3, :3] = torch.stack([right, down, forward], dim=-1)
    poses[:, :3, 3] = positions
    return poses


def test_axes_through_a_point_find_it_and_its_distance():
    poses = looking_at_origin(torch.tensor([[3.0, 0, 1], [0, 4, 1], [-2, 1, 2]]))
    distances = poses[:, :3, 3].norm(dim=-1)
    poses[:, :3, 3] += torch.tensor([5.0, 6.0, 7.0])
    # The pull towards the cameras' mean is a thousandth.
    found = point_looked_at(poses)
    torch.testing.assert_close(found, torch.tensor([5.0, 6.0, 7.0]), atol=0.02, rtol=0)
    expected = distances.median()
    torch.testing.assert_close(distance_looked_at(poses), expected, atol=0.02, rtol=0)


def test_parallel_axes_give_a_finite_point_and_the_spread_of_the_cameras():
    poses = torch.eye(4).repeat(3, 1, 1)
    poses[:, 0, 3] = torch.tensor([0.0, 1.0, 3.0])
    assert point_looked_at(poses).isfinite().all()
    # Their mean is at 4 / 3, from which the farthest is 5 / 3 away.
    torch.testing.assert_close(distance_looked_at(poses), torch.tensor(5 / 3))


def test_one_camera_looks_at_the_unit_distance():
    assert float(distance_looked_at(torch.eye(4)[None])) == 1.0
