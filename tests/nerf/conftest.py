"""A small synthetic capture for the tests of the NeRF methods."""

import copy

import pytest
import torch
from nerfstudio.configs.method_configs import all_methods

from fm3d_plugins.synthetic_rooms.capture import DRAFT, write_sample

STEPS = 60


def run_config(capture, output, steps=STEPS, **model):
    """A small run of `nerf`, with some options of its model, as ns-train would begin it."""
    config = copy.deepcopy(all_methods["nerf"])
    config.pipeline.datamanager.data = capture
    config.pipeline.datamanager.train_num_rays_per_batch = 256
    config.pipeline.model.log2_table_size = 12
    config.pipeline.model.num_levels = 4
    config.output_dir = output
    config.max_num_iterations = steps
    config.vis = "tensorboard"
    config.viewer.quit_on_train_completion = True
    config.logging.local_writer.enable = False
    for name, value in model.items():
        setattr(config.pipeline.model, name, value)
    config.set_timestamp()
    config.save_config()
    return config


@pytest.fixture(scope="session")
def capture(tmp_path_factory):
    """Nine photos of 96 x 72 pixels with exact cameras."""
    folder = tmp_path_factory.mktemp("capture") / "sample"
    write_sample(folder, num_photos=9, width=96, height=72, quality=DRAFT, num_threads=1)
    return folder


@pytest.fixture(autouse=True)
def _seeded():
    torch.set_num_threads(1)
    torch.manual_seed(0)
