"""Focal lengths of pointmaps whose cameras are known."""

import pytest
import torch
from safetensors.torch import load_file

from fm3d_plugins.geometry.focal import weiszfeld_focal


def seen_points(focal, count=500, batch=()):
    generator = torch.Generator().manual_seed(3)
    shape = (*batch, count, 2)
    pixels = 100 * torch.rand(shape, generator=generator, dtype=torch.float64) - 50
    depth = 1 + 4 * torch.rand((*shape[:-1], 1), generator=generator, dtype=torch.float64)
    return pixels, torch.cat([pixels / focal * depth, depth], dim=-1)


@pytest.mark.parametrize("batch", [(), (1,), (2, 3)])
def test_exact_points_give_the_focal_length_of_their_camera(batch):
    found = weiszfeld_focal(*seen_points(73.5, batch=batch))
    assert found.shape == batch
    torch.testing.assert_close(found, torch.full(batch, 73.5, dtype=torch.float64))


def test_unit_of_the_points_does_not_matter():
    pixels, points = seen_points(60.0)
    torch.testing.assert_close(weiszfeld_focal(pixels, points), weiszfeld_focal(pixels, 7 * points))


def test_wrong_points_move_the_weiszfeld_focal_less_than_least_squares():
    """A fifth of the points seems to be seen with twice the focal length."""
    pixels, points = seen_points(60.0)
    points[::5, :2] /= 2
    direction = points[:, :2] / points[:, 2:]
    squares = float((direction * pixels).sum() / direction.square().sum())
    found = float(weiszfeld_focal(pixels, points))
    assert abs(found - 60) < 0.5 < abs(squares - 60)


def test_points_without_weight_do_not_count():
    pixels, points = seen_points(60.0)
    broken = points.clone()
    broken[:400, 0] += 3
    weights = torch.ones(500, dtype=torch.float64)
    weights[:400] = 0
    assert float(weiszfeld_focal(pixels, broken, weights)) == pytest.approx(60, rel=1e-9)


def test_points_with_depth_zero_count_as_on_the_axis():
    pixels, points = seen_points(60.0)
    points[0, 2] = 0
    assert float(weiszfeld_focal(pixels, points)) == pytest.approx(60, rel=1e-2)


def test_points_behind_the_camera_are_an_error():
    pixels, points = seen_points(60.0)
    points[:, 2] *= -1
    with pytest.raises(ValueError, match="in front of the camera"):
        weiszfeld_focal(pixels, points)


def test_focal_lengths_are_the_published_ones(shared):
    """Pixels have integer centres there and the principal point is (32, 24)."""
    scene = load_file(shared / "golden/dust3r_ga.safetensors")
    y, x = torch.meshgrid(torch.arange(48.0), torch.arange(64.0), indexing="ij")
    pixels = torch.stack([x - 32, y - 24], dim=-1).flatten(0, 1)
    points = scene["noisy.pred1_pts3d"].flatten(1, 2)
    many = pixels.expand(len(points), -1, -1)
    wanted = scene["noisy.weiszfeld_focal_per_edge"]
    torch.testing.assert_close(weiszfeld_focal(many, points), wanted, rtol=1e-5, atol=0)
    wrong = scene["outlier.pts3d_e0"].flatten(0, 1)
    wanted = scene["outlier.weiszfeld_focal_e0"]
    found = weiszfeld_focal(pixels, wrong).reshape(1)
    torch.testing.assert_close(found, wanted, rtol=1e-5, atol=0)
