"""Behind everything lie the colours that photos have in a direction."""

import math

import pytest
import torch

from fm3d_plugins.backgrounds.surroundings import (
    ROWS,
    seen_in,
    surroundings,
)
from fm3d_plugins.geometry.rays import camera_rays, pixel_centers

WIDE = torch.tensor([[20.0, 0.0, 20.0], [0.0, 20.0, 20.0], [0.0, 0.0, 1.0]])


def looking_along(direction):
    """An OpenCV camera at the origin."""
    z = torch.nn.functional.normalize(torch.tensor(direction), dim=0)
    helper = torch.tensor([0.0, 0.0, 1.0]) if abs(z[2]) < 0.9 else torch.tensor([1.0, 0.0, 0.0])
    x = torch.nn.functional.normalize(torch.linalg.cross(-helper, z), dim=0)
    pose = torch.eye(4)
    pose[:3, :3] = torch.stack([x, torch.linalg.cross(z, x), z], 1)
    return pose


ALL_AROUND = [(1, 0, 0), (0, 1, 0), (-1, 0, 0), (0, -1, 0), (0, 0, 1), (0, 0, -1)]


def world_colors(directions):
    """A smooth function of the direction."""
    return 0.5 + 0.4 * directions


def photos_of(directions):
    poses = torch.stack([looking_along(tuple(map(float, d))) for d in directions])
    images = []
    for pose in poses:
        _, rays = camera_rays(pixel_centers(40, 40).reshape(-1, 2), WIDE, pose)
        images.append(world_colors(rays).reshape(40, 40, 3))
    return images, [None] * len(images), WIDE.expand(len(images), 3, 3), poses


def test_directions_that_photos_show_have_their_colours():
    """To within a cell of the map, whose colours vary by 0.4 per radian."""
    found = surroundings(*photos_of(ALL_AROUND))
    directions = torch.nn.functional.normalize(torch.randn(500, 3), dim=1)
    error = (seen_in(found, directions) - world_colors(directions)).abs().max()
    assert error < 0.4 * math.pi / ROWS


def test_the_map_closes_to_a_ring():
    found = surroundings(*photos_of(ALL_AROUND))
    beside = torch.tensor([[-1.0, 1e-4, 0.0], [-1.0, -1e-4, 0.0]])
    left, right = seen_in(found, torch.nn.functional.normalize(beside, dim=1))
    torch.testing.assert_close(left, right, atol=1e-3, rtol=0)


def test_directions_that_no_photo_shows_are_like_the_nearest():
    """Photos of one half of the horizon: behind them lies no black, no white, no hole."""
    found = surroundings(*photos_of(ALL_AROUND[:2]))
    assert found.isfinite().all()
    shown = torch.cat([image.reshape(-1, 3) for image in photos_of(ALL_AROUND[:2])[0]])
    assert (found >= shown.amin(0) - 1e-4).all() and (found <= shown.amax(0) + 1e-4).all()


def test_what_is_masked_does_not_count():
    images, _, intrinsics, poses = photos_of(ALL_AROUND)
    masks = [torch.ones(40, 40, 1) for _ in images]
    masks[0][:] = 0
    spoilt = [image.clone() for image in images]
    spoilt[0][:] = 7.0
    assert surroundings(spoilt, masks, intrinsics, poses).max() <= 1


@pytest.mark.parametrize("count", [0, 1])
def test_without_anything_to_see_they_are_grey(count):
    images, _, intrinsics, poses = photos_of(ALL_AROUND[:count] or ALL_AROUND[:1])
    masks = [torch.zeros(40, 40, 1) for _ in images]
    arguments = (images[:count], masks[:count], intrinsics[:count], poses[:count])
    assert (surroundings(*arguments) == 0.5).all()
