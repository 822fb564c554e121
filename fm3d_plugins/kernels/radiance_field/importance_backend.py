"""Drawing intervals, and remembering densities, on a CPU."""

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from fm3d_plugins.kernels.radiance_field.definitions import Intervals
from fm3d_plugins.kernels.radiance_field.importance_kernels import (
    RAYS_PER_ITEM,
    count_samples,
    draw,
    move_cells,
)
from fm3d_plugins.kernels.radiance_field.importance_reference import (
    MAX_DENSITY,
    RATE,
    UNIFORM_SHARE,
)
from fm3d_plugins.kernels.threads import run_kernel


def draw_intervals_numba(
    densities: Float[Tensor, "x y z"],
    strata: Float[Tensor, " edge"],
    origins: Float[Tensor, "ray 3"],
    directions: Float[Tensor, "ray 3"],
    num_samples: int,
    jitter: Float[Tensor, " ray"],
) -> Intervals:
    """`draw_intervals_torch` for float32 tensors on the CPU and whole vectors of strata."""
    rays = torch.cat([origins, directions], dim=-1).numpy()
    middles = np.empty((len(rays), num_samples), np.float32)
    lengths = np.empty_like(middles)
    places = ((strata[1:] + strata[:-1]) / 2).numpy(), strata.diff().numpy()
    run_kernel(
        draw,
        -(-len(rays) // RAYS_PER_ITEM),
        rays,
        strata.contiguous().numpy(),
        places,
        densities.contiguous().numpy(),
        np.float32(UNIFORM_SHARE / (len(strata) - 1)),
        jitter.contiguous().numpy(),
        middles,
        lengths,
    )
    return Intervals(torch.from_numpy(middles), torch.from_numpy(lengths))


def move_cells_numba(
    grid: Float[Tensor, "x y z"],
    sums: Float[Tensor, " cell"],
    counts: Float[Tensor, " cell"],
    origins: Float[Tensor, "ray 3"],
    directions: Float[Tensor, "ray 3"],
    middles: Float[Tensor, "ray sample"],
    densities: Float[Tensor, "ray sample"],
) -> None:
    """`radiance_field.move_cells` for float32 tensors on the CPU and whole vectors of samples."""
    cells = np.empty(middles.shape, np.int64)
    count_samples(
        torch.cat([origins, directions], dim=-1).numpy(),
        middles.contiguous().numpy(),
        densities.contiguous().numpy(),
        np.float32(MAX_DENSITY),
        len(grid),
        cells,
        sums.numpy(),
        counts.numpy(),
    )
    rate = np.float32(RATE)
    move_cells(grid.view(-1).numpy(), cells.ravel(), sums.numpy(), counts.numpy(), rate)
