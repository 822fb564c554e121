"""Parameters of which each of several processes holds a part (torch's `DTensor`), and whole ones.

DTensors are told by what they can do: importing their module takes half a second.
"""

from typing import Any

from torch import Tensor


def is_divided(value: Tensor) -> bool:
    """Whether other processes hold parts of it."""
    return hasattr(value, "full_tensor")


def whole(value: Tensor) -> Tensor:
    """All of a tensor; where it is divided, each process must ask."""
    divided: Any = value
    return divided.full_tensor() if is_divided(value) else value


def divided_as(value: Tensor, parameter: Tensor) -> Tensor:
    """A whole tensor, or this process's part of it where a parameter of its shape is divided."""
    if not is_divided(parameter):
        return value
    from torch.distributed.tensor import DTensor, Replicate

    own: Any = parameter
    mesh = own.device_mesh
    everywhere = DTensor.from_local(value, mesh, [Replicate()] * mesh.ndim, run_check=False)
    # Not a view, which would keep the whole alive.
    return everywhere.redistribute(placements=own.placements).clone()
