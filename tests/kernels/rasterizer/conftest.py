"""Scenes, and the oracle: every gaussian over the whole image, one after the other."""

import pytest
import torch
from torch import Tensor


def _random_scene(
    num_gaussians: int, width: int, height: int, *, seed: int = 0, pixels: float = 4.0
) -> dict[str, Tensor]:
    """Float64 arguments of `rasterize` for a turned camera that sees most of the gaussians.

    They crowd on the left, and some opacities exceed the largest alpha, so that finished
    pixels, thin ones and cut-off alphas all occur.

    Args:
        pixels: Typical standard deviation in the image.
    """
    generator = torch.Generator().manual_seed(seed)

    def uniform(*shape: int) -> Tensor:
        return torch.rand(*shape, generator=generator, dtype=torch.float64)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    focal = 0.9 * width
    depth = 1.5 + 3.0 * uniform(num_gaussians)
    x = (1.2 * uniform(num_gaussians) ** 2 - 0.6) * width / focal * depth
    y = (1.2 * uniform(num_gaussians) - 0.6) * height / focal * depth
    camera_from_world = torch.eye(4, dtype=torch.float64)
    turn = torch.linalg.qr(normal(3, 3))[0]
    camera_from_world[:3, :3] = turn * torch.linalg.det(turn)
    camera_from_world[:3, 3] = 0.3 * normal(3)
    world_from_camera = torch.linalg.inv(camera_from_world)
    means = torch.stack([x, y, depth], -1) @ world_from_camera[:3, :3].T + world_from_camera[:3, 3]
    return {
        "means": means,
        "quaternions_wxyz": normal(num_gaussians, 4),
        "scales": torch.exp(0.5 * normal(num_gaussians, 3)) * pixels / focal * depth[:, None],
        "opacities": torch.sigmoid(3.0 * normal(num_gaussians)),
        "sh_coefficients": 0.3 * normal(num_gaussians, 16, 3),
        "camera_from_world": camera_from_world,
        "intrinsics": torch.tensor(
            [[focal, 0.0, 0.5 * width + 2.0], [0.0, 1.1 * focal, 0.5 * height - 1.0], [0, 0, 1]],
            dtype=torch.float64,
        ),
        "background": uniform(3),
    }


def _rotation(quaternion: Tensor) -> Tensor:
    """R = I + 2 w [v] + 2 [v]^2 of the unit quaternion (w, v)."""
    w, x, y, z = quaternion / quaternion.norm()
    zero = torch.zeros_like(w)
    cross = torch.stack([zero, -z, y, z, zero, -x, -y, x, zero]).reshape(3, 3)
    return torch.eye(3, dtype=w.dtype) + 2.0 * w * cross + 2.0 * cross @ cross


def _splat(mean, quaternion, scale, camera_from_world, intrinsics, width, height):
    """Covariance in the image without low-pass filter, J W R S S^T R^T W^T J^T, and the mean."""
    rotation = camera_from_world[:3, :3]
    x, y, z = rotation @ mean + camera_from_world[:3, 3]
    turn = _rotation(quaternion)
    covariance = turn @ torch.diag(scale**2) @ turn.T
    slopes, centers = [], []
    for axis, offset, size in ((0, x, width), (1, y, height)):
        focal, center = intrinsics[axis, axis], intrinsics[axis, 2]
        # the Jacobian's point is clamped to 0.15 image sizes outside the image, a constant
        low = ((-center - 0.15 * size) / focal).detach()
        high = ((size - center + 0.15 * size) / focal).detach()
        slopes.append(torch.minimum(torch.maximum(offset / z, low), high))
        centers.append(focal * offset / z + center)
    zero = torch.zeros_like(z)
    row_x = torch.stack([intrinsics[0, 0] / z, zero, -intrinsics[0, 0] * slopes[0] / z])
    row_y = torch.stack([zero, intrinsics[1, 1] / z, -intrinsics[1, 1] * slopes[1] / z])
    jacobian = torch.stack([row_x, row_y])
    return jacobian @ rotation @ covariance @ rotation.T @ jacobian.T, torch.stack(centers), z


def _color(mean, coefficients, camera_from_world):
    """max(SH + 1/2, 0) in the direction from the camera's centre."""
    from fm3d_plugins.kernels.rasterizer.spherical_harmonics import sh_basis

    inverse = torch.linalg.inv(camera_from_world[:3, :3])
    direction = mean + inverse @ camera_from_world[:3, 3]
    return torch.clamp(sh_basis(direction / direction.norm(), 3) @ coefficients + 0.5, min=0.0)


def _render_naively(
    means: Tensor,
    quaternions_wxyz: Tensor,
    scales: Tensor,
    opacities: Tensor,
    sh_coefficients: Tensor,
    camera_from_world: Tensor,
    intrinsics: Tensor,
    background: Tensor,
    *,
    width: int,
    height: int,
    antialiased: bool = False,
) -> tuple[Tensor, Tensor, Tensor]:
    """rgb, alpha and depth of gaussians with SH degree 3, by formula, without any culling."""
    rows, columns = (torch.arange(n, dtype=means.dtype) + 0.5 for n in (height, width))
    pixels = torch.stack(torch.meshgrid(columns, rows, indexing="xy"), dim=-1)
    transmittance = torch.ones(height, width, dtype=means.dtype)
    finished = torch.zeros(height, width, dtype=torch.bool)
    rgb, depth = torch.zeros(height, width, 3, dtype=means.dtype), torch.zeros_like(transmittance)
    order = torch.argsort((means @ camera_from_world[2, :3]).detach())
    for i in order.tolist():
        sharp, center, z = _splat(
            means[i], quaternions_wxyz[i], scales[i], camera_from_world, intrinsics, width, height
        )
        if z < 0.01:
            continue
        blurred = sharp + 0.3 * torch.eye(2, dtype=means.dtype)
        opacity = opacities[i]
        if antialiased:
            opacity = opacity * torch.sqrt(torch.linalg.det(sharp) / torch.linalg.det(blurred))
        offset = pixels - center
        power = torch.einsum("hwi,ij,hwj->hw", offset, torch.linalg.inv(blurred), offset)
        alpha = opacity * torch.exp(-0.5 * power)
        alpha = torch.where(alpha < 1.0 / 255.0, 0.0, torch.clamp(alpha, max=0.999))
        finished = finished | (transmittance * (1.0 - alpha) <= 1e-4)
        weight = torch.where(finished, 0.0, alpha * transmittance)
        color = _color(means[i], sh_coefficients[i], camera_from_world)
        rgb, depth = rgb + weight[..., None] * color, depth + weight * z
        transmittance = transmittance - weight
    alpha = 1.0 - transmittance
    rgb = rgb + transmittance[..., None] * background
    depth = torch.where(alpha > 0, depth / torch.where(alpha > 0, alpha, 1.0), 0.0)
    return rgb, alpha[..., None], depth[..., None]


@pytest.fixture(scope="session")
def random_scene():
    """`_random_scene`, as test files cannot import from each other."""
    return _random_scene


@pytest.fixture(scope="session")
def float32_scene():
    """A function of the number of gaussians: a scene for 40 x 30 pixels in float32."""
    return lambda n: {k: v.float() for k, v in _random_scene(n, 40, 30).items()}


@pytest.fixture(scope="session")
def render_naively():
    """`_render_naively`, the oracle."""
    return _render_naively
