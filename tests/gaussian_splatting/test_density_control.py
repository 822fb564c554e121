"""Density control changes the set of gaussians as its papers say."""

import math

import pytest
import torch
from torch.nn import Parameter, ParameterDict

from fm3d_plugins.gaussian_splatting.density_control import (
    AdaptiveDensityControl,
    MonteCarloDensityControl,
    Schedule,
    divide_between_copies,
    keep_rows,
)


def gaussians(count, scale=0.1, opacity=0.5):
    generator = torch.Generator().manual_seed(0)
    params = ParameterDict(
        {
            "means": Parameter(torch.rand(count, 3, generator=generator)),
            "scales": Parameter(torch.full((count, 3), math.log(scale))),
            "quats": Parameter(torch.randn(count, 4, generator=generator)),
            "opacities": Parameter(torch.full((count, 1), math.log(opacity / (1 - opacity)))),
            "features_dc": Parameter(torch.rand(count, 3, generator=generator)),
        }
    )
    optimizers = {name: torch.optim.Adam([value], lr=1e-2) for name, value in params.items()}
    sum(value.square().sum() for value in params.values()).backward()
    for optimizer in optimizers.values():
        optimizer.step()
    return params, optimizers


def adaptive(**changes):
    schedule = Schedule(start=0, stop=1000, every=10, reset_opacity_every=0)
    defaults = dict(
        schedule=schedule,
        gradient_threshold=1.0,
        size_threshold=0.2,
        smallest_opacity=0.01,
        largest_size=5.0,
        max_gaussians=100,
    )
    return AdaptiveDensityControl(**{**defaults, **changes})


def step(control, params, optimizers, number, gradient, radii=None):
    count = len(params["means"])
    radii = torch.ones(count, dtype=torch.int32) if radii is None else radii
    control.after_step(params, optimizers, number, gradient, radii, (2, 2))


def assert_consistent(params, optimizers):
    count = len(params["means"])
    for name, value in params.items():
        assert len(value) == count
        assert optimizers[name].param_groups[0]["params"][0] is value
        assert optimizers[name].state[value]["exp_avg"].shape == value.shape


def test_small_gaussian_with_strong_gradient_is_cloned():
    params, optimizers = gaussians(4)
    before = params["means"].detach().clone()
    gradient = torch.tensor([[0.0, 0], [3, 4], [0.1, 0], [0, 0]])
    step(adaptive(), params, optimizers, 10, gradient)
    torch.testing.assert_close(params["means"].data, before[[0, 1, 2, 3, 1]])
    assert_consistent(params, optimizers)
    assert optimizers["means"].state[params["means"]]["exp_avg"][4].eq(0).all()


def test_large_gaussian_is_replaced_by_two_smaller_ones_inside_it():
    params, optimizers = gaussians(3, scale=0.5)
    old_scale, centre = params["scales"][2].exp().detach(), params["means"][2].detach().clone()
    step(adaptive(), params, optimizers, 10, torch.tensor([[0.0, 0], [0, 0], [5, 0]]))
    assert len(params["means"]) == 4
    torch.testing.assert_close(params["scales"][2:].exp().data, (old_scale / 1.6).expand(2, 3))
    # Five standard deviations: one draw in a million lies farther.
    assert (params["means"][2:] - centre).norm(dim=-1).max() < 5 * old_scale.max()
    assert_consistent(params, optimizers)


def test_gradient_is_averaged_over_the_views_that_see_the_gaussian():
    """Truth: 1.5 seen once in two views averages 1.5 (above 1), not 0.75."""
    params, optimizers = gaussians(2)
    control = adaptive()
    step(control, params, optimizers, 9, torch.tensor([[1.5, 0], [1.5, 0]]))
    seen_by_first_only = torch.tensor([0, 1], dtype=torch.int32)
    step(control, params, optimizers, 10, torch.zeros(2, 2), seen_by_first_only)
    assert len(params["means"]) == 3


def test_cap_keeps_the_strongest_candidates():
    params, optimizers = gaussians(4)
    before = params["means"].detach().clone()
    gradient = torch.tensor([[2.0, 0], [9, 0], [3, 0], [8, 0]])
    step(adaptive(max_gaussians=6), params, optimizers, 10, gradient)
    added = params["means"].data[4:]
    torch.testing.assert_close(added, before[[1, 3]])


