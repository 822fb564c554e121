"""Space in front of known points."""

import pytest
import torch
from nerfstudio.cameras.cameras import Cameras, CameraType

from fm3d_plugins.depth_supervision.free_space import (
    CELLS,
    FEWEST_POINTS,
    SHARE,
    FreeSpace,
    free_space_loss,
)
from fm3d_plugins.depth_supervision.point_rays import ShownPoints

torch.set_num_threads(1)


def cameras(**options):
    """Two at x = 0 and 1, looking along -z (OpenGL), 64 x 64 pixels: cells of 2 x 2."""
    poses = torch.eye(4)[None, :3].repeat(2, 1, 1)
    poses[1, 0, 3] = 1
    return Cameras(poses, fx=50.0, fy=50.0, cx=32.0, cy=32.0, width=64, height=64, **options)


def shown_by_first(points):
    return ShownPoints(points, torch.zeros(len(points), dtype=torch.long))


def around_the_middle(distance):
    """As many points as a photo needs, all but on the optical axis of the first camera."""
    return torch.tensor([[0.0, 0.0, -distance]]).repeat(FEWEST_POINTS, 1)


def test_rays_are_free_up_to_shortly_before_the_nearest_points_around_their_pixel():
    """A point at distance 5 in the middle, 19 at about 2 and 10 pixels = 5 cells to its right."""
    points = around_the_middle(2.0) + torch.tensor([0.4, 0.0, 0.0])
    points[0] = torch.tensor([0.0, 0.0, -5.0])
    found = FreeSpace(shown_by_first(points), cameras())
    distance = float(points[1].norm())
    pixels = torch.tensor([[0, 32, 32], [0, 32, 29], [0, 32, 42], [0, 2, 2]])
    expected = SHARE * torch.tensor([5.0, 5.0, distance, distance])
    torch.testing.assert_close(found.at(pixels), expected)


def test_a_photo_that_shows_few_points_and_other_lenses_say_nothing():
    shown = shown_by_first(around_the_middle(3.0))
    assert FreeSpace(shown, cameras()).at(torch.tensor([[1, 5, 5]])) == 0
    few = ShownPoints(*(each[1:] for each in shown))
    assert FreeSpace(few, cameras()).at(torch.tensor([[0, 5, 5]])) == 0
    lens = cameras(camera_type=CameraType.FISHEYE)
    assert FreeSpace(shown, lens).at(torch.tensor([[0, 5, 5]])) == 0


def test_every_pixel_has_a_cell():
    found = FreeSpace(shown_by_first(around_the_middle(3.0)), cameras())
    row, column = torch.meshgrid(torch.arange(64), torch.arange(64), indexing="ij")
    indices = torch.stack([torch.zeros_like(row), row, column], -1).reshape(-1, 3)
    torch.testing.assert_close(found.at(indices), torch.full((64 * 64,), SHARE * 3.0))
    assert 64 % CELLS == 0


def test_light_that_is_absorbed_in_free_space_costs_and_that_behind_it_does_not():
    weights = torch.tensor([[0.25, 0.5, 0.25], [0.5, 0.25, 0.25]], requires_grad=True)
    middles = torch.tensor([[1.0, 2.0, 3.0]]).repeat(2, 1)
    loss = free_space_loss(weights, middles, torch.tensor([2.5, 0.0]))
    assert loss.item() == pytest.approx(0.75 / 2)
    loss.backward()
    assert torch.equal(weights.grad, torch.tensor([[0.5, 0.5, 0.0], [0.0, 0.0, 0.0]]))
