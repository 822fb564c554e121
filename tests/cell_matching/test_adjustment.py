"""Bundle adjustment of few cameras: exact matches give exact cameras."""

import pytest
import torch

from fm3d_plugins.cell_matching.adjustment import AdjustmentOptions, adjusted
from fm3d_plugins.cell_matching.types import CameraEstimate, Matches, cell_centers
from fm3d_plugins.geometry.poses import rotation_angle_degrees, so3_exp

ROWS, COLUMNS, TANGENT = 8, 10, 0.6


@pytest.fixture
def scene():
    """Three scenes of three cameras that see cells at depths around 1, in float64."""
    torch.manual_seed(0)
    own = cell_centers(ROWS, COLUMNS, torch.zeros((), dtype=torch.float64))
    depth = 0.6 + 0.8 * torch.rand(3, 1, len(own), 1, dtype=torch.float64)
    rays = torch.cat([own * TANGENT, torch.ones_like(own[:, :1])], dim=-1)
    rotation = so3_exp(0.3 * torch.randn(3, 3, 3, dtype=torch.float64))
    center = 0.3 * torch.randn(3, 3, 3, dtype=torch.float64)
    rotation[:, 0], center[:, 0] = torch.eye(3), 0
    local = (depth * rays - center[:, :, None]) @ rotation.mT
    places = local[..., :2] / local[..., 2:] / TANGENT
    # What a camera does not have before it is no match.
    certainty = (local[..., 2] > 0.1).to(places)
    tangent = torch.full((3, 3), TANGENT, dtype=torch.float64)
    return Matches(places, certainty), CameraEstimate(rotation, center, tangent.log())


def moved(cameras, angle, way):
    """Cameras off by a little, but the first."""
    turn = angle * torch.randn_like(cameras.center)
    shift = way * torch.randn_like(cameras.center)
    turn[:, 0] = shift[:, 0] = 0
    return CameraEstimate(
        so3_exp(turn) @ cameras.rotation, cameras.center + shift, cameras.log_tangent + 0.05
    )


def errors(cameras, truth):
    """Degrees of rotations, and of the centres up to the scale, which matches do not tell."""
    angles = rotation_angle_degrees(cameras.rotation, truth.rotation)
    own, true = cameras.center.flatten(1), truth.center.flatten(1)
    cosine = torch.nn.functional.cosine_similarity(own, true, dim=-1).clamp(max=1)
    return angles.max(), torch.rad2deg(torch.acos(cosine)).max()


@pytest.mark.parametrize("num_wrong", [0, 10])
def test_exact_matches_give_the_cameras_whatever_some_others_say(scene, num_wrong):
    """Truth: the cameras that the matches were made with; 10 of 80 matches lie anywhere."""
    matches, truth = scene
    places = matches.places.clone()
    places[:, 1:, :num_wrong] = 2 * torch.rand_like(places[:, 1:, :num_wrong]) - 1
    begin = moved(truth, 0.1, 0.1)
    # Wide priors pull little.
    options = AdjustmentOptions(
        steps=40, rotation=30.0, center=30.0, lens=30.0, inverse_depth=300.0
    )
    found = adjusted(Matches(places, matches.certainty), begin, options)
    turned, directed = errors(found, truth)
    assert turned < 0.3 < errors(begin, truth)[0] and directed < 1
    torch.testing.assert_close(found.log_tangent, truth.log_tangent, atol=0.02, rtol=0)


def test_without_certainty_the_estimate_stays(scene):
    matches, truth = scene
    begin = moved(truth, 0.1, 0.1)
    found = adjusted(Matches(matches.places, torch.zeros_like(matches.certainty)), begin)
    torch.testing.assert_close(found.rotation, begin.rotation)
    torch.testing.assert_close(found.center, begin.center)


def test_what_is_not_finite_leaves_only_its_own_scene(scene):
    matches, truth = scene
    places = matches.places.clone()
    places[1, 1, 0] = torch.nan
    begin = moved(truth, 0.1, 0.1)
    found = adjusted(Matches(places, matches.certainty), begin)
    torch.testing.assert_close(found.center[1], begin.center[1])
    assert (found.center[0] - begin.center[0]).norm() > 0.01


def test_one_view_stays(scene):
    matches, truth = scene
    one = Matches(matches.places[:, :1], matches.certainty[:, :1])
    alone = CameraEstimate(truth.rotation[:, :1], truth.center[:, :1], truth.log_tangent[:, :1])
    assert adjusted(one, alone) is alone
