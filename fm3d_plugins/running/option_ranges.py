"""Which numbers options take, asked before anything else: outside of them a run fails late, or does
something else without a word."""

import math
from collections.abc import Mapping
from typing import Any

RANGES: Mapping[str, tuple[float, float]] = {
    "pipeline.datamanager.camera_res_scale_factor": (0.01, 1),
    "pipeline.datamanager.max_image_size": (0, math.inf),
    "pipeline.datamanager.num_random_points": (2, math.inf),
    "pipeline.datamanager.train_num_rays_per_batch": (1, math.inf),
    "pipeline.datamanager.eval_num_rays_per_batch": (1, math.inf),
    "pipeline.model.sh_degree": (0, 3),
    "pipeline.model.largest_step": (0, math.inf),
    "pipeline.model.max_gaussians": (2, math.inf),
    "pipeline.model.num_downscales": (0, 10),
    "pipeline.model.num_samples": (1, math.inf),
    "pipeline.model.num_eval_samples": (1, math.inf),
    "pipeline.model.num_levels": (1, math.inf),
    "pipeline.model.ssim_lambda": (0, 1),
}
"""Least and largest of each number, by its place in a trainer's config. Few methods have all."""


def require_in_range(config: Any, fewest_steps: int) -> None:
    """Refuse numbers that options do not take. None, which a recipe replaces, is taken.

    Args:
        config: Of the trainer.
        fewest_steps: That the method takes.

    Raises:
        ValueError: Some are outside of their range; all are named.
    """
    faults = []
    for place, (least, most) in {"max_num_iterations": (fewest_steps, math.inf), **RANGES}.items():
        value = _at(config, place)
        if value is not None and not least <= value <= most:
            wanted = f"at least {least}" if most == math.inf else f"{least} to {most}"
            faults.append(f"--{place.replace('_', '-')} is {value}; expected {wanted}.")
    if faults:
        raise ValueError(f"{' '.join(faults)} Give another number, or leave the option out.")


def _at(config: Any, place: str) -> Any:
    """What lies at a place in nested configs; None where there is no such place."""
    for name in place.split("."):
        config = getattr(config, name, None)
    return config
