"""A transformer block whose tokens also read those of another sequence."""

from jaxtyping import Float
from torch import Tensor, nn

from fm3d_plugins.nn.attention import CrossAttention, Mlp, SelfAttention
from fm3d_plugins.nn.positions import RotaryTables


class CrossingBlock(nn.Module):
    """Pre-norm block: attention within the tokens, to a memory, and an MLP, each added to them.

    The decoder block of Vaswani et al. 2017 in the form of CroCo (Weinzaepfel et al. 2022), where
    the memory has a norm of its own and rotary positions also turn what crosses.

    Args:
        eps: Of the four LayerNorms.
    """

    def __init__(
        self, width: int, num_heads: int, *, mlp_ratio: float | int = 4, eps: float = 1e-5
    ) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(width, eps=eps)
        self.attn = SelfAttention(width, num_heads)
        self.norm2 = nn.LayerNorm(width, eps=eps)
        self.norm_y = nn.LayerNorm(width, eps=eps)
        self.cross_attn = CrossAttention(width, num_heads)
        self.norm3 = nn.LayerNorm(width, eps=eps)
        self.mlp = Mlp(width, int(width * mlp_ratio), width)

    def forward(
        self,
        tokens: Float[Tensor, "sequence token channel"],
        memory: Float[Tensor, "sequence memory_token channel"],
        positions: RotaryTables | None = None,
        memory_positions: RotaryTables | None = None,
    ) -> Float[Tensor, "sequence token channel"]:
        """Tokens after the block; neither argument is changed. Differentiable."""
        tokens = tokens + self.attn(self.norm1(tokens), positions)
        crossed = self.cross_attn(
            self.norm2(tokens), self.norm_y(memory), positions, memory_positions
        )
        tokens = tokens + crossed
        return tokens + self.mlp(self.norm3(tokens))
