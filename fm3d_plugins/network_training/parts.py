"""Parts of a network by the names that papers give them: some are kept as they are in training."""

from collections.abc import Collection, Mapping, Sequence

from torch import nn

from fm3d_plugins.errors import listed

Parts = Mapping[str, Sequence[str]]
"""Names of parts, and of the modules and parameters that each is made of; they may share some."""


def freeze(network: nn.Module, parts: Parts, names: Collection[str]) -> None:
    """Keep some parts of a network as they are: nothing is computed backwards for them.

    Args:
        parts: All that there are; those without a parameter do not count.

    Raises:
        ValueError: The network has no such part, or nothing would be left to train.
    """
    if not names:
        return
    held = {part: _parameters(network, modules) for part, modules in parts.items()}
    own = {part: found for part, found in held.items() if found}
    unknown = [name for name in names if name not in own]
    if unknown:
        raise ValueError(
            f"The network has no part {listed(unknown)}; it has {', '.join(own)}. Name some of "
            "these in --pipeline.model.freeze."
        )
    frozen = {name for part in names for name in own[part]}
    if all(name in frozen for name, _ in network.named_parameters()):
        raise ValueError(
            f"Everything would be frozen ({', '.join(names)}), and nothing trained. Expected at "
            "least one part that is not. Leave one out of --pipeline.model.freeze."
        )
    for name, parameter in network.named_parameters():
        if name in frozen:
            parameter.requires_grad_(False)


def trained_share(network: nn.Module) -> str:
    """A sentence: how many of a network's parameters are trained."""
    every = list(network.parameters())
    trained = sum(parameter.numel() for parameter in every if parameter.requires_grad)
    total = sum(parameter.numel() for parameter in every)
    return f"{trained / 1e6:.3f} of {total / 1e6:.3f} million parameters are trained."


def _parameters(network: nn.Module, modules: Sequence[str]) -> list[str]:
    """Names of the parameters that some modules hold, or that are named themselves."""
    return [
        name
        for name, _ in network.named_parameters()
        if any(name == module or name.startswith(f"{module}.") for module in modules)
    ]
