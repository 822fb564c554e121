"""`nerf-vanilla` through nerfstudio's own objects, and its model on a few rays."""

import copy
import re

import pytest
import torch
from nerfstudio.cameras.rays import RayBundle
from nerfstudio.configs.method_configs import all_methods
from nerfstudio.data.scene_box import SceneBox
from nerfstudio.utils.eval_utils import eval_setup

from fm3d_plugins.nerf import vanilla_model
from fm3d_plugins.nerf.vanilla_model import VanillaNerfModelConfig

STEPS = 200


def small(config):
    config.width, config.num_layers = 32, 4
    config.num_coarse_samples = config.num_importance_samples = 16
    return config


def make_model(**options):
    config = small(VanillaNerfModelConfig(density_noise=0.0))
    for name, value in options.items():
        setattr(config, name, value)
    box = SceneBox(aabb=torch.tensor([[-1.0] * 3, [1.0] * 3]))
    return config.setup(scene_box=box, num_train_data=1)


def some_rays(count):
    directions = torch.nn.functional.normalize(torch.randn(count, 3), dim=-1)
    return RayBundle(
        origins=torch.randn(count, 3) / 10,
        directions=directions,
        pixel_area=torch.ones(count, 1),
    )


def test_a_few_rays_are_learnt_by_heart():
    model, rays = make_model(background_color="black"), some_rays(8)
    batch = {"image": torch.rand(8, 3)}
    optimizer = torch.optim.Adam(model.get_param_groups()["fields"], lr=5e-3)
    for _ in range(300):
        losses = model.get_loss_dict(model(rays), batch)
        optimizer.zero_grad()
        sum(losses.values()).backward()
        optimizer.step()
    # Guessing the mean colour would leave the variance of uniform numbers, 1 / 12 = 0.083.
    assert losses["rgb_loss"] < 1e-3
    assert losses["rgb_loss_coarse"] < 1e-3


def test_fine_network_sees_all_samples_and_coarse_its_own(monkeypatch):
    model, counts = make_model(), []
    for network in (model.coarse, model.fine):
        network.register_forward_pre_hook(lambda _, inputs: counts.append(inputs[0].shape[1]))
    model(some_rays(3))
    assert counts == [16, 32]


def test_noise_on_density_is_for_training_only():
    model = make_model(density_noise=1.0, background_color="black").eval()
    rays = some_rays(5)
    with torch.no_grad():
        first, second = model(rays), model(rays)
    assert torch.equal(first["rgb"], second["rgb"])
    assert "rgb_coarse" not in first


def test_crop_box_of_the_viewer_hides_what_is_outside():
    """Truth: rays that the box misses show the background alone, at any density."""
    model = make_model(background_color="white").eval()
    with torch.no_grad():
        for network in (model.coarse, model.fine):
            network.density.bias.fill_(1e4)
        rays = some_rays(4)
        rays.nears = torch.tensor([[1e10], [1e10], [2.0], [0.0]])
        rays.fars = torch.tensor([[1e10], [1e10], [3.0], [3.0]])
        outputs = model(rays)
    torch.testing.assert_close(outputs["accumulation"], torch.tensor([[0.0], [0.0], [1.0], [1.0]]))
    torch.testing.assert_close(outputs["rgb"][:2], torch.ones(2, 3))
    # The first samples lie half a stratum behind the entrance: 1/32 of the way.
    near = model.config.near_plane
    torch.testing.assert_close(
        outputs["depth"][2:],
        torch.tensor([[2 + 1 / 32], [near + (3 - near) / 32]]),
        atol=1e-3,
        rtol=0,
    )


def test_planes_that_enclose_nothing_are_refused():
    config = VanillaNerfModelConfig(near_plane=2.0, far_plane=1.0)
    with pytest.raises(ValueError, match="near plane is 2.0 and the far plane 1.0"):
        config.resolve("cpu", None)


@pytest.fixture(scope="module")
def trained(capture, tmp_path_factory):
    config = copy.deepcopy(all_methods["nerf-vanilla"])
    config.pipeline.datamanager.data = capture
    config.pipeline.datamanager.train_num_rays_per_batch = 128
    small(config.pipeline.model).density_noise = 0.0
    config.output_dir = tmp_path_factory.mktemp("runs")
    config.max_num_iterations = STEPS
    config.vis = "tensorboard"
    config.logging.local_writer.enable = False
    config.set_timestamp()
    config.save_config()
    losses, said = [], []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(vanilla_model.CONSOLE, "print", lambda text, **_: said.append(str(text)))
        torch.manual_seed(0)
        trainer = config.setup(local_rank=0, world_size=1)
        trainer.setup()
        step = trainer.train_iteration

        def recorded(number):
            result = step(number)
            losses.append(float(result[0]))
            return result

        trainer.train_iteration = recorded
        trainer.train()
    return trainer, losses, said


def test_loss_falls_by_a_third(trained):
    _, losses, _ = trained
    assert sum(losses[-10:]) < 0.67 * sum(losses[:10])


def test_expected_time_is_said_before_training(trained):
    line = [text for text in trained[2] if "takes about" in text]
    assert len(line) == 1
    found = re.search(
        r"about (\S+) s per step of 128 rays.*so 200 steps take about \d+ \w+", line[0]
    )
    assert found
    assert 0 < float(found[1]) < 10


def test_timing_leaves_parameters_and_gradients_alone():
    model = make_model()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    assert model.seconds_per_ray() > 0
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert all(parameter.grad is None for parameter in model.parameters())


def test_learning_rate_decays_from_the_papers_first_to_its_last(trained):
    group = trained[0].config.optimizers["fields"]
    assert group["optimizer"].lr == 5e-4
    assert (group["scheduler"].lr_final, group["scheduler"].max_steps) == (5e-5, STEPS)


def test_loaded_checkpoint_renders_the_same_picture(trained):
    trainer = trained[0]
    _, pipeline, _, _ = eval_setup(trainer.base_dir / "config.yml", test_mode="test")
    trainer.pipeline.eval()
    camera, batch = next(iter(pipeline.datamanager.fixed_indices_eval_dataloader))
    loaded = pipeline.model.get_outputs_for_camera(camera)
    kept = trainer.pipeline.model.get_outputs_for_camera(camera)
    torch.testing.assert_close(loaded["rgb"], kept["rgb"])
    metrics, images = pipeline.model.get_image_metrics_and_images(loaded, batch)
    assert metrics["psnr"] > 10
    assert images["img"].shape == (72, 2 * 96, 3)
