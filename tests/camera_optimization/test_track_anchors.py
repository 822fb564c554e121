"""Tracks and cameras: what exact ones leave alone, disturbed ones find back, and gradients."""

from dataclasses import replace

import pytest
import torch

from fm3d_plugins.camera_optimization import track_anchors
from fm3d_plugins.camera_optimization.row_adam import RowAdam
from fm3d_plugins.camera_optimization.track_anchors import LONGEST, PhotoTracks, TrackAnchors
from fm3d_plugins.geometry.poses import invert, transform_points
from fm3d_plugins.nerfstudio_cameras import world_from_cameras

WEIGHT = 0.01


def exact_tracks(cameras, count=150, without=(), seed=0):
    """Points in a ball of radius 1 about the origin, which all cameras of the ring see."""
    generator = torch.Generator().manual_seed(seed)
    points = torch.randn(count, 3, generator=generator, dtype=torch.float64)
    points *= torch.rand(count, 1, generator=generator, dtype=torch.float64) / points.norm(
        dim=-1, keepdim=True
    )
    views = [view for view in range(len(cameras)) if view not in without]
    poses = world_from_cameras(cameras).double()
    rays = [transform_points(invert(poses[view]), points) for view in views]
    return PhotoTracks(
        points=points.float(),
        point_index=torch.arange(count).repeat(len(views)),
        photo_index=torch.tensor(views).repeat_interleave(count),
        rays=torch.cat([here[:, :2] / here[:, 2:] for here in rays]).float(),
    )


def camera_of(cameras, index):
    camera = cameras[index : index + 1]
    camera.metadata = {"cam_idx": index}
    return camera


def losses_of(optimizer, cameras, index):
    losses = {}
    optimizer.apply_to_camera(camera_of(cameras, index))
    optimizer.get_loss_dict(losses)
    return losses


def matrices(cameras, dtype=torch.float64):
    """World to (x f, y f, z), by the package's own projection matrices."""
    intrinsics = cameras.get_intrinsics_matrices().to(dtype)
    lengths = torch.stack(
        [intrinsics[:, 0, 0], intrinsics[:, 1, 1], torch.ones_like(intrinsics[:, 0, 0])], dim=-1
    )
    return lengths[..., None] * invert(world_from_cameras(cameras).to(dtype))[:, :3]


@pytest.mark.parametrize("mode", ["SO3xR3", "SE3"])
def test_exact_cameras_are_a_fixed_point(ring, make_optimizer, mode):
    cameras = ring()
    optimizer = make_optimizer(cameras, mode, track_weight=1.0, tracks=exact_tracks(cameras))
    for view in range(5):
        loss = losses_of(optimizer, cameras, view)["camera_opt_tracks"]
        gradients = torch.autograd.grad(loss, list(optimizer.parameters()))
        # In pixels squared, and per pixel; float32 keeps 1e-5 pixels.
        assert float(loss.detach()) < 1e-8
        assert all(float(gradient.abs().max()) < 1e-3 for gradient in gradients)


def test_disturbed_camera_comes_back_to_exact_tracks(ring, make_optimizer):
    """The other four, which are right, hold the points, though these begin elsewhere."""
    cameras = ring()
    tracks = exact_tracks(cameras)
    generator = torch.Generator().manual_seed(2)
    moved = tracks.points + 0.05 * torch.randn(tracks.points.shape, generator=generator)
    tracks = replace(tracks, points=moved)
    optimizer = make_optimizer(
        cameras, track_weight=WEIGHT, pull=0.0, focal_length=False, tracks=tracks
    )
    with torch.no_grad():
        optimizer.pose_adjustment[3] = torch.tensor([2.0, -1.0, 1.5, 2.0, 1.0, -2.0])
    before = float(optimizer.pose_adjustment.detach().norm())
    adam = RowAdam(optimizer.parameters(), lr=1.0, betas=(0.3, 0.9), eps=3e-3)
    torch.manual_seed(0)
    for step in range(60):
        adam.param_groups[0]["lr"] = 0.05 ** (step / 60)
        adam.zero_grad()
        losses_of(optimizer, cameras, 3)["camera_opt_tracks"].backward()
        adam.step()
    # What is left is a turn that cancels a shift: it moves nothing by more than a tenth of a pixel.
    assert float(optimizer.pose_adjustment.detach().norm()) < before / 5
    loss = losses_of(optimizer, cameras, 3)["camera_opt_tracks"].detach() / WEIGHT
    assert float(loss) < 0.1**2 / 2


