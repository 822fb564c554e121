"""The quadrature of volume rendering against closed forms."""

import math

import pytest
import torch

from fm3d_plugins.geometry.volume_rendering import (
    composite,
    distortion_loss,
    expected_distance,
    median_distance,
    sample_from_weights,
    weights_from_density,
)

BATCHES = [(), (1,), (2, 3)]


@pytest.fixture
def generator():
    torch.set_num_threads(1)
    return torch.Generator().manual_seed(0)


def parts(edges):
    """Starts, middles and lengths of the intervals between edges."""
    return edges[..., :-1], (edges[..., 1:] + edges[..., :-1]) / 2, edges.diff(dim=-1)


def random_edges(batch, n, generator, near=0.5, far=6.0):
    cuts = torch.rand(*batch, n + 1, generator=generator, dtype=torch.float64).sort(-1).values
    return near + (far - near) * cuts


@pytest.mark.parametrize("n", [1, 7, 64])
@pytest.mark.parametrize("batch", BATCHES)
def test_slab_of_constant_density_absorbs_beer_lambert(batch, n, generator):
    """Truth: density s over length L absorbs 1 - exp(-s L), however it is cut."""
    cuts = torch.rand(*batch, n, generator=generator, dtype=torch.float64)
    lengths = 2.0 * cuts / cuts.sum(-1, keepdim=True)
    weights, remaining = weights_from_density(torch.full_like(lengths, 0.7), lengths)
    expected = torch.full(batch, 1 - math.exp(-1.4), dtype=torch.float64)
    torch.testing.assert_close(weights.sum(-1), expected)
    torch.testing.assert_close(remaining, 1 - expected)


def test_weights_and_remaining_transmittance_sum_to_one(generator):
    densities = torch.randn(5, 40, generator=generator).mul(4).exp()  # exp(-12) to exp(12).
    lengths = torch.rand(5, 40, generator=generator)
    weights, remaining = weights_from_density(densities, lengths)
    assert (weights >= 0).all()
    # 40 float32 roundings of 6e-8.
    torch.testing.assert_close(weights.sum(-1) + remaining, torch.ones(5), atol=3e-6, rtol=0)


def test_step_density_is_seen_from_its_front(generator):
    """Truth: nothing until 3, density 2 behind; the interval from 3 to 4 has 1 - exp(-2)."""
    lengths = torch.tensor([1.0, 1.0, 1.0, 1.0, 1.0], dtype=torch.float64)
    densities = torch.tensor([0.0, 0.0, 0.0, 2.0, 2.0], dtype=torch.float64)
    weights, remaining = weights_from_density(densities, lengths)
    first = 1 - math.exp(-2)
    expected = torch.tensor([0, 0, 0, first, math.exp(-2) * first], dtype=torch.float64)
    torch.testing.assert_close(weights, expected)
    assert float(remaining) == pytest.approx(math.exp(-4))


@pytest.mark.parametrize("batch", BATCHES)
def test_background_is_seen_through_exp_of_minus_the_optical_depth(batch, generator):
    densities = torch.rand(*batch, 9, generator=generator, dtype=torch.float64)
    lengths = torch.rand(*batch, 9, generator=generator, dtype=torch.float64)
    weights, remaining = weights_from_density(densities, lengths)
    background = torch.tensor([0.2, 0.5, 1.0], dtype=torch.float64)
    black = torch.zeros(*batch, 9, 3, dtype=torch.float64)
    expected = (-(densities * lengths).sum(-1, keepdim=True)).exp() * background
    torch.testing.assert_close(composite(weights, black, remaining, background), expected)


def test_values_and_background_of_one_colour_give_that_colour(generator):
    weights, remaining = weights_from_density(torch.rand(4, 8), torch.rand(4, 8))
    color = torch.tensor([0.1, 0.6, 0.9])
    rendered = composite(weights, color.expand(4, 8, 3), remaining, color.expand(4, 3))
    torch.testing.assert_close(rendered, color.expand(4, 3))


