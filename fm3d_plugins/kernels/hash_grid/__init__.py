"""Features of positions from a multiresolution hash grid (Müller et al. 2022)."""

from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from fm3d_plugins.kernels.hash_grid.layout import FEATURES_PER_LEVEL, HashGridLayout
from fm3d_plugins.kernels.hash_grid.torch_reference import encode_torch
from fm3d_plugins.kernels.shapes import check_shapes

__all__ = ["FEATURES_PER_LEVEL", "HashGridLayout", "encode"]

HashGridBackend = Literal["auto", "torch", "numba", "tinycudann"]


def encode(
    positions: Float[Tensor, "point 3"],
    table: Float[Tensor, "entry 4"],
    layout: HashGridLayout,
    backend: HashGridBackend = "auto",
) -> Float[Tensor, "point feature"]:
    """Trilinear interpolation in every level of a hash grid, coarsest level first.

    Differentiable in both tensors; in positions within a cell, where it is smooth.

    Args:
        positions: In the unit cube [0, 1]^3, outside of which the result is undefined.
        table: `layout.num_entries` rows of 4 features.
        backend: "auto" is numba for float32 on a CPU, tinycudann on CUDA where that package can be
            imported, otherwise torch.

    Raises:
        ValueError: Positions are not [N, 3], the table does not have the layout's rows, or the
            backend cannot take the tensors.
        ImportError: backend is "tinycudann", which is not installed.
    """
    check_shapes(
        "The hash grid",
        {"positions": (positions, "point 3"), "the table": (table, "entry 4")},
        {"entry": layout.num_entries},
        one_type=False,
    )
    chosen = _backend_for(positions, table) if backend == "auto" else backend
    if chosen == "torch":
        return encode_torch(positions, table, layout)
    if positions.dtype != torch.float32 or table.dtype != torch.float32:
        raise ValueError(
            f"The {chosen} backend got positions in {positions.dtype} and a table in "
            f"{table.dtype}. It takes float32. Use backend='torch'."
        )
    if positions.is_cuda != (chosen == "tinycudann"):
        raise ValueError(
            f"The {chosen} backend got tensors on {positions.device}. Expected "
            f"{'cuda' if chosen == 'tinycudann' else 'cpu'}. Use backend='auto'."
        )
    if chosen == "numba":
        from fm3d_plugins.kernels.hash_grid.numba_backend import encode_numba

        return encode_numba(positions, table, layout)
    from fm3d_plugins.kernels.hash_grid.tinycudann_backend import encode_tinycudann

    return encode_tinycudann(positions, table, layout)


def _backend_for(positions: Tensor, table: Tensor) -> HashGridBackend:
    is_float = positions.dtype == table.dtype == torch.float32
    if positions.device.type == "cpu" and is_float:
        return "numba"
    if positions.is_cuda and is_float:
        from fm3d_plugins.kernels.hash_grid.tinycudann_backend import is_available

        return "tinycudann" if is_available() else "torch"
    return "torch"
