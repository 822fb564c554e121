"""How well points fit to the features around where they are thought to be, at several scales."""

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional

GATHERED_NUMBERS = 2**24
"""Features gathered at once, in numbers (64 MiB of float32)."""


def feature_pyramid(
    maps: Float[Tensor, "image height width channel"], num_levels: int
) -> list[Float[Tensor, "image _ _ channel"]]:
    """The maps and their means over 2x2, 4x4, ... cells; odd rows and columns are dropped."""
    levels = [maps]
    for _ in range(num_levels - 1):
        pooled = functional.avg_pool2d(levels[-1].permute(0, 3, 1, 2), 2)
        levels.append(pooled.permute(0, 2, 3, 1).contiguous())
    return levels


def sample(
    maps: Float[Tensor, "image channel height width"],
    positions: Float[Tensor, "image point 2"],
) -> Float[Tensor, "image point channel"]:
    """Bilinear interpolation at (x, y), cell centres at integers; beyond the border, the border."""
    height, width = maps.shape[-2:]
    scale = [2 / max(width - 1, 1), 2 / max(height - 1, 1)]
    grid = positions * positions.new_tensor(scale) - 1
    sampled = functional.grid_sample(
        maps, grid.unsqueeze(2), mode="bilinear", padding_mode="border", align_corners=True
    )
    return sampled.squeeze(-1).transpose(1, 2)


def local_correlations(
    pyramid: Sequence[Float[Tensor, "image _ _ channel"]],
    features: Float[Tensor, "image point channel"],
    positions: Float[Tensor, "image point 2"],
    radius: int,
) -> Float[Tensor, "image point correlation"]:
    """Products of each point's feature with the maps on a square grid around its position.

    Products are divided by sqrt(channels). Levels follow each other; within a level the offset in
    x is the slow index. Outside a map features are zero; where a map has one cell on an axis, every
    position on that axis is that cell, as published (whose grid is divided by max(size - 1, 1)).

    Args:
        positions: (x, y) in cells of the finest level, centres at integers.
        radius: The grid has 2 radius + 1 positions a side, one cell of the level apart.
    """
    images, points, channels = features.shape
    per_pass = max(1, GATHERED_NUMBERS // (images * channels * (2 * radius + 2) ** 2))
    parts = []
    for first in range(0, points, per_pass):
        chunk = slice(first, first + per_pass)
        correlations = [
            _level_correlations(level, features[:, chunk], positions[:, chunk] / 2**i, radius)
            for i, level in enumerate(pyramid)
        ]
        parts.append(torch.cat(correlations, dim=-1) / channels**0.5)
    return torch.cat(parts, dim=1)


def _level_correlations(
    level: Float[Tensor, "image height width channel"],
    features: Float[Tensor, "image point channel"],
    positions: Float[Tensor, "image point 2"],
    radius: int,
) -> Float[Tensor, "image point correlation"]:
    """Correlations at one scale, x offset slow.

    All positions of a grid lie at the same fraction of a cell, and interpolation commutes with
    the product: it suffices to correlate with (2 radius + 2)^2 cells and to interpolate those.
    """
    height, width = level.shape[1:3]
    size = positions.new_tensor([width, height])
    # Farther out everything is zero; the clamp keeps the integers below in range.
    positions = positions.clamp(-(radius + 2.0) * torch.ones_like(size), size + radius + 1)
    positions = torch.where(size > 1, positions, 0.0)
    corner = positions.floor()
    right, below = (positions - corner).unsqueeze(-1).unsqueeze(-1).unbind(2)
    offsets = torch.arange(-radius, radius + 2, device=level.device)
    columns = corner[..., 0, None].long() + (offsets if width > 1 else 0 * offsets)
    rows = corner[..., 1, None].long() + (offsets if height > 1 else 0 * offsets)
    inside_x = (columns >= 0) & (columns < width)
    inside_y = (rows >= 0) & (rows < height)
    columns, rows = columns.clamp(0, width - 1), rows.clamp(0, height - 1)
    image = torch.arange(len(level), device=level.device)[:, None, None, None]
    cells = level[image, rows[:, :, None, :], columns[:, :, :, None]]
    products = torch.einsum("ipxyc,ipc->ipxy", cells, features)
    products = products * (inside_x[:, :, :, None] & inside_y[:, :, None, :])
    products = products[:, :, :-1] * (1 - right) + products[:, :, 1:] * right
    products = products[..., :-1] * (1 - below) + products[..., 1:] * below
    return products.flatten(2)