def test_empty_space_shows_the_background_only():
    weights, remaining = weights_from_density(torch.zeros(2, 5), torch.ones(2, 5))
    assert torch.equal(weights, torch.zeros(2, 5))
    assert torch.equal(remaining, torch.ones(2))
    starts, middles, lengths = parts(torch.linspace(1, 6, 6).expand(2, 6))
    assert torch.equal(expected_distance(weights, middles), torch.full((2,), 5.5))
    assert torch.equal(median_distance(weights, starts, lengths), torch.full((2,), 6.0))


@pytest.mark.parametrize("density", [1e4, 1e30, math.inf])
def test_opaque_interval_hides_everything_behind_it(density):
    densities = torch.tensor([0.0, density, density, 1.0])
    weights, remaining = weights_from_density(densities, torch.ones(4))
    assert torch.equal(weights, torch.tensor([0.0, 1.0, 0.0, 0.0]))
    assert float(remaining) == 0
    starts, middles, lengths = parts(torch.arange(5.0))
    assert float(expected_distance(weights, middles)) == 1.5
    # An opaque interval shows its front.
    assert float(median_distance(weights, starts, lengths)) == 1.0


def test_gradients_through_huge_densities_are_finite():
    densities = torch.tensor([0.0, 1e20, 1.0, 1e30], requires_grad=True)
    weights, remaining = weights_from_density(densities, torch.ones(4))
    (weights @ torch.arange(4.0) + remaining).backward()
    assert densities.grad.isfinite().all()


