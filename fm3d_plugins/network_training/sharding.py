"""Networks that learn in several processes: each holds all of the network, or a part (FSDP2)."""

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
import torch.distributed as dist
from nerfstudio.utils import comms
from torch import Tensor, nn
from torch.nn import Parameter

from fm3d_plugins.nn.attention import TransformerBlock
from fm3d_plugins.nn.crossing import CrossingBlock
from fm3d_plugins.nn.shards import divided_as, is_divided, whole

OLDEST = (2, 9)
"""The first torch that divides networks as it is done here: with 2.8 their gradients are off by up
to a hundredth of the norm."""


def check_sharding(num_processes: int) -> None:
    """Refuse to divide a network that cannot be.

    Raises:
        ValueError: There is nobody to share it with, or torch is too old.
    """
    if num_processes == 1:
        raise ValueError(
            "--pipeline.shard divides the network among processes, and there is one. Expected at "
            "least two. Leave it out."
        )
    version = tuple(int(part) for part in torch.__version__.split(".")[:2])
    if version < OLDEST:
        raise ValueError(
            f"--pipeline.shard needs torch {OLDEST[0]}.{OLDEST[1]}, and {torch.__version__} is "
            "installed. Install a newer one, or leave it out."
        )


def copied(model: nn.Module) -> Callable[..., Any]:
    """A model's call whose gradients are means over all processes, each of which holds it whole.

    All begin with the first one's weights. The call is no module, so that checkpoints know the
    model alone. Parameters that a step does not use have no gradient, as in one process.
    """
    return nn.parallel.DistributedDataParallel(model, find_unused_parameters=True).__call__


def shard(network: nn.Module) -> None:
    """Divide a network's parameters among the processes; its blocks are put together in turn.

    All begin with the first one's weights. Single numbers cannot be divided: each process has them,
    and `average_whole` makes their gradients means.
    """
    from torch.distributed.fsdp import fully_shard, register_fsdp_forward_method

    for value in network.state_dict().values():
        dist.broadcast(value, 0)
    numbers = {parameter for parameter in network.parameters() if parameter.ndim == 0}
    for module in list(network.modules()):
        if isinstance(module, TransformerBlock | CrossingBlock):
            fully_shard(module)
        if isinstance(module, TransformerBlock):
            for name in ("of_part", "update_"):
                register_fsdp_forward_method(module, name)
    fully_shard(network, ignored_params=numbers)


def reshard(network: nn.Module) -> None:
    """Let go of what other processes hold, after a use without gradients; else nothing happens."""
    if hasattr(network, "reshard"):
        network.reshard()  # type: ignore[operator]


def average_whole(parameters: Iterable[Parameter]) -> None:
    """Make the gradients of what is not divided, in a network that is, means over the processes."""
    for parameter in parameters:
        if parameter.grad is not None and not is_divided(parameter):
            dist.all_reduce(parameter.grad)
            parameter.grad /= comms.get_world_size()


def gradient_norm(gradients: Iterable[Tensor]) -> float:
    """Euclidean, of all gradients together, parts in other processes included."""
    every = list(gradients)
    parts = [each for each in every if is_divided(each)], [g for g in every if not is_divided(g)]
    norms = [whole(torch.nn.utils.get_total_norm(part)) for part in parts if part]
    return float(torch.stack(norms).norm()) if norms else 0.0


def gathered(state: Any) -> Any:
    """A state of any depth with whole tensors, in the first process's memory; no others elsewhere.

    One tensor at a time is put together on the device.
    """
    if isinstance(state, Mapping):
        return {name: gathered(value) for name, value in state.items()}
    if isinstance(state, list | tuple):
        return [gathered(value) for value in state]
    if not isinstance(state, Tensor):
        return state
    value = whole(state)
    return value.cpu() if comms.is_main_process() else None


def divide_when_read(optimizer: torch.optim.Optimizer) -> None:
    """Let an optimiser keep of a checkpoint's state what belongs to its parts of the parameters."""

    def part_of(value: Any, parameter: Parameter) -> Any:
        is_alike = isinstance(value, Tensor) and value.shape == parameter.shape
        return divided_as(value, parameter) if is_alike else value

    def divided(own: torch.optim.Optimizer, state: dict[str, Any]) -> dict[str, Any]:
        parameters = [each for group in own.param_groups for each in group["params"]]
        parts = {
            number: {name: part_of(value, parameters[number]) for name, value in values.items()}
            for number, values in state["state"].items()
        }
        return state | {"state": parts}

    optimizer.register_load_state_dict_pre_hook(divided)
