"""Choosing a ray's intervals by a grid of densities, in plain torch: the definition."""

import torch
from jaxtyping import Float
from torch import Tensor

from fm3d_plugins.geometry.volume_rendering import weights_from_density
from fm3d_plugins.kernels.radiance_field.definitions import Intervals
from fm3d_plugins.kernels.radiance_field.torch_reference import contract_to_cube

RATE = 0.1
"""How far a sample moves its cell's density towards its own."""
MAX_DENSITY = 300.0
"""Per scene unit; what is denser is as good as opaque, and would outweigh everything in a mean."""
UNIFORM_SHARE = 0.5
"""Samples that are spread over all strata alike, relative to those that follow the weights. With
few of them a ray crosses what it believes empty in long intervals, in which a chance sample of thin
fog hides everything behind: the field then stays foggy (measured: 0.2 and less)."""


def cell_of(positions: Float[Tensor, "*batch 3"], resolution: int) -> Tensor:
    """Flat index of the grid cell that holds a position in scene units."""
    place = (contract_to_cube(positions) * resolution).long().clamp(0, resolution - 1)
    x, y, z = place.unbind(-1)
    return (x * resolution + y) * resolution + z


def stratum_shares(weights: Float[Tensor, "ray stratum"]) -> Float[Tensor, "ray stratum"]:
    """How much of a ray's samples each stratum gets, not normalised.

    Weights are widened to their neighbours (mip-NeRF, Barron et al. 2021, equation 18): a surface
    near a stratum's end may lie in the next.
    """
    padded = torch.nn.functional.pad(weights, (1, 1))
    pairs = torch.maximum(padded[:, 1:], padded[:, :-1])
    return (pairs[:, 1:] + pairs[:, :-1]) / 2 + UNIFORM_SHARE / weights.shape[1]


def draw_intervals_torch(
    densities: Float[Tensor, "x y z"],
    strata: Float[Tensor, " edge"],
    origins: Float[Tensor, "ray 3"],
    directions: Float[Tensor, "ray 3"],
    num_samples: int,
    jitter: Float[Tensor, " ray"],
) -> Intervals:
    """Cuts where the strata's cumulative shares reach evenly spaced values: the definition."""
    middles = (strata[1:] + strata[:-1]) / 2
    positions = origins[:, None] + middles[:, None] * directions[:, None]
    found = densities.view(-1)[cell_of(positions, len(densities))]
    weights, _ = weights_from_density(found, strata.diff().expand_as(found))
    cumulative = torch.nn.functional.pad(stratum_shares(weights).cumsum(-1), (1, 0))
    ticks = torch.arange(num_samples - 1, device=jitter.device) + jitter[:, None]
    wanted = ticks / max(num_samples - 1, 1) * cumulative[:, -1:]
    index = torch.searchsorted(cumulative, wanted, right=True).clamp(1, len(strata) - 1)
    low, high = cumulative.gather(1, index - 1), cumulative.gather(1, index)
    start, end = strata[index - 1], strata[index]
    cuts = start + (end - start) * ((wanted - low) / (high - low)).clamp(0, 1)
    ends = strata[[0, -1]].expand(len(origins), 2)
    edges = torch.cat([ends[:, :1], cuts, ends[:, 1:]], dim=1)
    return Intervals((edges[:, 1:] + edges[:, :-1]) / 2, edges.diff(dim=1))


def move_cells_torch(
    grid: Float[Tensor, "x y z"],
    sums: Float[Tensor, " cell"],
    counts: Float[Tensor, " cell"],
    positions: Float[Tensor, "point 3"],
    densities: Float[Tensor, " point"],
) -> None:
    """A cell with n samples of mean m moves by 1 - (1 - RATE)^n of its way to m.

    Args:
        sums: Zero before and after; room to work in.
        counts: The same.
    """
    cells = cell_of(positions, len(grid))
    flat = grid.view(-1)
    sums.index_add_(0, cells, densities.clamp_max(MAX_DENSITY))
    counts.index_add_(0, cells, torch.ones_like(densities))
    found = counts[cells]
    way = sums[cells] / found - flat[cells]
    flat[cells] += way * (1 - (1 - RATE) ** found)  # Equal values for equal cells.
    sums[cells] = 0
    counts[cells] = 0
