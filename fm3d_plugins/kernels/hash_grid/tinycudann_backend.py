"""The hash grid by tiny-cuda-nn, on CUDA."""

import importlib.util
from functools import lru_cache
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from fm3d_plugins.errors import require
from fm3d_plugins.kernels.hash_grid.layout import FEATURES_PER_LEVEL, HashGridLayout


@lru_cache(maxsize=1)
def is_available() -> bool:
    """Whether the package tinycudann is installed and can be imported."""
    if importlib.util.find_spec("tinycudann") is None:
        return False
    try:
        import tinycudann  # noqa: F401  # pyright: ignore[reportMissingImports]
    except (ImportError, OSError):  # Compiled for another GPU or another torch.
        return False
    return True


@lru_cache(maxsize=8)
def _native_encoding(layout: HashGridLayout) -> Any:
    """tiny-cuda-nn's stateless encoding: parameters are handed in with every call."""
    tinycudann = require(
        "tinycudann",
        purpose="The hash grid backend 'tinycudann'",
        install="git+https://github.com/NVlabs/tiny-cuda-nn/#subdirectory=bindings/torch",
    )
    encoding = tinycudann.Encoding(
        n_input_dims=3,
        encoding_config={
            "otype": "HashGrid",
            "n_levels": layout.num_levels,
            "n_features_per_level": FEATURES_PER_LEVEL,
            "log2_hashmap_size": layout.log2_table_size,
            "base_resolution": layout.base_resolution,
            "per_level_scale": layout.growth,
            "interpolation": "Linear",
        },
        dtype=torch.float32,
    )
    expected = layout.num_entries * FEATURES_PER_LEVEL
    if encoding.params.numel() != expected:
        raise ValueError(
            f"tinycudann lays {layout} out in {encoding.params.numel()} numbers. Expected "
            f"{expected}. Use the hash grid backend 'torch'."
        )
    return encoding


def encode_tinycudann(
    positions: Float[Tensor, "point 3"],
    table: Float[Tensor, "entry 4"],
    layout: HashGridLayout,
) -> Float[Tensor, "point feature"]:
    """See `hash_grid.encode`; float32 on CUDA.

    Raises:
        ImportError: tinycudann is not installed.
    """
    return torch.func.functional_call(
        _native_encoding(layout), {"params": table.reshape(-1)}, (positions,)
    )
