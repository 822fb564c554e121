"""Small runs of the methods that train, on one small capture."""

import copy

import pytest


@pytest.fixture(scope="session")
def run_config(tmp_path_factory):
    """Makes the config of a run of some steps."""
    from nerfstudio.configs.method_configs import all_methods

    from fm3d_plugins.synthetic_rooms.capture import DRAFT, write_sample

    capture = tmp_path_factory.mktemp("capture") / "my sample"
    write_sample(capture, num_photos=9, width=48, height=36, quality=DRAFT, num_threads=1)

    def made(output, method="3dgs", steps=12, eval_mode="interval"):
        config = copy.deepcopy(all_methods[method])
        config.pipeline.datamanager.data = capture
        config.pipeline.datamanager.dataparser.eval_mode = eval_mode
        if method == "3dgs":
            config.pipeline.datamanager.random_points = True
            config.pipeline.datamanager.num_random_points = 100
        else:
            config.pipeline.model.log2_table_size = 12
        config.output_dir, config.timestamp = output, "latest"
        config.max_num_iterations, config.vis = steps, "tensorboard"
        config.set_timestamp()
        config.save_config()
        return config

    return made
