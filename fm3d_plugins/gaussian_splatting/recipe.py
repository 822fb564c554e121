"""How long to train, and when what happens, on each kind of device."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from fm3d_plugins.effort import Effort, Quality, minutes_on_cpu, pixels_of


@dataclass(frozen=True)
class Size:
    """How much of everything a run has."""

    steps: int
    steps_per_photo: int
    """Where this makes more steps, there are more."""
    max_gaussians: int
    image_size: int
    """Long side of the photos in pixels; 0: as they are."""
    most_steps_per_photo: int = 0
    """Where this makes fewer steps, there are fewer; 0: never."""


FEWEST_STEPS = 700
"""Of a run on a CPU that has fewer than usual because its photos are few."""

CUDA_SIZES: Mapping[Quality, Size] = {
    "fast": Size(7_000, 0, 500_000, 1600),
    "balanced": Size(30_000, 0, 1_000_000, 0),
    "best": Size(30_000, 100, 3_000_000, 0),
}
"""7 000 and 30 000 steps are those that Kerbl et al. 2023 report."""

CPU_SIZES: Mapping[Quality, Size] = {
    "fast": Size(700, 7, 30_000, 480),
    "balanced": Size(2_000, 20, 60_000, 640, 60),
    "best": Size(6_000, 60, 150_000, 1024, 120),
}
"""Few photos are overfitted in long runs (docs/methods/gaussian_splatting.md)."""

MOST_TIMES_GAUSSIANS = 2.0
"""As many as usual, where few photos make the run shorter: it takes no longer than a usual one."""

NUM_POINTS = 30_000
"""To start from; on a CPU half of the gaussians, where that is more."""

BYTES_PER_GAUSSIAN = 3_000
"""59 numbers, their gradients and two moments, and what the rasteriser keeps of each."""

SECONDS_PER_PIXEL, SECONDS_PER_GAUSSIAN = 3.5e-7, 6e-7
"""Of one step, forward and backward, on one core of a usual laptop or server."""


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
    num_points: int
    """To start from."""
    image_size: int
    """Long side of the photos in pixels; 0: as they are."""
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


def recipe_for(device_type: str, steps: int | None, effort: Effort | None = None) -> Recipe:
    """The recipe for a device ("cpu", "cuda", "mps") and a length of run, if it is given.

    On CUDA: Kerbl et al. 2023 with nerfstudio's resolution schedule. On a CPU a tenth of the
    steps must do, so everything happens in proportion to their number, opacities are never reset
    (there is no time to recover), and gaussians and pixels are bounded.
    """
    effort = effort or Effort()
    size = (CPU_SIZES if device_type == "cpu" else CUDA_SIZES)[effort.quality]
    usual = effort.steps(size.steps, size.steps_per_photo, size.most_steps_per_photo, FEWEST_STEPS)
    total = steps or usual
    times = min(MOST_TIMES_GAUSSIANS, max(1.0, size.steps / usual))
    wanted = round(times * size.max_gaussians / 1000) * 1000
    max_gaussians = effort.within_memory(wanted, BYTES_PER_GAUSSIAN)
    fewest_points = min(NUM_POINTS, max_gaussians)
    if device_type != "cpu":
        return Recipe(
            steps=total,
            sh_degree_interval=1000,
            num_downscales=2,
            resolution_schedule=min(3000, max(1, total // 10)),
            warmup_length=500,
            stop_split_at=min(15_000, total // 2),
            refine_every=100,
            reset_alpha_every=30,
            cull_alpha_thresh=0.005,
            density_control="default",
            densify_grad_thresh=0.0002,
            mcmc_noise=5e5,
            mcmc_growth=0.05,
            max_gaussians=max_gaussians,
            num_points=fewest_points,
            image_size=size.image_size,
            learning_rates=CUDA_LEARNING_RATES,
        )
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
        max_gaussians=max_gaussians,
        num_points=max(fewest_points, max_gaussians // 2),
        image_size=size.image_size,
        learning_rates=CPU_LEARNING_RATES,
    )


def expected_time(recipe: Recipe, device_type: str) -> str:
    """In brackets, of a run on a CPU with photos as large as the recipe lets them be; else ""."""
    if device_type != "cpu":
        return ""
    per_step = SECONDS_PER_PIXEL * pixels_of(recipe.image_size)
    per_step += SECONDS_PER_GAUSSIAN * recipe.max_gaussians
    return f" (at most {minutes_on_cpu(recipe.steps * per_step)})"
