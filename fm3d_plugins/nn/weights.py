"""Published weights into a network, strictly, and the type that its matrices are kept in."""

from collections.abc import Callable, Collection, Mapping

import torch
from torch import Tensor, nn

SMALL = 1 << 20
"""Numbers up to which a tensor is copied even where its type is right."""


LOSS_PREFIX = "loss_computer."
"""Begins the names of what published training programs save besides the network."""


def matrix_names(network: nn.Module, parts: Collection[str]) -> set[str]:
    """State dict names of all that linear layers and convolutions within some parts hold.

    Args:
        parts: Names of modules of the network.
    """
    return {
        f"{part}.{name}.{parameter}" if name else f"{part}.{parameter}"
        for part in parts
        for name, module in network.get_submodule(part).named_modules()
        if isinstance(module, nn.Linear | nn.Conv2d)
        for parameter, _ in module.named_parameters(recurse=False)
    }


def load_strictly(
    network: nn.Module,
    state_dict: Mapping[str, Tensor],
    *,
    advice: str,
    converted: Collection[str] = (),
    dtype: torch.dtype | None = None,
    may_lack: Collection[str] = (),
    published_name: Callable[[str], str] = str,
    ignored: str | None = None,
) -> None:
    """Give a network its weights, all of them and no others.

    A network on the meta device takes large tensors themselves where their type is right, so that
    weights are never held twice: it then shares them with `state_dict`. Otherwise values are
    copied. One tensor is converted at a time.

    Args:
        state_dict: Flat, by the published names.
        advice: What to do if they do not fit; ends the message.
        converted: Names of the parameters that become `dtype`; all others become float32.
        dtype: By default float32.
        may_lack: Names of parameters that keep their values if `state_dict` lacks them.
        published_name: Of a parameter by the network's own name; by default the same.
        ignored: Names of `state_dict` that begin so are left out.

    Raises:
        ValueError: If names are missing or unexpected, or shapes are wrong; all are listed, and
            nothing is loaded.
    """
    parameters = dict(network.named_parameters())
    names = {name: published_name(name) for name in parameters}
    faults = _faults(parameters, names, state_dict, may_lack, ignored)
    if faults:
        raise ValueError(
            f"The {len(state_dict)} weights do not belong to this network of "
            f"{len(parameters)} weights:\n" + "\n".join(faults) + f"\n{advice}"
        )
    for name, parameter in parameters.items():
        if names[name] in state_dict:
            wanted = dtype if dtype is not None and name in converted else torch.float32
            _assign(network, name, parameter, state_dict[names[name]], wanted)


def _faults(
    parameters: Mapping[str, nn.Parameter],
    names: Mapping[str, str],
    state_dict: Mapping[str, Tensor],
    may_lack: Collection[str],
    ignored: str | None,
) -> list[str]:
    """One line for every name or shape that differs."""
    missing = [
        f"missing: {names[name]}"
        for name, parameter in parameters.items()
        if names[name] not in state_dict and (name not in may_lack or parameter.is_meta)
    ]
    known = set(names.values())
    unexpected = [
        f"unexpected: {name}"
        for name in state_dict
        if name not in known and not (ignored and name.startswith(ignored))
    ]
    # Looked up once: a mapped file hands out a tensor at every look.
    shapes = {own: state_dict[name].shape for own, name in names.items() if name in state_dict}
    wrong = [
        f"shape of {names[name]}: found {list(shape)}, expected {list(parameters[name].shape)}"
        for name, shape in shapes.items()
        if shape != parameters[name].shape
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
