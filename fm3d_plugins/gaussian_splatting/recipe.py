"""How long to train, and when what happens, on each kind of device."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

CUDA_STEPS = 30_000
CPU_STEPS = 2_000
"""About three minutes on two cores for photos of 270 x 480 pixels."""


@dataclass(frozen=True)
class Recipe:
    """Everything that depends on the device and the length of the run. Steps, unless said."""

    steps: int
    sh_degree_interval: int
    """Steps after which one more degree of spherical harmonics is used."""
    num_downscales: int
    """Training starts at 1/2^n of the resolution."""
    resolution_schedule: int
    """Steps after which the resolution doubles."""
    warmup_length: int
    stop_split_at: int
    refine_every: int
    reset_alpha_every: int
    """In changes of the density control; 0: never."""
    cull_alpha_thresh: float
    """Opacity below which a gaussian is removed."""
    density_control: Literal["default", "mcmc", "off"]
    densify_grad_thresh: float
    mcmc_noise: float
    mcmc_growth: float
    max_gaussians: int
    learning_rates: Mapping[str, tuple[float, float]]
    """First and last of each parameter; scene units of a scene scaled to a box from -1 to 1.
    `camera_opt` and `camera_focal` move in units of about one pixel."""


CUDA_LEARNING_RATES = {
    "means": (1.6e-4, 1.6e-6),
    "features_dc": (2.5e-3, 2.5e-3),
    "features_rest": (2.5e-3 / 20, 2.5e-3 / 20),
    "opacities": (0.05, 0.05),
    "scales": (5e-3, 5e-3),
    "quats": (1e-3, 1e-3),
    "exposure": (5e-3, 5e-4),
    "camera_opt": (0.2, 0.01),
    "camera_focal": (0.05, 0.0005),
}
"""Kerbl et al. 2023, for tens of thousands of steps."""

CPU_LEARNING_RATES = {
    "means": (5e-3, 5e-5),
    "features_dc": (0.01, 0.0025),
    "features_rest": (1e-3, 2.5e-4),
    "opacities": (0.05, 0.02),
    "scales": (0.02, 0.005),
    "quats": (5e-3, 1e-3),
    "exposure": (0.02, 2e-3),
    "camera_opt": (2.0, 0.1),
    "camera_focal": (0.3, 0.01),
}
"""For a tenth of the steps: every step has farther to go."""


def recipe_for(device_type: str, steps: int | None) -> Recipe:
    """The recipe for a device ("cpu", "cuda", "mps") and a length of run, if it is given.

    On CUDA: Kerbl et al. 2023 with nerfstudio's resolution schedule. On a CPU a tenth of the
    steps must do, so everything happens in proportion to their number, opacities are never reset
    (there is no time to recover), and gaussians and pixels are bounded.
    """
    if device_type != "cpu":
        return Recipe(
            steps=steps or CUDA_STEPS,
            sh_degree_interval=1000,
            num_downscales=2,
            resolution_schedule=3000,
            warmup_length=500,
            stop_split_at=15_000,
            refine_every=100,
            reset_alpha_every=30,
            cull_alpha_thresh=0.005,
            density_control="default",
            densify_grad_thresh=0.0002,
            mcmc_noise=5e5,
            mcmc_growth=0.05,
            max_gaussians=1_000_000,
            learning_rates=CUDA_LEARNING_RATES,
        )
    total = steps or CPU_STEPS
    return Recipe(
        steps=total,
        sh_degree_interval=max(1, total // 5),
        num_downscales=1,
        resolution_schedule=max(1, total // 6),
        warmup_length=total // 25,
        stop_split_at=total * 4 // 5,
        refine_every=max(1, min(100, total // 25)),
        reset_alpha_every=0,
        cull_alpha_thresh=0.005,
        density_control="mcmc",
        densify_grad_thresh=0.0002,
        mcmc_noise=1e5,
        mcmc_growth=0.1,
        max_gaussians=60_000,
        learning_rates=CPU_LEARNING_RATES,
    )
