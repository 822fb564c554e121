"""Published weights into the network, strictly."""

from collections.abc import Mapping

import torch
from torch import Tensor

from fm3d_plugins.nn.dinov2 import DinoV2, resized_positions
from fm3d_plugins.nn.weights import load_strictly
from fm3d_plugins.vggt.network import VGGT

ADVICE = (
    "Choose the checkpoint of this architecture, or build the network with the heads that the "
    "checkpoint has."
)


def load_official(
    network: VGGT, state_dict: Mapping[str, Tensor], *, dtype: torch.dtype | None = None
) -> None:
    """Give the network the weights of a published checkpoint, as `nn.weights.load_strictly` does.

    Args:
        state_dict: Flat, names and shapes as published (1797 of them for the whole network).
        dtype: Type of the backbone's matrices, by default float32. All other weights are float32.

    Raises:
        ValueError: If names are missing or unexpected, or shapes are wrong; all are listed.
    """
    load_strictly(network, state_dict, advice=ADVICE, converted=network.matrix_names(), dtype=dtype)


def is_dinov2(state_dict: Mapping[str, Tensor]) -> bool:
    """Whether weights have names of a DINOv2 by itself."""
    return "cls_token" in state_dict and "pos_embed" in state_dict


def take_dinov2(network: VGGT, state_dict: Mapping[str, Tensor]) -> None:
    """Give the patch embedding of a network the weights of a DINOv2.

    Positions that were stored for another square image are interpolated to the network's, as it
    does for images of other sizes.

    Args:
        state_dict: As DINOv2 was published, `dinov2_vitl14_reg4_pretrain.pth` and its like: the
            names of VGGT's published patch embedding, without `aggregator.patch_embed.`.

    Raises:
        ValueError: The network's patch embedding is no DINOv2, its sizes differ, or names do.
    """
    embedding = network.aggregator.patch_embed
    if not isinstance(embedding, DinoV2):
        raise ValueError(
            "The network makes tokens of patches by one convolution; expected a DINOv2. Set "
            "--pipeline.model.network.patch-embedding, for example dinov2_vits14_reg."
        )
    stored = embedding.config.image_size // embedding.config.patch_size
    positions = state_dict["pos_embed"]
    count = positions.shape[1] - 1 if positions.ndim == 3 else 0  # noqa: PLR2004 (axes)
    side = round(max(0, count) ** 0.5)
    if not side or side * side != count:
        raise ValueError(
            f"Its `pos_embed` is {list(positions.shape)}; expected [1, 1 + n * n, channels], the "
            "class token's and those of a square grid. Choose another file."
        )
    if side != stored:
        positions = resized_positions(positions, (side, side), (stored, stored))
    load_strictly(
        embedding,
        {**state_dict, "pos_embed": positions},
        advice=(
            "Choose the file with registers of the same size (dinov2_vits14_reg4, "
            "dinov2_vitb14_reg4, dinov2_vitl14_reg4), as published."
        ),
    )
