"""Where `3dgs` starts from once a rough scene has moved its cameras."""

import copy
import json

import pytest
import torch
from nerfstudio.configs.method_configs import all_methods

from fm3d_plugins.camera_optimization import settling
from fm3d_plugins.gaussian_splatting import datamanager
from fm3d_plugins.synthetic_rooms.capture import DRAFT, write_sample

STEPS = 8


@pytest.fixture(scope="module")
def capture(tmp_path_factory):
    folder = tmp_path_factory.mktemp("capture") / "sample"
    write_sample(folder, num_photos=7, width=96, height=72, quality=DRAFT, num_threads=1)
    content = json.loads((folder / "transforms.json").read_text())
    del content["ply_file_path"]
    (folder / "transforms.json").write_text(json.dumps(content))
    return folder


@pytest.fixture(scope="module")
def shifted(capture):
    """The same scene with every camera but the first a little aside, and by how much."""
    content = json.loads((capture / "transforms.json").read_text())
    content["frames"].sort(key=lambda frame: frame["file_path"])
    shifts = 0.1 * torch.randn(
        len(content["frames"]), 3, generator=torch.Generator().manual_seed(0)
    )
    shifts[0] = 0
    for frame, shift in zip(content["frames"], shifts.tolist(), strict=True):
        for axis in range(3):
            frame["transform_matrix"][axis][3] += shift[axis]
    path = capture / "shifted.json"
    path.write_text(json.dumps(content))
    return path, shifts


def run_config(data, output, steps=STEPS):
    config = copy.deepcopy(all_methods["3dgs"])
    manager, parser = config.pipeline.datamanager, config.pipeline.datamanager.dataparser
    manager.data, manager.num_random_points = data, 2000
    parser.orientation_method = parser.center_method = "none"
    parser.auto_scale_poses, parser.eval_mode = False, "all"
    config.pipeline.model.camera_optimizer.mode = "SO3xR3"
    config.pipeline.model.lpips_networks = ()
    config.output_dir, config.max_num_iterations = output, steps
    config.steps_per_eval_image, config.vis = 0, "tensorboard"
    config.logging.local_writer.enable = False
    config.set_timestamp()
    config.save_config()
    return config


@pytest.fixture
def settle(monkeypatch):
    """Lets a rough scene find certain shifts of the cameras, and tells how often it was made."""
    calls = []

    def find(shifts):
        def settle_cameras(cameras, *_):
            calls.append(shifts)
            tangents = torch.nn.functional.pad(shifts, (0, 3))[..., None]
            with torch.no_grad():
                cameras.pose_adjustment.copy_(torch.linalg.solve(cameras.motions, tangents)[..., 0])
            return float(shifts.norm(dim=-1).mean())

        monkeypatch.setattr(settling, "settle_cameras", settle_cameras)
        return calls

    return find


def begun(config):
    """A trainer before its first step."""
    torch.manual_seed(0)
    trainer = config.setup(local_rank=0, world_size=1)
    trainer.setup()
    return trainer


def test_it_starts_from_the_points_of_where_the_cameras_are_then(
    capture, shifted, settle, tmp_path
):
    """Truth: a run with the right cameras from the start."""
    data, shifts = shifted
    settle(torch.zeros_like(shifts))
    expected = begun(run_config(capture, tmp_path)).pipeline.model
    wrong = begun(run_config(data, tmp_path)).pipeline.model
    settle(-shifts)
    model = begun(run_config(data, tmp_path)).pipeline.model
    # Rounding chooses other planes for a few pixels.
    near = torch.cdist(model.means, expected.means).amin(1) < 1e-3
    assert near.float().mean() > 0.95
    assert (torch.cdist(wrong.means, expected.means).amin(1) < 1e-3).float().mean() < 0.2
    torch.testing.assert_close(model.pixel_width, expected.pixel_width, rtol=0.01, atol=0)
    assert not torch.isclose(wrong.pixel_width, expected.pixel_width, rtol=0.01)


def test_photos_are_compared_once_where_cameras_are_good(capture, settle, tmp_path, monkeypatch):
    compared, compare = [], datamanager.dense_points
    monkeypatch.setattr(
        datamanager,
        "dense_points",
        lambda *inputs: compared.append(inputs) or compare(*inputs),
    )
    calls = settle(torch.zeros(7, 3))
    begun(run_config(capture, tmp_path))
    assert len(calls) == len(compared) == 1


def test_a_run_in_two_parts_settles_once_and_ends_as_the_whole_run(
    shifted, settle, tmp_path, train_run
):
    data, shifts = shifted
    calls, losses, parts = settle(-shifts), [], []
    whole = train_run(run_config(data, tmp_path / "whole"), losses)
    first = run_config(data, tmp_path / "first")
    first.max_num_iterations = STEPS // 2  # After the schedules were made for the whole run.
    saved = train_run(first, parts).checkpoint_dir
    second = run_config(data, tmp_path / "second")
    second.max_num_iterations, second.load_dir = STEPS // 2, saved
    resumed = train_run(second, parts)
    assert parts == losses
    assert len(calls) == 2
    assert torch.equal(resumed.pipeline.model.means, whole.pipeline.model.means)
