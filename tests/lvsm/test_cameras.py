"""The frame that cameras are given in."""

import pytest
import torch

from fm3d_plugins.geometry.alignment import Similarity
from fm3d_plugins.geometry.poses import pose_from_rotation_translation, so3_exp
from fm3d_plugins.lvsm.cameras import SCALE, normalization


@pytest.fixture
def cameras():
    """Poses that look roughly one way."""
    generator = torch.Generator().manual_seed(0)
    draw = lambda *shape: torch.randn(*shape, generator=generator, dtype=torch.float64)  # noqa: E731
    return pose_from_rotation_translation(so3_exp(0.4 * draw(5, 3)), draw(5, 3))


def test_mean_camera_looks_along_z_and_the_farthest_coordinate_is_the_scale(cameras):
    moved = normalization(cameras).apply_to_pose(cameras)
    torch.testing.assert_close(moved[:, :3, 3].mean(0), torch.zeros(3).double())
    forward, down = moved[:, :3, 2].mean(0), moved[:, :3, 1].mean(0)
    torch.testing.assert_close(forward[:2], torch.zeros(2).double())
    assert forward[2] > 0 and down[1] > 0 and down[0].abs() < 1e-12
    assert float(moved[:, :3, 3].abs().max()) == pytest.approx(1 / SCALE)


def test_frame_and_unit_of_the_world_have_no_influence(cameras):
    turn = so3_exp(torch.tensor([0.3, -2.0, 1.0]).double())
    other = Similarity(torch.tensor(7.0).double(), turn, torch.tensor([5.0, 1.0, -9.0]).double())
    seen = other.apply_to_pose(cameras)
    torch.testing.assert_close(
        normalization(seen).apply_to_pose(seen), normalization(cameras).apply_to_pose(cameras)
    )


def test_normalized_cameras_stay_as_they_are(cameras):
    once = normalization(cameras).apply_to_pose(cameras)
    torch.testing.assert_close(normalization(once).apply_to_pose(once), once)


def test_scenes_of_a_batch_are_independent(cameras):
    batch = torch.stack([cameras, cameras.flip(0) @ cameras[0], cameras[[0] * 5]])
    together = normalization(batch).apply_to_pose(batch)
    for scene, ours in zip(batch, together, strict=True):
        torch.testing.assert_close(normalization(scene).apply_to_pose(scene), ours)


@pytest.mark.parametrize("count", [1, 3])
def test_coincident_cameras_keep_their_unit(count, cameras):
    """At a place far off, where rounding could pass for a baseline."""
    same = cameras[:1].float().repeat(count, 1, 1)
    same[:, :3, 3] += 1000
    similarity = normalization(same)
    assert float(similarity.scale) == 1
    torch.testing.assert_close(
        similarity.apply_to_pose(same), torch.eye(4).expand(count, 4, 4), atol=1e-3, rtol=0
    )


@pytest.mark.parametrize("axis", [1, 2])
def test_cameras_on_a_full_circle_have_the_first_ones_axes(axis):
    """Around y they look to all sides; around z they look one way, with their y axes in a ring."""
    angles = torch.arange(4).double()[:, None] * torch.pi / 2
    turns = so3_exp(angles * torch.eye(3).double()[axis])
    first = so3_exp(torch.tensor([0.3, 0.1, -0.4]).double())
    cameras = pose_from_rotation_translation(first @ turns, first @ turns @ torch.ones(3).double())
    similarity = normalization(cameras)
    torch.testing.assert_close(similarity.rotation, first.T)
    assert similarity.apply_to_pose(cameras).isfinite().all()
    assert float(similarity.apply_to_pose(cameras)[:, :3, 3].abs().max()) < 1
