"""VGGT's backbone (Wang et al. 2025, section 3.2): attention within photos, then among them."""

from collections.abc import Collection
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor, nn

from fm3d_plugins.nn.attention import TransformerBlock, joined, step
from fm3d_plugins.nn.dinov2 import VARIANTS, DinoV2
from fm3d_plugins.nn.patches import PatchEmbedding
from fm3d_plugins.nn.positions import RotaryTables, grid_positions, rotary_tables

CONVOLUTION = "conv"
"""Name of the patch embedding that is one convolution."""
IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_DEVIATION = (0.229, 0.224, 0.225)


@dataclass(frozen=True)
class AggregatorConfig:
    """Sizes of the backbone."""

    width: int = 1024
    depth: int = 24
    """Pairs of blocks."""
    num_heads: int = 16
    mlp_ratio: float | int = 4
    num_registers: int = 4
    patch_embedding: str = "dinov2_vitl14_reg"
    """A DINOv2 of the same width, or `conv`."""
    patch_size: int = 14
    """Side of a patch, pixels."""
    rotary_base: float = 100.0


class Aggregator(nn.Module):
    """Tokens of all photos: each photo's by themselves and all together in turn.

    Nothing tells photos after the first apart but their content: they may be exchanged.
    """

    def __init__(self, config: AggregatorConfig) -> None:
        super().__init__()
        self.config = config
        self.patch_embed = _patch_embedding(config)
        self.frame_blocks = nn.ModuleList(_block(config) for _ in range(config.depth))
        self.global_blocks = nn.ModuleList(_block(config) for _ in range(config.depth))
        # Two sets: for the first photo, whose camera is the world, and for all others.
        self.camera_token = nn.Parameter(torch.randn(1, 2, 1, config.width) * 1e-6)
        self.register_token = nn.Parameter(
            torch.randn(1, 2, config.num_registers, config.width) * 1e-6
        )

    @property
    def num_special(self) -> int:
        """Tokens of a photo before its patches: the camera's, then the registers."""
        return 1 + self.config.num_registers

    def forward(
        self,
        images: Float[Tensor, "batch view 3 height width"],
        layers: Collection[int],
        *,
        frames_per_pass: int,
    ) -> dict[int, Float[Tensor, "batch view token channel"]]:
        """Tokens after each of the asked-for pairs of blocks.

        Channels are those after the block within photos, then those after the block among them.
        Later pairs than the last one asked for are not computed. Without gradients, all work
        that concerns photos alone holds `frames_per_pass` of them.

        Args:
            images: RGB in [0, 1]; the first photo's camera is the world.
            layers: Numbers of pairs, from 0.
        """
        batch, views = images.shape[:2]
        frames = images.flatten(0, 1)
        if torch.is_grad_enabled():
            frames_per_pass = len(frames)
        patches = joined([self.patch_tokens(part) for part in frames.split(frames_per_pass)])
        tokens = torch.cat([self._special_tokens(batch, views), patches], dim=1)
        del patches
        positions = self._positions(images.shape[-2], images.shape[-1], tokens)
        kept = {}
        for index in range(max(layers) + 1):
            tokens = step(self.frame_blocks[index], tokens, positions, 1, frames_per_pass)
            # Copied, because the next block may work in place.
            within = tokens.clone() if index in layers else None
            tokens = step(self.global_blocks[index], tokens, positions, views, frames_per_pass)
            if within is not None:
                both = torch.cat([within, tokens], dim=-1)
                kept[index] = both.unflatten(0, (batch, views))
        return kept

    def patch_tokens(
        self, frames: Float[Tensor, "image 3 height width"]
    ) -> Float[Tensor, "image token channel"]:
        """Features of the patches, row by row, of RGB images in [0, 1]."""
        # Rounded to float32 in a float64 network too, as published.
        constants = torch.tensor([IMAGENET_MEAN, IMAGENET_DEVIATION], device=frames.device)
        mean, deviation = constants.to(frames.dtype)[..., None, None]
        return self.patch_embed((frames - mean) / deviation).to(self.camera_token.dtype)

    def _special_tokens(self, batch: int, views: int) -> Float[Tensor, "image special channel"]:
        """Camera token and registers of every photo of every scene."""
        first, others = torch.cat([self.camera_token, self.register_token], dim=2)[0]
        scene = torch.cat([first[None], others.expand(views - 1, -1, -1)])
        return scene.repeat(batch, 1, 1)

    def _positions(
        self, height: int, width: int, tokens: Float[Tensor, "image token channel"]
    ) -> RotaryTables:
        """Special tokens at (0, 0), patches from (1, 1)."""
        size = self.config.patch_size
        patches = 1 + grid_positions(height // size, width // size, tokens.device)
        special = patches.new_zeros(self.num_special, 2)
        head_width = self.config.width // self.config.num_heads
        return rotary_tables(
            torch.cat([special, patches]), head_width, self.config.rotary_base, tokens.dtype
        )


def _block(config: AggregatorConfig) -> TransformerBlock:
    return TransformerBlock(
        config.width, config.num_heads, mlp_ratio=config.mlp_ratio, head_norm=nn.LayerNorm
    )


def _patch_embedding(config: AggregatorConfig) -> nn.Module:
    """The module that makes tokens of patches; its width and patch size must be the backbone's."""
    name = config.patch_embedding
    if name == CONVOLUTION:
        return PatchEmbedding(config.patch_size, config.width)
    if name not in VARIANTS:
        raise ValueError(
            f"There is no patch embedding {name!r}. Choose one of "
            f"{', '.join([CONVOLUTION, *VARIANTS])}."
        )
    variant = VARIANTS[name]
    if (variant.width, variant.patch_size) != (config.width, config.patch_size):
        raise ValueError(
            f"{name} makes tokens of {variant.width} channels from patches of "
            f"{variant.patch_size} pixels, but the backbone has {config.width} channels and "
            f"patches of {config.patch_size}. Set width and patch_size to {name}'s."
        )
    return DinoV2(variant)
