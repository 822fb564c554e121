"""The method `lvsm` through nerfstudio's own objects, with small random weights."""

import copy
import json

import av
import jaxtyping
import pytest
import torch
from nerfstudio.utils.eval_utils import eval_setup

from fm3d_plugins.cli import main as cli
from fm3d_plugins.method_configs.lvsm import method
from fm3d_plugins.one_pass.views.model import NO_DEPTH
from fm3d_plugins.synthetic_rooms.capture import DRAFT, write_sample

NUM_PHOTOS, WIDTH, HEIGHT = 9, 64, 48


@pytest.fixture(scope="module")
def capture(tmp_path_factory):
    torch.set_num_threads(1)
    folder = tmp_path_factory.mktemp("capture") / "sample"
    write_sample(
        folder, num_photos=NUM_PHOTOS, width=WIDTH, height=HEIGHT, quality=DRAFT, num_threads=1
    )
    return folder


def run_config(capture, output, weights, steps=0, **model):
    config = copy.deepcopy(method.config)
    config.pipeline.datamanager.data = capture
    config.output_dir, config.vis = output, "tensorboard"
    config.max_num_iterations = steps
    config.steps_per_eval_image = config.steps_per_save = 1000
    settings = {"weights": str(weights), "image_size": WIDTH, "lpips_networks": (), **model}
    for name, value in settings.items():
        setattr(config.pipeline.model, name, value)
    config.set_timestamp()
    config.save_config()
    return config


def train(config):
    trainer = config.setup(local_rank=0, world_size=1)
    trainer.setup()
    trainer.train()
    return trainer


@pytest.fixture(scope="module")
def run(capture, lvsm_weights, tmp_path_factory):
    output = tmp_path_factory.mktemp("runs")
    return train(run_config(capture, output, lvsm_weights, num_contexts=3, confidence=True))


def test_a_run_without_steps_is_scored_and_keeps_no_weights(run):
    results = json.loads((run.base_dir / "eval.json").read_text())["results"]
    assert 5 < results["psnr"] < 30 and results["test_poses"] == "none"
    state = torch.load(run.checkpoint_dir / "step-000000000.ckpt", weights_only=True)
    assert not [name for name in state["pipeline"] if "transformer" in name]
    assert len(list((run.base_dir / "held_out").iterdir())) >= 2


def test_outputs_are_of_the_cameras_size_and_no_depth_is_made_up(run):
    run.pipeline.eval()
    camera, _ = run.pipeline.datamanager.fixed_indices_eval_dataloader[0]
    outputs = run.pipeline.model.get_outputs_for_camera(camera)
    assert {name: tuple(values.shape) for name, values in outputs.items()} == {
        "rgb": (HEIGHT, WIDTH, 3),
        "background": (HEIGHT, WIDTH, 3),
        **{name: (HEIGHT, WIDTH, 1) for name in ("depth", "accumulation", "confidence")},
    }
    assert (outputs["depth"] == NO_DEPTH).all() and (outputs["accumulation"] == 1).all()
    assert 0 <= outputs["confidence"].min() and outputs["confidence"].max() <= 1


def test_a_run_is_loaded_again_and_renders_the_same(run):
    _, pipeline, _, _ = eval_setup(run.base_dir / "config.yml", test_mode="test")
    camera, _ = pipeline.datamanager.fixed_indices_eval_dataloader[1]
    again = pipeline.model.get_outputs_for_camera(camera)["rgb"]
    run.pipeline.eval()
    torch.testing.assert_close(again, run.pipeline.model.get_outputs_for_camera(camera)["rgb"])


def test_fm3d_shows_and_evaluates_it(run, tmp_path):
    config, picture = str(run.base_dir / "config.yml"), tmp_path / "result.png"
    cli.main(["show", "--load-config", config, "--output", str(picture)])
    assert picture.stat().st_size > 1000
    table = tmp_path / "table.json"
    arguments = ["--load-config", config, "--test-poses", "none", "--output-path", str(table)]
    cli.main(["evaluate", *arguments])
    scored = json.loads((run.base_dir / "eval.json").read_text())["results"]["psnr"]
    assert json.loads(table.read_text())["results"][0]["psnr"] == pytest.approx(scored, abs=1e-3)


