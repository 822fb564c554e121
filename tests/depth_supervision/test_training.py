"""Depth maps in `nerf` and `3dgs` through nerfstudio's own objects."""

import copy
import json
import shutil

import numpy as np
import pytest
import torch
from nerfstudio.configs.method_configs import all_methods
from nerfstudio.utils.eval_utils import eval_setup
from PIL import Image

from fm3d_plugins.synthetic_rooms.capture import DRAFT, write_sample

STEPS = {"nerf": 60, "3dgs": 100}
METHODS = pytest.mark.parametrize("method", list(STEPS))


@pytest.fixture(scope="module")
def capture(tmp_path_factory):
    """Nine photos of 96 x 72 pixels with exact cameras and depth in millimetres."""
    torch.set_num_threads(1)
    folder = tmp_path_factory.mktemp("capture") / "sample"
    write_sample(folder, num_photos=9, width=96, height=72, quality=DRAFT, num_threads=1)
    return folder


def run_config(capture, output, method, steps=None, **depth):
    config = copy.deepcopy(all_methods[method])
    config.pipeline.datamanager.data = capture
    config.pipeline.datamanager.dataparser.load_3D_points = True
    config.pipeline.model.lpips_networks = ()
    if method == "nerf":
        config.pipeline.datamanager.train_num_rays_per_batch = 512
        config.pipeline.model.log2_table_size = 12
        config.pipeline.model.num_levels = 4
        # What maps bring is looked at, not what the points bring that align them.
        config.pipeline.model.point_weight = 0.0
    else:
        config.pipeline.datamanager.num_random_points = 2000
        config.pipeline.datamanager.random_points = True
    config.output_dir = output
    config.max_num_iterations = STEPS[method] if steps is None else steps
    config.vis = "tensorboard"
    config.logging.local_writer.enable = False
    config.steps_per_eval_image = 0
    for name, value in depth.items():
        setattr(config.pipeline.model.depth, name, value)
    config.set_timestamp()
    config.save_config()
    return config


def train(config, losses=None):
    torch.manual_seed(0)
    trainer = config.setup(local_rank=0, world_size=1)
    trainer.setup()
    step = trainer.train_iteration

    def recorded(number):
        result = step(number)
        if losses is not None:
            losses.append({name: float(value) for name, value in result[1].items()})
        return result

    trainer.train_iteration = recorded
    trainer.train()
    return trainer


def depth_error(trainer, capture):
    """Mean relative difference of held-out z-depth to the truth, metres."""
    pipeline = trainer.pipeline.eval()
    scale = pipeline.datamanager.train_dataparser_outputs.dataparser_scale
    dataset, errors = pipeline.datamanager.eval_dataset, []
    for row, file in enumerate(dataset.image_filenames):
        camera = dataset.cameras[row : row + 1]
        depth = pipeline.model.get_outputs_for_camera(camera)["depth"].squeeze(-1)
        if trainer.config.method_name == "nerf":
            rays = camera.generate_rays(camera_indices=0, keep_shape=True)
            depth = depth / rays.metadata["directions_norm"].squeeze(-1)
        truth = np.array(Image.open(capture / "depth" / f"{file.stem}.png")) / 1000.0
        truth = torch.from_numpy(truth).float()
        errors.append(((depth / scale - truth).abs() / truth).mean())
    return float(torch.stack(errors).mean())


@pytest.fixture(scope="module")
def trained(capture, tmp_path_factory):
    """Runs of both methods with and without depth maps, and their losses."""
    runs = {}
    for method in STEPS:
        for weight in (0.0, 0.5):
            losses = []
            folder = tmp_path_factory.mktemp("runs")
            trainer = train(run_config(capture, folder, method, weight=weight), losses)
            runs[method, weight > 0] = trainer, losses
    return runs


@METHODS
def test_depth_of_held_out_photos_comes_nearer_to_the_truth(trained, capture, method):
    """In the units of the cameras, though scale and shift of the maps are left free: the scene's
    points tell them."""
    without, with_maps = (depth_error(trained[method, on][0], capture) for on in (False, True))
    assert with_maps < 0.8 * without


@METHODS
def test_depth_loss_falls_and_is_there_only_where_asked_for(trained, method):
    losses = [step["depth_loss"] for step in trained[method, True][1]]
    assert sum(losses[-10:]) < 0.5 * max(sum(losses[i : i + 10]) for i in range(len(losses) - 10))
    assert not any("depth_loss" in step for step in trained[method, False][1])


@METHODS
def test_gradient_of_the_depth_loss_reaches_the_scene(trained, method):
    trainer = trained[method, True][0]
    pipeline = trainer.pipeline.train()
    _, losses, _ = pipeline.get_train_loss_dict(STEPS[method])
    model = pipeline.model
    scene = (
        [model.field.table, model.field.density_hidden]
        if method == "nerf"
        else [model.gauss_params[name] for name in ("means", "scales", "quats", "opacities")]
    )
    for gradient in torch.autograd.grad(losses["depth_loss"], scene):
        assert gradient.isfinite().all()
        assert gradient.any()


def test_resumed_run_repeats_the_unbroken_one(trained, capture, tmp_path):
    losses, half, rest = trained["nerf", True][1], [], []
    steps = STEPS["nerf"]
    for folder, part, before in (("a", half, None), ("b", rest, "a")):
        config = run_config(capture, tmp_path / folder, "nerf", weight=0.5)
        config.max_num_iterations = steps // 2
        if before is not None:
            config.load_dir = next((tmp_path / before).rglob("nerfstudio_models"))
        train(config, part)
    assert half == losses[: steps // 2]
    assert rest == losses[steps // 2 :]


def without_depth(capture, folder):
    """The capture, whose depth is neither there nor named."""
    shutil.copytree(capture, folder, ignore=shutil.ignore_patterns("depth"))
    file = folder / "transforms.json"
    content = json.loads(file.read_text())
    for frame in content["frames"]:
        del frame["depth_file_path"]
    file.write_text(json.dumps(content))
    return folder


@METHODS
def test_a_scene_without_depth_is_refused_before_training(capture, tmp_path, method):
    data = without_depth(capture, tmp_path / "data")
    trainer = run_config(data, tmp_path, method, weight=0.5).setup(local_rank=0, world_size=1)
    with pytest.raises(SystemExit, match="brings no depth maps for its 7 training photos"):
        trainer.setup()


@METHODS
def test_evaluation_needs_no_depth_maps(trained, capture, tmp_path, method):
    path = trained[method, True][0].base_dir / "config.yml"
    data = without_depth(capture, tmp_path / "data")

    def elsewhere(config):
        config.pipeline.datamanager.data = config.pipeline.datamanager.dataparser.data = data
        return config

    _, pipeline, _, _ = eval_setup(path, test_mode="test", update_config_callback=elsewhere)
    camera, _ = next(iter(pipeline.datamanager.fixed_indices_eval_dataloader))
    assert pipeline.model.get_outputs_for_camera(camera)["depth"].isfinite().all()
