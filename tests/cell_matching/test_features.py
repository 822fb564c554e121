"""Matches of features: a known shift is found, what is nowhere is said to be nowhere."""

import pytest
import torch

from fm3d_plugins.cell_matching.features import MatchingFeatures, match_logits, matches_of
from fm3d_plugins.cell_matching.types import cell_centers

ROWS, COLUMNS, SHARP = 6, 8, torch.tensor(60.0)


def own_features():
    """[feature, row, column], of length 1: each cell has a direction of its own."""
    torch.manual_seed(0)
    return torch.nn.functional.normalize(torch.randn(64, ROWS, COLUMNS), dim=0)


@pytest.mark.parametrize(("down", "right"), [(0, 0), (1, 2), (-2, 3)])
def test_features_that_were_shifted_are_matched_with_that_shift(down, right):
    """Truth: cell (r, c) of the first photo is cell (r + down, c + right) of the second."""
    first = own_features()
    second = first.roll((down, right), (1, 2))
    logits = match_logits(torch.stack([first, second])[None], SHARP, torch.tensor(0.0))
    matches = matches_of(logits, ROWS, COLUMNS)
    own = cell_centers(ROWS, COLUMNS, first).unflatten(0, (ROWS, COLUMNS))
    expected = own.roll((-down, -right), (0, 1)).flatten(0, 1)
    torch.testing.assert_close(matches.places[0, 1], expected, atol=1e-3, rtol=0)
    torch.testing.assert_close(matches.places[0, 0], own.flatten(0, 1))
    assert matches.certainty.min() > 0.99


def test_a_permutation_of_cells_is_found():
    first = own_features()
    order = torch.randperm(ROWS * COLUMNS)
    second = first.flatten(1)[:, order].reshape(first.shape)
    logits = match_logits(torch.stack([first, second])[None], SHARP, torch.tensor(0.0))
    # Cell i lies where the order has i.
    assert torch.equal(logits[0, 0].argmax(-1), order.argsort())


def test_a_place_between_two_cells_is_the_mean_of_both():
    """Truth: equal probability of two neighbours."""
    logits = torch.full((1, 1, 1, ROWS * COLUMNS + 1), -100.0)
    logits[..., [10, 11]] = 0.0
    centers = cell_centers(ROWS, COLUMNS, logits)
    found = matches_of(logits.expand(1, 1, ROWS * COLUMNS, -1), ROWS, COLUMNS)
    torch.testing.assert_close(found.places[0, 1, 0], (centers[10] + centers[11]) / 2)


def test_what_is_seen_nowhere_is_not_certain():
    first = own_features()
    second = torch.nn.functional.normalize(torch.randn_like(first), dim=0)
    logits = match_logits(torch.stack([first, second])[None], SHARP, torch.tensor(45.0))
    assert matches_of(logits, ROWS, COLUMNS).certainty[0, 1].max() < 0.01


def test_places_are_in_halves_of_the_longer_side():
    """Truth: of 2 x 4 cells, a cell is half of a half wide; the first centre is at (-3/4, -1/4)."""
    centers = cell_centers(2, 4, torch.zeros(()))
    assert centers[0].tolist() == [-0.75, -0.25] and centers[-1].tolist() == [0.75, 0.25]


def test_there_are_four_cells_to_a_patch():
    network = MatchingFeatures(16, 1, token_width=12, patch_size=8)
    features = network(torch.rand(2, 3, 24, 40), torch.randn(2, 15, 12), (3, 5))
    assert features.shape == (2, 16, 6, 10)
    torch.testing.assert_close(features.norm(dim=1), torch.ones(2, 6, 10))
    with pytest.raises(ValueError, match="multiple of 4"):
        MatchingFeatures(16, 1, token_width=12, patch_size=14)
