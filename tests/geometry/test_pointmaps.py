"""Depth to pointmap, and confidence masks."""

import pytest
import torch

from fm3d_plugins.geometry.cameras import intrinsics_matrix, project
from fm3d_plugins.geometry.pointmaps import (
    pointmap_from_depth,
)
from fm3d_plugins.geometry.poses import invert, se3_exp, transform_points
from fm3d_plugins.geometry.rays import pixel_centers

BATCHES = [(), (1,), (2, 3)]


@pytest.fixture
def generator():
    return torch.Generator().manual_seed(0)


def intrinsics_of(batch):
    ones = torch.ones(batch, dtype=torch.float64)
    return intrinsics_matrix(20 * ones, 22 * ones, 4 * ones, 3 * ones)


@pytest.mark.parametrize("batch", BATCHES)
def test_pointmap_reprojects_onto_pixel_centers_and_gives_back_depth(batch, generator):
    depth = 1 + torch.rand(*batch, 6, 8, generator=generator, dtype=torch.float64)
    intrinsics = intrinsics_of(batch)
    world_from_camera = se3_exp(torch.randn(*batch, 6, generator=generator, dtype=torch.float64))
    camera_from_world = invert(world_from_camera)
    points = pointmap_from_depth(depth, intrinsics, world_from_camera)
    assert points.shape == (*batch, 6, 8, 3)
    in_camera = transform_points(camera_from_world, points.flatten(-3, -2))
    torch.testing.assert_close(in_camera[..., 2].unflatten(-1, depth.shape[-2:]), depth)
    points_camera = transform_points(camera_from_world, points.flatten(-3, -2))
    pixels = project(points_camera, intrinsics)
    expected = pixel_centers(6, 8, dtype=torch.float64).flatten(0, 1).expand_as(pixels)
    torch.testing.assert_close(pixels, expected)
    torch.testing.assert_close(
        pointmap_from_depth(depth, intrinsics).flatten(-3, -2), points_camera
    )


def test_pointmap_agrees_with_golden_values(shared):
    """Golden: the published unprojection, whose pixel centres lie at integers."""
    from safetensors.torch import load_file

    golden = load_file(shared / "golden" / "vggt_fn_geometry.safetensors")
    depth = golden["unproj_depth"].squeeze(-1)
    intrinsics = golden["unproj_intrinsics"].clone()
    intrinsics[:, :2, 2] += 0.5
    camera_from_world = torch.eye(4).repeat(len(depth), 1, 1)
    camera_from_world[:, :3] = golden["unproj_extrinsics"]
    points = pointmap_from_depth(depth, intrinsics, invert(camera_from_world))
    torch.testing.assert_close(points, golden["unproj_points"].float(), atol=1e-4, rtol=1e-4)
