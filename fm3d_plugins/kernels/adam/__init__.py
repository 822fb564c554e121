"""Adam on a CPU: torch's optimizer, whose step is a kernel."""

import math

import numpy as np
import torch

from fm3d_plugins.kernels.threads import run_kernel


class KernelAdam(torch.optim.Adam):
    """torch.optim.Adam, without any of its variants, for contiguous float32 tensors on the CPU.

    State and checkpoints are torch's. Its own fused step runs in torch's threads, of which a
    training run has one (see `threads`), and also rewrites what never had a gradient: unused bands
    of spherical harmonics, or much of a hash table.
    """

    @torch.no_grad()
    def step(self, closure=None) -> None:  # type: ignore[override]
        """Move every parameter that has a gradient."""
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

    def _state(self, param: torch.Tensor) -> dict[str, torch.Tensor]:
        state = self.state[param]
        if not state:
            state["step"] = torch.zeros(())
            state["exp_avg"], state["exp_avg_sq"] = torch.zeros_like(param), torch.zeros_like(param)
        return state
