"""Trained runs, as commands load them."""

from pathlib import Path
from typing import Any

from nerfstudio.engine.trainer import TrainerConfig


def load_run(load_config: Path) -> tuple[TrainerConfig, Any]:
    """A finished run and its pipeline, ready to render held-out photos.

    Raises:
        FileNotFoundError: There is no such config.yml.
        ValueError: The method has no cameras that this package optimises.
    """
    from nerfstudio.utils.eval_utils import eval_setup

    from fm3d_plugins.camera_optimization.camera_optimizer import CameraOptimizer

    if not load_config.is_file():
        raise FileNotFoundError(
            f"There is no {load_config}. Expected the config.yml that ns-train wrote. "
            "ns-train names its place at the end of a run."
        )
    config, pipeline, _, _ = eval_setup(load_config, test_mode="test")
    pipeline.eval()
    if not isinstance(getattr(pipeline.model, "camera_optimizer", None), CameraOptimizer):
        raise ValueError(
            f"{load_config} is a run of {config.method_name}. Expected one of this package's "
            "per-scene methods, such as 3dgs. Score other methods with ns-eval."
        )
    return config, pipeline
