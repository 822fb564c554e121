"""A small synthetic capture for the tests of the NeRF methods."""

import pytest
import torch

from fm3d_plugins.synthetic_rooms.capture import DRAFT, write_sample


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
