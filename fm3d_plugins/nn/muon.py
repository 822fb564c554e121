"""Muon (Jordan et al. 2024, "Muon: An optimizer for hidden layers in neural networks")."""

from collections import defaultdict
from collections.abc import Iterable

import torch
from jaxtyping import Float
from torch import Tensor

from fm3d_plugins.nn.planning import choose_precision
from fm3d_plugins.nn.shards import divided_as, whole

COEFFICIENTS = (3.4445, -4.7750, 2.0315)
"""Of the quintic that drives singular values towards 1 fast, to about [0.7, 1.2]."""

ROUNDS = 5
TINY = 1e-7


def orthogonalized(
    matrices: Float[Tensor, "*batch row column"],
) -> Float[Tensor, "*batch row column"]:
    """Matrices of the same singular vectors, whose singular values are about 1.

    Newton-Schulz iterations, in bfloat16 as published where the device multiplies it fast.
    """
    a, b, c = COEFFICIENTS
    is_fast = choose_precision("auto", matrices.device) == "bfloat16"
    is_tall = matrices.shape[-2] > matrices.shape[-1]
    x = matrices.mT if is_tall else matrices
    x = (x / (x.norm(dim=(-2, -1), keepdim=True) + TINY)).to(
        torch.bfloat16 if is_fast else torch.float32
    )
    for _ in range(ROUNDS):
        gram = x @ x.mT
        x = a * x + (b * gram + c * gram @ gram) @ x
    return (x.mT if is_tall else x).to(matrices.dtype)


class Muon(torch.optim.Optimizer):
    """Momentum whose steps are made orthogonal, for the matrices within a network.

    torch has it from 2.9 on; this package works with 2.6 too. Steps of tall matrices are larger by
    the root of rows / columns, as published. Matrices of one shape are worked on together; those
    that are divided among processes are put together for it, and each process makes all steps.

    Args:
        params: Parameters of two axes.
        lr: Learning rate: about the spectral norm of a step.
        momentum: Nesterov's.
        weight_decay: Share of a matrix that decays per step, times the learning rate.

    Raises:
        ValueError: A parameter is no matrix.
    """

    def __init__(
        self,
        params: Iterable[Tensor],
        lr: float,
        momentum: float = 0.95,
        weight_decay: float = 0.0,
    ) -> None:
        super().__init__(params, {"lr": lr, "momentum": momentum, "weight_decay": weight_decay})
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.ndim != 2:
                    raise ValueError(
                        f"Muon was given a parameter of shape {tuple(parameter.shape)}; expected "
                        "matrices. Give others to AdamW."
                    )

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        """Change all parameters that have a gradient."""
        for group in self.param_groups:
            same_shape = defaultdict(list)
            for parameter in group["params"]:
                if parameter.grad is not None:
                    same_shape[parameter.shape].append(parameter)
            for (rows, columns), parameters in same_shape.items():
                momenta = [self._momentum(p, group["momentum"]) for p in parameters]
                steps = torch.stack([whole(momentum) for momentum in momenta])
                length = group["lr"] * max(1.0, rows / columns) ** 0.5
                for parameter, step in zip(parameters, orthogonalized(steps), strict=True):
                    parameter.mul_(1 - group["lr"] * group["weight_decay"])
                    parameter.add_(divided_as(step, parameter), alpha=-length)

    def _momentum(self, parameter: Tensor, momentum: float) -> Tensor:
        state = self.state[parameter]
        if "momentum_buffer" not in state:
            state["momentum_buffer"] = torch.zeros_like(parameter)
        buffer, slope = state["momentum_buffer"], parameter.grad
        assert slope is not None
        buffer.lerp_(slope, 1 - momentum)
        return slope.lerp(buffer, momentum)
