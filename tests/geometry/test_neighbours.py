"""Distances to neighbours."""

import torch

from fm3d_plugins.geometry.neighbours import mean_neighbour_distance


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
