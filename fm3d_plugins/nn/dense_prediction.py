"""Pieces of the dense prediction transformer (DPT, Ranftl et al. 2021): four levels to one map."""

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from fm3d_plugins.nn.positions import sinusoids

POSITION_BASE = 100.0
"""Ratio of the fastest to the slowest sinusoid of `add_positions_`."""
POSITION_SCALE = 0.1
"""Amplitude of the sinusoids that `add_positions_` adds."""


def resize(
    features: Float[Tensor, "image channel height width"], size: tuple[int, int]
) -> Float[Tensor, "image channel new_height new_width"]:
    """Bilinear, with the centres of the corner pixels kept in place (align_corners)."""
    return functional.interpolate(features, size, mode="bilinear", align_corners=True)


def grid_coordinates(num: int, extent: float, device: torch.device) -> Float[Tensor, " {num}"]:
    """Centres of `num` cells that tile [-extent, extent]."""
    last = extent * (num - 1) / num
    return torch.linspace(-last, last, num, dtype=torch.float32, device=device)


def add_positions_(
    features: Float[Tensor, "image channel rows columns"], aspect_ratio: float
) -> None:
    """Add faint sinusoids of where each cell lies in the image, in place.

    In place because the map at the image's size is the largest tensor of a head.
    The first half of the channels tells the column and the second half the row. Coordinates are
    those of the image scaled to a diagonal of 2, so that they do not depend on its resolution.

    Args:
        aspect_ratio: Width / height of the image.
    """
    channels, rows, columns = features.shape[1:]
    diagonal = (aspect_ratio**2 + 1) ** 0.5
    x = grid_coordinates(columns, aspect_ratio / diagonal, features.device)
    y = grid_coordinates(rows, 1 / diagonal, features.device)
    across = POSITION_SCALE * sinusoids(x, channels // 2, POSITION_BASE).T[:, None, :]
    down = POSITION_SCALE * sinusoids(y, channels // 2, POSITION_BASE).T[:, :, None]
    features[:, : channels // 2] += across
    features[:, channels // 2 :] += down


class ResidualUnit(nn.Module):
    """Two 3x3 convolutions with their rectifiers, added to the input.

    Args:
        rectified_skip: The skip connection carries relu(x) instead of x, as where a rectifier
            works in place on the input.
    """

    def __init__(self, channels: int, *, rectified_skip: bool) -> None:
        super().__init__()
        self.rectified_skip = rectified_skip
        self.conv1 = nn.Conv2d(channels, channels, kernel_size=3, padding=1)
        self.conv2 = nn.Conv2d(channels, channels, kernel_size=3, padding=1)

    def forward(
        self, features: Float[Tensor, "image channel rows columns"]
    ) -> Float[Tensor, "image channel rows columns"]:
        """Features of the same size."""
        rectified = functional.relu(features)
        residual = self.conv2(functional.relu(self.conv1(rectified), inplace=True))
        return residual.add_(rectified if self.rectified_skip else features)


class FusionBlock(nn.Module):
    """A coarse map joined with the next finer level and resized.

    Args:
        with_level: False for the coarsest, which has nothing to be joined with.
    """

    def __init__(self, channels: int, *, with_level: bool, rectified_skip: bool) -> None:
        super().__init__()
        if with_level:
            self.resConfUnit1 = ResidualUnit(channels, rectified_skip=rectified_skip)
        self.resConfUnit2 = ResidualUnit(channels, rectified_skip=rectified_skip)
        self.out_conv = nn.Conv2d(channels, channels, kernel_size=1)

    def forward(
        self,
        features: Float[Tensor, "image channel rows columns"],
        size: tuple[int, int],
        level: Float[Tensor, "image channel rows columns"] | None = None,
    ) -> Float[Tensor, "image channel new_rows new_columns"]:
        """The fused map at the given (rows, columns)."""
        if level is not None:
            features = self.resConfUnit1(level).add_(features)
        # The paper resizes first; a 1x1 convolution commutes with interpolation, whose weights
        # sum to one, and costs a quarter on the smaller map.
        return resize(self.out_conv(self.resConfUnit2(features)), size)


class FusionPyramid(nn.Module):
    """Four levels of features, finest first, fused from the coarsest up.

    Args:
        level_channels: Of the four inputs.
        channels: Of the fused map.
        doubling: A coarse map is doubled and what exceeds the next level is cut off at the
            right and the bottom, instead of resized to that level; they differ where the
            finer level has an odd side.
    """

    def __init__(
        self,
        level_channels: Sequence[int],
        channels: int,
        *,
        rectified_skip: bool,
        doubling: bool = False,
    ) -> None:
        super().__init__()
        self.doubling = doubling
        for number, inputs in enumerate(level_channels, 1):
            convolution = nn.Conv2d(inputs, channels, kernel_size=3, padding=1, bias=False)
            self.add_module(f"layer{number}_rn", convolution)
        for number in range(1, len(level_channels) + 1):
            block = FusionBlock(
                channels,
                with_level=number < len(level_channels),
                rectified_skip=rectified_skip,
            )
            self.add_module(f"refinenet{number}", block)
        self.num_levels = len(level_channels)

    def forward(
        self, levels: Sequence[Float[Tensor, "image _ _ _"]]
    ) -> Float[Tensor, "image channel rows columns"]:
        """The fused map at twice the size of the finest level."""
        rows, columns = levels[0].shape[-2:]
        sizes = [(2 * rows, 2 * columns), *(tuple(level.shape[-2:]) for level in levels[:-1])]
        fused = None
        for number in range(self.num_levels, 0, -1):
            level = self.get_submodule(f"layer{number}_rn")(levels[number - 1])
            block = self.get_submodule(f"refinenet{number}")
            rows, columns = sizes[number - 1]
            size = (2 * level.shape[-2], 2 * level.shape[-1]) if self.doubling else (rows, columns)
            fused = block(level, size) if fused is None else block(fused, size, level)
            fused = fused[..., :rows, :columns]
        assert fused is not None
        return fused