def test_quadrature_has_the_gradients_of_finite_differences(generator):
    densities = torch.rand(2, 6, generator=generator, dtype=torch.float64, requires_grad=True)
    lengths = torch.rand(2, 6, generator=generator, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(weights_from_density, (densities, lengths))
    _, middles, lengths = (
        part.requires_grad_() for part in parts(random_edges((2,), 6, generator))
    )
    weights = torch.rand(2, 6, generator=generator, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(distortion_loss, (weights, middles, lengths))
    assert torch.autograd.gradcheck(expected_distance, (weights, middles))


@pytest.mark.parametrize("n", [1, 5, 50])
def test_median_of_a_constant_slab_is_where_half_is_absorbed(n, generator):
    """Truth: exp(-s (t - near)) = 1/2 at t = near + ln 2 / s, however the slab is cut."""
    edges = random_edges((3,), n, generator, near=1.0, far=9.0)
    edges[..., 0], edges[..., -1] = 1.0, 9.0
    weights, _ = weights_from_density(torch.full((3, n), 0.3, dtype=torch.float64), edges.diff())
    expected = torch.full((3,), 1 + math.log(2) / 0.3, dtype=torch.float64)
    starts, _, lengths = parts(edges)
    torch.testing.assert_close(median_distance(weights, starts, lengths), expected)


def test_median_lies_in_an_interval_and_not_in_the_gap_before_it():
    """Truth: density 1 on [0, 0.5] and on [3, 4]; ln 2 - 0.5 is still to be absorbed from 3 on."""
    starts = torch.tensor([0.0, 3.0], dtype=torch.float64)
    lengths = torch.tensor([0.5, 1.0], dtype=torch.float64)
    weights, _ = weights_from_density(torch.ones(2, dtype=torch.float64), lengths)
    found = float(median_distance(weights, starts, lengths))
    assert found == pytest.approx(3 + math.log(2) - 0.5)


def test_mean_distance_of_a_constant_slab_approaches_one_over_density():
    """Truth: an exponential distribution of rate 2 has mean 1/2; 40 lengths of it are endless."""
    edges = torch.linspace(0, 20, 4001, dtype=torch.float64)
    weights, _ = weights_from_density(torch.full((4000,), 2.0, dtype=torch.float64), edges.diff())
    # Middles instead of centroids: an error of s h^2 / 12 = 4e-6 for intervals of h = 0.005.
    assert float(expected_distance(weights, parts(edges)[1])) == pytest.approx(0.5, abs=1e-5)


@pytest.mark.parametrize("batch", BATCHES)
def test_distortion_loss_is_the_double_sum_of_the_paper(batch, generator):
    edges = random_edges(batch, 12, generator)
    weights = torch.rand(*batch, 12, generator=generator, dtype=torch.float64)
    _, middle, lengths = parts(edges)
    pairs = weights.unsqueeze(-1) * weights.unsqueeze(-2)
    between = (pairs * (middle.unsqueeze(-1) - middle.unsqueeze(-2)).abs()).sum((-1, -2))
    within = (weights.square() * lengths).sum(-1) / 3
    torch.testing.assert_close(distortion_loss(weights, middle, lengths), between + within)


def test_distortion_of_a_uniform_density_is_a_third_of_its_length(generator):
    """Truth: E|u - v| = 1/3 of the length for u, v uniform, however it is cut."""
    edges = random_edges((4,), 9, generator)
    length = (edges[..., -1:] - edges[..., :1]).squeeze(-1)
    weights = edges.diff(dim=-1) / length.unsqueeze(-1)
    torch.testing.assert_close(distortion_loss(weights, *parts(edges)[1:]), length / 3)


@pytest.mark.parametrize("batch", BATCHES)
def test_even_weights_give_even_samples(batch, generator):
    edges = torch.linspace(2, 6, 9).expand(*batch, 9)
    samples = sample_from_weights(edges, torch.ones(*batch, 8), 16, is_stratified=False)
    expected = (2 + 4 * (torch.arange(16) + 0.5) / 16).expand(*batch, 16)
    torch.testing.assert_close(samples, expected)


def test_samples_of_a_single_weight_lie_in_its_interval(generator):
    edges = random_edges((20,), 10, generator).float()
    for index in (0, 4, 9):
        weights = torch.zeros(20, 10)
        weights[:, index] = 1e-6
        samples = sample_from_weights(edges, weights, 33, is_stratified=True, generator=generator)
        assert (samples >= edges[:, index, None]).all()
        assert (samples <= edges[:, index + 1, None]).all()
        assert (samples.diff(dim=-1) >= 0).all()


def test_samples_follow_the_exact_cumulative_distribution(generator):
    """The inverse of the inverse: the distribution at sample i is (i + 1/2) / n."""
    edges = random_edges((5,), 12, generator)
    weights = torch.rand(5, 12, generator=generator, dtype=torch.float64)
    samples = sample_from_weights(edges, weights, 50, is_stratified=False)
    # Share of every interval that lies before every sample, by its overlap.
    overlap = (samples.unsqueeze(-1) - edges[:, None, :-1]) / edges.diff(dim=-1)[:, None]
    share = overlap.clamp(0, 1) @ (weights / weights.sum(-1, keepdim=True)).unsqueeze(-1)
    expected = ((torch.arange(50, dtype=torch.float64) + 0.5) / 50).expand(5, 50)
    torch.testing.assert_close(share.squeeze(-1), expected)


def test_stratified_samples_lie_one_in_each_stratum(generator):
    edges = torch.tensor([0.0, 1.0])
    samples = sample_from_weights(
        edges, torch.ones(1), 1000, is_stratified=True, generator=generator
    )
    assert torch.equal((samples * 1000).floor(), torch.arange(1000.0))
    assert samples.mul(1000).frac().std() > 0.25  # Uniform in it: 1 / sqrt(12) = 0.289.


def test_ray_without_weights_is_sampled_evenly():
    edges = torch.tensor([[0.0, 1.0, 4.0]])
    samples = sample_from_weights(edges, torch.zeros(1, 2), 4, is_stratified=False)
    torch.testing.assert_close(samples, torch.tensor([[0.5, 1.5, 2.5, 3.5]]))
