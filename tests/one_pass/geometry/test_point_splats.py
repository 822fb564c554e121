"""Gaussians at points: how wide they are."""

import pytest
import torch

from fm3d_plugins.one_pass.geometry.point_splats import splats_at

CAMERA = torch.zeros(1, 3)


def plane(distance=4.0, rows=12, columns=16, spacing=0.2):
    """A grid of points across the view axis, row by row."""
    y, x = torch.meshgrid(
        spacing * torch.arange(rows), spacing * torch.arange(columns), indexing="ij"
    )
    centred = torch.stack([x - x.mean(), y - y.mean()], dim=-1).flatten(0, 1)
    return torch.cat([centred, torch.full((len(centred), 1), distance)], dim=1)


def splats(points, cameras=CAMERA):
    colors = torch.arange(3 * len(points)).reshape(-1, 3).to(torch.uint8)
    return splats_at(points, colors, torch.linspace(0, 1, len(points)), cameras)


def test_a_ball_is_half_as_wide_as_it_is_far_from_its_neighbours():
    """Truth: inside the plane the three nearest are 0.2 away, so its standard deviation is 0.1."""
    points = plane()
    made = splats(points)
    inner = made.scales.reshape(12, 16)[1:-1, 1:-1]
    torch.testing.assert_close(inner, torch.full_like(inner, 0.1), atol=1e-4, rtol=0)
    assert torch.equal(made.means, points)
    assert made.colors[1].tolist() == [3, 4, 5]
    torch.testing.assert_close(made.confidence[-1], torch.tensor(1.0).half())


def test_thinner_points_are_wider_balls():
    """Truth: twice the spacing, twice the width; surfaces stay closed."""
    whole, thin = (splats(plane(spacing=spacing)) for spacing in (0.1, 0.2))
    torch.testing.assert_close(thin.scales.median(), 2 * whole.scales.median())


def test_a_stray_point_does_not_become_a_cloud():
    """Truth: its neighbours are 96 away, but seen from the camera at most four times the median
    angle is filled: 4 x (0.1 / 4.2) x 100 = 9.5, with 4.2 the median distance of the plane."""
    points = plane()
    points[100, 2] = 100.0
    distance = points.norm(dim=-1)
    expected = 4 * float((0.1 / distance).median()) * float(distance[100])
    assert float(splats(points).scales[100]) == pytest.approx(expected, rel=0.05)


def test_the_nearest_camera_counts():
    points = plane()
    points[100, 2] = 100.0
    near = torch.tensor([[0.0, 0, 0], [0, 0, 99]])
    assert float(splats(points, near).scales[100]) < 0.05 * float(splats(points).scales[100])


def test_a_single_point_is_an_error():
    with pytest.raises(ValueError, match="have 1 points.*--min-confidence"):
        splats(plane()[:1])
