"""Local correlations against the definition: all products, then interpolation."""

import pytest
import torch
from torch.nn import functional

from fm3d_plugins.vggt import correlation
from fm3d_plugins.vggt.correlation import feature_pyramid, local_correlations, sample


def correlations_by_definition(pyramid, features, positions, radius):
    """Products with whole maps, sampled one offset after the other."""
    images, points, channels = features.shape
    columns = []
    for level, maps in enumerate(pyramid):
        volume = torch.einsum("ihwc,ipc->iphw", maps, features) / channels**0.5
        volume = volume.flatten(0, 1).unsqueeze(1)
        height, width = maps.shape[1:3]
        for dx in range(-radius, radius + 1):
            for dy in range(-radius, radius + 1):
                where = positions / 2**level + torch.tensor([dx, dy])
                last = torch.tensor([max(width - 1, 1), max(height - 1, 1)], dtype=where.dtype)
                grid = (2 * where / last - 1).reshape(images * points, 1, 1, 2)
                value = functional.grid_sample(volume, grid, align_corners=True)
                columns.append(value.reshape(images, points))
    return torch.stack(columns, dim=-1)


@pytest.fixture
def case():
    torch.manual_seed(0)
    maps = torch.randn(2, 9, 13, 4, dtype=torch.float64)
    features = torch.randn(2, 6, 4, dtype=torch.float64)
    inside = torch.rand(2, 3, 2, dtype=torch.float64) * torch.tensor([12, 8])
    outside = torch.tensor([[-1.5, 2.0], [13.25, 9.5], [1e9, -1e9]], dtype=torch.float64)
    return maps, features, torch.cat([inside, outside.expand(2, 3, 2)], dim=1)


@pytest.mark.parametrize("gathered", [1, 2**24])
def test_correlations_equal_their_definition_inside_and_outside(gathered, case, monkeypatch):
    monkeypatch.setattr(correlation, "GATHERED_NUMBERS", gathered)
    maps, features, positions = case
    pyramid = feature_pyramid(maps, 3)
    expected = correlations_by_definition(pyramid, features, positions, 2)
    ours = local_correlations(pyramid, features, positions, 2)
    torch.testing.assert_close(ours, expected, atol=1e-9, rtol=0)
    assert expected[:, :3].abs().min(dim=-1).values.max() >= 0 and expected.abs().max() > 1


@pytest.mark.parametrize(("height", "width"), [(1, 13), (9, 1), (1, 1), (2, 3), (3, 2), (1, 2)])
def test_one_cell_on_an_axis_fills_that_axis(height, width, case):
    """Image sides of 140 to 252 pixels have such a level; all 9 offsets read its one cell."""
    _, features, positions = case
    maps = torch.randn(2, height, width, 4, dtype=torch.float64)
    levels = 2 if min(height, width) > 1 else 1
    pyramid = feature_pyramid(maps, levels)
    expected = correlations_by_definition(pyramid, features, positions, 4)
    ours = local_correlations(pyramid, features, positions, 4)
    torch.testing.assert_close(ours, expected, atol=1e-9, rtol=0)
    if height == width == 1:
        cell = torch.einsum("ic,ipc->ip", maps[:, 0, 0], features) / 4**0.5
        torch.testing.assert_close(ours, cell[..., None].expand_as(ours))


def test_gradients_of_correlations_are_right(case):
    maps, features, _ = case
    # Away from integers, where bilinear interpolation has kinks.
    positions = torch.tensor([[3.3, 4.6], [11.7, 0.4]], dtype=torch.float64).expand(2, 2, 2)
    inputs = (maps.requires_grad_(), features[:, :2].clone().requires_grad_())
    assert torch.autograd.gradcheck(
        lambda m, f: local_correlations(feature_pyramid(m, 2), f, positions, 1), inputs
    )


def test_pyramid_drops_odd_rows_and_columns():
    maps = torch.arange(15.0).reshape(1, 3, 5, 1)
    levels = feature_pyramid(maps, 2)
    assert [tuple(level.shape) for level in levels] == [(1, 3, 5, 1), (1, 1, 2, 1)]
    # Means of (0, 1, 5, 6) and (2, 3, 7, 8).
    assert levels[1].flatten().tolist() == [3.0, 5.0]


def test_samples_interpolate_between_cell_centres_and_repeat_the_border():
    maps = torch.tensor([[0.0, 1.0], [2.0, 3.0]]).reshape(1, 1, 2, 2)
    positions = torch.tensor([[[0.0, 0.0], [1.0, 0.0], [0.25, 0.5], [-4.0, 9.0]]])
    assert sample(maps, positions)[0, :, 0].tolist() == pytest.approx([0, 1, 1.25, 2])
