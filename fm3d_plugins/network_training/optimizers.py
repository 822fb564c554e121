"""Optimisers of networks that are trained from nothing, and their learning rates."""

from dataclasses import dataclass, field

import torch
from nerfstudio.engine.optimizers import OptimizerConfig
from nerfstudio.engine.schedulers import Scheduler, SchedulerConfig
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR, LRScheduler

from fm3d_plugins.nn.muon import Muon
from fm3d_plugins.running.optimization import WHOLE_RUN


@dataclass
class MuonConfig(OptimizerConfig):
    """Muon, for the matrices within a network's blocks."""

    _target: type = field(default_factory=lambda: Muon)
    lr: float = 4e-3
    """Learning rate: about the spectral norm of a step."""
    momentum: float = 0.95
    weight_decay: float = 0.0
    """Share of a matrix that decays per step, times the learning rate."""
    eps: float = 0.0
    """Without effect."""
    max_norm: float | None = None
    """Without effect: gradients are scaled down for all parameters together."""

    def setup(self, params) -> torch.optim.Optimizer:
        """The optimiser of some parameters."""
        return Muon(params, lr=self.lr, momentum=self.momentum, weight_decay=self.weight_decay)


@dataclass
class WarmUpDecayConfig(SchedulerConfig):
    """The learning rate rises linearly, stays, and falls linearly at the end."""

    _target: type = field(default_factory=lambda: WarmUpDecay)
    max_steps: int = WHOLE_RUN
    """Steps of the whole schedule. 0: as many as the run has."""
    warm_up: float = 0.02
    """Share of the steps during which it rises."""
    decay: float = 0.3
    """Share of the steps during which it falls."""
    last: float = 0.02
    """What is left of it at the end, as a share."""


class WarmUpDecay(Scheduler):
    """A trapezoid over the run."""

    config: WarmUpDecayConfig

    def get_scheduler(self, optimizer: Optimizer, lr_init: float) -> LRScheduler:
        """torch's, for nerfstudio."""
        config = self.config
        # Not a method, which torch would write to checkpoints.
        return LambdaLR(
            optimizer,
            lambda step: warm_up_decay(
                step, config.max_steps, config.warm_up, config.decay, config.last
            ),
        )


def warm_up_decay(step: int, steps: int, warm_up: float, decay: float, last: float) -> float:
    """Share of the highest learning rate.

    Args:
        step: From 0 on; already the first one changes something.
        steps: Of the whole run, at whose end the share is `last`.
        warm_up, decay: Shares of the steps in which it rises, and falls.
    """
    rise, fall = max(1.0, warm_up * steps), max(1.0, decay * steps)
    falling = last + (1 - last) * (steps - step) / fall
    return max(last, min(1.0, (step + 1) / rise, falling))
