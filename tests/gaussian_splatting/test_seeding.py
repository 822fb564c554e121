"""No more gaussians to start from than a run may have, and how wide a pixel is where they are."""

import pytest
import torch

from fm3d_plugins.gaussian_splatting.seeding import evenly_drawn, pixel_width


@pytest.mark.parametrize("count", [1, 7, 100])
def test_few_points_are_all_taken_in_order(count, capsys):
    assert evenly_drawn(count, 100).tolist() == list(range(count))
    assert not capsys.readouterr().out


def test_of_many_points_so_many_different_ones_are_taken_from_everywhere():
    """Of 10 000 rows every quarter gets 250 of 1000, give or take 6 standard deviations of 13."""
    rows = evenly_drawn(10_000, 1000)
    assert len(rows.unique()) == 1000 and torch.equal(rows, rows.sort().values)
    quarters = torch.bincount(rows // 2500, minlength=4)
    assert ((quarters - 250).abs() < 6 * 13).all()


def test_it_is_said_how_many_are_left_out(capsys):
    evenly_drawn(200, 50)
    assert "50 of the scene's 200 points" in " ".join(capsys.readouterr().out.split())


def cameras_before_a_wall(*distances, focal=200.0):
    """Cameras at z = -distance before points of the plane z = 0, in photos of 100 x 80 pixels."""
    points = torch.cartesian_prod(torch.linspace(-9, 9, 50), torch.linspace(-9, 9, 50))
    poses = torch.eye(4).repeat(len(distances), 1, 1)
    poses[:, 2, 3] = -torch.tensor(distances)
    intrinsics = torch.tensor([[focal, 0, 50], [0, focal, 40], [0, 0, 1]])
    size = torch.tensor([100, 80])
    many = len(distances)
    points = torch.nn.functional.pad(points, (0, 1))
    return points, poses, intrinsics.expand(many, 3, 3), size.expand(many, 2)


def test_a_pixel_is_as_wide_as_depth_over_focal_length():
    """Of three cameras at 3, 4 and 10 units, the middle one tells."""
    assert pixel_width(*cameras_before_a_wall(3.0, 4.0, 10.0)) == pytest.approx(4 / 200)


def test_points_that_a_photo_does_not_show_tell_it_nothing():
    points, *cameras = cameras_before_a_wall(4.0)
    behind, beside = torch.tensor([[0, 0, -9.0]]), torch.tensor([[90.0, 0, 1]])
    many = torch.cat([points, behind.expand(9999, 3), beside.expand(9999, 3)])
    assert pixel_width(many, *cameras) == pytest.approx(4 / 200)
    assert pixel_width(behind, *cameras) is None
