"""The hash grid on a CPU."""

from functools import lru_cache

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from fm3d_plugins.kernels.hash_grid.kernels import CHUNK, encode_all, pull_back_all, scatter_all
from fm3d_plugins.kernels.hash_grid.layout import HashGridLayout
from fm3d_plugins.kernels.threads import run_kernel


@lru_cache(maxsize=8)
def level_rows(layout: HashGridLayout) -> np.ndarray:
    """What kernels need to know of the levels, float64 [level, 4]; exact for integers."""
    resolutions = [
        0 if is_hashed else resolution
        for resolution, is_hashed in zip(layout.resolutions, layout.are_hashed, strict=True)
    ]
    columns = (layout.scales, resolutions, layout.offsets[:-1], layout.sizes)
    return np.array(columns, dtype=np.float64).T.copy()


class _Encode(torch.autograd.Function):
    @staticmethod
    def forward(ctx, positions, table, layout):
        planes = positions.detach().t().contiguous().numpy()
        values, levels = table.detach().contiguous().numpy(), level_rows(layout)
        features = np.empty((len(positions), layout.num_features), np.float32)
        num_chunks = -(-len(positions) // CHUNK)
        run_kernel(encode_all, num_chunks, planes, values, levels, features)
        ctx.save_for_backward(positions, table)
        ctx.planes, ctx.layout = planes, layout
        return torch.from_numpy(features)

    @staticmethod
    def backward(ctx, d_features):
        positions, table = ctx.saved_tensors
        planes, levels = ctx.planes, level_rows(ctx.layout)
        gradients = d_features.contiguous().numpy()
        d_positions = d_table = None
        if ctx.needs_input_grad[0]:
            values = table.detach().contiguous().numpy()
            pulled = np.empty_like(planes)
            num_chunks = -(-len(positions) // CHUNK)
            run_kernel(pull_back_all, num_chunks, planes, values, levels, gradients, pulled)
            d_positions = torch.from_numpy(pulled).t()
        if ctx.needs_input_grad[1]:
            d_table = torch.zeros_like(table)
            run_kernel(scatter_all, len(levels), planes, levels, gradients, d_table.numpy())
        return d_positions, d_table, None


def encode_numba(
    positions: Float[Tensor, "point 3"],
    table: Float[Tensor, "entry 4"],
    layout: HashGridLayout,
) -> Float[Tensor, "point feature"]:
    """See `hash_grid.encode`; float32 on the CPU."""
    return _Encode.apply(positions, table, layout)
