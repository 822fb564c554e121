"""Gradients from the image loss to camera corrections, in float64 and through the fast kernels."""

import pytest
import torch
from nerfstudio.cameras.cameras import Cameras

from fm3d_plugins.camera_optimization.camera_optimizer import CameraOptimizerConfig
from fm3d_plugins.kernels.image_loss import l1_ssim_loss
from fm3d_plugins.kernels.rasterizer import rasterize
from fm3d_plugins.nerfstudio_cameras import pinhole

WIDTH, HEIGHT, COUNT = 24, 20, 15


@pytest.fixture
def cameras():
    """Two views of a cloud of gaussians at the origin; float64."""
    turn = torch.tensor([[0.8, 0.0, 0.6], [0.0, 1.0, 0.0], [-0.6, 0.0, 0.8]], dtype=torch.float64)
    straight = torch.eye(3, dtype=torch.float64)
    rotations = torch.stack([straight, turn])
    # OpenGL cameras look along -z: centres lie on +z of their own axes.
    poses = torch.cat([rotations, 3 * rotations[:, :, 2:]], dim=-1)
    return Cameras(poses, 22.0, 21.0, WIDTH / 2, HEIGHT / 2, WIDTH, HEIGHT)


def scene(dtype):
    generator = torch.Generator().manual_seed(5)

    def normal(*shape):
        return torch.randn(*shape, generator=generator, dtype=torch.float64).to(dtype)

    return {
        "means": 0.5 * normal(COUNT, 3),
        "quaternions_wxyz": normal(COUNT, 4),
        "scales": 0.15 * torch.exp(0.3 * normal(COUNT, 3)),
        "opacities": torch.sigmoid(normal(COUNT)),
        "sh_coefficients": 0.3 * normal(COUNT, 4, 3),
        "background": torch.tensor([0.2, 0.5, 0.1], dtype=dtype),
    }


def optimizer_for(cameras, mode):
    optimizer = CameraOptimizerConfig(mode=mode).setup(num_cameras=2, device="cpu", cameras=cameras)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in optimizer.parameters():
            parameter.copy_(0.5 * torch.randn(parameter.shape, generator=generator))
    return optimizer


def loss_of(optimizer, cameras, gaussians, target, backend):
    camera = cameras[1:2]
    camera.metadata = {"cam_idx": 1}
    seen = pinhole(
        camera,
        camera_to_world=optimizer.apply_to_camera(camera),
        focal_factor=optimizer.focal_factor(camera),
    )
    view = rasterize(
        **gaussians,
        camera_from_world=seen.camera_from_world,
        intrinsics=seen.intrinsics,
        width=seen.width,
        height=seen.height,
        sh_degree=1,
        backend=backend,
    )
    return l1_ssim_loss(view.rgb, target.to(view.rgb), 0.2)


def target_image():
    return torch.rand(HEIGHT, WIDTH, 3, generator=torch.Generator().manual_seed(9)).double()


@pytest.mark.parametrize("mode", ["SO3xR3", "SE3"])
def test_pose_and_focal_gradients_are_difference_quotients(cameras, mode):
    """Float64 and step h = 1e-6: central differences err by h^2 and by rounding / h = 1e-10."""
    optimizer, gaussians = optimizer_for(cameras, mode).double(), scene(torch.float64)
    target = target_image()
    loss_of(optimizer, cameras, gaussians, target, "torch").backward()
    step = 1e-6
    for parameter, row in ((optimizer.pose_adjustment, 1), (optimizer.focal_adjustment, None)):
        gradient = parameter.grad if row is None else parameter.grad[row]
        values = parameter.data if row is None else parameter.data[row]
        tolerance = 1e-5 * float(gradient.abs().max())
        assert tolerance > 1e-10
        for i in range(len(values)):
            losses = []
            with torch.no_grad():
                for sign in (1, -1):
                    values[i] += sign * step
                    losses.append(loss_of(optimizer, cameras, gaussians, target, "torch").item())
                    values[i] -= sign * step
            quotient = (losses[0] - losses[1]) / (2 * step)
            assert quotient == pytest.approx(float(gradient[i]), abs=tolerance)
    assert not optimizer.pose_adjustment.grad[0].any()


@pytest.mark.parametrize("mode", ["SO3xR3", "SE3"])
def test_gradients_through_the_kernels_are_those_of_the_definition(cameras, mode):
    """Float32 against float64: sums over pixels round to about 1e-5 of the largest entry."""
    gradients = []
    for backend, dtype in (("torch", torch.float64), ("numba", torch.float32)):
        optimizer = optimizer_for(cameras, mode).to(dtype)
        poses = cameras.camera_to_worlds.to(dtype)
        given = Cameras(poses, 22.0, 21.0, WIDTH / 2, HEIGHT / 2, WIDTH, HEIGHT)
        loss_of(optimizer, given, scene(dtype), target_image(), backend).backward()
        gradients.append(
            torch.cat([optimizer.pose_adjustment.grad[1], optimizer.focal_adjustment.grad])
        )
    expected, found = gradients[0], gradients[1].double()
    assert (found - expected).abs().max() < 1e-4 * expected.abs().max()
