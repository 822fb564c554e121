"""`nerf` through nerfstudio's own objects: trained, saved, loaded, evaluated, resumed, exported."""

import pytest
import torch
from nerfstudio.cameras.rays import RayBundle
from nerfstudio.utils.eval_utils import eval_setup

from fm3d_plugins.depth_supervision.free_space import free_space_loss
from fm3d_plugins.depth_supervision.point_rays import (
    FREE,
    PointRays,
    intervals_to,
    shown_points,
)
from fm3d_plugins.effort import Effort
from fm3d_plugins.kernels.radiance_field import render_rays
from fm3d_plugins.nerf.recipe import recipe_for
from fm3d_plugins.scene_points import POINTS
from tests.nerf.conftest import STEPS, run_config
from tests.things_before import before, one_color


@pytest.fixture(scope="module")
def trained(capture, tmp_path_factory, train_run):
    losses = []
    config = run_config(capture, tmp_path_factory.mktemp("runs"), background_color="black")
    trainer = train_run(config, losses, term="rgb_loss")
    trainer.pipeline.eval()
    return trainer, losses


def held_out_view(trainer):
    return next(iter(trainer.pipeline.datamanager.fixed_indices_eval_dataloader))


def test_loss_falls_by_half(trained):
    _, losses = trained
    assert sum(losses[-5:]) < 0.5 * sum(losses[:5])


def test_device_and_recipe_are_written_to_the_config(trained):
    config = trained[0].config
    recipe = recipe_for(config.machine.device_type, STEPS)
    assert config.pipeline.model.num_samples == recipe.num_samples
    assert config.pipeline.model.log2_table_size == 12  # As asked, not as the recipe says.
    assert config.pipeline.model.camera_optimizer.mode == "off"
    group = config.optimizers["table"]
    assert group["optimizer"].lr == recipe.learning_rates["table"][0]
    assert group["scheduler"].max_steps == STEPS


def test_checkpoint_holds_field_memory_and_exposure_only(trained):
    path = next(trained[0].checkpoint_dir.glob("*.ckpt"))
    state = torch.load(path, weights_only=True)["pipeline"]
    parts = {key.split(".")[1] for key in state}
    assert parts == {"field", "importance", "exposure", "device_indicator_param"}


def test_loaded_checkpoint_renders_the_same_picture(trained):
    trainer = trained[0]
    _, pipeline, _, _ = eval_setup(trainer.base_dir / "config.yml", test_mode="test")
    for camera, batch in pipeline.datamanager.fixed_indices_eval_dataloader:
        loaded = pipeline.model.get_outputs_for_camera(camera)
        kept = trainer.pipeline.model.get_outputs_for_camera(camera)
        torch.testing.assert_close(loaded["rgb"], kept["rgb"], atol=1e-5, rtol=0)
        assert loaded["rgb"].shape == batch["image"].shape
        assert loaded["depth"].shape == loaded["accumulation"].shape == (72, 96, 1)
        assert loaded["depth"].isfinite().all()


@pytest.mark.parametrize("level", [0, 255])
def test_a_thing_before_black_or_white_keeps_its_colours(capture, tmp_path, train_run, level):
    """Seven eighths of each photo are black, or white: a field that begins grey is carried past
    that, and then all of it is black, with a hundredth of the things' contrast after so many steps.
    Where it is found as the background, it is not learnt at all."""
    scene = before(one_color(level), capture, tmp_path)
    config = run_config(scene, tmp_path / "runs")
    config.pipeline.datamanager.find_background = False
    trainer = train_run(config, [])
    dataset = trainer.pipeline.datamanager.train_dataset
    rendered = trainer.pipeline.model.eval().get_outputs_for_camera(dataset.cameras[0:1])["rgb"]
    photo = dataset.get_data(0)["image"]
    contrast = [(each[28:48, 40:56] - level / 255).abs().mean() for each in (rendered, photo)]
    assert contrast[0] > contrast[1] / 4


def test_metrics_name_the_test_pose_protocol(trained):
    metrics = trained[0].pipeline.get_average_eval_image_metrics()
    assert metrics["psnr"] > 15
    assert metrics["test_poses"] == "none"
    trained[0].pipeline.eval()


