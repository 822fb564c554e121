"""`nerf` on photos of a thing before white, or before a picture that stands still."""

import copy
import math

import numpy as np
import pytest
import torch
from nerfstudio.configs.method_configs import all_methods
from nerfstudio.utils.eval_utils import eval_setup
from PIL import Image

from fm3d_plugins.backgrounds.finding import BACKGROUND
from fm3d_plugins.backgrounds.photo_pixels import IS_SHOWN, PhotoPixels
from fm3d_plugins.camera_optimization.saved_state import check_state
from fm3d_plugins.geometry.cameras import project
from fm3d_plugins.geometry.poses import invert, transform_points
from fm3d_plugins.nerf.datamanager import DENSE_POINTS, MEAN_COLOR
from fm3d_plugins.nerf.model import EMPTINESS
from fm3d_plugins.nerf.pixels import PLACE
from fm3d_plugins.nerfstudio_cameras import intrinsics_matrices, world_from_cameras
from tests.nerf.conftest import run_config
from tests.things_before import BOX, before, one_color

STEPS = 30
COLUMNS, ROWS = BOX[::2], BOX[1::2]


def config_of(scene, output, steps=STEPS):
    """Random colours behind rays would differ in a resumed run."""
    return run_config(scene, output, steps, background_color="black")


@pytest.fixture(scope="module")
def white_scene(capture, tmp_path_factory):
    return before(one_color(255), capture, tmp_path_factory.mktemp("white"))


@pytest.fixture(scope="module")
def before_white(white_scene, tmp_path_factory, train_run):
    losses = []
    config = config_of(white_scene, tmp_path_factory.mktemp("runs"))
    return train_run(config, losses, term="rgb_loss"), losses


@pytest.fixture(scope="module")
def before_picture(capture, tmp_path_factory, train_run):
    noise = np.random.default_rng(0).integers(40, 200, (9, 12, 3), np.uint8)
    picture = Image.fromarray(noise).resize((96, 72), Image.Resampling.BICUBIC)
    folder = tmp_path_factory.mktemp("picture")
    config = config_of(before(picture, capture, folder), folder / "runs", steps=2)
    return picture, train_run(config, [])


def aside(indices, margin):
    """Whether pixels lie so far outside the thing."""
    row, column = indices[:, 1], indices[:, 2]
    rows = (row >= ROWS[0] - margin) & (row < ROWS[1] + margin)
    return ~(rows & (column >= COLUMNS[0] - margin) & (column < COLUMNS[1] + margin))


def test_behind_rays_of_the_background_is_its_colour_and_behind_others_any(before_white):
    """Pixels that touch an outline, and blocks of 8 of JPEG files around it, may be either."""
    trainer, _ = before_white
    model, manager = trainer.pipeline.model.train(), trainer.pipeline.datamanager
    rays, batch = manager.next_train(STEPS)
    model.config.background_color = "random"
    try:
        with torch.no_grad():
            first, second = model(rays), model(rays)
    finally:
        model.config.background_color = "black"
    is_shown, is_aside = first["is_background"][:, 0], aside(batch["indices"], 8)
    assert is_aside.sum() > 20 and is_shown[is_aside].all()
    torch.testing.assert_close(
        first["background"][is_shown], torch.ones(int(is_shown.sum()), 3), atol=0.02, rtol=0
    )
    assert torch.equal(first["background"][is_shown], second["background"][is_shown])
    is_random = (first["background"] != second["background"]).all(-1)
    # The thing has white parts, which may be connected with the white around it.
    assert is_random[~aside(batch["indices"], -2)].float().mean() > 0.5
    assert not is_random[is_aside].any()


def test_a_quarter_of_the_rays_show_the_background(before_white):
    """A third of the others, of which none is left out. Nine tenths of the pixels show it. 4000
    rays have a deviation of 0.7 percent."""
    trainer, _ = before_white
    manager = trainer.pipeline.datamanager
    pixels, found = manager.train_pixels, PhotoPixels(manager.train_dataset.metadata[BACKGROUND])
    rays, _ = pixels.draw(4000, torch.Generator().manual_seed(0))
    shown = found.shown(rays.camera_indices[:, 0], rays.metadata[PLACE])
    assert (shown == IS_SHOWN).float().mean() == pytest.approx(0.25, abs=0.03)
    regions = manager.train_dataset.metadata[BACKGROUND].is_shown
    others = sum(int((~region).sum()) for region in regions)
    assert pixels.num_pixels == pytest.approx(4 / 3 * others, rel=0.03)


def test_what_is_drawn_before_the_background_costs(before_white):
    """Rays of half opacity have as large a share in the loss as rays that show the background."""
    trainer, _ = before_white
    model, manager = trainer.pipeline.model.train(), trainer.pipeline.datamanager
    rays, batch = manager.next_train(STEPS)
    with torch.no_grad():
        outputs = model(rays)
        share = float(outputs["is_background"].float().mean())
        for opacity, expected in ((0.0, 0.0), (0.5, math.log(2))):
            outputs["accumulation"] = torch.full_like(outputs["accumulation"], opacity)
            loss = float(model.get_loss_dict(outputs, batch)["emptiness"])
            # 0.001 of the light is taken for there, so that the loss of opaque rays is bounded.
            assert loss == pytest.approx(EMPTINESS * expected * share, abs=0.003 * EMPTINESS)
    assert 0.1 < share < 0.4