@pytest.mark.parametrize("scale", [1.0, 6.0])
def test_gradient_by_the_drawn_camera_is_the_difference_quotient(ring, scale):
    """Float64, of errors within Huber's reach and far beyond it."""
    cameras = ring(dtype=torch.float64)
    anchors = TrackAnchors(exact_tracks(cameras), torch.tensor([[40.0, 44.0]] * 5)).double()
    given = matrices(cameras)
    generator = torch.Generator().manual_seed(1)
    noise = 0.02 * scale * torch.randn(3, 4, generator=generator, dtype=torch.float64)
    one = (given[2] + noise * given[2].abs()).clone().requires_grad_()
    drawn = torch.tensor([2])

    def loss(matrix):
        torch.manual_seed(3)
        return anchors(drawn, matrix[None], given)

    (gradient,) = torch.autograd.grad(loss(one), one)
    step = 1e-6
    for row, column in ((0, 0), (0, 3), (1, 2), (2, 1), (2, 3)):
        change = torch.zeros_like(one)
        change[row, column] = step
        quotient = (loss(one + change) - loss(one - change)) / (2 * step)
        assert float(quotient) == pytest.approx(float(gradient[row, column]), rel=1e-5, abs=1e-9)
    assert gradient.abs().min() > 1e-9


def test_points_lie_where_the_loss_is_flat_in_them(ring, monkeypatch):
    """So the gradient of all errors by a camera is that of its own, with its points held."""
    monkeypatch.setattr(track_anchors, "ROUNDS", 6)
    monkeypatch.setattr(track_anchors, "DAMPING", 0.0)
    cameras = ring(dtype=torch.float64)
    tracks = exact_tracks(cameras, count=30)
    anchors = TrackAnchors(tracks, torch.tensor([[40.0, 44.0]] * 5)).double()
    generator = torch.Generator().manual_seed(1)
    given = matrices(cameras)
    given += 0.015 * given.abs() * torch.randn(given.shape, generator=generator).double()

    def costs(every, held=None):
        """Of each view, summed over all points; small errors, whose cost is half their square."""
        points = anchors.points_under(torch.arange(30), every) if held is None else held
        total = []
        for view in range(5):
            here = points @ every[view, :, :3].mT + every[view, :, 3]
            seen = here[:, :2] / here[:, 2:]
            there = anchors.pixels[:, view]
            squares = (seen - there).square().sum(-1)
            assert 1e-3 < squares.max() < 1
            total.append(squares.sum() / 2)
        return torch.stack(total)

    held = anchors.points_under(torch.arange(30), given)
    step, changed = 1e-5, given.clone()
    for row, column in ((0, 0), (1, 3), (2, 2)):
        quotients = []
        for points in (None, held):
            values = []
            for sign in (1, -1):
                changed[3] = given[3]
                changed[3, row, column] += sign * step
                values.append(costs(changed, points))
            quotients.append((values[0] - values[1]) / (2 * step))
        with_points_moving, with_points_held = quotients
        assert float(with_points_moving.sum()) == pytest.approx(
            float(with_points_held[3]), rel=1e-3, abs=1e-4
        )
    assert (with_points_moving - with_points_held).abs().max() > 1e-2


def test_views_without_tracks_are_left_alone(ring, make_optimizer, disturb):
    cameras = ring()
    tracks = exact_tracks(cameras, without=(3,))
    optimizer = disturb(make_optimizer(cameras, pull=0.0, track_weight=1.0, tracks=tracks))
    sum(losses_of(optimizer, cameras, 3).values()).backward()
    assert not optimizer.pose_adjustment.grad.any()
    assert not optimizer.focal_adjustment.grad.any()
    losses = losses_of(optimizer, cameras, 2)
    (gradient,) = torch.autograd.grad(losses["camera_opt_tracks"], optimizer.pose_adjustment)
    assert gradient.any(dim=-1).tolist() == [False, False, True, False, False]


