"""`3dgs` through nerfstudio's own objects: trained, saved, loaded, evaluated, resumed, exported."""

import math

import numpy as np
import pytest
import torch
from nerfstudio.data.scene_box import OrientedBox
from nerfstudio.models.splatfacto import SplatfactoModel
from nerfstudio.scripts.exporter import ExportGaussianSplat
from nerfstudio.utils.eval_utils import eval_setup
from PIL import Image

from fm3d_plugins.backgrounds.finding import BACKGROUND
from fm3d_plugins.backgrounds.plain import backdrop
from fm3d_plugins.camera_optimization.saved_state import check_state
from fm3d_plugins.dense_points import in_floats
from fm3d_plugins.gaussian_splatting import datamanager
from fm3d_plugins.gaussian_splatting.behind import Behind
from fm3d_plugins.gaussian_splatting.model import GaussianSplattingModelConfig
from fm3d_plugins.gaussian_splatting.recipe import recipe_for
from fm3d_plugins.io.ply import read_ply
from fm3d_plugins.kernels.rasterizer import RasterizedView
from fm3d_plugins.synthetic_rooms.capture import DRAFT, write_sample
from tests.small_runs import small_run
from tests.things_before import before, one_color

STEPS = 200


@pytest.fixture(scope="module")
def capture(tmp_path_factory):
    folder = tmp_path_factory.mktemp("capture") / "sample"
    write_sample(folder, num_photos=9, width=96, height=72, quality=DRAFT, num_threads=1)
    return folder


def run_config(capture, output, steps=STEPS, **model):
    start = {"num_random_points": 2000, "random_points": True}
    return small_run("3dgs", capture, output, steps, start, model)


@pytest.fixture(scope="module")
def trained(capture, tmp_path_factory, train_run):
    losses = []
    config = run_config(capture, tmp_path_factory.mktemp("runs"), exposure="affine")
    trainer = train_run(config, losses, term="main_loss")
    return trainer, losses


def test_loss_falls_by_a_third(trained):
    _, losses = trained
    assert sum(losses[-9:]) < 0.67 * sum(losses[:9])


@pytest.mark.parametrize(
    ("random_points", "largest_step"), [(False, 0.05), (False, 0), (True, 0.05)]
)
def test_a_step_moves_points_on_surfaces_by_so_many_pixels_and_no_farther(
    capture, tmp_path, train_run, random_points, largest_step
):
    """The first step of Adam moves each coordinate by the learning rate, or not at all."""
    config = run_config(
        capture, tmp_path, steps=1, largest_step=largest_step, density_control="off"
    )
    config.pipeline.datamanager.random_points = random_points
    trainer = train_run(config)
    model, manager = trainer.pipeline.model, trainer.pipeline.datamanager
    points = manager.train_dataparser_outputs.metadata["points3D_xyz"]
    moved = (model.means.detach() - points).abs().max()
    rate = recipe_for("cpu", 1).learning_rates["means"][0]
    if random_points or not largest_step:
        assert float(moved) == pytest.approx(rate, rel=1e-3)
    else:
        bound = largest_step * manager.train_dataset.metadata["pixel_width"]
        assert bound < rate and float(moved) == pytest.approx(bound, rel=1e-3)


def test_device_and_recipe_are_written_to_the_config(trained):
    config = trained[0].config
    assert config.machine.device_type in ("cpu", "cuda")
    recipe = recipe_for(config.machine.device_type, STEPS)
    assert config.pipeline.model.stop_split_at == recipe.stop_split_at
    assert config.optimizers["means"]["optimizer"].lr == recipe.learning_rates["means"][0]
    assert config.optimizers["means"]["scheduler"].max_steps == STEPS


def test_checkpoint_holds_gaussians_exposure_and_what_goes_with_them_only(trained):
    path = next(trained[0].checkpoint_dir.glob("*.ckpt"))
    state = torch.load(path, weights_only=True)
    parts = {key.split(".")[1] for key in state["pipeline"]}
    assert parts == {
        "gauss_params",
        "exposure",
        "behind",
        "pixel_width",
        "device_indicator_param",
    }


def test_a_checkpoint_from_before_exposures_is_taken(trained):
    model = trained[0].pipeline.model
    state = {f"_model.{key}": value for key, value in model.state_dict().items()}
    kept = state.pop("_model.exposure.corrections")
    filled = check_state(model, state)["_model.exposure.corrections"]
    torch.testing.assert_close(filled, kept)


