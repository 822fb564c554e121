"""`3dgs` with moving cameras, through nerfstudio's own objects."""

import copy
import json
import shutil

import pytest
import torch
from nerfstudio.configs.method_configs import all_methods
from nerfstudio.exporter.exporter_utils import collect_camera_poses
from nerfstudio.utils.eval_utils import eval_setup

from fm3d_plugins.camera_optimization.evaluation import held_out_views
from fm3d_plugins.camera_optimization.export import run_cameras, write_cameras
from fm3d_plugins.camera_optimization.held_out_poses import (
    TestPoseProtocol,
    refine,
    training_cameras,
)
from fm3d_plugins.cli.main import main
from fm3d_plugins.geometry.cameras import opencv_from_opengl
from fm3d_plugins.geometry.poses import so3_exp
from fm3d_plugins.io.colmap import read_colmap
from fm3d_plugins.io.transforms import read_transforms
from fm3d_plugins.synthetic_rooms.capture import DRAFT, write_sample

STEPS = 60


@pytest.fixture(scope="module")
def capture(tmp_path_factory):
    folder = tmp_path_factory.mktemp("capture") / "sample"
    write_sample(folder, num_photos=9, width=96, height=72, quality=DRAFT, num_threads=1)
    return folder


def run_config(capture, output, mode="SO3xR3", steps=STEPS):
    config = copy.deepcopy(all_methods["3dgs"])
    config.pipeline.datamanager.data = capture
    config.pipeline.datamanager.num_random_points = 1000
    config.pipeline.datamanager.random_points = True
    config.pipeline.model.camera_optimizer.mode = mode
    config.pipeline.model.lpips_networks = ()
    config.output_dir = output
    config.max_num_iterations = steps
    config.steps_per_eval_image = 0
    config.vis = "tensorboard"
    config.logging.local_writer.enable = False
    config.set_timestamp()
    config.save_config()
    return config


@pytest.fixture(scope="module")
def whole(capture, tmp_path_factory, train_run):
    losses = []
    return train_run(run_config(capture, tmp_path_factory.mktemp("whole")), losses), losses


def test_run_in_two_parts_has_the_losses_and_cameras_of_the_whole_run(
    whole, capture, tmp_path, train_run
):
    """Same photos, random numbers, moments, rates and poses: equal to the last bit."""
    trainer, expected = whole
    losses = []
    first = run_config(capture, tmp_path / "first")
    first.max_num_iterations = STEPS // 2  # After the schedules were made for the whole run.
    saved = train_run(first, losses).checkpoint_dir
    second = run_config(capture, tmp_path / "second")
    second.max_num_iterations = STEPS // 2
    second.load_dir = saved
    resumed = train_run(second, losses)
    assert losses == expected
    poses = [run.pipeline.model.camera_optimizer.pose_adjustment for run in (trainer, resumed)]
    assert poses[0][1:].abs().min() > 0
    assert torch.equal(poses[0], poses[1])


def test_cameras_move_and_the_checkpoint_brings_them_back(whole):
    trainer, _ = whole
    optimizer = trainer.pipeline.model.camera_optimizer
    _, pipeline, _, _ = eval_setup(trainer.base_dir / "config.yml", test_mode="test")
    loaded = pipeline.model.camera_optimizer
    assert torch.equal(loaded.tangents(), optimizer.tangents())
    assert torch.equal(loaded.focal_factors(), optimizer.focal_factors())
    assert optimizer.focal_factors()[0] != 1.0


def test_mode_off_leaves_checkpoints_and_optimizers_as_they_were(capture, tmp_path, train_run):
    trainer = train_run(run_config(capture, tmp_path, mode="off", steps=2))
    assert "camera_opt" not in trainer.optimizers.optimizers
    assert not any("camera_optimizer" in key for key in trainer.pipeline.state_dict())


def test_given_poses_stay_by_default_and_config_yml_says_so(capture, tmp_path, capsys):
    config = run_config(capture, tmp_path, mode=None)
    said = " ".join(capsys.readouterr().out.split())
    assert "Camera optimisation is off: cameras are given." in said
    assert config.pipeline.model.camera_optimizer.mode == "off"
    assert "mode: 'off'" in (config.get_base_dir() / "config.yml").read_text()


def test_estimated_poses_move_by_default(capture, tmp_path):
    config = copy.deepcopy(all_methods["3dgs"])
    config.pipeline.datamanager.dataparser = sfm_config(capture)
    config.output_dir = tmp_path
    config.set_timestamp()
    assert config.pipeline.model.camera_optimizer.mode == "SO3xR3"


def test_poses_that_an_estimator_wrote_to_a_file_move_by_default_too(capture, tmp_path):
    content = json.loads((capture / "transforms.json").read_text())
    scene = tmp_path / "scene"
    shutil.copytree(capture, scene)
    for estimator, mode in (("sfm", "SO3xR3"), (None, "off")):
        content["fm3d"] = {"scale": "relative", "provenance": {"estimator": estimator}}
        (scene / "transforms.json").write_text(json.dumps(content))
        config = copy.deepcopy(all_methods["3dgs"])
        config.pipeline.datamanager.data, config.output_dir = scene, tmp_path
        config.set_timestamp()
        assert config.pipeline.model.camera_optimizer.mode == mode


def sfm_config(data):
    from fm3d_plugins.dataparsers.estimated import sfm

    config = copy.deepcopy(sfm.config)
    config.data = data
    return config


