"""Distances to neighbours, and trees that join them."""

import numpy as np
import pytest
import torch

from fm3d_plugins.geometry.neighbours import (
    mean_neighbour_distance,
    mean_steps,
    spanning_tree,
)


def test_neighbour_distance_on_a_line():
    """Truth: at 0, 1, 3, 9, 99 the sums of three distances are 13, 11, 11, 23 and 284."""
    points = torch.zeros(5, 3)
    points[:, 0] = torch.tensor([0.0, 1, 3, 9, 99])
    expected = torch.tensor([13.0, 11, 11, 23, 284]) / 3
    torch.testing.assert_close(mean_neighbour_distance(points), expected)


def test_two_points_have_one_neighbour_each():
    points = torch.tensor([[0.0, 0, 0], [0, 5, 0]])
    torch.testing.assert_close(mean_neighbour_distance(points), torch.full((2,), 5.0))


def test_coincident_points_have_no_zero_distance():
    assert mean_neighbour_distance(torch.ones(5, 3)).min() > 0


def test_spanning_tree_joins_neighbours_on_a_line():
    places = torch.tensor([5.0, 0, 9, 2])
    assert spanning_tree((places[:, None] - places).abs()) == [(0, 2), (0, 3), (1, 3)]


def test_spanning_tree_of_one_place_has_no_pairs():
    assert spanning_tree(torch.zeros(3, 3)) == spanning_tree(torch.zeros(1, 1)) == []


def test_steps_of_a_chain_and_of_a_star():
    chain = np.array([[0, 1], [1, 2], [2, 3]])
    # Of 16 pairs: 6 are one apart, 4 two, 2 three.
    assert mean_steps(chain) == pytest.approx((6 + 2 * 4 + 3 * 2) / 16)
    star = np.array([[0, 1], [0, 2], [0, 3]])
    assert mean_steps(star) == pytest.approx((6 + 2 * 6) / 16)
    complete = np.array([[0, 1], [0, 2], [0, 3], [1, 2], [1, 3], [2, 3]])
    assert mean_steps(complete) == pytest.approx(12 / 16)
    assert mean_steps(np.zeros((0, 2), dtype=np.int64)) == 0