def test_a_plain_background_stays_with_the_checkpoint(before_white):
    """It lies behind views, single rays and held-out photos; JPEG files differ by 0.02 at most."""
    trainer, _ = before_white
    _, pipeline, _, _ = eval_setup(trainer.base_dir / "config.yml", test_mode="test")
    trainer.pipeline.eval()
    for model in (trainer.pipeline.model, pipeline.model.eval()):
        camera, batch = next(iter(pipeline.datamanager.fixed_indices_eval_dataloader))
        outputs = model.get_outputs_for_camera(camera)
        rays, _ = pipeline.datamanager.next_eval(0)
        with torch.no_grad():
            behind_rays = model(rays)["background"]
        for behind in (outputs["background"], behind_rays):
            torch.testing.assert_close(behind, torch.ones_like(behind), atol=0.02, rtol=0)
        error = (outputs["rgb"] - batch["image"][..., :3]).square().mean()
        # Of 4096 of the 6912 pixels, drawn at random.
        assert float(model.render_loss(camera, batch)) == pytest.approx(float(error), rel=0.2)
    trainer.pipeline.train()


def test_a_picture_that_stands_still_lies_behind_the_rays_of_a_view(before_picture):
    """JPEG files differ from it by 0.01 on average."""
    picture, trainer = before_picture
    _, pipeline, _, _ = eval_setup(trainer.base_dir / "config.yml", test_mode="test")
    expected = torch.from_numpy(np.array(picture)) / 255
    model = pipeline.model.eval()
    camera = pipeline.datamanager.train_dataset.cameras[0:1].to(model.device)
    outputs = model.get_outputs_for_camera(camera)
    error = (outputs["background"] - expected).abs()
    error[12:60, 20:70] = 0  # The thing hides it in all photos, and colours in blocks of 16 pixels.
    assert error.mean() < 0.01
    alone = model.get_outputs_for_camera_ray_bundle(
        camera.generate_rays(camera_indices=0, keep_shape=True)
    )
    assert torch.equal(alone["background"], torch.zeros(72, 96, 3))
    over = alone["rgb"] + (1 - alone["accumulation"]) * outputs["background"]
    torch.testing.assert_close(outputs["rgb"], over, atol=1e-5, rtol=0)


def test_resumed_run_before_a_background_repeats_the_unbroken_one(
    before_white, white_scene, tmp_path, train_run
):
    losses, half, rest = before_white[1], [], []
    config = config_of(white_scene, tmp_path / "a")
    config.max_num_iterations = STEPS // 3
    first = train_run(config, half, term="rgb_loss")
    config = config_of(white_scene, tmp_path / "b")
    config.max_num_iterations = STEPS - STEPS // 3
    config.load_dir = first.checkpoint_dir
    train_run(config, rest, term="rgb_loss")
    assert half == losses[: STEPS // 3]
    assert rest == losses[STEPS // 3 :]


def test_a_checkpoint_from_before_loads(before_white):
    model = before_white[0].pipeline.model
    state = {f"_model.{name}": each for name, each in model.state_dict().items()}
    older = {name: each for name, each in state.items() if ".behind." not in name}
    assert len(older) == len(state) - 1
    assert check_state(model, older).keys() == state.keys()


def test_no_point_comes_from_the_background_nor_its_colour_from_the_mean(white_scene):
    """Points lie within the thing in every photo that has them in its frame, or in the blocks of 8
    pixels around that JPEG files mix."""
    config = copy.deepcopy(all_methods["nerf"]).pipeline.datamanager
    config.data, config.dataparser.load_3D_points = white_scene, False
    manager = config.setup(device="cpu", test_mode="val")
    metadata, cameras = manager.train_dataset.metadata, manager.train_dataset.cameras
    points = metadata[DENSE_POINTS]
    assert len(points) > 100
    for pose, matrix in zip(world_from_cameras(cameras), intrinsics_matrices(cameras), strict=True):
        local = transform_points(invert(pose.float()), points)
        seen = project(local[local[:, 2] > 0], matrix.float())
        inside = ((seen >= 0) & (seen < seen.new_tensor([96, 72]))).all(-1)
        indices = torch.cat([torch.zeros(len(seen), 1), seen.flip(-1)], -1)
        assert not (aside(indices, 8) & inside).any()
    photos, _ = manager.train_pixels.photos()
    thing = torch.stack([photo[slice(*ROWS), slice(*COLUMNS)] for photo in photos]).float() / 255
    # White parts of the thing that are connected with what is around it do not count either.
    assert (metadata[MEAN_COLOR] - thing.mean((0, 1, 2))).abs().max() < 0.1


def test_an_option_leaves_the_background_where_it_is(white_scene):
    config = copy.deepcopy(all_methods["nerf"]).pipeline.datamanager
    config.data, config.find_background = white_scene, False
    manager = config.setup(device="cpu", test_mode="val")
    assert BACKGROUND not in manager.train_dataset.metadata
    assert manager.train_dataset.metadata[MEAN_COLOR].min() > 0.8
    assert not all_methods["nerf-vanilla"].pipeline.datamanager.find_background


def test_rays_know_their_place(before_white):
    rays, batch = before_white[0].pipeline.datamanager.next_train(0)
    _, row, column = batch["indices"].unbind(-1)
    place = torch.stack([(column + 0.5) / 96, (row + 0.5) / 72], -1)
    torch.testing.assert_close(rays.metadata[PLACE], place)
