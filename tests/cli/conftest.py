"""A small run of `3dgs`, for commands that look at runs."""

import copy
import shutil

import pytest


@pytest.fixture(scope="session")
def trained_once(tmp_path_factory, train_run):
    """The folder of a capture, and that of a run on it."""
    from nerfstudio.configs.method_configs import all_methods

    from fm3d_plugins.synthetic_rooms.capture import DRAFT, write_sample

    folder = tmp_path_factory.mktemp("small_run")
    write_sample(folder / "sample", num_photos=5, width=48, height=36, quality=DRAFT, num_threads=1)
    config = copy.deepcopy(all_methods["3dgs"])
    config.pipeline.datamanager.data = folder / "sample"
    config.pipeline.datamanager.num_random_points = 50
    config.pipeline.datamanager.random_points = True
    config.output_dir, config.timestamp = folder / "outputs", "latest"
    config.max_num_iterations = 2
    config.vis = "tensorboard"
    config.viewer.quit_on_train_completion = True
    config.logging.local_writer.enable = False
    config.set_timestamp()
    config.save_config()
    return folder / "sample", train_run(config).base_dir


@pytest.fixture
def small_run(trained_once, tmp_path):
    """A copy of the run's folder, which may be spoiled; its photos lie where they were."""
    return shutil.copytree(trained_once[1], tmp_path / "run")
