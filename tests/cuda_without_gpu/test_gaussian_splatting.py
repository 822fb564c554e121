"""`3dgs` trained and scored on the pretended device, through nerfstudio's own objects.

gsplat's kernels are stand-ins, so that pictures mean nothing: what counts is that every tensor is
where it must be, and of the type and shape that the kernels read.
"""

import pytest
import torch
from nerfstudio.data.scene_box import OrientedBox

from fm3d_plugins.camera_optimization.camera_optimizer import CameraOptimizerConfig
from fm3d_plugins.depth_supervision.supervision import DepthSupervisionConfig

OFTEN = {"warmup_length": 1, "refine_every": 3, "stop_split_at": 10, "reset_alpha_every": 2}
"""Density control acts at the third, sixth and ninth step."""
HALF_FIRST = {"num_downscales": 1, "resolution_schedule": 4}
COLORS = {"sh_degree_interval": 3}


def options(**more):
    cameras = CameraOptimizerConfig(mode="SO3xR3", trans_l2_penalty=0.1)
    depth = DepthSupervisionConfig(weight=0.1)
    return {"camera_optimizer": cameras, "depth": depth, **OFTEN, **HALF_FIRST, **COLORS, **more}


@pytest.mark.parametrize(
    "control",
    [
        {"density_control": "default", "densify_grad_thresh": 1e-9, "densify_size_thresh": 0.2},
        {"density_control": "mcmc", "max_gaussians": 300, "mcmc_growth": 0.2},
    ],
    ids=["default", "mcmc"],
)
def test_gaussians_train_on_the_device_and_their_number_changes(
    gsplat_kernels, cuda, configured, train_run, control
):
    config = configured("3dgs", model=options(rasterize_mode="antialiased", **control))
    assert config.machine.device_type == "cuda"
    trainer = train_run(config)
    model = trainer.pipeline.model
    assert model.num_points != 200
    assert all(parameter.is_cuda for parameter in model.parameters())
    for name, values in model.gauss_params.items():
        state = trainer.optimizers.optimizers[name].state[values]
        assert state["exp_avg"].is_cuda and state["exp_avg"].shape == values.shape
    assert gsplat_kernels.sizes == {(23, 17), (47, 35)}  # Undistorted, at half and full size.
    assert gsplat_kernels.calls.count("project back") == 12


@pytest.mark.parametrize("test_poses", ["none", "sim3", "photometric:2"])
def test_held_out_photos_are_scored(gsplat_kernels, cuda, configured, train_run, test_poses):
    config = configured("3dgs", steps=2, model=options())
    config.pipeline.test_poses = test_poses
    metrics = train_run(config).pipeline.get_average_eval_image_metrics()
    assert metrics["test_poses"] == test_poses
    assert 0 < metrics["psnr"] < 20


def test_random_points_and_the_viewers_crop_box(gsplat_kernels, cuda, configured, train_run):
    config = configured("3dgs", steps=1, num_random_points=50, random_points=True, model=HALF_FIRST)
    model = train_run(config).pipeline.model.eval()
    camera = model.kwargs["metadata"]["given_cameras"][:1].to("cuda")
    for size, is_empty in ((2.0, False), (1e-6, True)):
        box = OrientedBox(torch.eye(3), torch.zeros(3), torch.full((3,), size))
        calls = len(gsplat_kernels.calls)
        outputs = model.get_outputs_for_camera(camera, obb_box=box)
        assert (len(gsplat_kernels.calls) == calls) == is_empty
        assert all(values.is_cuda for values in outputs.values())


def test_a_step_waits_for_the_size_of_its_photo_alone(
    gsplat_kernels, cuda, configured, train_run, take_step
):
    """Besides what gsplat itself waits for. A wait leaves the device idle until it is told more."""
    every_photo = 7  # Each has its depth looked up when it is seen first.
    trainer = train_run(configured("3dgs", steps=every_photo, model=options(num_downscales=0)))
    cuda.waits.clear()
    for step in (10, 11):
        take_step(trainer, step)
    assert cuda.waits == ["tolist", "tolist"]