def test_compiled_views_are_the_same(run, capture, lvsm_weights, tmp_path, monkeypatch):
    calls = []

    def compile_by_eager(function):
        calls.append(function)
        return torch._dynamo.optimize("eager")(function)

    monkeypatch.setattr(torch, "compile", compile_by_eager)
    # Only tests check types, and what checks them cannot be compiled with torch 2.6 to 2.11.
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)
    config = run_config(capture, tmp_path, lvsm_weights, num_contexts=3, compile=True)
    pipeline = config.pipeline.setup(device="cpu", test_mode="test")
    camera, _ = pipeline.datamanager.fixed_indices_eval_dataloader[0]
    run.pipeline.eval()
    torch.testing.assert_close(
        pipeline.model.get_outputs_for_camera(camera)["rgb"],
        run.pipeline.model.get_outputs_for_camera(camera)["rgb"],
    )
    assert len(calls) == 1


def test_fm3d_films_it(run, tmp_path):
    config, film = str(run.base_dir / "config.yml"), tmp_path / "film.mp4"
    arguments = ["--load-config", config, "--output", str(film), "--num-keys", "2"]
    cli.main(["film", *arguments, "--frames", "3", "--loop"])
    with av.open(str(film)) as container:
        shapes = [(frame.height, frame.width) for frame in container.decode(video=0)]
    assert shapes == [(HEIGHT, WIDTH)] * 6


def test_contexts_are_changed_by_name(run):
    pipeline = run.pipeline
    before, text = list(pipeline.model.context), pipeline.context_photos
    assert text.value == ", ".join(pipeline.model.names[view] for view in before)
    control = pipeline.context_control
    control.change(f"{pipeline.model.names[1]}, {pipeline.model.names[4]}")
    assert pipeline.model.context == [1, 4]
    control.change("no such photo.jpg")
    assert pipeline.model.context == [1, 4]
    pipeline.model.choose(before)


def test_fine_tuning_lowers_the_loss_and_is_kept(capture, lvsm_weights, tmp_path, train_run):
    """A network that starts grey learns at least where it is bright."""
    config = run_config(capture, tmp_path, lvsm_weights, steps=400, contexts="nearest")
    config.optimizers["network"]["optimizer"].lr = 3e-3
    # It would stay for all runs of this process, and fails for those without steps.
    config.logging.local_writer.enable = False
    losses = []
    trainer = train_run(config, losses)
    assert sum(losses[-16:]) < 0.6 * sum(losses[:16])
    state = torch.load(trainer.checkpoint_dir / "step-000000399.ckpt", weights_only=True)
    assert [name for name in state["pipeline"] if "transformer" in name]
    _, pipeline, _, _ = eval_setup(trainer.base_dir / "config.yml", test_mode="test")
    camera, _ = pipeline.datamanager.fixed_indices_eval_dataloader[0]
    trainer.pipeline.eval()
    trainer.pipeline.model.renderer.forget()
    torch.testing.assert_close(
        pipeline.model.get_outputs_for_camera(camera)["rgb"],
        trainer.pipeline.model.get_outputs_for_camera(camera)["rgb"],
    )


def test_a_photo_that_is_predicted_is_not_among_its_contexts(run):
    model = run.pipeline.model
    poses = model.renderer.photos.world_from_camera
    for view in range(len(poses)):
        assert view not in model.context_of(poses[view], view)


def test_weights_that_are_absent_are_named(capture, tmp_path, monkeypatch):
    monkeypatch.setenv("FM3D_OFFLINE", "1")
    with pytest.raises(SystemExit, match=r"coast01/LVSM.*scene_decoder_only_256\.pt"):
        run_config(capture, tmp_path, "coast01/LVSM/decoder_only_256")
    assert not list(tmp_path.iterdir())
