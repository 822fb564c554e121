"""DUSt3R's heads (Wang et al. 2024, section 3.2): tokens to a point and a confidence per pixel."""

from collections.abc import Sequence
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from fm3d_plugins.nn.dense_prediction import FusionPyramid, ResidualUnit, resize
from fm3d_plugins.nn.linear import Linear

DepthMode = Literal["exp", "linear", "square"]
ConfidenceMode = tuple[Literal["exp", "sigmoid"], float, float]

OUTPUT_CHANNELS = 4
"""A point and a confidence."""
LEVEL_CHANNELS = (96, 192, 384, 768)
"""Of the four levels, finest first."""
FUSED_CHANNELS, LAST_CHANNELS = 256, 128


class LinearHead(nn.Module):
    """One linear map from each token to all pixels of its patch."""

    def __init__(self, width: int, depth: int, patch_size: int) -> None:
        super().__init__()
        self.patch_size = patch_size
        self.layers = (depth,)
        self.proj = Linear(width, OUTPUT_CHANNELS * patch_size**2)

    def forward(
        self, layers: Sequence[Float[Tensor, "image token _"]], grid: tuple[int, int]
    ) -> Float[Tensor, "image 4 height width"]:
        """Map of every image, without an activation; `layers` holds the last one alone."""
        (tokens,) = layers
        patches = self.proj(tokens.to(self.proj.weight.dtype)).transpose(1, 2)
        return functional.pixel_shuffle(patches.unflatten(2, grid), self.patch_size)


class DenseHead(nn.Module):
    """Dense prediction transformer (Ranftl et al. 2021) over four layers of tokens."""

    def __init__(self, encoder_width: int, width: int, depth: int) -> None:
        super().__init__()
        self.layers = (0, depth * 2 // 4, depth * 3 // 4, depth)
        self.dpt = DensePrediction((encoder_width, width, width, width))

    def forward(
        self, layers: Sequence[Float[Tensor, "image token _"]], grid: tuple[int, int]
    ) -> Float[Tensor, "image 4 height width"]:
        """Map of every image, without an activation."""
        return self.dpt(layers, grid)


class DensePrediction(nn.Module):
    """The network of `DenseHead`, under the name that published files give it.

    Args:
        token_widths: Channels of the four layers of tokens.
    """

    def __init__(self, token_widths: Sequence[int]) -> None:
        super().__init__()
        first, second, third, fourth = LEVEL_CHANNELS
        resizers = (
            [nn.ConvTranspose2d(first, first, kernel_size=4, stride=4)],
            [nn.ConvTranspose2d(second, second, kernel_size=2, stride=2)],
            [],
            [nn.Conv2d(fourth, fourth, kernel_size=3, stride=2, padding=1)],
        )
        self.act_postprocess = nn.ModuleList(
            nn.Sequential(nn.Conv2d(width, channels, kernel_size=1), *resizer)
            for width, channels, resizer in zip(token_widths, LEVEL_CHANNELS, resizers, strict=True)
        )
        self.scratch = FusionPyramid(
            LEVEL_CHANNELS, FUSED_CHANNELS, rectified_skip=False, doubling=True
        )
        # Nothing reaches this unit of the coarsest level, but published files hold it.
        coarsest = self.scratch.get_submodule("refinenet4")
        coarsest.resConfUnit1 = ResidualUnit(FUSED_CHANNELS, rectified_skip=False)
        self.head = nn.Sequential(
            nn.Conv2d(FUSED_CHANNELS, LAST_CHANNELS, kernel_size=3, padding=1),
            nn.Identity(),  # Where the map is doubled.
            nn.Conv2d(LAST_CHANNELS, LAST_CHANNELS, kernel_size=3, padding=1),
            nn.ReLU(inplace=True),
            nn.Conv2d(LAST_CHANNELS, OUTPUT_CHANNELS, kernel_size=1),
        )

    def forward(
        self, layers: Sequence[Float[Tensor, "image token _"]], grid: tuple[int, int]
    ) -> Float[Tensor, "image 4 height width"]:
        """Map of every image at the image's size."""
        dtype = next(self.parameters()).dtype
        fused = self.scratch(
            [
                # Transposed tokens are a map whose channels lie together: convolutions like that.
                level(tokens.to(dtype).transpose(1, 2).unflatten(2, grid))
                for level, tokens in zip(self.act_postprocess, layers, strict=True)
            ]
        )
        fused = self.head[0](fused)
        fused = resize(fused, (2 * fused.shape[-2], 2 * fused.shape[-1]))
        return self.head[2:](fused)


def points_and_confidence(
    raw: Float[Tensor, "*batch 4 height width"],
    depth_mode: DepthMode,
    confidence_mode: ConfidenceMode,
) -> tuple[Float[Tensor, "*batch height width 3"], Float[Tensor, "*batch height width"]]:
    """Points and their confidence from a head's map.

    A point keeps its direction, and its distance d becomes exp(d) - 1 (`exp`), d squared
    (`square`) or stays (`linear`). Section 3.3 of the paper: confidence is 1 + exp(c), here with
    any lower bound in place of 1 and an upper bound, or a sigmoid between both.

    Args:
        confidence_mode: Kind, lower and upper bound.
    """
    points, logits = raw.movedim(-3, -1).split([3, 1], dim=-1)
    if depth_mode != "linear":
        distance = points.norm(dim=-1, keepdim=True)
        stretched = torch.expm1(distance) if depth_mode == "exp" else distance.square()
        points = points / distance.clamp(min=1e-8) * stretched
    kind, low, high = confidence_mode
    if kind == "exp":
        return points, low + logits[..., 0].exp().clamp(max=high - low)
    return points, low + (high - low) * logits[..., 0].sigmoid()
