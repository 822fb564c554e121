"""Drawing intervals on a CPU."""

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from fm3d_plugins.kernels.radiance_field import importance_grid
from fm3d_plugins.kernels.radiance_field.definitions import Intervals
from fm3d_plugins.kernels.radiance_field.importance_kernels import (
    RAYS_PER_ITEM,
    count_samples,
    draw,
    move_cells,
)
from fm3d_plugins.kernels.simd import LANES
from fm3d_plugins.kernels.threads import run_kernel


def draw_intervals(
    densities: Float[Tensor, "x y z"],
    strata: Float[Tensor, " edge"],
    origins: Float[Tensor, "ray 3"],
    directions: Float[Tensor, "ray 3"],
    num_samples: int,
    jitter: Float[Tensor, " ray"],
) -> Intervals:
    """`draw_intervals_torch` for tensors on the CPU."""
    num_strata = len(strata) - 1
    if origins.dtype != torch.float32 or num_strata % LANES:
        return importance_grid.draw_intervals_torch(
            densities, strata, origins, directions, num_samples, jitter
        )
    rays = torch.cat([origins, directions], dim=-1).numpy()
    middles = np.empty((len(rays), num_samples), np.float32)
    lengths = np.empty_like(middles)
    places = ((strata[1:] + strata[:-1]) / 2).numpy(), strata.diff().numpy()
    run_kernel(
        draw,
        -(-len(rays) // RAYS_PER_ITEM),
        rays,
        strata.numpy(),
        places,
        densities.numpy(),
        np.float32(importance_grid.UNIFORM_SHARE / num_strata),
        jitter.contiguous().numpy(),
        middles,
        lengths,
    )
    return Intervals(torch.from_numpy(middles), torch.from_numpy(lengths))


def remember_samples(
    grid: Float[Tensor, "x y z"],
    sums: Float[Tensor, " cell"],
    counts: Float[Tensor, " cell"],
    origins: Float[Tensor, "ray 3"],
    directions: Float[Tensor, "ray 3"],
    middles: Float[Tensor, "ray sample"],
    densities: Float[Tensor, "ray sample"],
) -> None:
    """`ImportanceGrid.remember` for float32 tensors on the CPU, whose samples are many."""
    cells = np.empty(middles.shape, np.int64)
    count_samples(
        torch.cat([origins, directions], dim=-1).numpy(),
        middles.contiguous().numpy(),
        densities.contiguous().numpy(),
        np.float32(importance_grid.MAX_DENSITY),
        len(grid),
        cells,
        sums.numpy(),
        counts.numpy(),
    )
    rate = np.float32(importance_grid.RATE)
    move_cells(grid.view(-1).numpy(), cells.ravel(), sums.numpy(), counts.numpy(), rate)
