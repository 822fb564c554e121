"""Depth to pointmap and back, confidence masks, normals."""

import pytest
import torch

from fm3d_plugins.geometry.cameras import intrinsics_matrix, project
from fm3d_plugins.geometry.pointmaps import (
    confidence_mask,
    depth_from_pointmap,
    normals_from_pointmap,
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
    torch.testing.assert_close(depth_from_pointmap(points, camera_from_world), depth)
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


def test_keep_fraction_keeps_the_highest_values():
    confidence = torch.tensor([[0.1, 0.9, 0.5], [0.7, 0.3, torch.nan]])
    # Half of six values: 0.9, 0.7 and 0.5; nan never counts as sure.
    expected = torch.tensor([[False, True, True], [True, False, False]])
    assert torch.equal(confidence_mask(confidence, keep_fraction=0.5), expected)
    all_but_nan = torch.tensor([[True, True, True], [True, True, False]])
    assert torch.equal(confidence_mask(confidence, keep_fraction=1.0), all_but_nan)
    assert torch.equal(confidence_mask(confidence, threshold=0.5), expected)


def test_keep_fraction_works_beyond_the_limit_of_quantile():
    """torch.quantile refuses more than 2^24 values; forty views at 518 px have more."""
    confidence = torch.arange(2**24 + 2, dtype=torch.float64)
    assert int(confidence_mask(confidence, keep_fraction=0.5).sum()) == 2**23 + 1


def test_mask_of_nothing_is_empty():
    assert confidence_mask(torch.zeros(0, 4), keep_fraction=0.5).shape == (0, 4)


@pytest.mark.parametrize(
    "options", [{}, {"keep_fraction": 0.5, "threshold": 1.0}, {"keep_fraction": 0.0}]
)
def test_contradictory_mask_options_are_refused(options):
    with pytest.raises(ValueError, match="expected"):
        confidence_mask(torch.ones(3), **options)


@pytest.mark.parametrize("batch", BATCHES)
def test_normals_of_a_slanted_plane_are_exact_everywhere(batch, generator):
    """Truth: the plane n · x = -3 seen from the origin has normal n where n faces the camera."""
    normal = torch.tensor([0.3, -0.2, -1.0], dtype=torch.float64)
    normal = normal / normal.norm()
    rays = pointmap_from_depth(torch.ones(*batch, 5, 7, dtype=torch.float64), intrinsics_of(batch))
    points = rays * (-3 / (rays * normal).sum(-1, keepdim=True))
    camera_center = torch.zeros(*batch, 3, dtype=torch.float64)
    normals = normals_from_pointmap(points, camera_center)
    torch.testing.assert_close(normals, normal.expand_as(normals))


def test_normals_turn_with_the_scene(generator):
    depth = 2 + torch.rand(5, 6, generator=generator, dtype=torch.float64)
    world_from_camera = se3_exp(torch.randn(6, generator=generator, dtype=torch.float64))
    intrinsics = intrinsics_of(())
    in_camera = normals_from_pointmap(
        pointmap_from_depth(depth, intrinsics), torch.zeros(3, dtype=torch.float64)
    )
    in_world = normals_from_pointmap(
        pointmap_from_depth(depth, intrinsics, world_from_camera), world_from_camera[:3, 3]
    )
    torch.testing.assert_close(in_world, in_camera @ world_from_camera[:3, :3].T)


def test_normals_of_coincident_points_are_zero():
    normals = normals_from_pointmap(torch.ones(3, 3, 3), torch.zeros(3))
    assert torch.equal(normals, torch.zeros(3, 3, 3))
