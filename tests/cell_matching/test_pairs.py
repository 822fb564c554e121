"""Two photos matched both ways: what is known of either agrees, whatever the shapes."""

import pytest
import torch

from fm3d_plugins.cell_matching.pairs import (
    PATCH_NUMBERS,
    MatchedPair,
    exchanged,
    match_pair,
)
from fm3d_plugins.cell_matching.path import Matched, MatchingConfig, MatchingPath
from fm3d_plugins.cell_matching.types import CameraEstimate, Matches, cell_centers
from fm3d_plugins.geometry.poses import so3_exp

TINY = MatchingConfig(feature_width=64, feature_blocks=1, pose_width=32, pose_heads=2)


@pytest.fixture(scope="module")
def path():
    torch.manual_seed(0)
    path = MatchingPath(TINY, token_width=8, patch_size=8)
    with torch.no_grad():
        path.sharpness.fill_(5.0)
    return path


def moved_camera(scenes=2):
    turn = torch.tensor([[0.1, -0.2, 0.05]]).repeat(scenes, 1)
    rotation = torch.stack([torch.eye(3).expand(scenes, 3, 3), so3_exp(turn)], dim=1)
    center = torch.tensor([[0.0, 0, 0], [0.4, 0.1, -0.1]]).expand(scenes, 2, 3)
    return CameraEstimate(rotation, center, torch.full((scenes, 2), -0.7))


def test_the_exchanged_cameras_are_the_inverse():
    estimate = moved_camera()
    there, back = estimate.first_from_camera(), exchanged(estimate).first_from_camera()
    torch.testing.assert_close(there[:, 1] @ back[:, 1], torch.eye(4).expand(2, 4, 4))
    torch.testing.assert_close(exchanged(exchanged(estimate)).center, estimate.center)


def test_matches_of_a_landscape_and_a_portrait_are_each_others_inverse(path):
    """Truth: the second photo's cells are the first's in another order, on another grid."""
    features = torch.nn.functional.normalize(torch.randn(1, 64, 24), dim=1)
    order = torch.randperm(24, generator=torch.Generator().manual_seed(1))
    pair = match_pair(
        path, features.unflatten(2, (4, 6)), features[..., order].unflatten(2, (6, 4))
    )
    assert pair.forth.grid == (4, 6) and pair.back.grid == (6, 4)
    best_back = pair.back.logits[0, 0, :, :-1].argmax(-1)
    best_forth = pair.forth.logits[0, 0, :, :-1].argmax(-1)
    assert best_back.tolist() == order.tolist()
    assert best_forth[order].tolist() == list(range(24))
    own = pair.back.matches.places[0, 0]
    torch.testing.assert_close(own, cell_centers(6, 4, own))


def test_inverse_depth_of_the_cells_of_both_photos_is_that_of_true_matches():
    """Truth: rho L^2 / (L^2 + 0.01), L the lever: least squares with a prior of strength 0.01."""
    estimate = moved_camera(1)
    tangent = estimate.log_tangent[0, 0].exp()
    cells = cell_centers(4, 4, tangent)
    depth = torch.linspace(0.8, 3.0, 16)
    sides = []
    for own in (estimate, exchanged(estimate)):
        rays = torch.cat([cells * tangent, torch.ones(16, 1)], dim=-1)
        local = (rays * depth[:, None] - own.center[0, 1]) @ own.rotation[0, 1].mT
        places = torch.stack([cells, local[:, :2] / local[:, 2:] / tangent])[None]
        matches = Matches(places, torch.ones(1, 2, 16))
        sides.append(Matched(torch.zeros(1, 1, 16, 17), (4, 4), matches, own, own))
    pair = MatchedPair(*sides)
    for is_second in (False, True):
        numbers = pair.patch_numbers(is_second, (2, 2))
        assert numbers.shape == (1, 4, PATCH_NUMBERS)
        each = numbers[..., : 4 * 19].unflatten(-1, (19, 4))
        inverse, lever = (
            torch.nn.functional.pixel_shuffle(
                each[:, :, index].mT.unflatten(2, (2, 2)), 2
            ).flatten()
            for index in (12, 18)
        )
        distance = depth * (1 + (cells * tangent).square().sum(-1)).sqrt()
        expected = lever**2 / (lever**2 + 0.01) / distance
        torch.testing.assert_close(inverse, expected, atol=1e-4, rtol=1e-4)


def test_reduced_precision_around_it_changes_nothing(path):
    features = torch.nn.functional.normalize(torch.randn(1, 64, 24), dim=1).unflatten(2, (4, 6))
    plain = match_pair(path, features, features.flip(-1))
    with torch.autocast("cpu", torch.bfloat16):
        other = match_pair(path, features, features.flip(-1))
    assert torch.equal(plain.forth.estimate.rotation, other.forth.estimate.rotation)
    assert torch.equal(plain.back.logits, other.back.logits)


def test_large_photos_are_matched_by_means_of_cells(path):
    features = torch.nn.functional.normalize(torch.randn(1, 64, 48, 64), dim=1)
    pair = match_pair(path, features, features)
    assert pair.forth.grid == (24, 32)
    assert pair.patch_numbers(True, (24, 32)).shape == (1, 24 * 32, PATCH_NUMBERS)
