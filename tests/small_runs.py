"""Configs of runs so small that a test can train them."""

import copy
from pathlib import Path
from typing import Any

from nerfstudio.configs.method_configs import all_methods


def small_run(
    method: str, capture: Path, output: Path, steps: int, datamanager: dict, model: dict
) -> Any:
    """As ns-train would begin it, without a viewer, with some options of its parts."""
    config = copy.deepcopy(all_methods[method])
    config.pipeline.datamanager.data = capture
    config.output_dir = output
    config.max_num_iterations = steps
    config.vis = "tensorboard"
    config.viewer.quit_on_train_completion = True
    config.logging.local_writer.enable = False
    for part, options in (
        (config.pipeline.datamanager, datamanager),
        (config.pipeline.model, model),
    ):
        for name, value in options.items():
            setattr(part, name, value)
    config.set_timestamp()
    config.save_config()
    return config
