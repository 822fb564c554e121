"""The hash grid in plain torch: the definition, for any device and dtype."""

import itertools

import torch
from jaxtyping import Float, Int
from torch import Tensor

from fm3d_plugins.kernels.hash_grid.layout import PRIMES, HashGridLayout


def encode_torch(
    positions: Float[Tensor, "point 3"],
    table: Float[Tensor, "entry 4"],
    layout: HashGridLayout,
) -> Float[Tensor, "point feature"]:
    """See `hash_grid.encode`. Differentiable in positions (within a cell) and table."""
    features = []
    for level in range(layout.num_levels):
        between = positions * layout.scales[level] + 0.5
        lowest = between.detach().floor()
        fraction = between - lowest
        total = torch.zeros_like(table[:1])
        for corner in itertools.product((0, 1), repeat=3):
            step = lowest.new_tensor(corner)
            weight = (step * fraction + (1 - step) * (1 - fraction)).prod(-1, keepdim=True)
            total = total + weight * table[_entries((lowest + step).long(), layout, level)]
        features.append(total)
    return torch.cat(features, dim=-1)


def _entries(
    points: Int[Tensor, "point 3"], layout: HashGridLayout, level: int
) -> Int[Tensor, " point"]:
    """Table rows of grid points."""
    x, y, z = points.unbind(-1)
    if layout.are_hashed[level]:
        index = (x * PRIMES[0]) ^ (y * PRIMES[1]) ^ (z * PRIMES[2])
    else:
        resolution = layout.resolutions[level]
        index = x + resolution * (y + resolution * z)
    return layout.offsets[level] + index % layout.sizes[level]