def test_resumed_run_repeats_the_unbroken_one(trained, capture, tmp_path, train_run):
    """Pixels, places along rays, moments and learning rates all follow the step."""
    losses = trained[1]
    half, rest = [], []
    config = run_config(capture, tmp_path / "a", background_color="black")
    config.max_num_iterations = STEPS // 2
    first = train_run(config, half, term="rgb_loss")
    config = run_config(capture, tmp_path / "b", background_color="black")
    config.max_num_iterations = STEPS // 2
    config.load_dir = first.checkpoint_dir
    train_run(config, rest, term="rgb_loss")
    assert half == losses[: STEPS // 2]
    assert rest == losses[STEPS // 2 :]


def test_depth_is_the_distance_along_the_ray(trained):
    """A point at `depth` on the ray lies where transmittance has fallen to one half."""
    model = trained[0].pipeline.model
    rays, _ = trained[0].pipeline.datamanager.next_train(0)
    with torch.no_grad():
        outputs = model(rays)
        seen = outputs["accumulation"][:, 0] > 0.9
        near = rays[seen]
        near.nears = torch.full_like(outputs["depth"][seen], model.near_plane)
        near.fars = outputs["depth"][seen]
        before = model(near)["accumulation"]
    assert seen.sum() > 100
    # The interval that is cut there is sampled in the middle of its rest, where density differs.
    assert float((before - 0.5).abs().quantile(0.95)) < 0.1
    assert float(before.median()) == pytest.approx(0.5, abs=0.005)


def test_exposure_and_random_places_are_for_training_only(trained):
    model = trained[0].pipeline.model
    rays, _ = trained[0].pipeline.datamanager.next_train(0)
    with torch.no_grad():
        first, second = model(rays), model(rays)
        kept = model.exposure.corrections.clone()
        model.exposure.corrections.normal_()
        third = model(rays)
        model.exposure.corrections.copy_(kept)
    assert torch.equal(first["rgb"], second["rgb"])
    assert torch.equal(first["rgb"], third["rgb"])


def test_colour_without_background_is_returned_with_its_opacity(trained):
    """Over any background, colour * opacity + background * (1 - opacity) is the render."""
    model = trained[0].pipeline.model
    camera, _ = held_out_view(trained[0])
    outputs = model.get_outputs_for_camera(camera)
    rgba = model.get_rgba_image(outputs)
    over = rgba[..., :3] * rgba[..., 3:] + outputs["background"] * (1 - rgba[..., 3:])
    torch.testing.assert_close(over, outputs["rgb"], atol=1e-5, rtol=0)


def test_rays_without_cameras_or_planes_are_rendered(trained):
    """As ns-export makes them to ask for the names of outputs."""
    rays = RayBundle(
        origins=torch.zeros(1, 3),
        directions=torch.ones(1, 3),
        pixel_area=torch.ones(1, 1),
        camera_indices=torch.zeros(1, 1),
    )
    with torch.no_grad():
        assert {"rgb", "depth", "accumulation"} <= set(trained[0].pipeline.model(rays))


@pytest.mark.parametrize(
    "options",
    [{"loss": "charbonnier", "exposure": "none"}, {"distortion_weight": 0.0, "calm_distance": 0.5}],
)
def test_other_options_train(capture, tmp_path, options, train_run):
    losses = []
    train_run(run_config(capture, tmp_path, steps=40, **options), losses, term="rgb_loss")
    assert sum(losses[-5:]) < 0.8 * sum(losses[:5])


def test_gradients_reach_the_cameras(capture, tmp_path, train_run):
    config = run_config(capture, tmp_path, steps=30)
    config.pipeline.model.camera_optimizer.mode = "SO3xR3"
    for name in ("camera_opt", "camera_focal"):
        config.optimizers[name]["scheduler"].delay = 0.0
    model = train_run(config).pipeline.model
    assert model.camera_optimizer.pose_adjustment[1:].abs().amin(dim=0).gt(0).all()
    assert model.camera_optimizer.focal_adjustment.abs().gt(0).all()


def test_loss_of_a_held_out_view_has_a_gradient_in_its_pose(trained):
    camera, batch = held_out_view(trained[0])
    pose = camera.camera_to_worlds.clone().requires_grad_()
    camera.camera_to_worlds = pose
    loss = trained[0].pipeline.model.render_loss(camera, batch)
    (gradient,) = torch.autograd.grad(loss, pose)
    assert gradient.isfinite().all()
    assert gradient.abs().sum() > 0


def test_more_than_one_device_is_refused(capture, tmp_path):
    config = run_config(capture, tmp_path)
    with pytest.raises(SystemExit, match="2 devices.*num-devices 1"):
        config.pipeline.setup(device="cpu", test_mode="val", world_size=2, local_rank=0)


def test_rays_end_at_the_points_of_the_scene(capture, tmp_path, train_run):
    """After 60 steps several times as much of their light is absorbed around the points as without
    the loss."""
    shares = []
    for weight in (0.01, 0.0):
        config = run_config(capture, tmp_path / str(weight), point_weight=weight, point_steps=0)
        model = train_run(config, [], term="rgb_loss").pipeline.model
        shown = shown_points(model.kwargs["metadata"][POINTS], model.given_cameras)
        rays = PointRays(shown, model.given_cameras)
        assert (model.point_rays is not None) == (weight > 0)
        bundle, distance = rays.draw(512, torch.Generator().manual_seed(1))
        intervals = intervals_to(distance, model.near_plane)
        field = model.field
        with torch.no_grad():
            rendered = render_rays(
                field.tensors(), field.layout, bundle.origins, bundle.directions, intervals
            )
        shares.append(float(rendered.weights[:, FREE:].sum(-1).mean()))
    assert shares[0] > max(0.2, 4 * shares[1]), shares


def test_the_weight_of_points_falls_evenly(capture, tmp_path):
    """Truth: a straight line to 0, by itself at half of the run; or it stays."""
    assert recipe_for("cpu", 100).point_steps == 50
    for steps, expected in ((40, (0.04, 0.03, 0.0, 0.0)), (0, (0.04,) * 4)):
        config = run_config(capture, tmp_path / str(steps), point_weight=0.04, point_steps=steps)
        model = config.pipeline.setup(device="cpu", test_mode="val").model
        weights = []
        for step in (0, 10, 40, 60):
            model.update_to_step(step)
            weights.append(model._point_weight())
        assert weights == pytest.approx(expected)
    with pytest.raises(SystemExit, match="and -1 steps.*point-steps"):
        run_config(capture, tmp_path, point_steps=-1)
    with pytest.raises(SystemExit, match="begin over -1 steps.*coarse-to-fine"):
        run_config(capture, tmp_path, coarse_to_fine=-1)


def test_free_space_is_kept_free_where_photos_are_few(capture, tmp_path):
    """The capture has fewer than 30 photos; a weight without points is refused."""
    weight = run_config(capture, tmp_path).pipeline.model.free_space_weight
    assert weight == recipe_for("cpu", STEPS, Effort(photos=30)).free_space_weight > 0
    assert recipe_for("cpu", STEPS, Effort(photos=31)).free_space_weight == 0
    assert run_config(capture, tmp_path, point_weight=0.0).pipeline.model.free_space_weight == 0
    with pytest.raises(SystemExit, match="free space has weight 0.02.*free-space-weight"):
        run_config(capture, tmp_path, point_weight=0.0, free_space_weight=0.02)


def test_light_before_the_points_costs_where_free_space_has_a_weight(capture, tmp_path, train_run):
    """After 60 steps less of it is absorbed there than without the loss."""
    lost = []
    for weight in (1.0, 0.0):
        config = run_config(capture, tmp_path / str(weight), free_space_weight=weight)
        trainer = train_run(config, [], term="rgb_loss")
        model, manager = trainer.pipeline.model, trainer.pipeline.datamanager
        assert (model.free_space is not None) == (weight > 0)
        if weight:
            free = model.free_space
        model.train()
        rays, batch = manager.next_train(STEPS)
        with torch.no_grad():
            seen = model.get_outputs(rays)
        at = free.at(batch["indices"])
        assert (at > model.near_plane).any()
        lost.append(float(free_space_loss(seen["weights"], seen["intervals"].middles, at)))
    assert lost[0] < 0.5 * lost[1], lost
