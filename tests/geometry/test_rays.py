"""Pixel grids, rays and Plücker coordinates."""

import pytest
import torch

from fm3d_plugins.geometry.cameras import denormalize, distort, intrinsics_matrix, project
from fm3d_plugins.geometry.poses import invert, se3_exp, transform_points
from fm3d_plugins.geometry.rays import camera_rays, pixel_centers, plucker

BATCHES = [(), (1,), (2, 3)]


@pytest.fixture
def generator():
    return torch.Generator().manual_seed(0)


def test_pixel_centers_are_half_a_pixel_inside():
    grid = pixel_centers(2, 3)
    expected = torch.tensor(
        [[[0.5, 0.5], [1.5, 0.5], [2.5, 0.5]], [[0.5, 1.5], [1.5, 1.5], [2.5, 1.5]]]
    )
    assert torch.equal(grid, expected)


@pytest.mark.parametrize("batch", BATCHES)
@pytest.mark.parametrize("is_distorted", [False, True])
def test_rays_hit_the_points_that_project_to_their_pixels(batch, is_distorted, generator):
    points_camera = torch.randn(*batch, 6, 3, generator=generator, dtype=torch.float64)
    points_camera[..., 2] = points_camera[..., 2].abs() + 2
    ones = torch.ones(batch, dtype=torch.float64)
    intrinsics = intrinsics_matrix(500 * ones, 480 * ones, 320 * ones, 240 * ones)
    distortion = torch.tensor([-0.05, 0.01, 0.0, 0.0, 0.002, -0.001], dtype=torch.float64)
    distortion = distortion.expand(*batch, 6)
    world_from_camera = se3_exp(torch.randn(*batch, 6, generator=generator, dtype=torch.float64))
    pixels = project(points_camera, intrinsics)
    if is_distorted:
        normalized = points_camera[..., :2] / points_camera[..., 2:]
        pixels = denormalize(distort(normalized, distortion), intrinsics)
    origins, directions = camera_rays(
        pixels, intrinsics, world_from_camera, distortion if is_distorted else None
    )
    distance = points_camera.norm(dim=-1, keepdim=True)
    points_world = transform_points(world_from_camera, points_camera)
    torch.testing.assert_close(origins + distance * directions, points_world)
    torch.testing.assert_close(
        transform_points(invert(world_from_camera), origins), torch.zeros_like(origins)
    )


@pytest.mark.parametrize("batch", BATCHES)
def test_plucker_does_not_depend_on_the_origin_along_the_ray(batch, generator):
    origins = torch.randn(*batch, 3, generator=generator, dtype=torch.float64)
    directions = torch.nn.functional.normalize(
        torch.randn(*batch, 3, generator=generator, dtype=torch.float64), dim=-1
    )
    torch.testing.assert_close(
        plucker(origins + 2.5 * directions, directions), plucker(origins, directions)
    )


def test_plucker_moment_comes_first():
    """Truth: origin x, direction y: moment x × y = z."""
    six = plucker(torch.tensor([1.0, 0, 0]), torch.tensor([0.0, 1, 0]))
    assert torch.equal(six, torch.tensor([0.0, 0, 1, 0, 1, 0]))