def test_exposure_is_of_training_views_alone(trained):
    """Of a photo that is brighter than the mean, so is the view in training, and no other."""
    model, manager = trained[0].pipeline.model, trained[0].pipeline.datamanager
    camera = manager.train_dataset.cameras[0:1].to(model.device)
    camera.metadata = {"cam_idx": 0}
    kept = model.exposure.corrections.clone()
    try:
        with torch.no_grad():
            before = model.eval().get_outputs(camera)["rgb"]
            model.exposure.corrections.zero_()
            model.exposure.corrections[0, :3] = torch.tensor(2.0).log()
            after = model.get_outputs(camera)["rgb"]
            torch.testing.assert_close(after, before)
            one, none = torch.ones_like(before[..., :1]), torch.zeros(0, 2)
            view = RasterizedView(before, one, one, none, none[:, 0].int())
            trained_on = model.train()._as_photographed(view, torch.rand(3), camera)
    finally:
        model.exposure.corrections.data.copy_(kept)
    gain = 2 ** (1 - 1 / model.exposure.num_photos)  # The mean over photos stays 1.
    torch.testing.assert_close(trained_on, gain * before)


@pytest.fixture
def before_white(capture, tmp_path, train_run):
    """A run on photos of a thing before white."""
    scene = before(one_color(255), capture, tmp_path)
    return train_run(run_config(scene, tmp_path / "runs", steps=2), [])


def test_a_plain_background_stays_with_the_checkpoint(before_white):
    """It is drawn behind the loaded gaussians; JPEG files differ from it by less than 0.01."""
    _, pipeline, _, _ = eval_setup(before_white.base_dir / "config.yml", test_mode="test")
    for model in (before_white.pipeline.model, pipeline.model):
        drawn = backdrop(model.behind.plain_background, 72, 96)
        torch.testing.assert_close(drawn, torch.ones(72, 96, 3), atol=0.01, rtol=0)


@pytest.fixture
def before_picture(capture, tmp_path, train_run):
    """A run on photos of a thing before one picture."""
    noise = np.random.default_rng(0).integers(40, 200, (9, 12, 3), np.uint8)
    behind = Image.fromarray(noise).resize((96, 72), Image.Resampling.BICUBIC)
    scene = before(behind, capture, tmp_path)
    return behind, train_run(run_config(scene, tmp_path / "runs", steps=2), [])


def test_a_picture_that_stands_still_stays_with_the_checkpoint(before_picture):
    """It is drawn where no gaussian is; JPEG files differ from it by 0.01 on average."""
    behind, trainer = before_picture
    _, pipeline, _, _ = eval_setup(trainer.base_dir / "config.yml", test_mode="test")
    expected = torch.from_numpy(np.array(behind)) / 255
    model = pipeline.model.eval()
    model.gauss_params["opacities"].data.fill_(-20.0)
    camera = pipeline.datamanager.train_dataset.cameras[0:1].to(model.device)
    error = (model.get_outputs_for_camera(camera)["rgb"] - expected).abs()
    error[12:60, 20:70] = 0  # The thing hides it in all photos, and colours in blocks of 16 pixels.
    assert error.mean() < 0.01


def test_a_checkpoint_from_before_names_its_background_otherwise(trained):
    """And holds one colour alone; it is drawn as it was."""
    model = trained[0].pipeline.model
    state = {k: v for k, v in model.state_dict().items() if not k.startswith("behind.")}
    state["plain_background"] = torch.tensor([0.1, 0.2, 0.3])
    behind = Behind("auto", {})
    taken = behind.take_from(state, "behind.")
    assert set(taken) - set(state) == {"behind.plain_background"}
    drawn = backdrop(behind.plain_background, 2, 5)
    torch.testing.assert_close(drawn, state["plain_background"].expand(2, 5, 3))
    assert not behind.state_dict().keys() - {"plain_background"}


