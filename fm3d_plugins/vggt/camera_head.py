"""VGGT's camera head (Wang et al. 2025, section 3.3): cameras refined in a few rounds."""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from fm3d_plugins.nn.attention import Mlp, TransformerBlock

ENCODING_WIDTH = 9
"""Translation (3), quaternion (4), fields of view (2): see `pose_encoding`."""


@dataclass(frozen=True)
class CameraHeadConfig:
    """Sizes of the camera head."""

    depth: int = 4
    """Transformer blocks, used anew in every round."""
    num_heads: int = 16
    mlp_ratio: float | int = 4
    rounds: int = 4


class CameraHead(nn.Module):
    """Camera tokens, modulated by the present estimate, attend to those of the other photos.

    Modulation is that of diffusion transformers (Peebles and Xie 2023): shift, scale and gate
    from the embedded estimate.
    """

    def __init__(self, config: CameraHeadConfig, token_width: int) -> None:
        super().__init__()
        self.config = config
        self.empty_pose_tokens = nn.Parameter(torch.zeros(1, 1, ENCODING_WIDTH))
        self.trunk = nn.Sequential(
            *(
                TransformerBlock(token_width, config.num_heads, mlp_ratio=config.mlp_ratio)
                for _ in range(config.depth)
            )
        )
        self.token_norm = nn.LayerNorm(token_width)
        self.trunk_norm = nn.LayerNorm(token_width)
        self.embed_pose = nn.Linear(ENCODING_WIDTH, token_width)
        self.poseLN_modulation = nn.Sequential(nn.SiLU(), nn.Linear(token_width, 3 * token_width))
        self.adaln_norm = nn.LayerNorm(token_width, elementwise_affine=False, eps=1e-6)
        self.pose_branch = Mlp(token_width, token_width // 2, ENCODING_WIDTH)

    def forward(
        self,
        camera_tokens: Float[Tensor, "batch view channel"],
        first_estimate: Float[Tensor, "batch view 9"] | None = None,
    ) -> list[Float[Tensor, "batch view 9"]]:
        """Pose encodings after every round, the last being the best.

        Args:
            first_estimate: What the first round changes; published: none, it begins with nothing.
        """
        tokens = self.token_norm(camera_tokens.to(self.token_norm.weight.dtype))
        estimate = first_estimate
        encodings = []
        for _ in range(self.config.rounds):
            # The learned empty pose is only what the first round sees, not what it adds to.
            seen = self.empty_pose_tokens if estimate is None else estimate.detach()
            change = self._change(tokens, seen.expand(*tokens.shape[:2], -1))
            estimate = change if estimate is None else estimate + change
            # What the next round sees keeps fields of view below zero.
            encodings.append(torch.cat([estimate[..., :7], functional.relu(estimate[..., 7:])], -1))
        return encodings

    def _change(
        self,
        tokens: Float[Tensor, "batch view channel"],
        estimate: Float[Tensor, "batch view 9"],
    ) -> Float[Tensor, "batch view 9"]:
        """What one round adds to the estimate."""
        shift, scale, gate = self.poseLN_modulation(self.embed_pose(estimate)).chunk(3, dim=-1)
        modulated = gate * (self.adaln_norm(tokens) * (1 + scale) + shift) + tokens
        return self.pose_branch(self.trunk_norm(self.trunk(modulated)))
