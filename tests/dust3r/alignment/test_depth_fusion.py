"""Dense depth from pairs whose places are known."""

from dataclasses import replace

import pytest
import torch

from fm3d_plugins.dust3r.alignment.depth_fusion import fuse_depth
from fm3d_plugins.dust3r.alignment.samples import take_samples
from fm3d_plugins.dust3r.alignment.start import start_state
from fm3d_plugins.dust3r.alignment.views import AlignmentPriors

SIZES = [(24, 32), (32, 24), (20, 28)]
REACH = 0.01


@pytest.fixture(scope="module")
def scene(alignment_scene):
    return alignment_scene.Scene.make(SIZES, [30.0, 36.0, 33.0])


@pytest.fixture(scope="module")
def pairs(scene):
    return scene.pairs()


@pytest.fixture(scope="module")
def state(scene, pairs):
    """The exact state: the start from exact pairs is exact."""
    known = AlignmentPriors(
        world_from_camera=dict(enumerate(scene.poses)),
        intrinsics=dict(enumerate(scene.intrinsics)),
    )
    return start_state(take_samples(pairs, SIZES, 200), SIZES, known)


def fuse(pairs, state, influence=None):
    influence = torch.ones(len(pairs)).double() if influence is None else influence
    return fuse_depth(pairs, state, SIZES, influence, REACH)


def test_exact_pairs_give_exact_depth_at_every_pixel(scene, pairs, state):
    depth, confidence = fuse(pairs, state)
    for photo in range(3):
        torch.testing.assert_close(depth[photo], scene.depth[photo].float(), rtol=1e-4, atol=0)
        seen = [p.confidence_first for p in pairs if p.first == photo]
        seen += [p.confidence_second for p in pairs if p.second == photo]
        assert torch.equal(confidence[photo], torch.stack(seen).amax(0))


def test_depth_is_the_weighted_mean_along_the_ray(scene, pairs, state):
    """Two pairs with a photo 1 % nearer and 1 % further, log confidences 1 and 3: 0.5 % further.

    All other pairs of the photo have no influence, the loss hardly tells 1 % from its reach of
    a hundred times that.
    """
    rows = [row for row, pair in enumerate(pairs) if pair.first == 0]
    made, influence = list(pairs), torch.zeros(len(pairs)).double()
    for row, factor, log in zip(rows, (0.99, 1.01), (1.0, 3.0), strict=True):
        surety = torch.full(SIZES[0], log).exp()
        points = made[row].points_first * factor
        made[row] = replace(made[row], points_first=points, confidence_first=surety)
        influence[row] = 1
    depth, _ = fuse_depth(made, state, SIZES, influence, reach=1.0)
    torch.testing.assert_close(depth[0], 1.005 * scene.depth[0].float(), rtol=3e-4, atol=0)


def test_one_pair_that_is_far_off_hardly_counts(scene, pairs, state):
    row = next(row for row, pair in enumerate(pairs) if pair.first == 0)
    wrong = replace(pairs[row], points_first=1.2 * pairs[row].points_first)
    depth, _ = fuse([*pairs[:row], wrong, *pairs[row + 1 :]], state)
    error = (depth[0] / scene.depth[0] - 1).abs()
    # A plain mean of four pairs would be 5 % off.
    assert float(error.median()) < 0.02


def test_pixels_behind_the_camera_or_not_finite_have_depth_zero(pairs, state):
    def spoiled(pair):
        points = pair.points_first.clone()
        points[0, 0] *= -1
        points[1, 1] = torch.nan
        return replace(pair, points_first=points)

    made = [spoiled(pair) if pair.first == 0 else pair for pair in pairs]
    alone = torch.tensor([float(pair.first == 0) for pair in made]).double()
    depth, _ = fuse(made, state, alone)
    assert depth[0][0, 0] == 0 and depth[0][1, 1] == 0
    assert bool((depth[0][2:] > 0).all())
