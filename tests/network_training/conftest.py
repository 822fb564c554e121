"""A tiny LVSM in training, through nerfstudio's own objects."""

import copy

import pytest
import torch

from fm3d_plugins.lvsm.network import LVSMConfig
from fm3d_plugins.method_configs.lvsm_train import method

TINY = LVSMConfig(width=32, head_width=16, patch_size=4, decoder_depth=2)


def tiny_config(output, steps, network=TINY, method=method, **data):
    """A run of seconds; `data` changes the datamanager's options."""
    config = copy.deepcopy(method.config)
    config.output_dir, config.timestamp = output, "run"
    config.max_num_iterations, config.machine.device_type = steps, "cpu"
    config.steps_per_save = config.steps_per_eval_all_images = 1000
    model, manager = config.pipeline.model, config.pipeline.datamanager
    model.network, model.precision = network, "float32"
    manager.scenes_per_step, manager.held_out_scenes = 4, 3
    manager.image_sizes, manager.size_shares = (16, 24), (0.5, 0.5)
    for name, value in data.items():
        setattr(manager, name, value)
    return config


def train(config):
    """As ns-train does."""
    torch.manual_seed(0)
    config.set_timestamp()
    config.save_config()
    trainer = config.setup(local_rank=0, world_size=1)
    trainer.setup()
    trainer.train()
    return trainer


@pytest.fixture(scope="session", autouse=True)
def one_thread():
    torch.set_num_threads(1)
