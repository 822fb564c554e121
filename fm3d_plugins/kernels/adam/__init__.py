"""Adam on a CPU: torch's optimizer, whose step is a kernel."""

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import torch

from fm3d_plugins.kernels.threads import run_kernel

VARIANTS = ("weight_decay", "amsgrad", "maximize", "capturable", "differentiable")
"""Options of torch.optim.Adam that change what a step does, and that the kernel does not have."""


class KernelAdam(torch.optim.Adam):
    """torch.optim.Adam with a compiled step for contiguous float32 tensors on the CPU.

    What the kernel does not have (weight decay and other variants, other tensors) is torch's own
    step. State and checkpoints are torch's. Its fused step runs in torch's threads, of which a
    training run has one (see `threads`), and also rewrites what never had a gradient: unused bands
    of spherical harmonics, or much of a hash table.
    """

    def step(self, closure: Callable[[], Any] | None = None) -> Any:  # type: ignore[override]
        """Move every parameter that has a gradient.

        Args:
            closure: Computes the loss and the gradients anew; called once, before the move.

        Returns:
            What the closure returned; None without one.

        Raises:
            ValueError: Loaded moments have another shape than their parameter.
        """
        if not all(self._suits_kernel(group) for group in self.param_groups):
            return _torchs_step()(self, closure)
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        self._move()
        return loss

    @torch.no_grad()
    def _move(self) -> None:
        from fm3d_plugins.kernels.adam.kernels import BLOCK, move

        for group in self.param_groups:
            for param in group["params"]:
                if param.grad is None:
                    continue
                state = self._state(param)
                state["step"] += 1
                biases = [1 - memory ** float(state["step"]) for memory in group["betas"]]
                length, root = float(group["lr"]) / biases[0], 1 / math.sqrt(biases[1])
                tensors = (param, param.grad.contiguous(), state["exp_avg"], state["exp_avg_sq"])
                run_kernel(
                    move,
                    -(-param.numel() // BLOCK),
                    *(tensor.detach().view(-1).numpy() for tensor in tensors),
                    tuple(map(np.float32, (*group["betas"], length, root, group["eps"]))),
                )

    def _suits_kernel(self, group: dict[str, Any]) -> bool:
        if any(group.get(option) for option in VARIANTS):
            return False
        tensors = [*group["params"]]
        for param in group["params"]:
            moments = [self.state.get(param, {}).get(f"exp_avg{end}") for end in ("", "_sq")]
            tensors += [moment for moment in moments if moment is not None]
            _expect_like(param, [moment for moment in moments if moment is not None])
        return all(
            tensor.device.type == "cpu" and tensor.dtype == torch.float32 and tensor.is_contiguous()
            for tensor in tensors
        )

    def _state(self, param: torch.Tensor) -> dict[str, torch.Tensor]:
        state = self.state[param]
        if not state:
            state["step"] = torch.zeros(())
            state["exp_avg"], state["exp_avg_sq"] = torch.zeros_like(param), torch.zeros_like(param)
        return state


def _expect_like(param: torch.Tensor, moments: list[torch.Tensor]) -> None:
    for moment in moments:
        if moment.shape != param.shape:
            raise ValueError(
                f"The optimizer remembers moments of shape {list(moment.shape)} for a parameter of "
                f"shape {list(param.shape)}. Expected one shape. Load the state that was saved "
                "with these parameters."
            )


def _torchs_step() -> Callable[..., Any]:
    """torch.optim.Adam.step without the hooks that torch wraps it in: this class has its own."""
    step = torch.optim.Adam.step
    return step.__wrapped__ if getattr(step, "hooked", False) else step  # pyright: ignore
