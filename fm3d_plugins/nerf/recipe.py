"""How long to train, and with how much, on each kind of device."""

from collections.abc import Mapping
from dataclasses import dataclass, replace


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
    learning_rates: Mapping[str, tuple[float, float]]
    """First and last of each parameter group."""


LEARNING_RATES = {
    "table": (2e-2, 2e-3),
    "networks": (1e-2, 1e-3),
    "exposure": (1e-3, 1e-4),
    "camera_opt": (0.5, 0.005),
    "camera_focal": (0.5, 0.005),
}

CUDA_STEPS = 20_000
CPU_STEPS = 3_000
"""About two and a half minutes of CPU time; it does not depend on the photos' size."""


def recipe_for(device_type: str, steps: int | None) -> Recipe:
    """The recipe for a device ("cpu", "cuda", "mps") and a length of run, if it is given."""
    total = steps or (CPU_STEPS if device_type == "cpu" else CUDA_STEPS)
    recipe = Recipe(
        steps=total,
        num_samples=64,
        num_eval_samples=128,
        num_levels=8,
        log2_table_size=19,
        distortion_warmup=total // 10,
        learning_rates=LEARNING_RATES,
    )
    if device_type != "cpu":
        return recipe
    return replace(recipe, num_samples=32, num_eval_samples=64, log2_table_size=17)
