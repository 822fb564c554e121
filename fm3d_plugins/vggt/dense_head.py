"""VGGT's dense heads (Wang et al. 2025, section 3.3): tokens of four layers to a map per photo."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor, nn

from fm3d_plugins.nn.dense_prediction import FusionPyramid, add_positions_, resize

OUTPUT_HIDDEN_CHANNELS = 32
"""Of the last layer but one."""


@dataclass(frozen=True)
class DenseHeadConfig:
    """Sizes of a dense head."""

    features: int = 256
    """Channels of the fused map."""
    channels: tuple[int, int, int, int] = (256, 512, 1024, 1024)
    """Of the four levels, finest first."""
    layers: tuple[int, int, int, int] = (4, 11, 17, 23)
    """Blocks of the aggregator whose tokens are read, from 0."""


class DenseScratch(FusionPyramid):
    """The fusion and what follows it, under one name in published files."""

    def __init__(self, config: DenseHeadConfig, output_channels: int | None) -> None:
        super().__init__(config.channels, config.features, rectified_skip=True)
        hidden = config.features if output_channels is None else config.features // 2
        self.output_conv1 = nn.Conv2d(config.features, hidden, kernel_size=3, padding=1)
        self.output_conv2 = nn.Identity()
        if output_channels is not None:
            self.output_conv2 = nn.Sequential(
                nn.Conv2d(hidden, OUTPUT_HIDDEN_CHANNELS, kernel_size=3, padding=1),
                nn.ReLU(inplace=True),
                nn.Conv2d(OUTPUT_HIDDEN_CHANNELS, output_channels, kernel_size=1),
            )


class DenseHead(nn.Module):
    """Dense prediction transformer over the patches of each photo alone.

    Args:
        token_width: Channels of the tokens that are read.
        output_channels: Of the map; none gives the fused features themselves.
        patch_size: Side of a patch, pixels.
        stride: The map has one value per stride x stride pixels.
        positions: Add sinusoids of the position in the image to the levels and the fused map.
    """

    def __init__(
        self,
        config: DenseHeadConfig,
        token_width: int,
        output_channels: int | None,
        *,
        patch_size: int = 14,
        stride: int = 1,
        positions: bool = True,
    ) -> None:
        super().__init__()
        self.config = config
        self.patch_size, self.stride, self.positions = patch_size, stride, positions
        first, second, third, fourth = config.channels
        self.norm = nn.LayerNorm(token_width)
        self.projects = nn.ModuleList(
            nn.Conv2d(token_width, channels, kernel_size=1) for channels in config.channels
        )
        self.resize_layers = nn.ModuleList(
            [
                nn.ConvTranspose2d(first, first, kernel_size=4, stride=4),
                nn.ConvTranspose2d(second, second, kernel_size=2, stride=2),
                nn.Identity(),
                nn.Conv2d(fourth, fourth, kernel_size=3, stride=2, padding=1),
            ]
        )
        self.scratch = DenseScratch(config, output_channels)

    def forward(
        self,
        layers: Sequence[Float[Tensor, "image token channel"]],
        grid: tuple[int, int],
    ) -> Float[Tensor, "image out_channel height width"]:
        """Map of every photo, without an activation.

        Args:
            layers: Patch tokens of the configured layers, row by row.
            grid: Patches in a column and in a row.
        """
        rows, columns = grid
        fused = self.scratch([self._level(i, layers[i], grid) for i in range(len(layers))])
        fused = self.scratch.output_conv1(fused)
        size = (rows * self.patch_size // self.stride, columns * self.patch_size // self.stride)
        fused = resize(fused, size)
        if self.positions:
            add_positions_(fused, columns / rows)
        return self.scratch.output_conv2(fused)

    def _level(
        self, index: int, tokens: Float[Tensor, "image token channel"], grid: tuple[int, int]
    ) -> Float[Tensor, "image level_channel rows columns"]:
        """Tokens of one layer as a map at the resolution of its level."""
        normalized = self.norm(tokens.to(self.norm.weight.dtype))
        # Transposed tokens are a map whose channels lie together, which convolutions like.
        level = self.projects[index](normalized.transpose(1, 2).unflatten(2, grid))
        if self.positions:
            add_positions_(level, grid[1] / grid[0])
        return self.resize_layers[index](level)


def depth_and_confidence(
    raw: Float[Tensor, "image 2 height width"],
) -> tuple[Float[Tensor, "image height width"], Float[Tensor, "image height width"]]:
    """Depth exp(x) in units of the scene, and confidence 1 + exp(x)."""
    return raw[:, 0].exp(), 1 + raw[:, 1].exp()


def points_and_confidence(
    raw: Float[Tensor, "image 4 height width"],
) -> tuple[Float[Tensor, "image height width 3"], Float[Tensor, "image height width"]]:
    """Points sign(x) (exp|x| - 1), and confidence 1 + exp(x)."""
    return inverse_log(raw[:, :3].permute(0, 2, 3, 1)), 1 + raw[:, 3].exp()


def inverse_log(values: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
    """sign(x) (exp|x| - 1), the inverse of sign(y) log(1 + |y|)."""
    return values.sign() * torch.expm1(values.abs())
