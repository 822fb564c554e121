"""Camera poses from points and pixels, with known truth."""

import pytest
import torch
from safetensors.torch import load_file

from fm3d_plugins.backends.opencv import absolute_pose
from fm3d_plugins.geometry.cameras import project
from fm3d_plugins.geometry.poses import (
    invert,
    pose_from_rotation_translation,
    rotation_angle_degrees,
    so3_exp,
    transform_points,
)

INTRINSICS = torch.tensor([[300.0, 0, 160], [0, 310.0, 118], [0, 0, 1]], dtype=torch.float64)


def scene(count=200):
    generator = torch.Generator().manual_seed(1)
    rotation = so3_exp(torch.tensor([0.3, -0.5, 0.2], dtype=torch.float64))
    camera_from_world = pose_from_rotation_translation(
        rotation, torch.tensor([0.4, -0.2, 0.7], dtype=torch.float64)
    )
    points_camera = torch.rand(count, 3, generator=generator, dtype=torch.float64) * 2 - 1
    points_camera[:, 2] += 4
    pixels = project(points_camera, INTRINSICS)
    return camera_from_world, transform_points(invert(camera_from_world), points_camera), pixels


def test_exact_points_give_the_pose_back():
    camera_from_world, points, pixels = scene()
    found, agrees = absolute_pose(points, pixels, INTRINSICS)
    torch.testing.assert_close(found, camera_from_world, rtol=0, atol=1e-6)
    assert agrees.all()


@pytest.mark.parametrize("seed", [None, 0, 5])
def test_wrong_points_are_told_apart_and_do_not_matter(seed):
    camera_from_world, points, pixels = scene()
    pixels[::3] += 40
    found, agrees = absolute_pose(points, pixels, INTRINSICS, threshold=2, seed=seed)
    torch.testing.assert_close(found, camera_from_world, rtol=0, atol=1e-5)
    wrong = torch.zeros(len(points), dtype=torch.bool)
    wrong[::3] = True
    assert torch.equal(agrees, ~wrong)


def test_equal_seeds_give_equal_poses_and_others_draw_differently():
    """With noise, few hypotheses depend on which points are drawn."""
    _, points, pixels = scene()
    generator = torch.Generator().manual_seed(2)
    pixels += torch.randn(pixels.shape, generator=generator, dtype=torch.float64)
    pixels[::4] += 60
    poses = [
        absolute_pose(points, pixels, INTRINSICS, threshold=2, iterations=20, seed=seed)[0]
        for seed in (1, 1, 2, 3)
    ]
    assert torch.equal(poses[0], poses[1])
    assert not torch.equal(poses[0], poses[2]) or not torch.equal(poses[0], poses[3])


@pytest.mark.parametrize("count", [0, 3])
def test_too_few_points_are_an_error(count):
    _, points, pixels = scene()
    with pytest.raises(ValueError, match=f"found {count}"):
        absolute_pose(points[:count], pixels[:count], INTRINSICS)


def test_points_that_are_not_finite_are_an_error():
    _, points, pixels = scene()
    points[5, 1] = torch.nan
    with pytest.raises(ValueError, match="not finite"):
        absolute_pose(points, pixels, INTRINSICS)


def test_pixels_of_other_points_are_an_error_not_the_identity():
    _, points, pixels = scene()
    generator = torch.Generator().manual_seed(0)
    pixels = torch.rand(pixels.shape, generator=generator, dtype=torch.float64) * 1e5
    with pytest.raises(ValueError, match="No camera pose"):
        absolute_pose(points, pixels, INTRINSICS, threshold=0.01)


def test_relative_pose_is_the_published_one(shared):
    """Points of the other photo in this camera's frame; pixels have integer centres there."""
    golden = load_file(shared / "golden/dust3r_ga.safetensors")
    edges = golden["edges"].tolist()
    row = edges.index([0, 1])
    y, x = torch.meshgrid(torch.arange(48.0), torch.arange(64.0), indexing="ij")
    focal = float(golden["pnp01_known.focal"])
    intrinsics = torch.tensor([[focal, 0, 32], [0, focal, 24], [0, 0, 1]])
    points = golden["noisy.pred2_pts3d_in_other_view"][row].flatten(0, 1)
    pixels = torch.stack([x, y], dim=-1).flatten(0, 1)
    found, _ = absolute_pose(points, pixels, intrinsics, iterations=10)
    world_from_camera = invert(found)
    torch.testing.assert_close(world_from_camera, golden["pnp01_known.c2w"], rtol=0, atol=2e-3)
    truth = golden["pnp01.gt_c2w"].float()
    assert float(rotation_angle_degrees(world_from_camera[:3, :3], truth[:3, :3])) < 0.05
