"""The parameters of the fast field."""

import pytest
import torch

from fm3d_plugins.kernels.hash_grid import HashGridLayout
from fm3d_plugins.kernels.radiance_field import render_rays
from fm3d_plugins.kernels.radiance_field.definitions import Intervals
from fm3d_plugins.nerf.network import RadianceField, levels_at

LAYOUT = HashGridLayout(num_levels=4, log2_table_size=10)


def test_state_holds_every_parameter_under_the_backends_names():
    field = RadianceField(LAYOUT)
    assert set(field.state_dict()) == set(vars(field.tensors()))
    assert all(
        given is own
        for given, own in zip(field.tensors().tensors(), field.parameters(), strict=True)
    )
    assert len(field.networks()) == 5
    assert not any(parameter is field.table for parameter in field.networks())


def test_fresh_field_is_nearly_transparent_and_nearly_grey():
    """Features of 1e-4 leave the density at its initial value, 0.1: exp(-0.1) passes in 1 unit."""
    field = RadianceField(LAYOUT)
    directions = torch.nn.functional.normalize(torch.randn(6, 3), dim=-1)
    edges = torch.linspace(0.1, 1.1, 33).expand(6, 33)
    intervals = Intervals((edges[:, 1:] + edges[:, :-1]) / 2, edges.diff(dim=-1))
    seen = render_rays(field.tensors(), LAYOUT, torch.zeros(6, 3), directions, intervals)
    remaining = 1 - seen.weights.sum(-1)
    torch.testing.assert_close(remaining, torch.full((6,), 0.9048), atol=1e-3, rtol=0)


@pytest.mark.parametrize("color", [(0.05, 0.04, 0.1), (0.95, 0.9, 0.99), (0.5, 0.3, 0.7)])
def test_a_field_can_begin_with_about_one_colour(color):
    """The other units move its logit by at most 1 in four of five places and directions."""
    field = RadianceField(LAYOUT)
    field.begin_with(torch.tensor(color))
    directions = torch.nn.functional.normalize(torch.randn(50, 3), dim=-1)
    edges = torch.linspace(0.1, 1.1, 33).expand(50, 33)
    intervals = Intervals((edges[:, 1:] + edges[:, :-1]) / 2, edges.diff(dim=-1))
    seen = render_rays(field.tensors(), LAYOUT, torch.zeros(50, 3), directions, intervals)
    logits = (seen.rgb / seen.weights.sum(-1, keepdim=True)).logit()
    assert (logits - torch.tensor(color).logit()).abs().quantile(0.8) < 1


def test_every_parameter_gets_a_gradient():
    field = RadianceField(LAYOUT)
    directions = torch.nn.functional.normalize(torch.randn(50, 3), dim=-1)
    edges = torch.linspace(0.1, 3.0, 17).expand(50, 17)
    intervals = Intervals((edges[:, 1:] + edges[:, :-1]) / 2, edges.diff(dim=-1))
    seen = render_rays(field.tensors(), LAYOUT, torch.zeros(50, 3), directions, intervals)
    (seen.rgb.square().sum() + seen.weights.square().sum()).backward()
    for name, parameter in field.named_parameters():
        assert parameter.grad.abs().sum() > 0, name


def test_the_coarser_half_of_the_levels_learns_first_and_each_finer_one_a_share_later():
    """8 levels over 100 steps: 4 at once, then another every 25 steps."""
    assert [levels_at(step, 8, 100) for step in (0, 24, 25, 50, 75, 99, 100)] == [
        4, 4, 5, 6, 7, 7, 8,
    ]  # fmt: skip
    assert levels_at(0, 5, 10) == 3
    assert levels_at(0, 8, 0) == 8


def test_gradients_of_finer_levels_are_forgotten_and_those_of_coarser_ones_kept():
    field = RadianceField(LAYOUT)
    field.table.grad = torch.ones_like(field.table)
    field.hold_finer_levels(4)
    assert (field.table.grad == 1).all()
    field.hold_finer_levels(2)
    assert (field.table.grad[: LAYOUT.offsets[2]] == 1).all()
    assert (field.table.grad[LAYOUT.offsets[2] :] == 0).all()
