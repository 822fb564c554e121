"""The paper's network and sampling."""

import math

import pytest
import torch

from fm3d_plugins.nerf.vanilla import (
    RadianceMlp,
    joined_samples,
    positional_encoding,
    stratified_distances,
)


@pytest.fixture(autouse=True)
def _seeded():
    torch.set_num_threads(1)
    torch.manual_seed(0)


@pytest.mark.parametrize("batch", [(), (1,), (2, 3)])
def test_encoding_is_equation_4(batch):
    x = torch.randn(*batch, 3, dtype=torch.float64)
    encoded = positional_encoding(x, 4)
    assert encoded.shape == (*batch, 3 + 3 * 2 * 4)
    expected = [x]
    for k in range(4):
        expected += [torch.sin(2**k * math.pi * x), torch.cos(2**k * math.pi * x)]
    torch.testing.assert_close(encoded, torch.cat(expected, dim=-1))


def test_network_has_the_papers_number_of_parameters():
    """Positions have 3 (1 + 2 10) = 63 channels, directions 3 (1 + 2 4) = 27.

    63 256 + 256 = 16 384; four of 256 256 + 256 = 65 792; (256 + 63) 256 + 256 = 81 920 behind
    the skip; two more of 65 792; density 257; feature 65 792; (256 + 27) 128 + 128 = 36 352;
    colour 387. In all 595 844.
    """
    network = RadianceMlp()
    assert sum(parameter.numel() for parameter in network.parameters()) == 595_844
    assert len(network.trunk) == 8
    assert [layer.in_features for layer in network.trunk] == [63, 256, 256, 256, 256, 319, 256, 256]


def test_skip_carries_the_position_past_the_first_layers():
    network = RadianceMlp(width=8, num_layers=8, skip_after=5)
    points = torch.randn(2, 3)
    directions = torch.randn(2, 3)
    with torch.no_grad():
        for layer in network.trunk[:5]:
            layer.weight.zero_()  # Nothing of the position passes through these.
        before, _ = network(points, directions)
        assert before[0] != before[1]
        network.trunk[5].weight[:, 8:] = 0  # Columns of the joined position.
        density, color = network(points, directions)
    assert density[0] == density[1]
    assert not torch.equal(color[0], color[1])  # The directions still differ.


def test_density_does_not_depend_on_the_direction():
    network = RadianceMlp(width=16)
    points = torch.randn(5, 3)
    first, color = network(points, torch.randn(5, 3))
    second, other = network(points, torch.randn(5, 3))
    assert torch.equal(first, second)
    assert not torch.equal(color, other)
    assert ((color > 0) & (color < 1)).all()


@pytest.mark.parametrize("is_disparity", [False, True])
def test_one_distance_lies_in_each_stratum(is_disparity):
    near, far = torch.tensor([[0.5], [2.0]]), torch.tensor([[4.0], [6.0]])
    distances = stratified_distances(near, far, 40, is_stratified=True, is_disparity=is_disparity)
    share = (distances - near) / (far - near)
    if is_disparity:
        share = (1 / distances - 1 / near) / (1 / far - 1 / near)
    # 1e-4: rounding of the inverse at the edges of the strata.
    stratum = torch.arange(40.0)
    assert ((share * 40 > stratum - 1e-4) & (share * 40 < stratum + 1 + 1e-4)).all()
    middle = stratified_distances(near, far, 40, is_stratified=False, is_disparity=is_disparity)
    assert (middle.diff(dim=-1) > 0).all()


def test_fine_samples_are_sorted_keep_the_coarse_ones_and_gather_at_the_weights():
    near, far = torch.full((3, 1), 1.0), torch.full((3, 1), 5.0)
    coarse = stratified_distances(near, far, 16, is_stratified=True)
    weights = torch.full((3, 16), 1e-3)
    weights[:, 9] = 1.0
    every = joined_samples(coarse, far, weights, 100, is_stratified=True)
    assert every.shape == (3, 116)
    assert (every.diff(dim=-1) >= 0).all()
    assert (every >= near).all()
    assert (every <= far).all()
    for ray in range(3):
        assert torch.isin(coarse[ray], every[ray]).all()
        inside = (every[ray] >= coarse[ray, 9]) & (every[ray] <= coarse[ray, 10])
        # All but 15 thousandths of the weight, and so of 100 strata at least 97.
        assert inside.sum() >= 97