def test_faint_and_broken_gaussians_are_removed():
    params, optimizers = gaussians(3)
    params["opacities"].data[0] = -9.0
    params["means"].data[1] = float("nan")
    expected = params["means"].data[2:].clone()
    step(adaptive(), params, optimizers, 10, torch.zeros(3, 2))
    torch.testing.assert_close(params["means"].data, expected)
    assert_consistent(params, optimizers)


def test_keep_rows_takes_moments_along():
    params, optimizers = gaussians(3)
    moments = optimizers["quats"].state[params["quats"]]["exp_avg"].clone()
    keep_rows(params, optimizers, torch.tensor([True, False, True]))
    torch.testing.assert_close(
        optimizers["quats"].state[params["quats"]]["exp_avg"], moments[[0, 2]]
    )
    assert_consistent(params, optimizers)


@pytest.mark.parametrize("copies", [1, 2, 5, 51])
def test_copies_together_are_as_opaque_as_the_one(copies):
    """Truth: N layers of opacity o transmit (1 - o)^N, which must equal what one transmitted."""
    opacities = torch.tensor([0.05, 0.5, 0.99], dtype=torch.float64)
    scales = torch.ones(3, 3, dtype=torch.float64)
    shared, shrunk = divide_between_copies(opacities, scales, torch.full((3,), copies))
    torch.testing.assert_close((1 - shared) ** copies, 1 - opacities)
    if copies == 1:
        torch.testing.assert_close(shrunk, scales)


def test_copies_keep_the_integral_along_a_line_through_the_centre():
    """Truth: equation 9 asks that the blended opacity of N copies integrates to the same."""
    x = torch.linspace(-12, 12, 200_001, dtype=torch.float64)
    opacity, copies = torch.tensor([0.8], dtype=torch.float64), torch.tensor([4])
    shared, scale = divide_between_copies(opacity, torch.ones(1, 3, dtype=torch.float64), copies)
    one = opacity * torch.exp(-x.square() / 2)
    layer = shared * torch.exp(-(x / scale[0, 0]).square() / 2)
    blended = 1 - (1 - layer) ** 4
    torch.testing.assert_close(torch.trapezoid(blended, x), torch.trapezoid(one, x))


def test_dead_gaussians_move_onto_live_ones_and_the_set_grows_to_the_cap():
    params, optimizers = gaussians(40)
    params["opacities"].data[:10] = -9.0
    live = params["means"].data[10:].clone()
    control = MonteCarloDensityControl(
        schedule=Schedule(start=0, stop=100, every=10, reset_opacity_every=0),
        smallest_opacity=0.005,
        noise=0.0,
        growth=0.5,
        max_gaussians=45,
    )
    step(control, params, optimizers, 10, None)
    assert len(params["means"]) == 45
    offsets = params["means"].data[:, None] - live[None]
    assert offsets.abs().sum(-1).amin(1).max() == 0
    assert params["opacities"].sigmoid().min() > 0.005
    assert_consistent(params, optimizers)


def test_noise_moves_faint_gaussians_and_leaves_opaque_ones():
    params, optimizers = gaussians(2000, scale=1.0)
    params["opacities"].data[:1000] = -9.0
    params["opacities"].data[1000:] = 9.0
    before = params["means"].detach().clone()
    control = MonteCarloDensityControl(
        schedule=Schedule(start=50, stop=100, every=10, reset_opacity_every=0),
        smallest_opacity=0.005,
        noise=10.0,
        growth=0.0,
        max_gaussians=2000,
    )
    step(control, params, optimizers, 10, None)
    moved = params["means"].detach() - before
    assert moved[1000:].abs().max() < 1e-6
    # lr 0.01 times noise 10, gated by sigmoid(0.5 - 0.01): the covariance is the identity.
    expected = 0.1 * torch.sigmoid(100 * (0.005 - torch.tensor(-9.0).sigmoid()))
    assert moved[:1000].std() == pytest.approx(float(expected), rel=0.05)