@pytest.mark.parametrize("option", ["background_color", "find_background"])
def test_a_background_is_not_looked_for_where_an_option_says_so(capture, tmp_path, option):
    """Then no pixel is left out; with the colour auto renders still have no holes."""
    config = run_config(before(one_color(255), capture, tmp_path), tmp_path / "runs", steps=2)
    if option == "background_color":
        config.pipeline.model.background_color = "random"
    else:
        config.pipeline.datamanager.find_background = False
    pipeline = config.pipeline.setup(device="cpu", test_mode="val")
    assert BACKGROUND not in pipeline.datamanager.train_dataset.metadata
    assert pipeline.model.behind.of_photos is None
    has_surroundings = pipeline.model.behind.surroundings is not None
    assert has_surroundings == (option == "find_background")


def test_around_the_viewers_crop_box_lies_the_colour_it_asks_for(before_white):
    """Nothing is in this box, so that the whole view has it."""
    model = before_white.pipeline.model.eval()
    camera = before_white.pipeline.datamanager.train_dataset.cameras[0:1].to(model.device)
    green = torch.tensor([0.0, 1.0, 0.0])
    model.set_background(green)
    far = OrientedBox(R=torch.eye(3), T=torch.full((3,), 1e4), S=torch.ones(3))
    rgb = model.get_outputs_for_camera(camera, far)["rgb"]
    torch.testing.assert_close(rgb, green.expand_as(rgb))


def test_before_a_plain_background_nothing_is_drawn_and_things_are_opaque(before_white):
    """Without gaussians only the thing's pixels change with the random colour behind them; with
    gaussians that look like the background the loss tells those from nothing."""
    model, manager = before_white.pipeline.model.train(), before_white.pipeline.datamanager
    camera = manager.train_dataset.cameras[0:1].to(model.device)
    camera.metadata = {"cam_idx": 0}
    model.gauss_params["features_dc"].data.fill_(0.5 / 0.28209479)
    losses = []
    for logit in (-20.0, 2.0):
        model.gauss_params["opacities"].data.fill_(logit)
        batch = {"image": torch.ones(72, 96, 3), "image_idx": 0}
        losses.append(model.get_loss_dict(model.get_outputs(camera), batch)["emptiness"])
    assert losses[0] < 1e-6 and losses[1] > 1e-3
    model.gauss_params["opacities"].data.fill_(-20.0)
    with torch.no_grad():
        one, other = (model.get_outputs(camera)["rgb"] for _ in range(2))
    changed = ((one - other).abs().amax(-1) > 1e-4)[None].float()
    factor = 72 // changed.shape[1]  # Training begins with smaller pictures.
    changed = changed.repeat_interleave(factor, 1).repeat_interleave(factor, 2)[0].bool()
    # Outlines are mixed colours: some pixels inside may show the background.
    assert changed[25:45, 35:55].all()
    changed[20:50, 30:60] = False
    assert not changed.any()


def test_an_error_at_an_outline_before_a_plain_background_counts_half(before_white):
    model = before_white.pipeline.model.train()
    model.config.ssim_lambda = 0.0
    target = model.get_gt_img(torch.zeros(72, 96, 3))
    weight = model.behind.weight(0, target)[..., 0]
    assert set(weight.unique().tolist()) == {0.5, 1.0}
    outputs = {"background": torch.zeros(3), "opacities": torch.zeros(1), "scales": torch.zeros(1)}
    outputs["accumulation"] = torch.zeros_like(target[..., :1])
    losses = {}
    for share in (0.5, 1.0):
        row, column = (weight == share).nonzero()[0]
        rendered = target.clone()
        rendered[row, column] += 1
        batch = {"image": torch.zeros(72, 96, 3), "image_idx": 0}
        terms = model.get_loss_dict(outputs | {"rgb": rendered}, batch)
        losses[share] = float(terms["main_loss"])
    assert losses[0.5] == pytest.approx(losses[1.0] / 2) and losses[1.0] > 0


def test_where_no_gaussian_is_renders_have_the_colours_of_the_direction(trained):
    """In training it is any colour; a hole in a render is as bright as what lies around it."""
    model = trained[0].pipeline.model
    camera, _ = next(iter(trained[0].pipeline.datamanager.fixed_indices_eval_dataloader))
    opacities = model.gauss_params["opacities"].data
    kept = opacities.clone()
    try:
        opacities.fill_(-20.0)
        empty = model.eval().get_outputs_for_camera(camera)
        torch.testing.assert_close(empty["rgb"], empty["background"])
        trained_with = model.train().get_outputs_for_camera(camera)["rgb"]
    finally:
        opacities.copy_(kept)
        model.eval()
    assert trained_with.flatten(0, 1).std(0).max() < 1e-6
    around = empty["rgb"].flatten(0, 1)
    assert around.std(0).max() > 1e-3
    entries = trained[0].pipeline.datamanager.cached_train
    photos = torch.cat([in_floats(entry["image"]).flatten(0, 1) for entry in entries])
    assert (around.mean(0) - photos.mean(0)).abs().max() < 0.15


