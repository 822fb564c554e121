"""A small synthetic capture for the tests of the NeRF methods."""

import pytest
import torch

from fm3d_plugins.synthetic_rooms.capture import DRAFT, write_sample
from tests.small_runs import small_run

STEPS = 60


def run_config(capture, output, steps=STEPS, **model):
    """A small run of `nerf`, with some options of its model, as ns-train would begin it."""
    model = {"log2_table_size": 12, "num_levels": 4} | model
    return small_run("nerf", capture, output, steps, {"train_num_rays_per_batch": 256}, model)


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
