"""Cameras around a point, and their optimiser."""

import math

import pytest
import torch
from nerfstudio.cameras.cameras import Cameras

from fm3d_plugins.camera_optimization.camera_optimizer import CameraOptimizerConfig

torch.set_num_threads(1)


def _ring(count=5, width=48, height=36, focal=40.0, dtype=torch.float32):
    """OpenGL cameras on a circle that look at the origin, from a little above."""
    poses = []
    for i in range(count):
        angle = 2 * math.pi * i / count
        centre = torch.tensor(
            [2 * math.cos(angle), 2 * math.sin(angle), 0.7 + 0.1 * i], dtype=torch.float64
        )
        back = centre / centre.norm()
        right = torch.linalg.cross(torch.tensor([0.0, 0.0, 1.0], dtype=torch.float64), back)
        right = right / right.norm()
        up = torch.linalg.cross(back, right)
        poses.append(torch.stack([right, up, back, centre], dim=-1))
    poses = torch.stack(poses).to(dtype)
    return Cameras(
        camera_to_worlds=poses,
        fx=torch.full((count, 1), focal, dtype=dtype),
        fy=torch.full((count, 1), 1.1 * focal, dtype=dtype),
        cx=torch.full((count, 1), width / 2, dtype=dtype),
        cy=torch.full((count, 1), height / 2, dtype=dtype),
        width=width,
        height=height,
    )


def _optimizer(cameras, mode="SO3xR3", *, confidence=None, tracks=None, **options):
    config = CameraOptimizerConfig(mode=mode, **options)
    return config.setup(
        num_cameras=len(cameras),
        device="cpu",
        cameras=cameras,
        confidence=confidence,
        tracks=tracks,
    )


def _disturb(optimizer, pixels=3.0, seed=0):
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in optimizer.parameters():
            noise = torch.randn(parameter.shape, generator=generator)
            parameter.copy_(pixels * noise.to(parameter))
    return optimizer


@pytest.fixture
def ring():
    """`_ring`, as test files cannot import from each other."""
    return _ring


@pytest.fixture
def make_optimizer():
    return _optimizer


@pytest.fixture
def disturb():
    return _disturb
