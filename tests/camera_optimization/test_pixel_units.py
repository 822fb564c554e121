"""Units of camera motion, against projections of points before and after a motion."""

import pytest
import torch

from fm3d_plugins.camera_optimization.pixel_units import (
    DAMPING,
    GRID,
    INVERSE_DEPTHS,
    align_in_pixels,
    unit_motions,
)
from fm3d_plugins.geometry.alignment import Similarity, align_cameras
from fm3d_plugins.geometry.cameras import project, unproject
from fm3d_plugins.geometry.looked_at import distance_looked_at
from fm3d_plugins.geometry.poses import rotation_angle_degrees, so3_exp
from fm3d_plugins.nerfstudio_cameras import world_from_cameras


def arguments(cameras):
    poses = world_from_cameras(cameras)
    sizes = torch.cat([cameras.width, cameras.height], dim=-1)
    return poses, cameras.get_intrinsics_matrices(), sizes, distance_looked_at(poses)


def sampled_points(pose, intrinsics, size, reach):
    """Points in the world, spread over the view as the module says, and their pixels."""
    grid = torch.cartesian_prod(torch.tensor(GRID), torch.tensor(GRID)).double()
    pixels = (grid * size).repeat(len(INVERSE_DEPTHS), 1)
    depth = reach / torch.tensor(INVERSE_DEPTHS).double().repeat_interleave(len(grid))
    in_camera = unproject(pixels, depth, intrinsics)
    return in_camera @ pose[:3, :3].T + pose[:3, 3], pixels


def pixels_after(points, pose, intrinsics, tangent):
    rotation, centre = so3_exp(tangent[3:]) @ pose[:3, :3], pose[:3, 3] + tangent[:3]
    return project((points - centre) @ rotation, intrinsics)


def test_random_unit_motion_moves_the_picture_by_one_pixel_per_axis_at_most(ring):
    """An adjustment of root mean square 1 moves points by at most sqrt(6) pixels on average, and
    without damping by exactly that: sum over axes of unit effects."""
    cameras = ring(3)
    poses, intrinsics, sizes, reach = (value.double() for value in arguments(cameras))
    motions = unit_motions(*arguments(cameras)).double()
    for view in range(3):
        points, before = sampled_points(poses[view], intrinsics[view], sizes[view], reach)
        squares = []
        for axis in range(6):
            step = 1e-4 * motions[view] @ torch.eye(6, dtype=torch.float64)[axis]
            moved = pixels_after(points, poses[view], intrinsics[view], step) - before
            squares.append((moved / 1e-4).square().sum(-1).mean())
        total = sum(squares)
        assert all(square < 1.0 for square in squares)
        assert 6 / (1 + 12 * DAMPING) < total < 6 / (1 + DAMPING) + 1e-6


def test_motions_are_symmetric_and_invertible(ring):
    motions = unit_motions(*arguments(ring(4)))
    torch.testing.assert_close(motions, motions.mT)
    assert torch.linalg.eigvalsh(motions).min() > 0


@pytest.mark.parametrize("scale", [0.01, 100.0])
def test_shifts_grow_with_the_scene_and_turns_do_not(ring, scale):
    small, large = ring(4), ring(4)
    large.camera_to_worlds[:, :, 3] *= scale
    units = torch.tensor([scale] * 3 + [1.0] * 3)
    effects = []
    for cameras, unit in ((small, torch.ones(6)), (large, units)):
        motions = unit_motions(*arguments(cameras))
        effects.append(unit[:, None] * torch.linalg.inv(motions @ motions) * unit)
    torch.testing.assert_close(effects[0], effects[1], rtol=1e-3, atol=1e-1)


def test_one_camera_and_parallel_cameras_have_finite_units(ring):
    alone = ring(1)
    assert unit_motions(*arguments(alone)).isfinite().all()
    parallel = ring(3)
    parallel.camera_to_worlds[:, :, :3] = parallel.camera_to_worlds[:1, :, :3]
    assert unit_motions(*arguments(parallel)).isfinite().all()


SIMILARITY = Similarity(
    torch.tensor(1.7, dtype=torch.float64),
    so3_exp(torch.tensor([0.3, -0.2, 0.9], dtype=torch.float64)),
    torch.tensor([0.5, 1.0, -2.0], dtype=torch.float64),
)


def test_alignment_finds_the_similarity_that_moved_all_cameras(ring):
    poses, intrinsics, sizes, _ = arguments(ring(7))
    source = poses.double()
    target = SIMILARITY.apply_to_pose(source)
    reach = distance_looked_at(target)
    motions = unit_motions(target, intrinsics.double(), sizes, reach)
    found = align_in_pixels(source, target, motions)
    torch.testing.assert_close(found.matrix(), SIMILARITY.matrix(), atol=1e-9, rtol=0)


def test_alignment_in_pixels_is_not_led_astray_by_what_pictures_hardly_show(ring):
    """Errors of three units along the motion that shows least: a fit of centres turns with them,
    a fit in pixels is nearer to the truth. Means over ten draws."""
    poses, intrinsics, sizes, _ = arguments(ring(12))
    source = poses.double()
    target = SIMILARITY.apply_to_pose(source)
    motions = unit_motions(target, intrinsics.double(), sizes, distance_looked_at(target)).double()
    weakest = torch.linalg.eigh(motions)[1][:, :, -1]
    generator = torch.Generator().manual_seed(0)
    errors = {"pixels": 0.0, "centres": 0.0}
    for _ in range(10):
        amount = 3 * torch.randn(12, 1, generator=generator, dtype=torch.float64)
        tangents = (motions @ (amount * weakest)[..., None]).squeeze(-1)
        noisy = target.clone()
        noisy[:, :3, :3] = so3_exp(tangents[:, 3:]) @ target[:, :3, :3]
        noisy[:, :3, 3] += tangents[:, :3]
        for name, found in (
            ("pixels", align_in_pixels(source, noisy, motions)),
            ("centres", align_cameras(source, noisy)),
        ):
            placed = found.apply_to_pose(source)
            turns = rotation_angle_degrees(placed[:, :3, :3], target[:, :3, :3])
            errors[name] += float(turns.mean())
    assert errors["pixels"] < 0.7 * errors["centres"]