def test_rays_of_several_cameras_are_held_too(ring, make_optimizer, disturb):
    cameras = ring()
    optimizer = disturb(make_optimizer(cameras, track_weight=1.0, tracks=exact_tracks(cameras)))
    bundle = cameras.generate_rays(
        camera_indices=torch.tensor([[1], [4], [1]]), coords=5 * torch.ones(3, 2)
    )
    optimizer.apply_to_raybundle(bundle)
    losses = {}
    optimizer.get_loss_dict(losses)
    (gradient,) = torch.autograd.grad(losses["camera_opt_tracks"], optimizer.pose_adjustment)
    assert gradient.any(dim=-1).tolist() == [False, True, False, False, True]


def test_focal_length_is_found_from_tracks(ring, make_optimizer):
    """Truth: rays found under focal lengths 5 % too short are 5 % too wide."""
    cameras = ring()
    tracks = exact_tracks(cameras)
    wide = replace(tracks, rays=tracks.rays * 1.05)
    optimizer = make_optimizer(cameras, track_weight=1.0, tracks=wide)
    slopes = []
    for view in range(5):
        loss = losses_of(optimizer, cameras, view)["camera_opt_tracks"]
        slopes.append(float(torch.autograd.grad(loss, optimizer.focal_adjustment)[0]))
    assert sum(slopes) < 0  # A longer one fits better.


def test_tracks_cost_nothing_where_they_are_off(ring, make_optimizer):
    cameras = ring()
    tracks = exact_tracks(cameras)
    plain = make_optimizer(cameras)
    for optimizer in (
        make_optimizer(cameras, tracks=tracks),
        make_optimizer(cameras, "off", track_weight=1.0, tracks=tracks),
        plain,
    ):
        assert optimizer.track_anchors is None
        assert "camera_opt_tracks" not in losses_of(optimizer, cameras, 2)
    with pytest.raises(ValueError, match="brings none.*'tracks'.*sfm"):
        make_optimizer(cameras, track_weight=1.0)
    # Nor do checkpoints differ.
    held = make_optimizer(cameras, track_weight=1.0, tracks=tracks)
    assert held.state_dict().keys() == plain.state_dict().keys()


def test_long_tracks_are_divided_and_every_observation_stays(ring):
    count, views = 3, 2 * LONGEST + 3
    rays = torch.arange(2.0 * count * views).reshape(-1, 2)
    tracks = PhotoTracks(
        points=torch.arange(3.0 * count).reshape(count, 3),
        point_index=torch.arange(count).repeat(views),
        photo_index=torch.arange(views).repeat_interleave(count),
        rays=rays,
    )
    anchors = TrackAnchors(tracks, torch.ones(views, 2))
    sizes = anchors.is_seen.sum(-1).long().tolist()
    assert sizes == count * [7, 6, 6]  # 19 views in three parts.
    there = anchors.is_seen.bool()
    found = {tuple(pixel) for pixel in anchors.pixels[there].tolist()}
    assert found == {tuple(pixel) for pixel in rays.tolist()}
    for track, point in enumerate(anchors.points.tolist()):
        own = tracks.point_index == track // 3
        assert point == tracks.points[track // 3].tolist()
        assert set(anchors.photos[track][there[track]].tolist()) <= set(
            tracks.photo_index[own].tolist()
        )
    assert torch.equal(anchors.counts, torch.full((views,), count))


def test_points_behind_cameras_change_nothing(ring, make_optimizer):
    cameras = ring()
    tracks = exact_tracks(cameras)
    far = replace(tracks, points=tracks.points + torch.tensor([0.0, 0, 1e3]))
    optimizer = make_optimizer(cameras, track_weight=1.0, tracks=far)
    loss = losses_of(optimizer, cameras, 1)["camera_opt_tracks"]
    gradients = torch.autograd.grad(loss, list(optimizer.parameters()))
    assert all(bool(gradient.isfinite().all()) for gradient in gradients)
