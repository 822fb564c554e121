"""Parts of a network: what they begin with, and which are kept as they are in training."""

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

from torch import Tensor, nn

from fm3d_plugins.checkpoints import load, locate
from fm3d_plugins.errors import listed
from fm3d_plugins.progress import say

Network = TypeVar("Network", bound=nn.Module)

Parts = Mapping[str, Sequence[str]]
"""Names of parts, and of the modules and parameters that each is made of; they may share some."""


@dataclass(frozen=True)
class PartSource(Generic[Network]):
    """A kind of other networks' weights that parts of a network can begin with."""

    name: str
    """What it is and which parts begin with it, for messages."""
    is_it: Callable[[Mapping[str, Tensor]], bool]
    """Whether weights, by their names, are of this kind."""
    take: Callable[[Network, Mapping[str, Tensor]], None]
    """Gives the network its parts; raises ValueError, nothing changed, where they do not fit."""


def begin_with(
    network: Network, weights: Sequence[str], sources: Sequence[PartSource[Network]]
) -> None:
    """Let parts of a network begin with those of others; a line says what was taken.

    Args:
        weights: By name or as files; later ones replace what earlier ones gave.

    Raises:
        ValueError: Weights are of no kind that parts are taken of, or do not fit.
        ValueError, FileNotFoundError, OSError: As `checkpoints.locate` and `load`.
    """
    for each in weights:
        file = locate(each)
        tensors = load(file)
        source = next((source for source in sources if source.is_it(tensors)), None)
        if source is None:
            raise ValueError(
                f"{file.path} holds no part for this network: its weights are {listed(tensors)}. "
                f"Expected one of: {'; '.join(source.name for source in sources)}. Leave it out of "
                "--pipeline.model.parts-of; weights of a whole network are for "
                "--pipeline.model.weights."
            )
        try:
            source.take(network, tensors)
        except ValueError as error:
            raise ValueError(f"{file.path} ({source.name}) cannot be taken: {error}") from error
        say(f"{file.path.name} is {source.name}.")


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
