"""Published weights into the network, strictly."""

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from fm3d_plugins.vggt.network import VGGT

SMALL = 1 << 20
"""Numbers up to which a tensor is copied even where its type is right."""


def load_official(
    network: VGGT, state_dict: Mapping[str, Tensor], *, dtype: torch.dtype | None = None
) -> None:
    """Give the network the weights of a published checkpoint.

    A network on the meta device takes large tensors themselves where their type is right, so that
    weights are never held twice: it then shares them with `state_dict`. Otherwise values are
    copied. One tensor is converted at a time.

    Args:
        state_dict: Flat, names and shapes as published (1797 of them for the whole network).
        dtype: Type of the backbone's matrices, as by `VGGT.store`; by default float32. All
            other weights are float32.

    Raises:
        ValueError: If names are missing or unexpected, or shapes are wrong; all are listed.
    """
    parameters = dict(network.named_parameters())
    faults = _faults(parameters, state_dict)
    if faults:
        raise ValueError(
            f"The {len(state_dict)} weights do not belong to this network of "
            f"{len(parameters)} weights:\n" + "\n".join(faults) + "\n"
            "Choose the checkpoint of this architecture, or build the network with the heads "
            "that the checkpoint has."
        )
    matrices = network.matrix_names()
    for name, parameter in parameters.items():
        wanted = dtype if dtype is not None and name in matrices else torch.float32
        _assign(network, name, parameter, state_dict[name], wanted)


def _faults(parameters: Mapping[str, nn.Parameter], state_dict: Mapping[str, Tensor]) -> list[str]:
    """One line for every name or shape that differs."""
    missing = [f"missing: {name}" for name in parameters if name not in state_dict]
    unexpected = [f"unexpected: {name}" for name in state_dict if name not in parameters]
    wrong = [
        f"shape of {name}: found {list(state_dict[name].shape)}, expected {list(parameter.shape)}"
        for name, parameter in parameters.items()
        if name in state_dict and state_dict[name].shape != parameter.shape
    ]
    return missing + unexpected + wrong


def _assign(
    network: nn.Module, name: str, parameter: nn.Parameter, value: Tensor, dtype: torch.dtype
) -> None:
    """Put one tensor in place: itself on the meta device, else its values."""
    if not parameter.is_meta:
        if parameter.dtype != dtype:
            parameter.data = torch.empty_like(parameter.data, dtype=dtype)
        parameter.data.copy_(value)
        return
    module_name, _, attribute = name.rpartition(".")
    # A small tensor of a mapped file would keep all that was read through the same map.
    own = value.to(dtype, copy=value.numel() <= SMALL)
    replacement = nn.Parameter(own, requires_grad=parameter.requires_grad)
    setattr(network.get_submodule(module_name), attribute, replacement)
