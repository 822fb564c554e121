"""Distances to neighbours."""

import torch

from fm3d_plugins.geometry.neighbours import mean_neighbour_distance


def test_neighbour_distance_on_a_line():
    """Truth: at 0, 1, 3 the two neighbours are (1, 3), (1, 2) and (2, 3) away."""
    points = torch.tensor([[0.0, 0, 0], [1, 0, 0], [3, 0, 0]])
    torch.testing.assert_close(mean_neighbour_distance(points, 2), torch.tensor([2.0, 1.5, 2.5]))


def test_coincident_points_have_no_zero_distance():
    assert mean_neighbour_distance(torch.ones(5, 3)).min() > 0
