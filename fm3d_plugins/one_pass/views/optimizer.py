"""The optimiser that networks of views are trained with."""

from dataclasses import dataclass, field

import torch
from nerfstudio.engine.optimizers import OptimizerConfig


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
