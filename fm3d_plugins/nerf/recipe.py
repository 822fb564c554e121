"""How long to train, and with how much, on each kind of device."""

from collections.abc import Mapping
from dataclasses import dataclass

from fm3d_plugins.effort import Effort, Quality, minutes_on_cpu


@dataclass(frozen=True)
class Recipe:
    """Everything that depends on the device and the length of the run."""

    steps: int
    num_samples: int
    """Intervals per ray in training."""
    num_eval_samples: int
    """Intervals per ray in evaluation."""
    num_levels: int
    """Levels of the hash grid; each holds four features."""
    log2_table_size: int
    """At most 2 to this power entries per level."""
    distortion_warmup: int
    """Steps over which the distortion loss rises to its weight."""
    point_steps: int
    """Steps over which the weight of points falls to 0; 0: it stays."""
    free_space_weight: float
    """Of the light that rays lose before the nearest points around their pixels."""
    image_size: int
    """Long side of the photos in pixels; 0: as they are."""
    learning_rates: Mapping[str, tuple[float, float]]
    """First and last of each parameter group."""


LEARNING_RATES = {
    "table": (2e-2, 2e-3),
    "networks": (1e-2, 1e-3),
    "exposure": (1e-3, 1e-4),
    "camera_opt": (0.1, 0.005),
    "camera_focal": (0.01, 0.001),
}


FEW_PHOTOS = 30
"""Where there are more, something behind is seen past whatever stands before one camera."""

FREE_SPACE_WEIGHT = 0.02
"""With few photos."""


@dataclass(frozen=True)
class Size:
    """How much of everything a run has."""

    steps: int
    steps_per_photo: int
    """Where this makes more steps, there are more."""
    num_samples: int
    num_eval_samples: int
    log2_table_size: int
    image_size: int
    """Long side of the photos in pixels; 0: as they are."""


CUDA_SIZES: Mapping[Quality, Size] = {
    "fast": Size(5_000, 0, 48, 96, 18, 1600),
    "balanced": Size(20_000, 0, 64, 128, 19, 0),
    "best": Size(40_000, 100, 96, 192, 21, 0),
}

CPU_SIZES: Mapping[Quality, Size] = {
    "fast": Size(1_000, 7, 32, 64, 17, 480),
    "balanced": Size(3_000, 20, 32, 64, 17, 640),
    "best": Size(9_000, 60, 48, 96, 19, 1024),
}
"""Multiples of 16 samples are what the kernels take at once."""

SECONDS_PER_SAMPLE = 2e-3
"""Of one step's rays at one sample each, forward and backward, on one core of a usual laptop."""


def recipe_for(device_type: str, steps: int | None, effort: Effort | None = None) -> Recipe:
    """The recipe for a device ("cpu", "cuda", "mps") and a length of run, if it is given."""
    effort = effort or Effort()
    size = (CPU_SIZES if device_type == "cpu" else CUDA_SIZES)[effort.quality]
    total = steps or effort.steps(size.steps, size.steps_per_photo)
    return Recipe(
        steps=total,
        num_samples=size.num_samples,
        num_eval_samples=size.num_eval_samples,
        num_levels=8,
        log2_table_size=size.log2_table_size,
        distortion_warmup=total // 10,
        point_steps=total // 2,
        free_space_weight=FREE_SPACE_WEIGHT if 0 < effort.photos <= FEW_PHOTOS else 0.0,
        image_size=size.image_size,
        learning_rates=LEARNING_RATES,
    )


def expected_time(recipe: Recipe, device_type: str) -> str:
    """In brackets, of a run on a CPU; else ""."""
    if device_type != "cpu":
        return ""
    return f" ({minutes_on_cpu(recipe.steps * recipe.num_samples * SECONDS_PER_SAMPLE)})"
