"""The optimiser that networks of views are trained with, and its learning rate."""

import math
from dataclasses import dataclass, field

import torch
from nerfstudio.engine.optimizers import OptimizerConfig
from nerfstudio.engine.schedulers import Scheduler, SchedulerConfig
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR, LRScheduler

from fm3d_plugins.running.optimization import WHOLE_RUN


@dataclass
class MatrixAdamWConfig(OptimizerConfig):
    """AdamW as LVSM and RayZer were trained with; weights of one axis do not decay."""

    _target: type = field(default_factory=lambda: torch.optim.AdamW)
    lr: float = 1e-4
    """Learning rate; published weights were trained with 4e-4 at first."""
    eps: float = 1e-8
    """Added to the denominator."""
    max_norm: float | None = 1.0
    """Gradients are scaled down to this norm."""
    weight_decay: float = 0.05
    """Share of a matrix that decays per step, times the learning rate."""

    def setup(self, params) -> torch.optim.Optimizer:
        """The optimiser of some parameters."""
        params = list(params)
        groups = [
            {"params": [p for p in params if p.ndim >= 2], "weight_decay": self.weight_decay},
            {"params": [p for p in params if p.ndim < 2], "weight_decay": 0.0},
        ]
        return torch.optim.AdamW(groups, lr=self.lr, eps=self.eps, betas=(0.9, 0.95))


@dataclass
class WarmUpCosineConfig(SchedulerConfig):
    """The learning rate rises linearly from 0, then falls to 0 along half a cosine."""

    _target: type = field(default_factory=lambda: WarmUpCosine)
    max_steps: int = WHOLE_RUN
    """Where it has fallen to 0. 0: the end of the run."""
    warm_up: float = 0.03
    """Share of these steps after which it is highest, as published."""


class WarmUpCosine(Scheduler):
    """As LVSM and RayZer were trained, with 3000 of 100 000 steps of warm-up."""

    config: WarmUpCosineConfig

    def get_scheduler(self, optimizer: Optimizer, lr_init: float) -> LRScheduler:
        """torch's, for nerfstudio."""
        steps = self.config.max_steps
        rise = round(self.config.warm_up * steps)
        # Not a method, which torch would write to checkpoints.
        return LambdaLR(optimizer, lambda step: warm_up_cosine(step, rise, steps))


def warm_up_cosine(step: int, rise: int, steps: int) -> float:
    """Share of the highest learning rate.

    Args:
        rise: Step at which it is highest.
        steps: Step at which it has fallen to 0.
    """
    if step < rise:
        return step / rise
    done = (step - rise) / max(1, steps - rise)
    return (1 + math.cos(math.pi * min(1.0, done))) / 2
