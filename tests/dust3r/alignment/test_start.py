"""First values of an alignment, on pairs whose truth is known."""

from dataclasses import replace

import pytest
import torch

from fm3d_plugins.dust3r.alignment.samples import take_samples
from fm3d_plugins.dust3r.alignment.start import start_state
from fm3d_plugins.dust3r.alignment.views import AlignmentPriors
from fm3d_plugins.geometry.alignment import align_cameras

SIZES = [(24, 32), (32, 24), (20, 28), (24, 32), (24, 32)]


@pytest.fixture(scope="module")
def scene(alignment_scene):
    return alignment_scene.Scene.make(SIZES, [30.0, 36.0, 33.0, 42.0, 25.0])


def started(pairs, known=None):
    return start_state(take_samples(pairs, SIZES, 200), SIZES, known or AlignmentPriors())


def center_error(state, scene):
    similarity = align_cameras(state.world_from_camera, scene.poses)
    placed = similarity.apply_to_pose(state.world_from_camera)
    return float((placed - scene.poses)[:, :3, 3].norm(dim=-1).max())


def test_samples_are_pixel_centres_spread_over_the_photo(scene):
    samples = take_samples(scene.pairs(), SIZES, 100)
    for photo, (height, width) in zip(samples.photos, SIZES, strict=True):
        assert 60 <= len(photo.pixels) <= 100
        assert bool((photo.pixels % 1 == 0.5).all())
        middle = torch.tensor([width / 2, height / 2]).double()
        assert float((photo.pixels.mean(0) - middle).abs().max()) <= 1
        assert float(photo.pixels.amin()) < 4
        assert len(photo.pairs) == 8 and sum(photo.is_first) == 4


def test_samples_hold_points_and_log_confidence_of_their_pixels(scene):
    pairs = scene.pairs()
    samples = take_samples(pairs, SIZES, 100)
    for number in (0, 13):
        pair = pairs[number]
        points, weights = samples.of(pair.second, number)
        x, y = samples.photos[pair.second].pixels.long().unbind(-1)
        assert torch.equal(points, pair.points_second_in_first[y, x].double())
        assert torch.equal(weights, pair.confidence_second[y, x].double().log())


def test_every_photo_starts_with_its_own_focal_length(scene):
    """The published start gives some photos that of another one."""
    focals = started(scene.pairs()).focals()
    truth = scene.intrinsics[:, 0, 0]
    torch.testing.assert_close(focals, truth[:, None].expand(5, 2), rtol=1e-5, atol=0)


def test_cameras_of_exact_pairs_are_exact(scene):
    assert center_error(started(scene.pairs()), scene) < 1e-4


def test_the_surest_pair_misleads_nobody_if_it_is_wrong(scene):
    pairs = scene.pairs()
    row = next(row for row, pair in enumerate(pairs) if (pair.first, pair.second) == (4, 1))
    wrong = pairs[row].points_second_in_first + torch.tensor([2.0, 1.0, -0.5])
    sure = torch.full_like(pairs[row].confidence_second, 1e3)
    pairs[row] = replace(pairs[row], points_second_in_first=wrong, confidence_second=sure)
    assert center_error(started(pairs), scene) < 0.02


def test_known_poses_are_where_they_were_and_the_others_about_them(scene):
    known = AlignmentPriors(world_from_camera={photo: scene.poses[photo] for photo in (1, 2, 4)})
    state = started(scene.pairs(noise=0.003), known)
    assert torch.equal(state.world_from_camera[[1, 2, 4]], scene.poses[[1, 2, 4]])
    off = (state.world_from_camera - scene.poses)[:, :3, 3].norm(dim=-1)
    assert float(off.max()) < 0.05
