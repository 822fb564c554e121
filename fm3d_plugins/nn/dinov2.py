"""DINOv2 with registers (Oquab et al. 2023; Darcet et al. 2023): image patches to features."""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from fm3d_plugins.nn.attention import TransformerBlock, step
from fm3d_plugins.nn.patches import PatchEmbedding

EPS = 1e-6
"""Of every LayerNorm of DINOv2."""


@dataclass(frozen=True)
class DinoV2Config:
    """Sizes of a DINOv2 vision transformer."""

    width: int = 1024
    depth: int = 24
    num_heads: int = 16
    patch_size: int = 14
    """Side of a patch, pixels."""
    image_size: int = 518
    """Side of the square image whose positions are stored, pixels."""
    num_registers: int = 4


VARIANTS = {
    "dinov2_vits14_reg": DinoV2Config(width=384, depth=12, num_heads=6),
    "dinov2_vitb14_reg": DinoV2Config(width=768, depth=12, num_heads=12),
    "dinov2_vitl14_reg": DinoV2Config(width=1024, depth=24, num_heads=16),
}
"""Published sizes by their published names."""


class DinoV2(nn.Module):
    """Vision transformer whose stored positions are interpolated to the image's grid."""

    def __init__(self, config: DinoV2Config) -> None:
        super().__init__()
        self.config = config
        width, stored = config.width, config.image_size // config.patch_size
        self.patch_embed = PatchEmbedding(config.patch_size, width)
        self.cls_token = nn.Parameter(torch.zeros(1, 1, width))
        self.pos_embed = nn.Parameter(torch.randn(1, 1 + stored * stored, width) * 0.02)
        self.register_tokens = nn.Parameter(torch.randn(1, config.num_registers, width) * 1e-6)
        # Replaces hidden patches in self-supervised training; published files hold it.
        self.mask_token = nn.Parameter(torch.zeros(1, width))
        self.blocks = nn.ModuleList(
            TransformerBlock(width, config.num_heads, eps=EPS, layer_scale=1.0)
            for _ in range(config.depth)
        )
        self.norm = nn.LayerNorm(width, eps=EPS)

    def position_embedding(self, rows: int, columns: int) -> Float[Tensor, "1 token channel"]:
        """Stored positions for a grid of patches: the class token's, then row by row.

        Bicubic with antialiasing, unless the grid is the stored one.
        """
        stored = self.config.image_size // self.config.patch_size
        if (rows, columns) == (stored, stored):
            return self.pos_embed
        return resized_positions(self.pos_embed, (stored, stored), (rows, columns))

    def forward(
        self, images: Float[Tensor, "image 3 height width"]
    ) -> Float[Tensor, "image token channel"]:
        """Features of the patches, row by row, after the last norm.

        Args:
            images: RGB, normalised with ImageNet's mean and deviation; sides are multiples of
                the patch size.
        """
        tokens = self._embed(images)
        for block in self.blocks:
            tokens = step(block, tokens)
        num_extra = 1 + self.config.num_registers
        return self.norm(tokens[:, num_extra:])

    def _embed(
        self, images: Float[Tensor, "image 3 height width"]
    ) -> Float[Tensor, "image token channel"]:
        """Class token, registers (which have no position) and patches."""
        rows, columns = (side // self.config.patch_size for side in images.shape[-2:])
        positions = self.position_embedding(rows, columns)
        parts = [
            (self.cls_token + positions[:, :1]).expand(len(images), -1, -1),
            self.register_tokens.expand(len(images), -1, -1),
            self.patch_embed(images) + positions[:, 1:],
        ]
        return torch.cat(parts, dim=1)


def resized_positions(
    positions: Float[Tensor, "1 _ channel"], stored: tuple[int, int], wanted: tuple[int, int]
) -> Float[Tensor, "1 _ channel"]:
    """Positions of a grid of patches for another grid; the class token's stays.

    Args:
        positions: The class token's, then those of the stored grid row by row.
        stored, wanted: Rows and columns.
    """
    class_position, patches = positions[:, :1], positions[:, 1:]
    # In float32 whatever the network's type, as published.
    grid = patches.float().unflatten(1, stored).permute(0, 3, 1, 2)
    resized = functional.interpolate(
        grid, wanted, mode="bicubic", antialias=True, align_corners=False
    )
    resized = resized.to(class_position.dtype).flatten(2).transpose(1, 2)
    return torch.cat([class_position, resized], dim=1)
