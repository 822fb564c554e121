"""Random points to start from."""

import torch

from fm3d_plugins.geometry.cameras import project
from fm3d_plugins.geometry.poses import invert, transform_points
from fm3d_plugins.random_points import random_points_in_view


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


def test_random_points_are_seen_and_have_the_colour_of_their_pixel():
    poses = looking_at_origin(torch.tensor([[3.0, 0, 0.5]]))
    intrinsics = torch.tensor([[[50.0, 0, 32], [0, 50, 24], [0, 0, 1]]])
    image = torch.zeros(48, 64, 3)
    image[:, 32:] = 1.0
    points, colors = random_points_in_view(
        poses, intrinsics, [image], 500, torch.Generator().manual_seed(0)
    )
    camera = transform_points(invert(poses[0]), points)
    pixels = project(camera, intrinsics[0])
    assert camera[:, 2].min() > 0
    assert pixels.min() > 0
    assert (pixels < torch.tensor([64.0, 48.0])).all()
    torch.testing.assert_close(colors[:, 0], (pixels[:, 0] > 32).float())
