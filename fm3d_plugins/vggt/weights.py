"""Published weights into the network, strictly."""

from collections.abc import Mapping

import torch
from torch import Tensor

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
