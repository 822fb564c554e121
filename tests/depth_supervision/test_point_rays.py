"""Rays that end at known points."""

import pytest
import torch
from nerfstudio.cameras.cameras import Cameras, CameraType

from fm3d_plugins.camera_optimization.track_anchors import PhotoTracks
from fm3d_plugins.depth_supervision.point_rays import (
    BAND,
    FREE,
    HIT,
    LEAST_MASS,
    PointRays,
    intervals_to,
    point_loss,
    shown_points,
)
from fm3d_plugins.geometry.volume_rendering import weights_from_density

torch.set_num_threads(1)


def cameras(**options):
    """Two at x = 0 and 1, looking along -z (OpenGL), 64 x 48 pixels, 50 pixels of focal length."""
    poses = torch.eye(4)[None, :3].repeat(2, 1, 1)
    poses[1, 0, 3] = 1
    return Cameras(poses, fx=50.0, fy=50.0, cx=32.0, cy=24.0, width=64, height=48, **options)


POINTS = torch.tensor([[0.0, 0.0, -4.0], [1.0, 0.0, -2.0], [1.05, 0.0, -4.0], [0.0, 0.0, 3.0]])
"""Photo 0 shows the first three (at x = 32, 57 and 45.1 pixels); photo 1 the first at 19.5, the
second at 32, and the third, at 32.6, is hidden behind it; nobody the last."""


def test_rays_lead_to_the_points_that_photos_show():
    found = PointRays(shown_points(POINTS, cameras()), cameras())
    assert found.photo.tolist() == [0, 0, 0, 1, 1]
    rays, distance = found.draw(200, torch.Generator().manual_seed(0))
    ends = rays.origins + rays.directions * distance[:, None]
    assert (torch.cdist(ends, POINTS[:3]).amin(-1) < 1e-5).all()
    assert rays.camera_indices is not None
    torch.testing.assert_close(rays.origins[:, 0], rays.camera_indices[:, 0].float())
    torch.testing.assert_close(rays.directions.norm(dim=-1), torch.ones(200))
    from_second = ends[rays.camera_indices[:, 0] == 1]
    assert (torch.cdist(from_second, POINTS[2:3]) > 0.1).all()


def test_tracks_say_who_sees_a_point():
    tracks = PhotoTracks(POINTS, torch.tensor([2, 0]), torch.tensor([1, 0]), torch.zeros(2, 2))
    found = PointRays(shown_points(POINTS, cameras(), tracks), cameras())
    assert found.photo.tolist() == [1, 0]
    torch.testing.assert_close(found.offset, torch.tensor([[0.05, 0.0, -4.0], [0.0, 0.0, -4.0]]))


def test_other_lenses_have_rays_by_tracks_alone():
    lens = cameras(camera_type=CameraType.FISHEYE)
    tracks = PhotoTracks(POINTS, torch.tensor([0]), torch.tensor([1]), torch.zeros(1, 2))
    assert len(shown_points(POINTS, lens).photo) == 0
    assert len(shown_points(POINTS, lens, tracks).photo) == 1


@pytest.mark.parametrize("distance", [5.0, 0.2])
def test_intervals_touch_from_the_near_plane_to_behind_the_point(distance):
    """A point nearer than the near plane, 0.5, has no space in front of it."""
    found = intervals_to(torch.tensor([distance]), near=0.5)
    starts, ends = found.middles - found.lengths / 2, found.middles + found.lengths / 2
    begin = (1 - BAND) * distance
    assert float(starts[0, 0]) == pytest.approx(min(0.5, begin))
    assert float(starts[0, FREE]) == pytest.approx(begin)
    assert float(ends[0, -1]) == pytest.approx((1 + BAND) * distance)
    torch.testing.assert_close(starts[0, 1:], ends[0, :-1])
    assert (found.lengths >= 0).all()


def test_loss_is_that_of_the_light_absorbed_around_the_point():
    """Of a constant density s: exp(-s a) - exp(-s b) from the near plane to the band's ends."""
    density, near = 0.3, 0.1
    distance = torch.tensor([2.0, 5.0])
    intervals = intervals_to(distance, near)
    weights, _ = weights_from_density(
        torch.full_like(intervals.lengths, density), intervals.lengths
    )
    a, b = (1 - BAND) * distance - near, (1 + BAND) * distance - near
    mass = torch.exp(-density * a) - torch.exp(-density * b)
    expected = -(mass + LEAST_MASS).log().mean()
    torch.testing.assert_close(point_loss(weights), expected)


def test_empty_space_around_a_point_is_filled_and_fog_before_it_cleared():
    """Gradients: density rises in the band, as fast where it is next to none, and falls before."""
    intervals = intervals_to(torch.tensor([2.0]), 0.1)
    for level in (-10.0, -2.0):
        log_density = torch.full_like(intervals.lengths, level, requires_grad=True)
        weights, _ = weights_from_density(log_density.exp(), intervals.lengths)
        point_loss(weights).backward()
        slope = log_density.grad
        assert slope is not None
        assert (slope[:, FREE:] < 0).all() and (slope[:, :FREE] > 0).all()
    absorbing = torch.zeros(1, FREE + HIT)
    absorbing[0, FREE] = 1
    assert float(point_loss(absorbing)) == pytest.approx(0, abs=2 * LEAST_MASS)
