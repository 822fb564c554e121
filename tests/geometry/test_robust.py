"""Geman and McClure's loss, and the damping that finds minima."""

import pytest
import torch

from fm3d_plugins.geometry.least_squares import Damping
from fm3d_plugins.geometry.robust import (
    geman_mcclure_cost,
    geman_mcclure_weight,
    huber_cost,
    huber_weight,
)


def test_cost_is_the_square_where_small_and_bounded_by_the_reach():
    squared = torch.tensor([0.0, 1e-6, 4.0, 1e12], dtype=torch.float64)
    found = geman_mcclure_cost(squared, 2.0)
    torch.testing.assert_close(found, torch.tensor([0.0, 1e-6, 2.0, 4.0]).double())


def test_weight_is_the_derivative_of_the_cost():
    squared = torch.linspace(0, 20, 50, dtype=torch.float64).requires_grad_()
    reach = torch.linspace(1, 3, 50, dtype=torch.float64)
    (slope,) = torch.autograd.grad(geman_mcclure_cost(squared, reach).sum(), squared)
    torch.testing.assert_close(slope, geman_mcclure_weight(squared.detach(), reach))
    at_reach = geman_mcclure_weight(torch.tensor(9.0), 3.0)
    torch.testing.assert_close(at_reach, torch.tensor(0.25))


def test_hubers_cost_is_square_then_linear_and_its_weight_the_derivative():
    """At the reach of 2, square 4, both forms and their slopes meet; at length 5: 2 2 5 - 2^2."""
    squared = torch.tensor([0.0, 1.0, 4.0, 25.0], dtype=torch.float64, requires_grad=True)
    cost = huber_cost(squared, 2.0)
    torch.testing.assert_close(cost.detach(), torch.tensor([0.0, 1.0, 4.0, 16.0]).double())
    (slope,) = torch.autograd.grad(cost.sum(), squared)
    torch.testing.assert_close(slope, torch.tensor([1.0, 1.0, 1.0, 0.4]).double())
    torch.testing.assert_close(huber_weight(squared.detach(), 2.0), slope)


def test_damping_finds_the_first_step_that_does_not_climb():
    """Truth: steps of less than 1 / 50 descend, the damping grows tenfold from 1e-6."""
    damping = Damping(least=1e-9, most=1e6)
    asked = []

    def attempt(factor):
        asked.append(factor)
        return "moved", 0.5 if 1 / factor < 50 else float("nan")

    assert damping.descend(1.0, attempt) == ("moved", 0.5)
    assert asked == pytest.approx([1e-6, 1e-5, 1e-4, 1e-3, 1e-2, 1e-1])
    assert damping.value == pytest.approx(1e-2) and not damping.is_exhausted


def test_damping_gives_up_where_every_step_climbs():
    damping = Damping(least=1e-9, most=1e3)
    assert damping.descend(1.0, lambda _: ("worse", 2.0)) is None
    assert damping.is_exhausted
