"""Gaussians from depth maps: where they lie, how wide they are, which are kept."""

import pytest
import torch

from fm3d_plugins.geometry.cameras import denormalize, distort, normalize
from fm3d_plugins.geometry.poses import se3_exp
from fm3d_plugins.one_pass.geometry.depth_views import DepthView
from fm3d_plugins.one_pass.geometry.point_splats import splats_from_depth

ROWS, COLUMNS, FOCAL = 12, 16, 20.0


def plane_view(distance=4.0, **changes):
    """A camera at the origin before a plane across its axis."""
    grid = torch.arange(ROWS * COLUMNS, dtype=torch.float32).reshape(ROWS, COLUMNS)
    values = dict(
        rgb=torch.stack([grid / grid.max()] * 3, dim=-1),
        depth=torch.full((ROWS, COLUMNS), distance),
        confidence=grid / grid.max(),
        world_from_camera=torch.eye(4),
        intrinsics=torch.tensor([[FOCAL, 0, COLUMNS / 2], [0, FOCAL, ROWS / 2], [0, 0, 1.0]]),
        distortion=torch.zeros(6),
    )
    return DepthView(**{**values, **changes})


def test_a_pixel_becomes_a_ball_half_as_wide_as_it_is_far_from_its_neighbours():
    """Truth: pixels are 4 / 20 = 0.2 apart; the first one's centre is at (-7.5, -5.5) pixels. Its
    neighbours inside the plane are 0.2, 0.2, 0.2 away, so its standard deviation is 0.1."""
    splats = splats_from_depth([plane_view()], 0.0, 10_000)
    assert len(splats.means) == ROWS * COLUMNS
    torch.testing.assert_close(splats.means[0], torch.tensor([-1.5, -1.1, 4.0]))
    inner = splats.scales.reshape(ROWS, COLUMNS)[1:-1, 1:-1]
    torch.testing.assert_close(inner, torch.full_like(inner, 0.1), atol=1e-4, rtol=0)
    assert splats.colors[0].tolist() == [0, 0, 0] and splats.colors[-1].tolist() == [255] * 3


def test_points_move_with_their_camera():
    pose = se3_exp(torch.tensor([0.3, -0.2, 0.5, 0.1, 0.4, -0.3]))
    fixed = splats_from_depth([plane_view()], 0.0, 10_000)
    moved = splats_from_depth([plane_view(world_from_camera=pose)], 0.0, 10_000)
    expected = fixed.means @ pose[:3, :3].T + pose[:3, 3]
    torch.testing.assert_close(moved.means, expected, atol=1e-5, rtol=1e-5)


def test_lens_distortion_is_taken_out():
    """Truth: a point projected through the lens falls on the pixel it came from."""
    distortion = torch.tensor([-0.1, 0.02, 0.0, 0.0, 0.001, -0.002])
    view = plane_view(distortion=distortion)
    means = splats_from_depth([view], 0.0, 10_000).means
    seen = distort(means[:, :2] / means[:, 2:], distortion)
    pixels = denormalize(seen, view.intrinsics)
    x = torch.arange(COLUMNS) + 0.5
    torch.testing.assert_close(pixels.reshape(ROWS, COLUMNS, 2)[3, :, 0], x, atol=1e-4, rtol=0)
    straight = normalize(pixels, view.intrinsics) * 4.0
    assert (straight - means[:, :2]).abs().max() > 0.005


def test_doubtful_and_unknown_pixels_are_left_out():
    depth = torch.full((ROWS, COLUMNS), 4.0)
    depth[-1] = 0.0
    splats = splats_from_depth([plane_view(depth=depth)], 0.5, 10_000)
    expected = (plane_view().confidence >= 0.5) & (depth > 0)
    assert len(splats.means) == int(expected.sum())
    assert splats.confidence.min() >= 0.5


def test_a_stray_point_does_not_become_a_cloud():
    """Truth: its neighbours are 96 away, but its pixel is 100 / 20 wide: at most twice that."""
    depth = torch.full((ROWS, COLUMNS), 4.0)
    depth[5, 8] = 100.0
    splats = splats_from_depth([plane_view(depth=depth)], 0.0, 10_000)
    assert splats.scales.max() == pytest.approx(10.0)


def test_thinned_balls_grow_to_close_the_surface():
    """Truth: with a fraction s of the points on a plane they lie 1 / sqrt(s) farther apart."""
    view = plane_view(
        rgb=torch.rand(120, 160, 3),
        depth=torch.full((120, 160), 4.0),
        confidence=torch.ones(120, 160),
        intrinsics=torch.tensor([[200.0, 0, 80], [0, 200.0, 60], [0, 0, 1.0]]),
    )
    whole, thin = (splats_from_depth([view], 0.0, cap) for cap in (100_000, 1200))
    assert 1100 <= len(thin.means) <= 1200
    growth = thin.scales.median() / whole.scales.median()
    assert float(growth) == pytest.approx((len(whole.means) / len(thin.means)) ** 0.5, rel=0.15)


def test_memory_is_bounded_while_views_are_read(monkeypatch):
    """Fifty views of 192 pixels never amount to more than four times the cap and one view."""
    import fm3d_plugins.one_pass.geometry.point_splats as module

    held = []
    thin = module.thin_to_voxels
    monkeypatch.setattr(
        module, "thin_to_voxels", lambda p, c, cap: held.append(len(p)) or thin(p, c, cap)
    )
    views = (plane_view(4.0 + 0.1 * i) for i in range(50))
    splats = splats_from_depth(views, 0.0, 100)
    assert len(splats.means) <= 100
    assert max(held) <= 4 * 100 + ROWS * COLUMNS


def test_nothing_sure_is_an_error():
    with pytest.raises(ValueError, match="0 pixels.*min-confidence"):
        splats_from_depth([plane_view()], 1.5, 100)
