"""How per-scene methods are optimised, as far as no recipe for the device says it."""

from dataclasses import dataclass
from functools import partial

import torch
from nerfstudio.engine.optimizers import AdamOptimizerConfig
from nerfstudio.engine.schedulers import ExponentialDecaySchedulerConfig

from fm3d_plugins.kernels.adam import KernelAdam

WHOLE_RUN = 0
"""As a scheduler's `max_steps`: as many steps as the run has."""

FROM_RECIPE = 0.0
"""As a learning rate: what the method's recipe for the device says."""


@dataclass
class FusedAdamConfig(AdamOptimizerConfig):
    """Adam that updates all moments in one pass: by a kernel on a CPU, by torch where it can."""

    lr: float = FROM_RECIPE
    """Learning rate at the begin. 0: what the method's recipe for the device says."""
    weight_decay: float = 0.0
    """The weight decay to use."""

    def setup(self, params) -> torch.optim.Optimizer:
        params = list(params)
        suits = [
            p.device.type == "cpu" and p.dtype == torch.float32 and p.is_contiguous()
            for p in params
        ]
        if self.weight_decay == 0 and all(suits):
            return KernelAdam(params, lr=self.lr, eps=self.eps)
        adam = partial(
            torch.optim.Adam, params, lr=self.lr, eps=self.eps, weight_decay=self.weight_decay
        )
        try:
            return adam(fused=True)
        except (RuntimeError, TypeError):
            return adam()


@dataclass
class DecayConfig(ExponentialDecaySchedulerConfig):
    """An exponential decay over the whole run."""

    lr_final: float | None = None
    """Learning rate at the end. None: what the method's recipe for the device says, or no decay
    where the first one was given."""
    max_steps: int = WHOLE_RUN
    """Steps of the whole schedule. 0: as many as the run has."""