def test_loaded_checkpoint_renders_the_same_picture(trained):
    trainer = trained[0]
    _, pipeline, _, _ = eval_setup(trainer.base_dir / "config.yml", test_mode="test")
    pipeline.eval()
    trainer.pipeline.eval()
    for camera, batch in pipeline.datamanager.fixed_indices_eval_dataloader:
        loaded = pipeline.model.get_outputs_for_camera(camera)
        kept = trainer.pipeline.model.get_outputs_for_camera(camera)
        torch.testing.assert_close(loaded["rgb"], kept["rgb"], atol=1e-5, rtol=0)
        assert loaded["depth"].isfinite().all()
        assert loaded["rgb"].shape == batch["image"].shape
    assert isinstance(pipeline.model, SplatfactoModel)  # ns-export asks.


def test_run_resumes_with_its_gaussians_and_moments(trained, capture, tmp_path, train_run):
    config = run_config(capture, tmp_path, steps=2, exposure="affine")
    config.load_dir = trained[0].checkpoint_dir
    resumed = train_run(config)
    assert resumed.step == STEPS + 1
    assert len(resumed.pipeline.model.means) == len(trained[0].pipeline.model.means)
    means = resumed.pipeline.model.means
    assert resumed.optimizers.optimizers["means"].state[means]["step"] == STEPS + 2


def test_resuming_with_fewer_things_to_train_names_them(trained, capture, tmp_path, train_run):
    config = run_config(capture, tmp_path, steps=2, exposure="none")
    config.load_dir = trained[0].checkpoint_dir
    with pytest.raises(SystemExit, match="trains 'exposure' too"):
        train_run(config)


def test_resuming_from_a_folder_without_checkpoints_is_refused(capture, tmp_path, train_run):
    config = run_config(capture, tmp_path, steps=2)
    config.load_dir = tmp_path
    with pytest.raises(SystemExit, match="holds no checkpoint"):
        train_run(config)


def test_metrics_are_computed_at_logged_steps_only(capture, tmp_path, train_run):
    config = run_config(capture, tmp_path, steps=1)
    config.logging.steps_per_log = 4
    trainer = train_run(config)
    metrics = {step: trainer.train_iteration(step)[2] for step in range(1, 9)}
    assert [step for step in metrics if "psnr" in metrics[step]] == [4, 8]
    assert not any(metrics[step] for step in (1, 2, 3, 5, 6, 7))
    trainer.pipeline.eval()
    assert "psnr" in trainer.pipeline.get_eval_loss_dict(5)[2]


@pytest.mark.parametrize("control", ["default", "off"])
def test_other_density_controls_train(capture, tmp_path, control, train_run):
    losses = []
    config = run_config(
        capture, tmp_path, steps=30, density_control=control, densify_grad_thresh=1e-5
    )
    count = len(train_run(config, losses, term="main_loss").pipeline.model.means)
    assert sum(losses[-5:]) < sum(losses[:5])
    assert count == 2000 if control == "off" else count > 2000


def test_density_grows_by_absolute_gradients(capture, tmp_path, train_run):
    config = run_config(
        capture, tmp_path, steps=30, density_control="default", absgrad=True, max_gaussians=2500
    )
    trainer = train_run(config)
    assert trainer.pipeline.model.recipe.densify_grad_thresh == 4 * 0.0002
    assert 2000 < len(trainer.pipeline.model.means) <= 2500


def test_absolute_gradients_are_refused_where_nothing_looks_at_them():
    for control in ("mcmc", "off"):
        config = GaussianSplattingModelConfig(density_control=control, absgrad=True)
        with pytest.raises(ValueError, match=rf"control {control}, which looks at no gradients"):
            config.resolve("cpu", 100)
    with pytest.raises(ValueError, match="control mcmc"):
        GaussianSplattingModelConfig(absgrad=True).resolve("cpu", 100)
    given = GaussianSplattingModelConfig(absgrad=True, densify_grad_thresh=1e-3)
    assert given.recipe("cuda").densify_grad_thresh == 1e-3


