"""A scene that is known in closed form: a sphere, seen from inside."""

import math
from types import SimpleNamespace

import pytest
import torch

from fm3d_plugins.geometry.alignment import align_cameras
from fm3d_plugins.geometry.poses import so3_exp
from fm3d_plugins.geometry.rays import camera_rays, pixel_centers

RADIUS = 5.0
FOCAL = 0.8
"""Of the longer side."""


def walk(count):
    """Cameras on a circle of radius 2 in a sphere of radius 5, looking ahead and outwards."""
    poses = torch.eye(4, dtype=torch.float64).repeat(count, 1, 1)
    for row in range(count):
        angle = 2 * math.pi * row / count
        turn = so3_exp(torch.tensor([0.0, angle, 0.0], dtype=torch.float64))
        poses[row, :3, :3] = turn @ so3_exp(torch.tensor([0.1, 0.6, 0.05], dtype=torch.float64))
        poses[row, :3, 3] = 2.0 * turn[:, 2]
    return poses


def sphere_depth(pose, intrinsics, height, width):
    """z-depth of the sphere around the origin, seen from inside."""
    pixels = pixel_centers(height, width, dtype=torch.float64).flatten(0, 1)
    origins, rays = camera_rays(pixels, intrinsics, pose)
    along = (origins * rays).sum(-1)
    distance = -along + (along**2 - (origins**2).sum(-1) + RADIUS**2).sqrt()
    return (distance * (rays @ pose[:3, 2])).reshape(height, width)


def photo_intrinsics(width, height):
    focal = FOCAL * max(width, height)
    return torch.tensor([[focal, 0, width / 2], [0, focal, height / 2], [0, 0, 1.0]]).double()


def expect_truth(scene, poses, sizes, tolerance=2e-3):
    """Cameras and points are the true ones but for one similarity."""
    similarity = align_cameras(scene.world_from_camera, poses)
    moved = similarity.apply_to_pose(scene.world_from_camera)
    torch.testing.assert_close(moved, poses, atol=10 * tolerance, rtol=0)
    for row, size in enumerate(sizes):
        torch.testing.assert_close(
            scene.intrinsics[row], photo_intrinsics(*size), rtol=tolerance, atol=tolerance
        )
    radius = similarity.apply(scene.points.double()).norm(dim=-1)
    assert float((radius / RADIUS - 1).abs().max()) < 5 * tolerance


@pytest.fixture(scope="session")
def sphere():
    """The functions above, as test files cannot import from each other."""
    return SimpleNamespace(
        RADIUS=RADIUS,
        walk=walk,
        sphere_depth=sphere_depth,
        photo_intrinsics=photo_intrinsics,
        expect_truth=expect_truth,
    )