def test_protocol_stands_beside_psnr_outside_training_only(whole):
    pipeline = whole[0].pipeline
    assert pipeline.get_average_eval_image_metrics()["test_poses"] == "none"
    during = pipeline.get_average_eval_image_metrics(step=5)
    assert all(isinstance(value, float) for value in during.values())


def test_unknown_protocol_ends_the_program_before_photos_are_read(capture, tmp_path):
    config = run_config(capture, tmp_path)
    config.pipeline.test_poses = "photometric"
    with pytest.raises(SystemExit, match="none, sim3, or photometric:K"):
        config.pipeline.setup(device="cpu", test_mode="val")


def test_photometric_steps_lower_the_loss_of_a_turned_held_out_camera(whole):
    pipeline = whole[0].pipeline
    pipeline.eval()
    views = held_out_views(pipeline, TestPoseProtocol.parse("sim3"))
    camera, batch = views[0]
    turned = copy.deepcopy(camera)
    turn = so3_exp(torch.tensor([0.0, 0.02, 0.01]))
    turned.camera_to_worlds[0, :, :3] = turn @ turned.camera_to_worlds[0, :, :3]
    pipeline.zero_grad()
    before = {name: value.clone() for name, value in pipeline.model.gauss_params.items()}
    refined = refine(pipeline.model, turned, batch, 10, torch.tensor(1.0))
    with torch.no_grad():
        losses = [pipeline.model.render_loss(view, batch) for view in (refined, turned)]
    assert losses[0] < losses[1]
    assert all(torch.equal(before[name], pipeline.model.gauss_params[name]) for name in before)
    assert all(value.grad is None for value in pipeline.model.gauss_params.values())


def test_command_evaluate_writes_one_row_per_protocol(whole, tmp_path):
    config = whole[0].base_dir / "config.yml"
    path = tmp_path / "scores.json"
    words = ["none", "sim3", "photometric:3"]
    main(["evaluate", "--load-config", str(config), "--test-poses", *words,
          "--output-path", str(path)])  # fmt: skip
    rows = json.loads(path.read_text())["results"]
    assert [row["test_poses"] for row in rows] == words
    assert all(5 < row["psnr"] < 60 for row in rows)


def test_cameras_of_an_unmoved_run_are_those_of_its_input(capture, tmp_path, train_run):
    """In the input's frame, photo size and order, to float32 rounding of the dataparser."""
    trainer = train_run(run_config(capture, tmp_path / "run", mode="off", steps=1))
    folder = tmp_path / "cameras"
    main(["export-cameras", "--load-config", str(trainer.base_dir / "config.yml"),
          "--output-dir", str(folder)])  # fmt: skip
    given = read_transforms(capture)
    for found in (read_transforms(folder), read_colmap(folder / "colmap" / "sparse" / "0")):
        assert found.names == given.names
        torch.testing.assert_close(
            found.world_from_camera, given.world_from_camera, atol=1e-5, rtol=0
        )
        torch.testing.assert_close(found.intrinsics, given.intrinsics, atol=1e-3, rtol=0)
        assert torch.equal(found.image_sizes, given.image_sizes)
    with pytest.raises(SystemExit, match="--overwrite"):
        main(["export-cameras", "--load-config", str(trainer.base_dir / "config.yml"),
              "--output-dir", str(folder)])  # fmt: skip


def test_ns_export_collects_the_optimised_cameras(whole):
    pipeline = whole[0].pipeline
    frames, _ = collect_camera_poses(pipeline)
    dataset, optimizer = pipeline.datamanager.train_dataset, pipeline.model.camera_optimizer
    expected = training_cameras(dataset.cameras, optimizer).optimised
    found = opencv_from_opengl(torch.tensor([frame["transform"] for frame in frames]).double())
    torch.testing.assert_close(found, expected[:, :3], atol=1e-6, rtol=0)


def test_written_cameras_read_back_equal_and_lead_a_new_run_to_the_same_poses(whole, tmp_path):
    pipeline = whole[0].pipeline
    cameras = run_cameras(pipeline)
    folder = tmp_path / "cameras"
    folder.mkdir()
    write_cameras(cameras, folder)
    read = read_transforms(folder)
    torch.testing.assert_close(read.world_from_camera, cameras.scene.world_from_camera)
    torch.testing.assert_close(read.intrinsics, cameras.scene.intrinsics)
    model = read_colmap(folder / "colmap" / "sparse" / "0")
    torch.testing.assert_close(model.world_from_camera, cameras.scene.world_from_camera)
    # The training cameras' relative poses are the optimised ones, up to the dataparser's scale.
    outputs = pipeline.datamanager.train_dataparser_outputs
    optimised = training_cameras(outputs.cameras, pipeline.model.camera_optimizer).optimised
    rows = [cameras.scene.names.index(file.name) for file in outputs.image_filenames]
    written = cameras.scene.world_from_camera[rows]
    for poses in (optimised, written):
        poses[:, :3, :3] = poses[0, :3, :3].T @ poses[:, :3, :3].clone()
    torch.testing.assert_close(written[:, :3, :3], optimised[:, :3, :3], atol=1e-5, rtol=0)
    factor = pipeline.model.camera_optimizer.focal_factors()[0].item()
    given = outputs.cameras.fx[0].item()
    assert cameras.scene.intrinsics[0, 0, 0].item() == pytest.approx(given * factor, rel=1e-6)
