"""The transformer that updates VGGT's tracks: attention along time, and among the points."""

import torch
from jaxtyping import Float
from torch import Tensor, nn

from fm3d_plugins.nn.attention import Mlp

NUM_HEADS = 8
MLP_RATIO = 4
NUM_VIRTUAL_TRACKS = 64
"""Learned tracks through which the points exchange what they know."""


class SelfBlock(nn.Module):
    """Self-attention and MLP, whose residuals start after the first norm."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(width)
        self.norm2 = nn.LayerNorm(width)
        self.attn = nn.MultiheadAttention(width, NUM_HEADS, batch_first=True)
        self.mlp = Mlp(width, MLP_RATIO * width, width)

    def forward(
        self, tokens: Float[Tensor, "sequence token channel"]
    ) -> Float[Tensor, "sequence token channel"]:
        """Tokens after the block."""
        tokens = self.norm1(tokens)
        tokens = tokens + self.attn(tokens, tokens, tokens, need_weights=False)[0]
        return tokens + self.mlp(self.norm2(tokens))


class CrossBlock(nn.Module):
    """Attention to other tokens and MLP, whose residuals start after the first norm."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(width)
        self.norm_context = nn.LayerNorm(width)
        self.norm2 = nn.LayerNorm(width)
        self.cross_attn = nn.MultiheadAttention(width, NUM_HEADS, batch_first=True)
        self.mlp = Mlp(width, MLP_RATIO * width, width)

    def forward(
        self,
        tokens: Float[Tensor, "sequence token channel"],
        context: Float[Tensor, "sequence other channel"],
    ) -> Float[Tensor, "sequence token channel"]:
        """Tokens after the block; the context stays as it is."""
        tokens, context = self.norm1(tokens), self.norm_context(context)
        tokens = tokens + self.cross_attn(tokens, context, context, need_weights=False)[0]
        return tokens + self.mlp(self.norm2(tokens))


class TrackTransformer(nn.Module):
    """Blocks along time and among points in turn (Karaev et al. 2023 with virtual tracks).

    Args:
        width: Of the blocks.
        depth: Pairs of blocks.
    """

    def __init__(self, input_width: int, width: int, output_width: int, depth: int) -> None:
        super().__init__()
        self.input_norm = nn.LayerNorm(input_width)
        self.input_transform = nn.Linear(input_width, width)
        self.output_norm = nn.LayerNorm(width)
        self.flow_head = nn.Linear(width, output_width)
        # Spelled as in the published files.
        self.virual_tracks = nn.Parameter(torch.randn(1, NUM_VIRTUAL_TRACKS, 1, width))
        self.time_blocks = nn.ModuleList(SelfBlock(width) for _ in range(depth))
        self.space_virtual_blocks = nn.ModuleList(SelfBlock(width) for _ in range(depth))
        self.space_point2virtual_blocks = nn.ModuleList(CrossBlock(width) for _ in range(depth))
        self.space_virtual2point_blocks = nn.ModuleList(CrossBlock(width) for _ in range(depth))

    def forward(
        self, tokens: Float[Tensor, "batch point view channel"]
    ) -> Float[Tensor, "batch point view out_channel"]:
        """The update of every point in every view."""
        batch, num_points, views = tokens.shape[:3]
        tokens = self.input_transform(self.input_norm(tokens))
        start = tokens
        virtual = self.virual_tracks.expand(batch, -1, views, -1)
        tokens = torch.cat([tokens, virtual], dim=1)
        for index, block in enumerate(self.time_blocks):
            tokens = block(tokens.flatten(0, 1)).view_as(tokens)
            among = tokens.transpose(1, 2).flatten(0, 1)
            among = self._exchange(index, among[:, :num_points], among[:, num_points:])
            tokens = among.unflatten(0, (batch, views)).transpose(1, 2)
        return self.flow_head(self.output_norm(tokens[:, :num_points] + start))

    def _exchange(
        self,
        index: int,
        points: Float[Tensor, "image point channel"],
        virtual: Float[Tensor, "image virtual channel"],
    ) -> Float[Tensor, "image token channel"]:
        """Virtual tracks read the points, talk, and are read by the points; points first."""
        virtual = self.space_virtual2point_blocks[index](virtual, points)
        virtual = self.space_virtual_blocks[index](virtual)
        points = self.space_point2virtual_blocks[index](points, virtual)
        return torch.cat([points, virtual], dim=1)