def test_seed_points_of_the_scene_are_used(capture, tmp_path, train_run):
    config = run_config(capture, tmp_path, steps=1, density_control="off")
    config.pipeline.datamanager.random_points = False
    trainer = train_run(config)
    seeds = trainer.pipeline.datamanager.train_dataparser_outputs.metadata["points3D_xyz"]
    assert len(trainer.pipeline.model.means) == len(seeds) > 40_000


@pytest.mark.parametrize("degree", [0, 3])
@pytest.mark.parametrize("mode", ["sh_coeffs", "rgb"])
def test_exported_colours_are_those_that_are_rendered(capture, tmp_path, train_run, degree, mode):
    """Truth: max(C0 f + 1/2, 0) with C0 = 1 / sqrt(4 pi), as every viewer of such files has it."""
    config = run_config(capture, tmp_path, steps=3, sh_degree=degree, density_control="off")
    trainer = train_run(config)
    export = ExportGaussianSplat(
        load_config=trainer.base_dir / "config.yml", output_dir=tmp_path, ply_color_mode=mode
    )
    export.main()
    header, _, data = (tmp_path / "splat.ply").read_bytes().partition(b"end_header\n")
    model = trainer.pipeline.model
    rendered = (model.features_dc.detach() / math.sqrt(4 * math.pi) + 0.5).clamp_min(0)
    shown = model.opacities.detach().squeeze(-1) > -5.5373  # The export leaves out the others.
    if mode == "rgb":
        found, atol = read_ply(tmp_path / "splat.ply").colors / 255, 1 / 255  # Cut off to bytes.
        rendered = rendered.clamp(0, 1)
    else:
        names = [line.split()[-1] for line in header.decode().split("\n") if "property" in line]
        table = torch.frombuffer(bytearray(data), dtype=torch.float32).reshape(-1, len(names))
        first = names.index("f_dc_0")
        found = (table[:, first : first + 3] / math.sqrt(4 * math.pi) + 0.5).clamp_min(0)
        atol = 1e-5
    assert float(rendered.min()) < 0.2 and float(rendered.max()) > 0.6
    torch.testing.assert_close(found, rendered[shown].cpu(), atol=atol, rtol=0)


def test_more_than_one_device_is_refused(capture, tmp_path, monkeypatch):
    config = run_config(capture, tmp_path)
    with pytest.raises(SystemExit, match="2 devices.*num-devices 1"):
        config.pipeline.setup(device="cpu", test_mode="val", world_size=2, local_rank=0)
    config.machine.num_devices = 2
    with pytest.raises(SystemExit, match="2 devices.*num-devices 1"):
        config.set_timestamp()
    config.machine.num_devices = 1
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "test")
    monkeypatch.setenv("WORLD_SIZE", "3")
    with pytest.raises(SystemExit, match="3 devices.*no torchrun"):
        config.set_timestamp()


def test_large_photos_are_scaled_down_and_cameras_with_them(capture, tmp_path, monkeypatch):
    said = []
    monkeypatch.setattr(datamanager.CONSOLE, "print", lambda text, **_: said.append(text))
    config = run_config(capture, tmp_path)
    config.pipeline.datamanager.max_image_size = 48
    manager = config.pipeline.datamanager.setup(device="cpu", test_mode="val")
    camera, batch = manager.next_train(0)
    assert batch["image"].shape == (36, 48, 3)
    assert (int(camera.width), int(camera.height)) == (48, 36)
    assert float(camera.cx) == 24.0
    assert sum("scaled down from 96 to 48" in text for text in said) == 1


def test_photos_smaller_than_the_window_of_ssim_are_refused_before_training(capture, tmp_path):
    """96 x 72 scaled to 20 x 15 are 7 pixels high at half resolution, and the window is 11."""
    config = run_config(capture, tmp_path)
    config.pipeline.datamanager.max_image_size = 20
    with pytest.raises(SystemExit, match="is 15 pixels, in the first steps 7.*at least 11"):
        config.pipeline.setup(device="cpu", test_mode="val")
    config.pipeline.model.num_downscales = 0
    config.pipeline.setup(device="cpu", test_mode="val")
