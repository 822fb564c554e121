"""Adam for parameters of which each step sees a few rows, and its schedule."""

import math
from dataclasses import dataclass, field

import torch
from nerfstudio.engine.optimizers import OptimizerConfig
from nerfstudio.engine.schedulers import Scheduler, SchedulerConfig
from torch.optim.lr_scheduler import LambdaLR


@dataclass
class RowAdamConfig(OptimizerConfig):
    """Adam whose moments and step counts belong to single rows."""

    _target: type = field(default_factory=lambda: RowAdam)
    lr: float = 0.0
    """Step length of each row. 0: what the method's recipe for the device says."""
    eps: float = 3e-3
    """Gradients well below this move their row in proportion to the gradient, as in plain gradient
    descent; larger ones by the step length. In loss per unit of the parameter."""
    betas: tuple[float, float] = (0.3, 0.9)
    """Memory of the gradient's mean and of its square, per step of a row."""

    def setup(self, params) -> torch.optim.Optimizer:
        return RowAdam(params, lr=self.lr, betas=self.betas, eps=self.eps)


class RowAdam(torch.optim.Optimizer):
    """Adam (Kingma and Ba 2015) in which a row without gradient stays as it is, moments included.

    A photo's pose has a gradient only when that photo is drawn. Adam would go on moving all other
    poses by their old momentum, and correct the bias of moments by a count of other photos' steps.
    """

    def __init__(self, params, lr: float, betas: tuple[float, float], eps: float) -> None:
        super().__init__(params, {"lr": lr, "betas": betas, "eps": eps})

    @torch.no_grad()
    def step(self, closure=None) -> None:  # type: ignore[override]
        """Move the rows that have a gradient."""
        for group in self.param_groups:
            mean_memory, square_memory = group["betas"]
            for param in group["params"]:
                if param.grad is None:
                    continue
                gradient = param.grad.reshape(len(param), -1)
                state = self._state(param)
                drawn = (gradient != 0).any(-1, keepdim=True)
                state["updates"] += drawn
                mean = torch.lerp(gradient, state["mean"], mean_memory)
                square = torch.lerp(gradient.square(), state["square"], square_memory)
                state["mean"] = torch.where(drawn, mean, state["mean"])
                state["square"] = torch.where(drawn, square, state["square"])
                updates = state["updates"].clamp_min(1).to(param.dtype)
                scale = (state["square"] / (1 - square_memory**updates)).sqrt() + group["eps"]
                move = group["lr"] * state["mean"] / (1 - mean_memory**updates) / scale
                param.sub_(torch.where(drawn, move, 0.0).reshape(param.shape))

    def _state(self, param: torch.Tensor) -> dict[str, torch.Tensor]:
        state = self.state[param]
        if not state:
            flat = param.detach().reshape(len(param), -1)
            state["updates"] = flat.new_zeros(len(flat), 1)
            state["mean"] = torch.zeros_like(flat)
            state["square"] = torch.zeros_like(flat)
        return state


@dataclass
class DelayedDecayConfig(SchedulerConfig):
    """Nothing, then a ramp, then an exponential decay; in shares of the run."""

    _target: type = field(default_factory=lambda: DelayedDecay)
    lr_final: float | None = None
    """Learning rate at the end. None: what the method's recipe for the device says."""
    max_steps: int = 0
    """Steps of the whole schedule. 0: as many as the run has."""
    delay: float = 0.02
    """Share of the steps during which nothing moves."""
    ramp: float = 0.02
    """Share of the steps in which the learning rate then rises linearly."""


class DelayedDecay(Scheduler):
    """The schedule as nerfstudio wants it."""

    config: DelayedDecayConfig

    def get_scheduler(self, optimizer: torch.optim.Optimizer, lr_init: float) -> LambdaLR:
        """A torch scheduler that multiplies `lr_init`."""
        config = self.config
        start, ramp = config.delay * config.max_steps, config.ramp * config.max_steps
        final = lr_init if config.lr_final is None else config.lr_final
        decay = math.log(final / lr_init)

        def factor(step: int) -> float:
            if step < start:
                return 0.0
            rise = min(1.0, (step - start + 1) / (ramp + 1))
            share = min(1.0, (step - start) / max(1.0, config.max_steps - start))
            return rise * math.exp(decay * share)

        return LambdaLR(optimizer, lr_lambda=factor)
