"""What LVSM and RayZer are made of (Jin et al. 2025, section 3; Jiang et al. 2025, section 4).

Photos and rays become tokens, patch by patch, and tokens become photos again; between them stand
transformer blocks without biases, which normalise queries and keys.
"""

import re
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any, ClassVar

import torch
from jaxtyping import Float
from torch import Tensor, nn

from fm3d_plugins.nn.attention import TransformerBlock, recomputed, step
from fm3d_plugins.nn.linear import Linear
from fm3d_plugins.nn.patches import patchify, unpatchify
from fm3d_plugins.nn.weights import LOSS_PREFIX, load_strictly, matrix_names

RAY_CHANNELS = 6
"""Of a map of Plücker coordinates."""

INITIAL_DEVIATION = 0.02

_PUBLISHED_NAMES = (
    (r"(.*tokenizer2?)\.weight", r"\1.1.weight"),
    (r"image_head\.norm", "image_token_decoder.0"),
    (r"image_head\.linear", "image_token_decoder.1"),
    (r"(transformer_\w+\.\d+\.attn)\.qkv", r"\1.to_qkv"),
    (r"(transformer_\w+\.\d+\.attn)\.proj", r"\1.fc"),
    (r"(transformer_\w+\.\d+\.mlp)\.fc1", r"\1.mlp.0"),
    (r"(transformer_\w+\.\d+\.mlp)\.fc2", r"\1.mlp.2"),
)


def published_name(name: str) -> str:
    """Of a parameter of either network by its name here."""
    for pattern, replacement in _PUBLISHED_NAMES:
        name = re.sub(f"^{pattern}", replacement, name)
    return name


class ViewNetwork(nn.Module):
    """A network of these parts, whose weights were published under other names."""

    advice: ClassVar[str]
    """What to do if weights do not fit."""
    stacks: ClassVar[tuple[str, ...]]
    """Names of its stacks of blocks."""
    config: Any
    """Its sizes: `width` and `patch_size` among them."""

    def matrix_names(self) -> set[str]:
        """State dict names of what is kept in a chosen type: linear layers within the blocks."""
        return matrix_names(self, self.stacks)

    def published_name(self, name: str) -> str:
        """Of a parameter by its name here."""
        return published_name(name)


def load_official(
    network: ViewNetwork, state_dict: Mapping[str, Tensor], *, dtype: torch.dtype | None = None
) -> None:
    """Give a network the weights of a published checkpoint, as `nn.weights.load_strictly` does.

    Args:
        state_dict: Flat, by published names. What the training program keeps of its loss
            (`loss_computer.*`) is left out.
        dtype: Type of the blocks' matrices; by default float32. All else is float32.

    Raises:
        ValueError: If names are missing or unexpected, or shapes are wrong; all are listed.
    """
    load_strictly(
        network,
        state_dict,
        advice=network.advice,
        converted=network.matrix_names(),
        dtype=dtype,
        published_name=network.published_name,
        ignored=LOSS_PREFIX,
    )


def make_blocks(count: int, width: int, head_width: int) -> nn.ModuleList:
    """Pre-norm blocks with the root mean square norm of queries and keys (eps 1e-5)."""
    norm = partial(nn.RMSNorm, eps=1e-5)
    blocks = nn.ModuleList(
        TransformerBlock(width, width // head_width, layer_scale=None, head_norm=norm, bias=False)
        for _ in range(count)
    )
    for index, block in enumerate(blocks):
        block.apply(partial(initialize, deviation=INITIAL_DEVIATION / (2 * (index + 1)) ** 0.5))
    return blocks


def initialize(module: nn.Module, deviation: float = INITIAL_DEVIATION) -> None:
    """Draw a linear layer's weights from a normal distribution; its biases become 0."""
    if isinstance(module, nn.Linear):
        nn.init.normal_(module.weight, std=deviation)
        if module.bias is not None:
            nn.init.zeros_(module.bias)


def learned_tokens(count: int, width: int) -> nn.Parameter:
    """Tokens that belong to the network."""
    return nn.Parameter(nn.init.trunc_normal_(torch.empty(count, width), std=INITIAL_DEVIATION))


class PatchTokenizer(Linear):
    """One linear map without bias of every patch.

    Args:
        channels: Of the images.
    """

    def __init__(self, channels: int, patch_size: int, width: int) -> None:
        super().__init__(channels * patch_size**2, width, bias=False)
        self.patch_size = patch_size
        initialize(self)

    def forward(  # type: ignore[override]
        self, images: Float[Tensor, "*batch channel height width"]
    ) -> Float[Tensor, "*batch token feature"]:
        """Tokens row by row, in float32; both sides are multiples of the patch size."""
        patches = patchify(images, self.patch_size)
        return super().forward(patches.to(self.weight.dtype)).to(images.dtype)


class ImageHead(nn.Module):
    """Tokens to the pixels of their patches."""

    def __init__(self, width: int, patch_size: int) -> None:
        super().__init__()
        self.patch_size = patch_size
        self.norm = nn.LayerNorm(width, bias=False)
        self.linear = Linear(width, 3 * patch_size**2, bias=False)
        initialize(self.linear)

    def forward(
        self, tokens: Float[Tensor, "*batch token feature"], rows: int
    ) -> Float[Tensor, "*batch 3 height width"]:
        """RGB in (0, 1); `rows` of patches make an image."""
        values = self.linear(self.norm(tokens).to(self.linear.weight.dtype)).to(tokens.dtype)
        return unpatchify(values.sigmoid(), self.patch_size, rows)


def run(
    blocks: Sequence[nn.Module] | nn.ModuleList,
    tokens: Float[Tensor, "sequence token feature"],
    part: slice,
) -> Float[Tensor, "sequence some_token feature"]:
    """Some of the tokens after all blocks; the last one works on those alone, which is exact.

    Without gradients `tokens` are overwritten.
    """
    for block in blocks[:-1]:
        tokens = step(block, tokens)
    last = blocks[-1]
    assert isinstance(last, TransformerBlock)
    if torch.is_grad_enabled() and last.training:
        return recomputed(last.of_part, tokens, part)
    return last.of_part(tokens, part)


def matched(
    tokens: Float[Tensor, "scene token feature"], num_views: int
) -> Float[Tensor, "scene_and_view token feature"]:
    """A scene's tokens once for each of its target views, views fastest."""
    return tokens.repeat_interleave(num_views, dim=0)
