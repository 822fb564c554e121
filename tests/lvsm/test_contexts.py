"""Which photos a view is made from."""

import math

import torch

from fm3d_plugins.geometry.cameras import camera_distances
from fm3d_plugins.geometry.poses import pose_from_rotation_translation
from fm3d_plugins.lvsm.contexts import nearest, spread_out


def cameras_on_a_line(*positions):
    centers = torch.zeros(len(positions), 3)
    centers[:, 0] = torch.tensor(positions)
    return pose_from_rotation_translation(torch.eye(3).expand(len(positions), 3, 3), centers)


def test_distance_is_position_over_spread_plus_angle():
    """Cameras at -1 and 1 lie 1 from their centre on average; a turn by 60 degrees adds pi/3."""
    cameras = cameras_on_a_line(-1.0, 1.0)
    turned = cameras[1:].clone()
    c, s = math.cos(math.pi / 3), math.sin(math.pi / 3)
    turned[0, :3, :3] = torch.tensor([[c, 0, s], [0, 1, 0], [-s, 0, c]])
    distances = camera_distances(turned, cameras)
    expected = torch.tensor([[2 + math.pi / 3, math.pi / 3]])
    torch.testing.assert_close(distances, expected, atol=1e-5, rtol=0)


def test_spread_out_views_take_the_ends_then_the_middle():
    cameras = cameras_on_a_line(0.0, 1.0, 2.0, 5.0, 9.0, 10.0)
    chosen = spread_out(cameras, 3)
    assert set(chosen[:2]) == {0, 5}
    assert chosen[2] == 3
    assert sorted(spread_out(cameras, 99)) == list(range(6))


def test_cameras_in_one_place_spread_by_direction():
    turns = [0.0, 0.1, 0.2, 3.0]
    cameras = torch.eye(4).repeat(4, 1, 1)
    for camera, turn in zip(cameras, turns, strict=True):
        c, s = math.cos(turn), math.sin(turn)
        camera[:3, :3] = torch.tensor([[c, 0, s], [0, 1, 0], [-s, 0, c]])
    assert set(spread_out(cameras, 2)) == {0, 3}


def test_nearest_views_leave_out_what_is_excluded():
    cameras = cameras_on_a_line(0.0, 1.0, 2.0, 5.0)
    target = cameras_on_a_line(0.9)[0]
    assert nearest(target, cameras, 2) == [1, 0]
    assert nearest(target, cameras, 2, without=[1]) == [0, 2]
    assert len(nearest(target, cameras, 9, without=[1])) == 3
